//! Ladders of which some stretches are walked more than once, with fresh noise up to their beginnings between: restart
//! sampling, and the resampling of inpainting.

use super::walk::Part;
use super::{Sampler, Step, within};
use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::noise::NoiseSource;
use candle_core::Tensor;
use std::ops::RangeInclusive;

/// A part of a ladder and how often it is walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Its rungs; it begins where the last one ended, or below.
    pub(crate) rungs: RangeInclusive<usize>,
    /// At least once.
    pub(crate) times: usize,
}

impl Stretch {
    fn steps(&self) -> usize {
        self.rungs.end() - self.rungs.start()
    }
}

/// Steps in all for a ladder of `steps`.
pub(crate) fn steps(steps: usize, stretches: &[Stretch]) -> usize {
    steps + stretches.iter().map(|stretch| stretch.steps() * stretch.times.saturating_sub(1)).sum::<usize>()
}

/// Walks `x` down the ladder as [`Sampler::run`] does, and each of the `stretches`, which follow each other downwards, as
/// often as it says. A sampler that remembers earlier steps forgets them at both ends of a stretch.
pub(crate) fn run(
    sampler: &Sampler,
    denoiser: &dyn Denoiser,
    mut x: Tensor,
    (sigmas, stretches): (&[f64], &[Stretch]),
    noise: &mut dyn NoiseSource,
    on_step: &mut dyn FnMut(Step<'_>) -> Result<()>,
) -> Result<Tensor> {
    let last = sigmas.len().saturating_sub(1);
    let (total, mut done, mut at) = (steps(last, stretches), 0, 0);
    let mut walk = |x: Tensor, rungs: RangeInclusive<usize>, noise: &mut dyn NoiseSource| {
        if rungs.start() == rungs.end() {
            return Ok(x);
        }
        let part = Part { before: done, total };
        done += rungs.end() - rungs.start();
        sampler.walk(denoiser, x, &sigmas[rungs], noise, on_step, Some(part))
    };
    for Stretch { rungs, times } in stretches {
        let (high, low) = (sigmas[*rungs.start()], sigmas[*rungs.end()]);
        x = walk(x, at..=*rungs.start(), noise)?;
        x = walk(x, rungs.clone(), noise)?;
        for _ in 1..*times {
            let fresh = noise.normal(x.shape(), x.dtype(), x.device())?;
            x = walk((&x + (fresh * (high * high - low * low).sqrt())?)?, rungs.clone(), noise)?;
        }
        at = *rungs.end();
    }
    walk(x, at..=last, noise)
}

/// Restart sampling (Xu et al., arXiv:2306.14878, algorithm 1): on reaching `low`, noise is added up to `high`, and the
/// steps between are walked again: the noise takes earlier errors with it, the ODE makes few new ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Restart {
    /// Where to go back from: the first rung that is not above it.
    pub low: f64,
    /// How far: to the last rung that is not below it.
    pub high: f64,
    /// How often, 1 to 16.
    pub times: usize,
}

impl Restart {
    /// As AUTOMATIC1111 has it: from 0.1 to 2, once.
    pub const USUAL: Self = Self { low: 0.1, high: 2.0, times: 1 };

    pub(super) fn validate(&self) -> Result<()> {
        within("low", self.low, 0.0, self.high)?;
        within("high", self.high, self.low, f64::MAX)?;
        within("times", self.times as f64, 1.0, 16.0)
    }

    /// The one stretch between both levels; none where the ladder has no step there.
    pub(super) fn stretches(&self, sigmas: &[f64]) -> Vec<Stretch> {
        let above = sigmas.iter().filter(|sigma| **sigma >= self.high).count().saturating_sub(1);
        let Some(below) = sigmas.iter().position(|sigma| *sigma <= self.low) else { return Vec::new() };
        // A picture that is done is not noised again: what follows a step to 0 would be the same step.
        let below = if sigmas[below] == 0.0 { below.saturating_sub(1) } else { below };
        let stretch = Stretch { rungs: above..=below, times: self.times + 1 };
        if above < below { vec![stretch] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stretch_of_a_restart_is_inside_its_levels() {
        let ladder = [10.0, 4.0, 2.0, 1.0, 0.3, 0.08, 0.0];
        let rungs = |low, high| {
            let restart = Restart { low, high, times: 2 };
            restart.stretches(&ladder).first().map(|stretch| stretch.rungs.clone())
        };
        assert_eq!((rungs(0.1, 2.0), rungs(0.01, 99.0), rungs(1.0, 1.0)), (Some(2..=5), Some(0..=5), None));
        assert_eq!(Restart::USUAL.stretches(&[14.0, 0.0]), []);
        assert_eq!(steps(6, &Restart { times: 2, ..Restart::USUAL }.stretches(&ladder)), 6 + 2 * 3);
    }
}
