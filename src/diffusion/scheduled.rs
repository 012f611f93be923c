//! A denoiser that changes from step to step, and still is a function of `(x, sigma)`.

use crate::Result;
use crate::diffusion::denoiser::{Denoiser, Estimate};
use candle_core::Tensor;

/// One denoiser for each step of a ladder, made when it is asked.
///
/// The step is told by sigma, so that samplers need not know: at noise levels from that of step i down to, but without,
/// that of step i + 1 it is step i. A second-order sampler that looks ahead to the end of its step hears what the next
/// step will hear; above the ladder it is the first step, and at its end the last.
#[derive(Debug, Clone)]
pub struct Scheduled<F> {
    /// Where each step begins, falling.
    sigmas: Vec<f64>,
    at_step: F,
}

impl<D: Denoiser, F: Fn(usize) -> Result<D>> Scheduled<F> {
    /// `ladder` is what the sampler walks down; `at_step` makes the denoiser of a step, counted from 0.
    pub fn new(ladder: &[f64], at_step: F) -> Self {
        Self { sigmas: ladder[..ladder.len().saturating_sub(1)].to_vec(), at_step }
    }

    fn step(&self, sigma: f64) -> usize {
        self.sigmas.partition_point(|begin| *begin >= sigma).saturating_sub(1)
    }
}

impl<D: Denoiser, F: Fn(usize) -> Result<D>> Denoiser for Scheduled<F> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.denoised)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        (self.at_step)(self.step(sigma))?.estimate(x, sigma)
    }
}
