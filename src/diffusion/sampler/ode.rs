//! Euler's and Heun's methods on the probability-flow ODE `dx/ds = (x - D) / s`, with optional churn.
//!
//! Karras et al., arXiv:2206.00364, algorithm 2. Without churn Euler's method is DDIM with eta 0.

use super::walk::{Walk, shrink};
use crate::error::{Error, FieldError, Result};
use candle_core::Tensor;

/// Noise added before a step, from which the ODE then starts: the stochastic part of EDM's sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Churn {
    /// `S_churn`: the total, spread over the steps; 0 adds none, 40 is EDM's choice for ImageNet.
    pub amount: f64,
    /// `S_tmin`: the lowest sigma at which noise is added.
    pub sigma_min: f64,
    /// `S_tmax`: the highest.
    pub sigma_max: f64,
    /// `S_noise`: the standard deviation of the noise added; slightly above 1 counters lost detail.
    pub noise: f64,
}

impl Churn {
    /// No noise: the plain ODE.
    pub const NONE: Self = Self { amount: 0.0, sigma_min: 0.0, sigma_max: f64::INFINITY, noise: 1.0 };

    pub(super) fn validate(&self) -> Result<()> {
        not_negative("churn", self.amount, self.amount.is_finite())?;
        not_negative("churn_sigma_min", self.sigma_min, self.sigma_min.is_finite())?;
        not_negative("churn_sigma_max", self.sigma_max, true)?;
        not_negative("churn_noise", self.noise, self.noise.is_finite())
    }

    /// The raised noise level from which a step of a walk of `total` steps starts.
    fn raised(&self, sigma: f64, total: usize) -> f64 {
        if !(self.sigma_min..=self.sigma_max).contains(&sigma) {
            return sigma;
        }
        sigma * (1.0 + (self.amount / total as f64).min(std::f64::consts::SQRT_2 - 1.0))
    }

    fn apply(&self, walk: &mut Walk<'_>, x: Tensor, sigma: f64) -> Result<(Tensor, f64)> {
        let sigma_hat = self.raised(sigma, walk.total());
        let x = walk.perturb(x, self.noise * (sigma_hat * sigma_hat - sigma * sigma).sqrt())?;
        Ok((x, sigma_hat))
    }
}

/// NaN fails too.
fn not_negative(field: &str, value: f64, finite_enough: bool) -> Result<()> {
    if value >= 0.0 && finite_enough {
        return Ok(());
    }
    let message = format!("must be a finite number and not negative, got {value}");
    Err(Error::invalid(FieldError::new(field, "out_of_range", message)))
}

impl Default for Churn {
    fn default() -> Self {
        Self::NONE
    }
}

/// First order: `x' = D + (s'/s)(x - D)`.
pub(super) fn euler(walk: &mut Walk<'_>, mut x: Tensor, churn: Churn) -> Result<Tensor> {
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let (x_hat, sigma_hat) = churn.apply(walk, x, sigma)?;
        let denoised = walk.denoiser.denoise(&x_hat, sigma_hat)?;
        x = shrink(&x_hat, &denoised, next / sigma_hat)?;
        x = walk.close(index, &denoised, x)?;
    }
    Ok(x)
}

/// Second order: the mean of the slopes at both ends of Euler's step.
///
/// Euler's step keeps `(x - D) / s`, so the slopes differ by `(D - D') / s'` alone, and averaging them adds
/// `(s/s' - 1)/2 * (D' - D)`.
pub(super) fn heun(walk: &mut Walk<'_>, mut x: Tensor, churn: Churn) -> Result<Tensor> {
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let (x_hat, sigma_hat) = churn.apply(walk, x, sigma)?;
        let denoised = walk.denoiser.denoise(&x_hat, sigma_hat)?;
        x = shrink(&x_hat, &denoised, next / sigma_hat)?;
        if next > 0.0 {
            let denoised_next = walk.denoiser.denoise(&x, next)?;
            x = (x + ((denoised_next - &denoised)? * ((sigma_hat / next - 1.0) / 2.0))?)?;
        }
        x = walk.close(index, &denoised, x)?;
    }
    Ok(x)
}
