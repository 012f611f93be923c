//! Products with a denoiser's Jacobian: what likelihoods, and guidance by measurements, need of a network's gradients.

use crate::Result;
use crate::diffusion::denoiser::{Contrast, Denoiser, Estimate};
use candle_core::{DType, Device, Tensor, Var};

/// A denoiser's answer at one point, and the road back from it.
///
/// candle differentiates in reverse only, so what there is are products from the left, `v^T J`, each for one pass back
/// through the network. Networks have to compute in f32 for them: in half precision the sum over thousands of
/// elements, of which a divergence is made, drowns in rounding. (Weights may be stored in half precision.)
///
/// Dynamic thresholding ([`crate::diffusion::guidance::Guidance::threshold`]) is differentiated as if its quantile were
/// a constant.
#[derive(Debug)]
pub struct Linearised {
    x: Var,
    denoised: Tensor,
    guidance: Option<Contrast>,
}

/// The gradient by `x` of the sum of `of`; zeros where that does not depend on it.
pub(super) fn gradient(x: &Var, of: &Tensor) -> Result<Tensor> {
    Ok(match of.sum_all()?.backward()?.get(x.as_tensor()) {
        Some(gradient) => gradient.detach(),
        None => x.zeros_like()?,
    })
}

impl Linearised {
    /// Asks `denoiser` at `x`, (B, C, H, W), and noise level `sigma`.
    pub fn at(denoiser: &dyn Denoiser, x: &Tensor, sigma: f64) -> Result<Self> {
        let x = Var::from_tensor(&x.detach())?;
        let Estimate { denoised, guidance, .. } = denoiser.estimate(x.as_tensor(), sigma)?;
        Ok(Self { x, denoised, guidance })
    }

    /// `D(x, sigma)`, (B, C, H, W), without the road back.
    pub fn denoised(&self) -> Tensor {
        self.denoised.detach()
    }

    /// What guidance made that of, where there is any, without the road back.
    pub(super) fn guidance(&self) -> Option<Contrast> {
        self.guidance.as_ref().map(|Contrast { x, unconditional, conditional }| Contrast {
            x: x.detach(),
            unconditional: unconditional.detach(),
            conditional: conditional.detach(),
        })
    }

    /// `J^T v` with `J = dD/dx`, for each picture of the batch: the gradient of `D . v`. All are (B, C, H, W). A
    /// denoiser that does not look at `x` gives zeros.
    pub fn vjp(&self, v: &Tensor) -> Result<Tensor> {
        gradient(&self.x, &(&self.denoised * v)?)
    }

    /// `v^T J v` for each picture of the batch, summed in f64: of a random `v` with unit covariance the expectation is
    /// the trace of J (Hutchinson 1989).
    pub fn quadratic(&self, v: &Tensor) -> Result<Vec<f64>> {
        // To the CPU first: not every device has f64.
        let product = (self.vjp(v)? * v)?.flatten_from(1)?.to_device(&Device::Cpu)?;
        Ok(product.to_dtype(DType::F64)?.sum(1)?.to_vec1()?)
    }

    /// The trace of J for each picture of the batch: one pass back for each element of a picture.
    pub fn trace(&self) -> Result<Vec<f64>> {
        let (pictures, elements) = (self.x.dim(0)?, self.x.elem_count() / self.x.dim(0)?.max(1));
        let mut trace = vec![0.0; pictures];
        for element in 0..elements {
            let mut unit = vec![0f32; elements];
            unit[element] = 1.0;
            let unit = Tensor::from_vec(unit, &self.x.dims()[1..], self.x.device())?.to_dtype(self.x.dtype())?;
            let unit = unit.broadcast_as(self.x.shape())?.contiguous()?;
            trace.iter_mut().zip(self.quadratic(&unit)?).for_each(|(trace, entry)| *trace += entry);
        }
        Ok(trace)
    }
}
