//! Mixtures of Gaussians: data of which everything is known.

use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use candle_core::Tensor;
use std::f64::consts::TAU;

/// A mixture of isotropic Gaussians in one or two dimensions.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// The name in requests.
    pub name: &'static str,
    /// In words.
    pub title: &'static str,
    /// 1 or 2.
    pub dimensions: usize,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    weight: f64,
    mean: [f64; 2],
    deviation: f64,
}

impl Mixture {
    /// All that there are, in the order in which a form lists them.
    pub fn all() -> Vec<Self> {
        let part = |weight, mean, deviation| Part { weight, mean, deviation };
        let line = |weight, x, deviation| part(weight, [x, 0.0], deviation);
        let on_circle = |i: usize, of: usize, radius: f64| {
            let angle = TAU * i as f64 / of as f64;
            [radius * angle.cos(), radius * angle.sin()]
        };
        let spiral = |i: usize| {
            let t = i as f64 / 47.0;
            let (radius, angle) = (0.25 + 1.35 * t, 1.6 * TAU * t);
            [radius * angle.cos(), radius * angle.sin()]
        };
        let grid = |i: usize| [(i % 3) as f64 - 1.0, (i / 3) as f64 - 1.0].map(|x| 1.2 * x);
        vec![
            Self::new("two", "Two Gaussians on a line", 1, vec![line(0.5, -1.0, 0.2), line(0.5, 1.0, 0.2)]),
            Self::new(
                "three",
                "Three uneven Gaussians on a line",
                1,
                vec![line(0.3, -1.5, 0.3), line(0.5, 0.4, 0.5), line(0.2, 2.0, 0.25)],
            ),
            Self::new("ring", "Eight on a ring", 2, (0..8).map(|i| part(1.0, on_circle(i, 8, 1.5), 0.12)).collect()),
            Self::new("grid", "Nine on a grid", 2, (0..9).map(|i| part(1.0, grid(i), 0.12)).collect()),
            Self::new("spiral", "A spiral", 2, (0..48).map(|i| part(1.0, spiral(i), 0.07)).collect()),
            Self::new(
                "uneven",
                "One large, one small",
                2,
                vec![part(0.8, [-0.8, 0.0], 0.4), part(0.2, [1.3, 0.6], 0.15)],
            ),
        ]
    }

    /// One of them.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|mixture| mixture.name == name)
    }

    fn new(name: &'static str, title: &'static str, dimensions: usize, mut parts: Vec<Part>) -> Self {
        let total: f64 = parts.iter().map(|part| part.weight).sum();
        parts.iter_mut().for_each(|part| part.weight /= total);
        Self { name, title, dimensions, parts }
    }

    /// Each part's logarithm of weight times density at `x`, noise of deviation `sigma` added.
    fn logs(&self, x: [f64; 2], sigma: f64) -> impl Iterator<Item = f64> {
        self.parts.iter().map(move |part| {
            let variance = part.deviation * part.deviation + sigma * sigma;
            let square = (0..self.dimensions).map(|i| (x[i] - part.mean[i]).powi(2)).sum::<f64>();
            part.weight.ln() - 0.5 * (square / variance + self.dimensions as f64 * (TAU * variance).ln())
        })
    }

    /// The density of `x0 + sigma * noise` at `x`; in one dimension the second coordinate is not looked at.
    pub fn density(&self, x: [f64; 2], sigma: f64) -> f64 {
        self.logs(x, sigma).map(f64::exp).sum()
    }

    /// The expected clean point at `x`.
    pub fn denoised(&self, x: [f64; 2], sigma: f64) -> [f64; 2] {
        let top = self.logs(x, sigma).fold(f64::NEG_INFINITY, f64::max);
        let (mut sum, mut total) = ([0.0; 2], 0.0);
        for (part, log) in self.parts.iter().zip(self.logs(x, sigma)) {
            let weight = (log - top).exp();
            let kept = part.deviation.powi(2) / (part.deviation.powi(2) + sigma * sigma);
            total += weight;
            (0..2).for_each(|i| sum[i] += weight * (part.mean[i] + kept * (x[i] - part.mean[i])));
        }
        sum.map(|value| value / total)
    }

    /// The gradient of the logarithm of the density.
    pub fn score(&self, x: [f64; 2], sigma: f64) -> [f64; 2] {
        let denoised = self.denoised(x, sigma);
        [0, 1].map(|i| (denoised[i] - x[i]) / (sigma * sigma))
    }

    /// Mean and variance of each coordinate of the data.
    pub fn moments(&self) -> [(f64, f64); 2] {
        [0, 1].map(|i| {
            let mean: f64 = self.parts.iter().map(|part| part.weight * part.mean[i]).sum();
            let square = |part: &Part| part.weight * (part.deviation.powi(2) + part.mean[i].powi(2));
            // A sum of zeros may be a negative zero.
            let mean = if mean.abs() < 1e-12 { 0.0 } else { mean };
            (mean, self.parts.iter().map(square).sum::<f64>() - mean * mean)
        })
    }
}

/// Points along the last dimension: (B, 1, 1, 1 or 2) in f64.
impl Denoiser for Mixture {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let points: Vec<f64> = x.flatten_all()?.to_vec1()?;
        let denoised = points.chunks(self.dimensions).flat_map(|point| {
            let clean = self.denoised([point[0], point.get(1).copied().unwrap_or(0.0)], sigma);
            clean.into_iter().take(self.dimensions)
        });
        Ok(Tensor::from_vec(denoised.collect(), x.shape(), x.device())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The score by differences of the density, and Tweedie's formula between it and the clean estimate.
    #[test]
    fn the_score_is_the_gradient_of_the_densitys_logarithm() {
        for mixture in Mixture::all() {
            for (x, sigma) in [([0.3, -0.4], 0.5), ([-1.2, 0.8], 0.1), ([2.0, 2.0], 3.0)] {
                let score = mixture.score(x, sigma);
                for i in 0..mixture.dimensions {
                    let step = 1e-5;
                    let at = |by: f64| {
                        let mut moved = x;
                        moved[i] += by;
                        mixture.density(moved, sigma).ln()
                    };
                    let slope = (at(step) - at(-step)) / (2.0 * step);
                    assert!((score[i] - slope).abs() < 1e-5 * slope.abs().max(1.0), "{} {x:?}", mixture.name);
                }
            }
        }
    }

    #[test]
    fn densities_integrate_to_one() {
        for mixture in Mixture::all() {
            let (reach, cells) = (6.0, 240);
            let at = |i: usize| -reach + 2.0 * reach * (i as f64 + 0.5) / f64::from(cells);
            let cell = 2.0 * reach / f64::from(cells);
            let sum: f64 = match mixture.dimensions {
                1 => (0..cells as usize).map(|i| cell * mixture.density([at(i), 0.0], 0.3)).sum(),
                _ => (0..cells as usize)
                    .flat_map(|i| (0..cells as usize).map(move |j| (i, j)))
                    .map(|(i, j)| cell * cell * mixture.density([at(i), at(j)], 0.3))
                    .sum(),
            };
            assert!((sum - 1.0).abs() < 1e-4, "{}: {sum}", mixture.name);
        }
    }
}
