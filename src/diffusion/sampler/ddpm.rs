//! DDPM: sampling from the Gaussian posterior `q(x' | x, x0 = D)`.

use super::walk::{Walk, shrink};
use crate::diffusion::denoiser::Estimate;
use crate::error::{Error, FieldError, Result};
use candle_core::Tensor;

/// How much noise a DDPM step puts back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Variance {
    /// The posterior's own: right for data that is a single point. Best for few steps.
    #[default]
    FixedSmall,
    /// The forward process's: right for data of unit variance. Made for pixels and a thousand steps.
    FixedLarge,
    /// What is best for the model's data: the posterior's, and what the clean estimate errs by, where that was measured
    /// (analytic-DPM: Bao et al., arXiv:2201.06503, theorem 1). Measured without guidance.
    Optimal,
    /// Between the two, element by element, where the network has learned it (arXiv:2102.09672, eq. 15).
    LearnedRange,
}

/// `x' = D + (s'/s)^2 (x - D) + sqrt(v) z`: Ho et al., arXiv:2006.11239, eq. 7, divided by `sqrt(alpha_bar)`. Rates are
/// thereby taken from the ladder's own steps (as improved-diffusion's `respace.py` does). No noise on a last step to 0.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor, variance: Variance) -> Result<Tensor> {
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let estimate = walk.denoiser.estimate(&x, sigma)?;
        x = shrink(&x, &estimate.denoised, (next / sigma).powi(2))?;
        if next > 0.0 {
            x = add_noise(walk, x, &estimate, variance, (sigma, next))?;
        }
        x = walk.close(index, &estimate.denoised, x)?;
    }
    Ok(x)
}

fn add_noise(
    walk: &mut Walk<'_>,
    x: Tensor,
    estimate: &Estimate,
    variance: Variance,
    (sigma, next): (f64, f64),
) -> Result<Tensor> {
    let drop = sigma * sigma - next * next;
    let small = drop * (next / sigma).powi(2);
    // beta / alpha_bar of the step, for the variance-preserving process behind sigma.
    let large = drop * (1.0 + next * next) / (1.0 + sigma * sigma);
    match variance {
        Variance::FixedSmall => walk.perturb(x, small.sqrt()),
        Variance::FixedLarge => walk.perturb(x, large.sqrt()),
        Variance::Optimal => {
            let error = estimate.squared_error.ok_or_else(not_measured)?;
            walk.perturb(x, (small + (drop / (sigma * sigma)).powi(2) * error).sqrt())
        }
        Variance::LearnedRange => {
            let fraction = estimate.variance.as_ref().ok_or_else(not_learned)?;
            let log_deviation = fraction.affine((large.ln() - small.ln()) / 2.0, small.ln() / 2.0)?;
            let noise = walk.draw(&x)?;
            Ok((x + (log_deviation.exp()? * noise)?)?)
        }
    }
}

fn not_learned() -> Error {
    unsupported("this model has not learned its variance; use fixed_small or fixed_large")
}

fn not_measured() -> Error {
    unsupported(
        "this model's errors were not measured (limner evaluate --errors does it); use fixed_small or fixed_large",
    )
}

fn unsupported(message: &str) -> Error {
    Error::invalid(FieldError::new("variance", "unsupported", message))
}
