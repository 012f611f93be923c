//! A denoiser that draws towards what was measured of the picture.

use super::operator::{LinearOperator, square_norm};
use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::jacobian::Linearised;
use crate::error::{Error, FieldError};
use candle_core::Tensor;

/// How the likelihood of a measurement is approximated, given a noisy picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// The clean picture given the noisy one counts as Gaussian around D with variance `v sigma^2 / (v + sigma^2)` in
    /// every direction, `v` being that of the data (pseudo-inverse guidance, Song et al., ICLR 2023, section 3.2). Exact
    /// where the data are Gaussian with covariance `v I`.
    PseudoInverse {
        /// The variance of clean pictures; 1 in the paper.
        data_variance: f64,
    },
    /// The measurement is compared with that of D, as if D were certain (diffusion posterior sampling, Chung et al.,
    /// arXiv:2209.14687, algorithm 1): every step moves against the gradient of `|y - A D|`, not squared.
    Posterior {
        /// zeta: 0.3 to 1 in the paper, for 1000 steps.
        scale: f64,
        /// The sigmas that the sampler walks down.
        ladder: Vec<f64>,
    },
}

/// A denoiser around a denoiser: what it is sure of, moved by the gradient of a measurement's likelihood.
///
/// With `p(x0 | x)` for what the model knows, `D' = D + sigma^2 grad log p(y | x)`, which is the denoiser of the posterior
/// (Tweedie's formula), so any sampler draws from the posterior with it. Costs one pass back through the network for every
/// pass forward.
#[derive(Debug, Clone)]
pub struct Measured<D, A> {
    inner: D,
    operator: A,
    measurement: Tensor,
    noise: f64,
    rule: Rule,
}

impl<D: Denoiser, A: LinearOperator> Measured<D, A> {
    /// `measurement` is what `operator` gives of the unknown picture, and errors of standard deviation `noise`, which may
    /// be zero.
    pub fn new(inner: D, operator: A, measurement: Tensor, noise: f64, rule: Rule) -> Self {
        Self { inner, operator, measurement, noise, rule }
    }

    /// What is left unexplained, `y - A D`.
    fn residual(&self, denoised: &Tensor) -> Result<Tensor> {
        Ok((&self.measurement - self.operator.apply(denoised)?)?)
    }

    fn pull(&self, at: &Linearised, sigma: f64) -> Result<Tensor> {
        let residual = self.residual(&at.denoised())?;
        match &self.rule {
            Rule::PseudoInverse { data_variance } => {
                let spread = data_variance * sigma * sigma / (data_variance + sigma * sigma);
                let weighed = self.operator.weigh(&residual, spread, self.noise * self.noise)?;
                Ok((at.vjp(&self.operator.adjoint(&weighed)?)? * (sigma * sigma))?)
            }
            // In the paper the gradient is one by a x and moves a' x'; here it is one by x, and an ancestral step passes on
            // 1 - (next / sigma)^2 of what moves D.
            Rule::Posterior { scale, ladder } => {
                let next = next_of(ladder, sigma)?;
                let share = sigma.hypot(1.0) * next.hypot(1.0) / (1.0 - (next / sigma).powi(2));
                let unit = residual.broadcast_div(&(square_norm(&residual)?.sqrt()? + 1e-12)?)?;
                Ok((at.vjp(&self.operator.adjoint(&unit)?)? * (scale * share))?)
            }
        }
    }
}

impl<D: Denoiser, A: LinearOperator> Denoiser for Measured<D, A> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let at = Linearised::at(&self.inner, x, sigma)?;
        Ok((at.denoised() + self.pull(&at, sigma)?)?)
    }
}

/// Where the step from `sigma` goes.
fn next_of(ladder: &[f64], sigma: f64) -> Result<f64> {
    let found = ladder.windows(2).find(|pair| pair[0] == sigma).map(|pair| pair[1]);
    found.ok_or_else(|| {
        let message =
            format!("posterior sampling knows no step from sigma {sigma}: take a sampler with one call a step");
        Error::invalid(FieldError::new("sampler", "not_for_rule", message))
    })
}
