//! What was measured of a picture, as a pull.

use super::operator::{LinearOperator, dot, quotient, square_norm};
use super::towards::{Pull, View};
use crate::Result;
use crate::diffusion::jacobian::{Linearised, gradient};
use crate::error::{Error, FieldError};
use candle_core::{Tensor, Var};

/// How the likelihood of a measurement is approximated, given a noisy picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// The clean picture given the noisy one counts as Gaussian around D with variance `v sigma^2 / (v + sigma^2)` in
    /// every direction, `v` being that of the data (pseudo-inverse guidance, Song et al., ICLR 2023, section 3.2). Exact
    /// where the data are Gaussian with covariance `v I`. Where noise is strong, a network's Jacobian is mostly the network's
    /// error, and is multiplied by sigma squared: no pull is longer than it takes to explain the measurement best.
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

/// A measurement of the picture, as a pull: the gradient of its likelihood `p(y | x)`.
pub struct Measured<'a, A> {
    operator: A,
    measurement: Tensor,
    noise: f64,
    rule: Rule,
    view: Option<View<'a>>,
}

impl<'a, A: LinearOperator> Measured<'a, A> {
    /// `measurement` is what `operator` gives of the unknown picture, and errors of standard deviation `noise`, which may
    /// be zero.
    pub fn new(operator: A, measurement: Tensor, noise: f64, rule: Rule) -> Self {
        Self { operator, measurement, noise, rule, view: None }
    }

    /// What is measured is the picture that `view` shows, which need not be linear.
    #[must_use]
    pub fn through(self, view: View<'a>) -> Self {
        Self { view: Some(view), ..self }
    }

    /// What the measurement should have been, had `denoised` been the picture.
    fn of(&self, denoised: &Tensor) -> Result<Tensor> {
        match self.view {
            None => self.operator.apply(denoised),
            Some(view) => self.operator.apply(&view(denoised)?),
        }
    }

    /// `H^T v`, H being what is measured, linearised at `denoised`.
    fn back(&self, denoised: &Tensor, v: &Tensor) -> Result<Tensor> {
        if self.view.is_none() {
            return self.operator.adjoint(v);
        }
        let at = Var::from_tensor(denoised)?;
        gradient(&at, &(self.of(&at)? * v)?)
    }

    /// `H v`; through a view, as a difference.
    fn along(&self, denoised: &Tensor, v: &Tensor) -> Result<Tensor> {
        if self.view.is_none() {
            return self.operator.apply(v);
        }
        let size = quotient(&square_norm(denoised)?, &square_norm(v)?)?.sqrt()?;
        let step = ((size * SMALL)? + TINIEST)?;
        let moved = self.of(&(denoised + v.broadcast_mul(&step)?)?)?;
        Ok((moved - self.of(denoised)?)?.broadcast_div(&step)?)
    }

    /// `H^T (spread H H^T + noise^2)^-1 residual`. Through a view, `H H^T` counts as the multiple of the identity that it
    /// is along the residual (its Rayleigh quotient), `|H^T r|^2 / |r|^2`.
    fn weighed(&self, denoised: &Tensor, residual: &Tensor, spread: f64) -> Result<Tensor> {
        let error = self.noise * self.noise;
        if self.view.is_none() {
            return self.operator.adjoint(&self.operator.weigh(residual, spread, error)?);
        }
        let back = self.back(denoised, residual)?;
        let gain = (square_norm(&back)? / (square_norm(residual)? + TINY)?)?;
        Ok(back.broadcast_div(&(gain.affine(spread, error)? + TINY)?)?)
    }
}

/// Added to what may be zero, before something is divided by it.
const TINY: f64 = 1e-12;
/// The same for what may be very small, and is a number in f32.
const TINIEST: f64 = 1e-36;
/// Length of a difference, relative to the picture: f32 knows it to three digits, and decoders are straight over it.
const SMALL: f64 = 1e-2;

impl<A: LinearOperator> Pull for Measured<'_, A> {
    fn pull(&self, at: &Linearised, sigma: f64) -> Result<Tensor> {
        let denoised = at.denoised();
        let residual = (&self.measurement - self.of(&denoised)?)?;
        match &self.rule {
            Rule::PseudoInverse { data_variance } => {
                let spread = data_variance * sigma * sigma / (data_variance + sigma * sigma);
                let pull = at.vjp(&self.weighed(&denoised, &residual, spread)?)?;
                let explained = self.along(&denoised, &pull)?;
                let most = quotient(&dot(&residual, &explained)?, &square_norm(&explained)?)?;
                Ok(pull.broadcast_mul(&most.clamp(0.0, sigma * sigma)?)?)
            }
            // In the paper the gradient is one by a x and moves a' x'; here it is one by x, and an ancestral step passes on
            // 1 - (next / sigma)^2 of what moves D.
            Rule::Posterior { scale, ladder } => {
                let next = next_of(ladder, sigma)?;
                let share = sigma.hypot(1.0) * next.hypot(1.0) / (1.0 - (next / sigma).powi(2));
                let unit = residual.broadcast_div(&(square_norm(&residual)?.sqrt()? + TINY)?)?;
                Ok((at.vjp(&self.back(&denoised, &unit)?)? * (scale * share))?)
            }
        }
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
