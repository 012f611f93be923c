//! DDIM with any eta, and Euler-ancestral: in sigma-space they are one formula, and differ in their default eta.

use super::walk::{Walk, shrink};
use crate::Result;
use candle_core::Tensor;

/// `x' = D + (down / s)(x - D) + up * z`, where `up^2 + down^2 = s'^2` and `up = eta * (s'/s) sqrt(s^2 - s'^2)`.
///
/// Song et al., arXiv:2010.02502, eq. 12 and 16 divided by `sqrt(alpha_bar)`; k-diffusion's `get_ancestral_step`. With
/// eta 0 it is Euler's method, with eta 1 DDPM with its smaller variance.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor, eta: f64) -> Result<Tensor> {
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let (down, up) = split(sigma, next, eta);
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        x = shrink(&x, &denoised, down / sigma)?;
        x = walk.perturb(x, up)?;
        x = walk.close(index, &denoised, x)?;
    }
    Ok(x)
}

/// How far a step goes down, and the deviation of the noise that takes it up again to `next`.
pub(super) fn split(sigma: f64, next: f64, eta: f64) -> (f64, f64) {
    let ratio = next / sigma;
    let up = eta * ratio * (sigma * sigma - next * next).sqrt();
    // next^2 - up^2, without the difference.
    (next * (1.0 - eta * eta + eta * eta * ratio * ratio).sqrt(), up)
}
