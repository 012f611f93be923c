//! Adams-Bashforth methods on `dx/ds = e`, with `e = (x - D) / s` the noise in x: the noise of the last steps is extrapolated
//! over the next one, by a polynomial in sigma (LMS), in ln sigma (DEIS), or as if steps were equal (PNDM).

use super::dpmpp_multistep::FEW_STEPS;
use super::walk::{Walk, shrink};
use crate::Result;
use candle_core::Tensor;

/// Over what the noise is a polynomial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// Sigma: k-diffusion's `lms`, up to order 4.
    Sigma,
    /// ln sigma: DEIS (Zhang and Chen, arXiv:2204.13902, tAB with rho-space weights, diffusers' `logrho`). Of fewer than 15 steps the last are of lower order.
    LogSigma,
    /// The number of steps: pseudo linear multistep (Liu et al., arXiv:2202.09778, eq. 12) of order 4, with Heun's
    /// second evaluation on the first step in place of Runge-Kutta steps, as Stable Diffusion's PLMS.
    Steps,
}

impl Over {
    /// What is sensible, with `left` steps to go of `total`, this one to `next`. A polynomial in ln sigma says nothing of the
    /// way to 0.
    fn order(self, order: usize, left: usize, total: usize, next: f64) -> usize {
        match self {
            Self::LogSigma if next == 0.0 => 1,
            Self::LogSigma if total < FEW_STEPS => order.min(left),
            _ => order,
        }
    }

    /// The weights of the noise at `sigmas` (the newest first) in the integral from `sigmas[0]` to `next`.
    fn weights(self, sigmas: &[f64], next: f64) -> Vec<f64> {
        match self {
            Self::Sigma => (0..sigmas.len()).map(|j| over_sigma(sigmas, j, next)).collect(),
            Self::LogSigma => (0..sigmas.len()).map(|j| over_log_sigma(sigmas, j, next)).collect(),
            Self::Steps => EQUAL[sigmas.len() - 1][..sigmas.len()].iter().map(|w| w * (next - sigmas[0])).collect(),
        }
    }
}

/// Adams-Bashforth weights of equal steps.
const EQUAL: [[f64; 4]; 4] = [
    [1.0, 0.0, 0.0, 0.0],
    [3.0 / 2.0, -1.0 / 2.0, 0.0, 0.0],
    [23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0, 0.0],
    [55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

/// One evaluation a step, of growing order on the first ones.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor, over: Over, order: usize) -> Result<Tensor> {
    // The newest first.
    let (mut noises, mut sigmas): (Vec<Tensor>, Vec<f64>) = (Vec::new(), Vec::new());
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        noises.insert(0, noise(&x, &denoised, sigma)?);
        sigmas.insert(0, sigma);
        let order = over.order(order, walk.total() - index, walk.total(), next);
        noises.truncate(order);
        sigmas.truncate(order);
        x = match over {
            Over::Steps if index == 0 && next > 0.0 => {
                let ahead = shrink(&x, &denoised, next / sigma)?;
                let there = noise(&ahead, &walk.denoiser.denoise(&ahead, next)?, next)?;
                (&x + ((&noises[0] + there)? * ((next - sigma) / 2.0))?)?
            }
            // On the first step to 0 and on any other first step there is nothing to extrapolate.
            _ if noises.len() == 1 => shrink(&x, &denoised, next / sigma)?,
            _ => noises
                .iter()
                .zip(over.weights(&sigmas, next))
                .try_fold(x, |x, (noise, weight)| x + (noise * weight)?)?,
        };
        x = walk.close(index, &denoised, x)?;
    }
    Ok(x)
}

fn noise(x: &Tensor, denoised: &Tensor, sigma: f64) -> Result<Tensor> {
    Ok(((x - denoised)? / sigma)?)
}

/// `integral of prod_(k != j) (s - s_k) / (s_j - s_k) ds`: Gauss's three points are exact up to degree 5.
fn over_sigma(sigmas: &[f64], j: usize, next: f64) -> f64 {
    let (middle, half) = ((sigmas[0] + next) / 2.0, (next - sigmas[0]) / 2.0);
    let value = |at: f64| -> f64 {
        let factor = |(k, s): (usize, &f64)| if k == j { 1.0 } else { (at - s) / (sigmas[j] - s) };
        sigmas.iter().enumerate().map(factor).product()
    };
    let node = 0.6f64.sqrt() * half;
    half / 9.0 * (5.0 * value(middle - node) + 8.0 * value(middle) + 5.0 * value(middle + node))
}

/// The same with `ln s` in place of s in the product. With `u = ln(s / s_0)` the product is a polynomial in u, and
/// `integral of u^k ds = s_0 E_k` with `E_k = [u^k e^u] - k E_(k-1)`.
fn over_log_sigma(sigmas: &[f64], j: usize, next: f64) -> f64 {
    let u = |sigma: f64| (sigma / sigmas[0]).ln();
    // Coefficients, lowest power first.
    let mut polynomial = vec![1.0];
    for (_, sigma) in sigmas.iter().enumerate().filter(|(k, _)| *k != j) {
        let (root, scale) = (u(*sigma), u(sigmas[j]) - u(*sigma));
        let mut product = vec![0.0; polynomial.len() + 1];
        for (power, coefficient) in polynomial.iter().enumerate() {
            product[power + 1] += coefficient / scale;
            product[power] -= coefficient * root / scale;
        }
        polynomial = product;
    }
    let end = u(next);
    let (mut integral, mut sum) = (0.0, 0.0);
    for (power, coefficient) in polynomial.iter().enumerate() {
        // e^u beats every power of u on the way to sigma 0.
        let upper = if next == 0.0 { 0.0 } else { end.powi(power as i32) * end.exp() };
        let lower = if power == 0 { 1.0 } else { 0.0 };
        integral = upper - lower - power as f64 * integral;
        sum += coefficient * integral;
    }
    sigmas[0] * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weights of a constant add up to the step; those of a straight line give its integral.
    #[test]
    fn polynomials_up_to_the_order_are_integrated_exactly() {
        let sigmas = [2.0, 3.5, 4.0, 9.0];
        for next in [1.2f64, 0.3, 0.0] {
            for order in 1..=4 {
                let used = &sigmas[..order];
                for power in 0..order as i32 {
                    let exact = (next.powi(power + 1) - 2f64.powi(power + 1)) / f64::from(power + 1);
                    let found: f64 =
                        Over::Sigma.weights(used, next).iter().zip(used).map(|(w, s)| w * s.powi(power)).sum();
                    assert!((found - exact).abs() < 1e-10, "{next} {order} {power}: {found} {exact}");
                }
                if order > 3 {
                    continue;
                }
                // integral of ln s is s ln s - s, of (ln s)^2 is s (ln s)^2 - 2 (s ln s - s).
                let first = |s: f64| if s == 0.0 { 0.0 } else { s * s.ln() - s };
                let second = |s: f64| if s == 0.0 { 0.0 } else { s * s.ln().powi(2) - 2.0 * first(s) };
                let exact = [next - 2.0, first(next) - first(2.0), second(next) - second(2.0)];
                for (power, exact) in exact.into_iter().enumerate().take(order) {
                    let weights = Over::LogSigma.weights(used, next);
                    let found: f64 = weights.iter().zip(used).map(|(w, s)| w * s.ln().powi(power as i32)).sum();
                    assert!((found - exact).abs() < 1e-12, "{next} {order} {power}: {found} {exact}");
                }
            }
        }
    }
}
