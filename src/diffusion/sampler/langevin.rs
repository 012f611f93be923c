//! Langevin dynamics: steps along the score with noise that keeps the distribution where it is.

use super::walk::{Walk, shrink};
use super::within;
use crate::Result;
use candle_core::Tensor;

/// Annealed Langevin dynamics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Annealed {
    /// Steps at each noise level; 5 in NCSNv2, 100 in NCSN.
    pub repeats: usize,
    /// A step's length over the square of sigma: `step_lr / sigma_L^2`, 0.062 in NCSNv2's models of CIFAR-10.
    pub step: f64,
}

impl Annealed {
    pub(super) fn validate(&self) -> Result<()> {
        within("repeats", self.repeats as f64, 1.0, 1000.0)?;
        within("step", self.step, 1e-6, 1.0)
    }

    /// NCSNv2's (arXiv:2006.09011, table 3).
    pub const USUAL: Self = Self { repeats: 5, step: 0.062 };
}

/// Song and Ermon, arXiv:1907.05600, algorithm 1, in the form that the code of arXiv:2006.09011 has: at each level
/// `x' = x + e s^2 score + sqrt(2 e) s z = D + (1 - e)(x - D) + sqrt(2 e) s z`, and at the end the clean estimate.
pub(super) fn annealed(walk: &mut Walk<'_>, mut x: Tensor, Annealed { repeats, step }: Annealed) -> Result<Tensor> {
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        for _ in 0..repeats {
            let denoised = walk.denoiser.denoise(&x, sigma)?;
            x = walk.perturb(shrink(&x, &denoised, 1.0 - step)?, (2.0 * step).sqrt() * sigma)?;
        }
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        if next == 0.0 {
            x = denoised.clone();
        }
        x = walk.close(index, &denoised, x)?;
    }
    Ok(x)
}

/// One step of the corrector (Song et al., arXiv:2011.13456, algorithms 4 and 5): `x + e score + sqrt(2 e) z` with
/// `e = 2 alpha (snr |z| / |score|)^2`. The norms are each picture's own: the paper's code takes their mean over the batch, by
/// which a picture depends on its neighbours.
pub(super) fn correct(walk: &mut Walk<'_>, x: &Tensor, sigma: f64, snr: f64, alpha: f64) -> Result<Tensor> {
    let score = ((walk.denoiser.denoise(x, sigma)? - x)? / (sigma * sigma))?;
    let noise = walk.draw(x)?;
    // Where the score is zero, nothing has to be corrected, and a tiny number keeps the ratio one.
    let ratio = (norm(&noise)? / (norm(&score)? + 1e-12)?)?;
    let step = (ratio.sqr()? * (2.0 * alpha * snr * snr))?;
    let moved = (x + score.broadcast_mul(&step)?)?;
    Ok((moved + noise.broadcast_mul(&(step * 2.0)?.sqrt()?)?)?)
}

/// Each picture's Euclidean norm, (B, 1, .., 1).
fn norm(x: &Tensor) -> Result<Tensor> {
    let squares = x.sqr()?.flatten_from(1)?.sum_keepdim(1)?;
    let mut shape = vec![1; x.rank()];
    shape[0] = x.dim(0)?;
    Ok(squares.sqrt()?.reshape(shape)?)
}
