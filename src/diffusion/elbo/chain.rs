//! The reverse chain of a variance-preserving model as a latent-variable model, in closed form.
//!
//! Ho et al., arXiv:2006.11239, eq. 5 to 8, and `diffusion_utils_2.py`, written for `x / sqrt(alpha_bar)`: a divergence of
//! Gaussians does not change when both are scaled. With `d(1/s^2) = 1/s'^2 - 1/s^2` the posterior `q(x' | x, x0)` has the
//! variance `s'^2 (s^2 - s'^2) / s^2`, and a step costs half of `d(1/s^2) |x0 - D|^2` where the model's variance is the
//! same.

use crate::diffusion::schedule::NoiseSchedule;
use crate::error::{Error, FieldError, Result};

/// How much noise the model's reverse steps put back, relative to the posterior's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReverseVariance<'a> {
    /// The posterior's: right for data that is one point.
    FixedSmall,
    /// The forward process's: right for data of unit variance.
    FixedLarge,
    /// What is best for these data: the posterior's, and what the clean estimate errs by (Bao et al., arXiv:2201.06503,
    /// theorem 1). For each level, from the lowest, the mean of `|x0 - D|^2` per dimension.
    Optimal(&'a [f64]),
}

/// Noise levels from the lowest to the highest, and for each what a step from it costs.
#[derive(Debug, Clone)]
pub struct Chain {
    sigmas: Vec<f64>,
    /// The model's variance over the posterior's, for steps down from levels 1, 2, ...; 0 stands for the last.
    ratios: Vec<f64>,
    /// The variance with which the picture is drawn at the end.
    decoder: f64,
}

impl Chain {
    /// A chain through `sigmas`, which rise strictly from above 0; at least one. Fails unless [`ReverseVariance::Optimal`]
    /// brings one number, above 0, for each.
    pub fn new(sigmas: Vec<f64>, variance: ReverseVariance<'_>) -> Result<Self> {
        let rising = sigmas.windows(2).all(|pair| pair[0] < pair[1]);
        if sigmas.is_empty() || !rising || !sigmas.iter().all(|s| *s > 0.0 && s.is_finite()) {
            return Err(refused("sigmas", "have to rise from above 0"));
        }
        if let ReverseVariance::Optimal(errors) = variance
            && (errors.len() != sigmas.len() || !errors.iter().all(|error| *error > 0.0))
        {
            return Err(refused("errors", "have to be one number above 0 for each noise level"));
        }
        let ratios = (0..sigmas.len()).map(|i| ratio(&sigmas, i, variance)).collect();
        let decoder = match variance {
            ReverseVariance::Optimal(errors) => errors[0],
            // What is left of data of unit variance; Ho et al. take index 1's posterior variance for `FixedSmall`, which
            // costs a Gaussian .16 bits per dimension at 1000 steps.
            _ => blurred(sigmas[0]),
        };
        Ok(Self { sigmas, ratios, decoder })
    }

    /// The times of a schedule, all or `steps` evenly spaced ones with both ends.
    pub fn of(schedule: &NoiseSchedule, steps: usize, variance: ReverseVariance<'_>) -> Result<Self> {
        Self::new(levels(schedule, steps), variance)
    }

    /// Noise levels, lowest first.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// `L_T`: nats per dimension by which the noised picture differs from the prior `N(0, I)` of the chain's first state,
    /// given the mean square of the picture's elements.
    pub fn prior(&self, mean_square: f64) -> f64 {
        let last = self.sigmas[self.sigmas.len() - 1];
        let alpha_bar = 1.0 / (1.0 + last * last);
        0.5 * (alpha_bar * (mean_square - 1.0) - blurred(last).ln())
    }

    /// `L_(t-1)`: nats per dimension of the step down from level `t`, from 1, where the clean estimate's mean squared error
    /// is `error`.
    pub fn step(&self, t: usize, error: f64) -> f64 {
        let ratio = self.ratios[t];
        let rate = self.sigmas[t - 1].powi(-2) - self.sigmas[t].powi(-2);
        0.5 * (ratio.ln() + (1.0 - ratio + rate * error) / ratio)
    }

    /// `L_0` of data that are densities: nats per dimension of `-ln N(x0; D, v)`.
    pub fn reconstruction(&self, error: f64) -> f64 {
        0.5 * ((std::f64::consts::TAU * self.decoder).ln() + error / self.decoder)
    }

    /// The standard deviation with which the picture is drawn at the end.
    pub fn decoder_deviation(&self) -> f64 {
        self.decoder.sqrt()
    }
}

/// The levels of `steps` evenly spaced times of a schedule with both ends, or of all where `steps` is no less; lowest
/// first.
pub fn levels(schedule: &NoiseSchedule, steps: usize) -> Vec<f64> {
    let (all, last) = (schedule.steps(), (schedule.steps() - 1) as f64);
    if steps >= all {
        return (0..all).map(|t| schedule.sigma(t as f64)).collect();
    }
    let gaps = steps.max(2) - 1;
    (0..=gaps).map(|i| schedule.sigma((last * i as f64 / gaps as f64).round())).collect()
}

/// `1 - alpha_bar`.
fn blurred(sigma: f64) -> f64 {
    sigma * sigma / (1.0 + sigma * sigma)
}

fn ratio(sigmas: &[f64], i: usize, variance: ReverseVariance<'_>) -> f64 {
    let Some(below) = i.checked_sub(1).map(|below| sigmas[below]) else { return 1.0 };
    match variance {
        ReverseVariance::FixedSmall => 1.0,
        ReverseVariance::FixedLarge => blurred(sigmas[i]) / blurred(below),
        ReverseVariance::Optimal(errors) => 1.0 + errors[i] * (below.powi(-2) - sigmas[i].powi(-2)),
    }
}

fn refused(field: &str, message: &str) -> Error {
    Error::invalid(FieldError::new(field, "out_of_range", message))
}
