//! Multistep consistency sampling, for models that were distilled to know the end of the flow from anywhere on it.

use super::walk::Walk;
use crate::Result;
use candle_core::Tensor;

/// `x' = D + s' * z` (Luo et al., arXiv:2310.04378, algorithm 3; Song et al., arXiv:2303.01469, algorithm 1).
///
/// The boundary scalings of consistency models, which keep `D(x, 0) = x`, are 1 and 0 to seven digits at all times that
/// such models are drawn at, and are left out.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor) -> Result<Tensor> {
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        x = walk.perturb(denoised.clone(), next)?;
        x = walk.close(index, &denoised, x)?;
    }
    Ok(x)
}
