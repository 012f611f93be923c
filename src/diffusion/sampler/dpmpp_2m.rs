//! DPM-Solver++(2M): second order at one evaluation a step.

use super::walk::{Walk, shrink};
use crate::Result;
use candle_core::Tensor;

/// A walk shorter than this ends on a first-order step, which is more stable (diffusers' `lower_order_final`).
const FEW_STEPS: usize = 15;

/// `x' = D~ + (s'/s)(x - D~)` with `D~ = D + (h / 2h_prev)(D - D_prev)` and `h = ln(s/s')`: D is extrapolated linearly
/// in ln sigma to the middle of the step (Lu et al., arXiv:2211.01095, algorithm 2, midpoint form).
///
/// First order on the first step, on a last step to 0 (where h is infinite), and on the last of a few.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor) -> Result<Tensor> {
    let mut previous: Option<(Tensor, f64)> = None;
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let h = (sigma / next).ln();
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        let short_end = index + 1 == walk.total() && walk.total() < FEW_STEPS;
        let extrapolated = match &previous {
            Some((d, h_prev)) if next > 0.0 && !short_end => shrink(&denoised, d, 1.0 + h / (2.0 * h_prev))?,
            _ => denoised.clone(),
        };
        x = shrink(&x, &extrapolated, next / sigma)?;
        x = walk.close(index, &denoised, x)?;
        previous = Some((denoised, h));
    }
    Ok(x)
}
