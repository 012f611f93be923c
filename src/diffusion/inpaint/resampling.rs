//! RePaint: going back up the ladder, so that what is drawn and what is known come to fit each other.

use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::noise::NoiseSource;
use crate::diffusion::sampler::{Sampler, Step};
use candle_core::Tensor;
use std::ops::RangeInclusive;

/// How often, and how far, to go back (Lugmayr et al., arXiv:2201.09865, algorithm 1): every stretch of `jump` steps is
/// walked `times` times, with fresh noise up to its beginning between. The first stretch, where little is decided, is walked
/// once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Steps of a stretch; 10 in the paper.
    pub jump: usize,
    /// How often each is walked; 10 in the paper. With 1 the ladder is walked as it is.
    pub times: usize,
}

impl Resampling {
    /// Steps in all for a ladder of `steps`.
    pub fn steps(self, steps: usize) -> usize {
        steps + self.stretches(steps).len() * self.jump() * self.times.saturating_sub(1)
    }

    fn jump(self) -> usize {
        self.jump.max(1)
    }

    /// The rungs of each stretch that is walked more than once, downwards.
    fn stretches(self, steps: usize) -> Vec<RangeInclusive<usize>> {
        let jump = self.jump();
        let ends = (0..steps.saturating_sub(jump)).step_by(jump).map(|above_end| steps - above_end);
        let mut stretches: Vec<_> = ends.map(|end| end - jump..=end).collect();
        stretches.reverse();
        stretches
    }

    /// Walks `x` down the ladder as [`Sampler::run`] does. A sampler that remembers earlier steps forgets them whenever it
    /// goes back.
    pub fn run(
        self,
        sampler: &Sampler,
        denoiser: &dyn Denoiser,
        x: Tensor,
        sigmas: &[f64],
        noise: &mut dyn NoiseSource,
        on_step: &mut dyn FnMut(Step<'_>) -> Result<()>,
    ) -> Result<Tensor> {
        let (steps, mut done) = (sigmas.len().saturating_sub(1), 0);
        let total = self.steps(steps);
        let mut walk = |x: Tensor, rungs: &[f64], noise: &mut dyn NoiseSource| {
            let walked = sampler.run(denoiser, x, rungs, noise, &mut |step| {
                on_step(Step { index: done + step.index, total, ..step })
            })?;
            done += rungs.len() - 1;
            Ok(walked)
        };
        let stretches = self.stretches(steps);
        let Some(first) = stretches.first() else { return walk(x, sigmas, noise) };
        let mut x = walk(x, &sigmas[..=*first.start()], noise)?;
        for stretch in stretches {
            let (high, low) = (sigmas[*stretch.start()], sigmas[*stretch.end()]);
            x = walk(x, &sigmas[stretch.clone()], noise)?;
            for _ in 1..self.times {
                let fresh = noise.normal(x.shape(), x.dtype(), x.device())?;
                x = (&x + (fresh * (high * high - low * low).sqrt())?)?;
                x = walk(x, &sigmas[stretch.clone()], noise)?;
            }
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 250 steps and 24 stretches of ten, nine times more (methods.md 1.13).
    #[test]
    fn the_papers_settings_make_2410_steps() {
        let paper = Resampling { jump: 10, times: 10 };
        assert_eq!(paper.steps(250), 2410);
        assert_eq!(paper.stretches(250).first(), Some(&(10..=20)));
        assert_eq!(paper.stretches(250).last(), Some(&(240..=250)));
        assert_eq!(paper.stretches(25), [5..=15, 15..=25]);
        assert_eq!((paper.steps(5), paper.stretches(5).len()), (5, 0));
        assert_eq!(Resampling { jump: 0, times: 1 }.steps(7), 7);
    }
}
