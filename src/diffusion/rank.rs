//! Which of several denoisers fits a picture best: one per caption, and the one whose evidence lower bound is highest.
//!
//! The bound's diffusion term is the integral of `|x0 - D|^2 / sigma^2` over `ln sigma` (Kingma et al., arXiv:2107.00630,
//! eq. 15); prior and reconstruction hardly depend on the caption. All denoisers see the same noise at the same levels, so
//! that of the differences most of the noise is gone (Li et al., arXiv:2303.16203; Clark and Jaini, arXiv:2303.15233).

use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::elbo::numbers;
use crate::diffusion::noise::NoiseSource;
use candle_core::Tensor;
use serde::Serialize;

/// How one denoiser does against the best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fit {
    /// Which of the denoisers, from 0.
    pub index: usize,
    /// The diffusion term of the evidence lower bound, in nats: the less, the better it fits.
    pub nats: f64,
    /// What it has more than the best one's, in nats.
    pub behind: f64,
    /// The standard error of that difference, over the draws of noise.
    pub standard_error: f64,
    /// The share of belief it has if each was as likely before, and these estimates were exact.
    pub probability: f64,
}

/// Between which noise levels denoisers are compared, and at how many of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Levels {
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
    /// How many: each in the middle of its equal share of `ln sigma`, with noise of its own.
    pub count: usize,
}

impl Levels {
    fn sigma(&self, i: usize) -> f64 {
        self.low * (self.high / self.low).powf((i as f64 + 0.5) / self.count as f64)
    }

    /// The share of `ln sigma` that one stands for.
    fn share(&self) -> f64 {
        (self.high / self.low).ln() / self.count as f64
    }
}

/// The denoisers in the order of how well they fit `picture`, (1, C, H, W), the best first; at least one. `on_level` hears
/// how many levels are done, and ends the work by returning an error.
pub fn rank(
    denoisers: &[&dyn Denoiser],
    picture: &Tensor,
    levels: Levels,
    noise: &mut dyn NoiseSource,
    on_level: &mut dyn FnMut(usize, f64) -> Result<()>,
) -> Result<Vec<Fit>> {
    let clean = numbers(picture)?;
    let mut costs = vec![Vec::with_capacity(levels.count); denoisers.len()];
    for i in 0..levels.count {
        let sigma = levels.sigma(i);
        let fresh = noise.normal(picture.shape(), picture.dtype(), picture.device())?;
        let noisy = (picture + (fresh * sigma)?)?;
        for (costs, denoiser) in costs.iter_mut().zip(denoisers) {
            let denoised = numbers(&denoiser.denoise(&noisy, sigma)?)?;
            let squares = clean.iter().zip(&denoised).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            costs.push(squares / (sigma * sigma) * levels.share());
        }
        on_level(i + 1, sigma)?;
    }
    Ok(fits(&costs))
}

/// From what each denoiser cost at each level.
fn fits(costs: &[Vec<f64>]) -> Vec<Fit> {
    let totals: Vec<f64> = costs.iter().map(|costs| costs.iter().sum()).collect();
    let best = (0..totals.len()).min_by(|a, b| totals[*a].total_cmp(&totals[*b])).unwrap_or_default();
    let beliefs: Vec<f64> = totals.iter().map(|total| (totals[best] - total).exp()).collect();
    let fit = |index: usize| {
        let differences: Vec<f64> = costs[index].iter().zip(&costs[best]).map(|(a, b)| a - b).collect();
        Fit {
            index,
            nats: totals[index],
            behind: totals[index] - totals[best],
            standard_error: error_of_sum(&differences),
            probability: beliefs[index] / beliefs.iter().sum::<f64>(),
        }
    };
    let mut fits: Vec<Fit> = (0..totals.len()).map(fit).collect();
    fits.sort_by(|a, b| a.nats.total_cmp(&b.nats));
    fits
}

/// The standard error of a sum over strata with one draw each, from the differences of neighbours: those of levels that
/// lie far apart are no noise. (The successive-difference estimator, Wolter 2007, section 8.2.)
fn error_of_sum(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if values.len() < 2 {
        return 0.0;
    }
    let squares: f64 = values.windows(2).map(|pair| (pair[1] - pair[0]).powi(2)).sum();
    (n * squares / (2.0 * (n - 1.0))).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::test_support::assert_close;

    #[test]
    fn the_error_of_a_sum_is_that_of_independent_draws() {
        // +1, -1, ...: of independent values of variance 1, whose neighbours differ by 2 in the square mean.
        let values: Vec<f64> =
            crate::diffusion::noise::Philox::new(3).normals(0, 4000).into_iter().map(f64::from).collect();
        assert_close(&[error_of_sum(&values) / 4000f64.sqrt()], &[1.0], 0.05);
        // A slope is no noise.
        let slope: Vec<f64> = (0..1000).map(|i| f64::from(i) / 1000.0).collect();
        assert!(error_of_sum(&slope) < 0.05);
    }

    #[test]
    fn the_lowest_cost_comes_first_and_beliefs_add_up() {
        let found = fits(&[vec![2.0, 2.0], vec![1.0, 1.5], vec![1.0, 1.5]]);
        assert_eq!(found.iter().map(|fit| fit.index).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!((found[0].behind, found[1].behind, found[2].behind), (0.0, 0.0, 1.5));
        assert_close(&[found.iter().map(|fit| fit.probability).sum()], &[1.0], 1e-12);
        assert_close(&[found[2].probability / found[0].probability], &[(-1.5f64).exp()], 1e-12);
    }
}
