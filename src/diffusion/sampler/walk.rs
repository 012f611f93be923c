//! What all samplers share: the ladder, the denoiser, the noise, and the report after each step.

use super::Step;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::noise::NoiseSource;
use crate::error::{Error, FieldError, Result};
use candle_core::Tensor;

/// A walk down a checked ladder of sigmas.
pub(super) struct Walk<'a> {
    pub(super) denoiser: &'a dyn Denoiser,
    sigmas: &'a [f64],
    noise: &'a mut dyn NoiseSource,
    on_step: &'a mut dyn FnMut(Step<'_>) -> Result<()>,
    part: Part,
}

/// Which steps of a longer walk these are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Steps before them.
    pub(super) before: usize,
    /// Steps in all.
    pub(super) total: usize,
}

impl<'a> Walk<'a> {
    /// Fails unless the ladder has a step and falls strictly through finite values, none below zero.
    pub(super) fn new(
        denoiser: &'a dyn Denoiser,
        sigmas: &'a [f64],
        noise: &'a mut dyn NoiseSource,
        on_step: &'a mut dyn FnMut(Step<'_>) -> Result<()>,
        part: Option<Part>,
    ) -> Result<Self> {
        let falling = sigmas.windows(2).all(|pair| pair[0] > pair[1]);
        let in_range = sigmas.iter().all(|sigma| (0.0..f64::INFINITY).contains(sigma));
        if sigmas.len() < 2 || !falling || !in_range {
            let message = format!("a ladder has to fall through at least two noise levels, got {sigmas:?}");
            return Err(Error::invalid(FieldError::new("sigmas", "out_of_range", message)));
        }
        let part = part.unwrap_or(Part { before: 0, total: sigmas.len() - 1 });
        Ok(Self { denoiser, sigmas, noise, on_step, part })
    }

    /// The number of steps.
    pub(super) fn total(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// Where step `index` comes from and where it goes.
    pub(super) fn pair(&self, index: usize) -> (f64, f64) {
        (self.sigmas[index], self.sigmas[index + 1])
    }

    /// `x + scale * noise` with a fresh draw; a scale of zero draws nothing.
    pub(super) fn perturb(&mut self, x: Tensor, scale: f64) -> Result<Tensor> {
        if scale == 0.0 {
            return Ok(x);
        }
        Ok((&x + (self.draw(&x)? * scale)?)?)
    }

    /// A fresh draw, shaped like `x`.
    pub(super) fn draw(&mut self, x: &Tensor) -> Result<Tensor> {
        self.noise.normal(x.shape(), x.dtype(), x.device())
    }

    /// Closes step `index`: checks the new state, reports the step, and passes the state on.
    pub(super) fn close(&mut self, index: usize, denoised: &Tensor, x: Tensor) -> Result<Tensor> {
        let (sigma, index, total) = (self.sigmas[index], self.part.before + index, self.part.total);
        if !is_finite(&x)? {
            let message = format!("step {} of {total} (sigma {sigma:.4}) gave a value that is not finite", index + 1);
            return Err(Error::NonFinite(message));
        }
        (self.on_step)(Step { index, total, sigma, denoised })?;
        Ok(x)
    }
}

/// Zero times a finite number is zero, and zero times anything else is NaN: no overflow, no dependence on how a
/// backend's maximum treats NaN.
fn is_finite(x: &Tensor) -> Result<bool> {
    let sum = (x * 0.0)?.sum_all()?.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?;
    Ok(sum == 0.0)
}

/// `d + scale * (x - d)`: the noise that is left in `x`, shrunk.
pub(super) fn shrink(x: &Tensor, d: &Tensor, scale: f64) -> Result<Tensor> {
    Ok((d + ((x - d)? * scale)?)?)
}
