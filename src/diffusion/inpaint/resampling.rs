//! RePaint: going back up the ladder, so that what is drawn and what is known come to fit each other.

use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::noise::NoiseSource;
use crate::diffusion::sampler::again::{self, Stretch};
use crate::diffusion::sampler::{Sampler, Step};
use candle_core::Tensor;

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
        again::steps(steps, &self.stretches(steps))
    }

    fn stretches(self, steps: usize) -> Vec<Stretch> {
        let jump = self.jump.max(1);
        let ends = (0..steps.saturating_sub(jump)).step_by(jump).map(|above_end| steps - above_end);
        let stretch = |end| Stretch { rungs: end - jump..=end, times: self.times };
        let mut stretches: Vec<_> = ends.map(stretch).collect();
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
        let stretches = self.stretches(sigmas.len().saturating_sub(1));
        again::run(sampler, denoiser, x, (sigmas, &stretches), noise, on_step)
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
        let rungs = |steps| paper.stretches(steps).into_iter().map(|stretch| stretch.rungs).collect::<Vec<_>>();
        assert_eq!((rungs(250)[0].clone(), rungs(250).last().cloned()), (10..=20, Some(240..=250)));
        assert_eq!(rungs(25), [5..=15, 15..=25]);
        assert_eq!((paper.steps(5), paper.stretches(5).len()), (5, 0));
        assert_eq!(Resampling { jump: 0, times: 1 }.steps(7), 7);
    }
}
