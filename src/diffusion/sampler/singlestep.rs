//! Two evaluations a step, the second in the middle of it (in ln sigma): DPM-Solver-2 and DPM-Solver++(2S), and both with
//! fresh noise after each step.

use super::ancestral::split;
use super::walk::{Walk, shrink};
use crate::Result;
use candle_core::Tensor;

/// What is held constant over the step, as it is found in its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The noise in x: DPM-Solver-2 (Lu et al., arXiv:2206.00927, algorithm 1), k-diffusion's `dpm_2`.
    Noise,
    /// D: DPM-Solver++(2S) (Lu et al., arXiv:2211.01095, algorithm 1), k-diffusion's `dpmpp_2s`.
    Clean,
}

/// Steps to `down` and adds noise of deviation `up`, so that both make the next sigma. Euler's step where `down` is 0.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor, held: Held, eta: f64) -> Result<Tensor> {
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let (down, up) = split(sigma, next, eta);
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        if down == 0.0 {
            x = denoised.clone();
        } else {
            let middle = (sigma * down).sqrt();
            let halfway = shrink(&x, &denoised, middle / sigma)?;
            let clean = walk.denoiser.denoise(&halfway, middle)?;
            x = match held {
                Held::Clean => shrink(&x, &clean, down / sigma)?,
                Held::Noise => (&x + ((halfway - clean)? * ((down - sigma) / middle))?)?,
            };
        }
        x = walk.perturb(x, up)?;
        x = walk.close(index, &denoised, x)?;
    }
    Ok(x)
}
