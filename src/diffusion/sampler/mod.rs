//! Samplers: from noise to a picture, down a ladder of sigmas. One algorithm per file, one function each.
//!
//! State is `x = x0 + sigma * noise`, and every step is written in terms of the clean estimate `D(x, sigma)`, in a form
//! that has no difference of large numbers and no division by the next sigma: so the last step to 0 and a first sigma
//! of 4096 need no guards. Adding a sampler takes a file here and a variant of [`Sampler`].

mod ancestral;
mod ddpm;
mod dpmpp_2m;
mod lcm;
mod ode;
mod walk;

pub use ddpm::Variance;
pub use ode::Churn;

use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::noise::NoiseSource;
use crate::error::{Error, FieldError, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use walk::Walk;

/// Which algorithm, with its settings. Its name stands for it in JSON, in the form and on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sampler {
    /// Ancestral sampling from the posterior (Ho et al., arXiv:2006.11239).
    Ddpm {
        /// How much noise each step puts back.
        variance: Variance,
    },
    /// Implicit models (Song et al., arXiv:2010.02502): deterministic at eta 0, DDPM with small variance at eta 1.
    Ddim {
        /// The share of fresh noise, 0 to 1.
        eta: f64,
    },
    /// Euler's method on the probability-flow ODE (Karras et al., arXiv:2206.00364).
    Euler {
        /// Noise added before steps; none by default.
        churn: Churn,
    },
    /// Heun's second-order method on the same ODE: two evaluations a step, but one on the last.
    Heun {
        /// Noise added before steps; none by default.
        churn: Churn,
    },
    /// Euler steps to a lower sigma and fresh noise back up (k-diffusion's `euler_ancestral`).
    EulerA {
        /// The share of fresh noise, 0 to 1; 1 by default.
        eta: f64,
    },
    /// DPM-Solver++(2M) (Lu et al., arXiv:2211.01095): second order from the last two evaluations.
    #[default]
    Dpmpp2m,
    /// Multistep consistency sampling (Luo et al., arXiv:2310.04378, algorithm 3): the clean estimate, noised anew.
    Lcm,
}

/// What a sampler reports after each step.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Counts from 0.
    pub index: usize,
    /// How many steps there will be.
    pub total: usize,
    /// The noise level this step came from.
    pub sigma: f64,
    /// The clean estimate at that level, (B, C, H, W): what a preview shows.
    pub denoised: &'a Tensor,
}

impl Sampler {
    /// All samplers with their default settings, in the order in which a form lists them.
    pub const ALL: [Self; 7] = [
        Self::Dpmpp2m,
        Self::Euler { churn: Churn::NONE },
        Self::Heun { churn: Churn::NONE },
        Self::EulerA { eta: 1.0 },
        Self::Ddim { eta: 0.0 },
        Self::Ddpm { variance: Variance::FixedSmall },
        Self::Lcm,
    ];
    /// Euler's method as it is.
    pub const EULER: Self = Self::Euler { churn: Churn::NONE };

    /// The name used in JSON, in the form and on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ddpm { .. } => "ddpm",
            Self::Ddim { .. } => "ddim",
            Self::Euler { .. } => "euler",
            Self::Heun { .. } => "heun",
            Self::EulerA { .. } => "euler_a",
            Self::Dpmpp2m => "dpmpp_2m",
            Self::Lcm => "lcm",
        }
    }

    /// The names of all samplers.
    pub fn names() -> Vec<&'static str> {
        Self::ALL.iter().map(Self::name).collect()
    }

    /// Walks `x` down the ladder and returns the picture at its end.
    ///
    /// `x` is (B, C, H, W) at noise level `sigmas[0]`, in sigma-space (`x0 + sigma * noise`, so pure noise is scaled by
    /// `sigmas[0]`); `sigmas` falls strictly, commonly to 0. `on_step` hears of every step, and ends the walk by
    /// returning an error. Fails with [`Error::NonFinite`], naming the step, when the state stops being finite.
    pub fn run(
        &self,
        denoiser: &dyn Denoiser,
        x: Tensor,
        sigmas: &[f64],
        noise: &mut dyn NoiseSource,
        on_step: &mut dyn FnMut(Step<'_>) -> Result<()>,
    ) -> Result<Tensor> {
        self.validate()?;
        let mut walk = Walk::new(denoiser, sigmas, noise, on_step)?;
        match *self {
            Self::Ddpm { variance } => ddpm::run(&mut walk, x, variance),
            Self::Ddim { eta } | Self::EulerA { eta } => ancestral::run(&mut walk, x, eta),
            Self::Euler { churn } => ode::euler(&mut walk, x, churn),
            Self::Heun { churn } => ode::heun(&mut walk, x, churn),
            Self::Dpmpp2m => dpmpp_2m::run(&mut walk, x),
            Self::Lcm => lcm::run(&mut walk, x),
        }
    }

    /// Checks the settings a variant carries.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::Ddim { eta } | Self::EulerA { eta } => within("eta", eta, 0.0, 1.0),
            Self::Euler { churn } | Self::Heun { churn } => churn.validate(),
            Self::Ddpm { .. } | Self::Dpmpp2m | Self::Lcm => Ok(()),
        }
    }
}

/// Fails unless `low <= value <= high`; NaN fails.
fn within(field: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let message = format!("must be between {low} and {high}, got {value}");
    Err(Error::invalid(FieldError::new(field, "out_of_range", message).range(low, high)))
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Sampler {
    type Err = Error;

    /// The sampler of that name, with default settings. Dashes count as underscores.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.replace('-', "_");
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let message = format!("unknown sampler \"{text}\"; known: {}", Self::names().join(", "));
            Error::invalid(FieldError::new("sampler", "unknown_value", message))
        })
    }
}

impl TryFrom<String> for Sampler {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Sampler> for String {
    fn from(sampler: Sampler) -> Self {
        sampler.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_list_the_known() {
        for sampler in Sampler::ALL {
            let json = serde_json::to_string(&sampler).unwrap();
            assert_eq!(serde_json::from_str::<Sampler>(&json).unwrap(), sampler);
        }
        assert_eq!("dpmpp-2m".parse::<Sampler>().unwrap(), Sampler::Dpmpp2m);
        let message = "eulr".parse::<Sampler>().unwrap_err().to_string();
        assert!(message.contains("\"eulr\"") && message.contains("heun, euler_a"), "{message}");
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        for eta in [-0.1, 1.1, f64::NAN] {
            assert!(Sampler::Ddim { eta }.validate().is_err());
        }
        let churn = Churn { amount: f64::INFINITY, ..Churn::NONE };
        assert!(Sampler::Heun { churn }.validate().is_err());
        assert!(Sampler::ALL.iter().all(|sampler| sampler.validate().is_ok()));
    }
}
