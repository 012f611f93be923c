//! Denoisers whose answer is known exactly, and noise that is told what to be.

use candle_core::{DType, Device, Shape, Tensor};
use limner::Result;
use limner::diffusion::denoiser::Denoiser;
use limner::diffusion::noise::NoiseSource;
use limner::diffusion::sampler::Sampler;

use super::values;

/// Data N(mean, variance), elementwise: `D = (v x + s^2 mu) / (v + s^2)`.
pub(crate) struct Gaussian {
    pub(crate) mean: f64,
    pub(crate) variance: f64,
}

impl Denoiser for Gaussian {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let total = self.variance + sigma * sigma;
        Ok(x.affine(self.variance / total, sigma * sigma * self.mean / total)?)
    }
}

/// The mixture that the reference trajectories were made with: three components, elementwise.
pub(crate) struct Mixture;

pub(crate) const WEIGHTS: [f64; 3] = [0.3, 0.5, 0.2];
pub(crate) const MEANS: [f64; 3] = [-1.5, 0.4, 2.0];
pub(crate) const DEVIATIONS: [f64; 3] = [0.3, 0.5, 0.25];

impl Mixture {
    /// The exact posterior mean of one element.
    pub(crate) fn denoised(x: f64, sigma: f64) -> f64 {
        let variance = |k: usize| DEVIATIONS[k].powi(2) + sigma * sigma;
        let log_weight = |k: usize| WEIGHTS[k].ln() - 0.5 * (variance(k).ln() + (x - MEANS[k]).powi(2) / variance(k));
        let logs = [0, 1, 2].map(log_weight);
        let top = logs.into_iter().fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut total) = (0.0, 0.0);
        for k in 0..3 {
            let weight = (logs[k] - top).exp();
            total += weight;
            sum += weight * (MEANS[k] + DEVIATIONS[k].powi(2) / variance(k) * (x - MEANS[k]));
        }
        sum / total
    }

    /// The share of the mixture, blurred by `sigma`, that lies below x.
    pub(crate) fn cumulative(x: f64, sigma: f64) -> f64 {
        (0..3).map(|k| WEIGHTS[k] * normal_cumulative((x - MEANS[k]) / DEVIATIONS[k].hypot(sigma))).sum()
    }

    /// The x below which a share `p` lies, by bisection.
    pub(crate) fn quantile(p: f64, sigma: f64) -> f64 {
        let reach = 4.0 + 9.0 * sigma;
        let (mut low, mut high) = (-reach, reach);
        for _ in 0..100 {
            let middle = (low + high) / 2.0;
            if Self::cumulative(middle, sigma) < p { low = middle } else { high = middle }
        }
        (low + high) / 2.0
    }
}

impl Denoiser for Mixture {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let denoised: Vec<f64> = values(x).into_iter().map(|x| Self::denoised(x, sigma)).collect();
        Ok(Tensor::from_vec(denoised, x.shape(), x.device())?)
    }
}

/// `1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ...)`, to rounding.
fn normal_cumulative(x: f64) -> f64 {
    if x.abs() > 9.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum) = (x, 0.0);
    for k in 1..200 {
        sum += term;
        term *= x * x / f64::from(2 * k + 1);
    }
    0.5 + sum * (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt()
}

/// Gives the rows it was made of, one per draw.
pub(crate) struct Rows {
    rows: std::vec::IntoIter<Vec<f64>>,
}

impl Rows {
    pub(crate) fn new(rows: Vec<Vec<f64>>) -> Self {
        Self { rows: rows.into_iter() }
    }
}

impl NoiseSource for Rows {
    fn normal(&mut self, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let row = self.rows.next().expect("one row per draw");
        Ok(Tensor::from_vec(row, shape, device)?.to_dtype(dtype)?)
    }
}

/// All samplers that draw nothing.
pub(crate) fn deterministic() -> Vec<Sampler> {
    Sampler::ALL.into_iter().filter(|sampler| !sampler.is_stochastic()).collect()
}

/// Walks without noise; a sampler that draws has failed.
pub(crate) fn run_ode(sampler: Sampler, denoiser: &dyn Denoiser, x: Tensor, sigmas: &[f64]) -> Tensor {
    sampler.run(denoiser, x, sigmas, &mut Rows::new(vec![]), &mut |_| Ok(())).unwrap()
}
