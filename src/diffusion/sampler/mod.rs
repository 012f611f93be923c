//! Samplers: from noise to a picture, down a ladder of sigmas. One algorithm per file, one function each.
//!
//! State is `x = x0 + sigma * noise`, and every step is written in terms of the clean estimate `D(x, sigma)`, in a form
//! that has no difference of large numbers and no division by the next sigma: so the last step to 0 and a first sigma
//! of 4096 need no guards. Adding a sampler takes a file here, a variant of [`Sampler`], and its settings in `named`.

mod adams;
mod adaptive;
pub(crate) mod again;
mod ancestral;
mod ddpm;
mod dpmpp_multistep;
mod langevin;
mod lcm;
mod named;
mod ode;
mod sde;
mod singlestep;
mod unipc;
mod walk;

pub use again::Restart;
pub use ddpm::Variance;
pub use dpmpp_multistep::SecondOrder;
pub use langevin::Annealed;
pub use ode::Churn;
pub use sde::{Predictor, PredictorCorrector, Process};
pub use unipc::Basis;

use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::flow::Effort;
use crate::diffusion::noise::NoiseSource;
use crate::error::{Error, FieldError, Result};
use adams::Over;
use candle_core::Tensor;
use dpmpp_multistep::Multistep;
use serde::{Deserialize, Serialize};
use singlestep::Held;
use walk::{Part, Walk};

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
    /// DPM-Solver++(3M) (Lu et al., arXiv:2211.01095): third order from the last three evaluations.
    Dpmpp3m,
    /// The same of order 2 for the reverse SDE: fresh noise at every step.
    Dpmpp2mSde {
        /// The share of fresh noise, 0 to 1; 1 by default.
        eta: f64,
        /// How the second order is made.
        kind: SecondOrder,
    },
    /// The same of order 3.
    Dpmpp3mSde {
        /// The share of fresh noise, 0 to 1; 1 by default.
        eta: f64,
    },
    /// DPM-Solver++(2S) (Lu et al., arXiv:2211.01095): second order from two evaluations a step. With eta above 0 its
    /// ancestral form.
    Dpmpp2s {
        /// The share of fresh noise, 0 to 1.
        eta: f64,
    },
    /// DPM-Solver-2 (Lu et al., arXiv:2206.00927): the noise in the middle of the step. With eta above 0 its ancestral form.
    Dpm2 {
        /// The share of fresh noise, 0 to 1.
        eta: f64,
    },
    /// UniPC (Zhao et al., arXiv:2302.04867): a predictor, and a corrector for the same evaluation.
    Unipc {
        /// 2 or 3.
        order: usize,
        /// What a step's remainder is measured by.
        basis: Basis,
    },
    /// Linear multistep of order 4: the noise as a polynomial in sigma.
    Lms,
    /// DEIS (Zhang and Chen, arXiv:2204.13902): the noise as a polynomial in ln sigma.
    Deis {
        /// 2 or 3; 3 by default.
        order: usize,
    },
    /// Pseudo linear multistep (Liu et al., arXiv:2202.09778), also called PLMS: what Stable Diffusion 1 was shipped with.
    Pndm,
    /// Restart sampling (Xu et al., arXiv:2306.14878): Heun's method, and a stretch of the ladder more than once.
    Restart {
        /// Which stretch, and how often.
        restart: Restart,
    },
    /// The probability-flow ODE by Dormand and Prince's adaptive method: a tolerance instead of a number of steps.
    Dopri5 {
        /// What a step may err by, relative to the picture and absolutely.
        tolerance: f64,
    },
    /// A reverse-time SDE, and Langevin steps between (Song et al., arXiv:2011.13456).
    PredictorCorrector {
        /// Which, and how.
        method: PredictorCorrector,
    },
    /// Annealed Langevin dynamics (Song and Ermon, arXiv:1907.05600 and arXiv:2006.09011).
    Langevin {
        /// How many steps at each level, and how long.
        annealed: Annealed,
    },
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
    /// The clean estimate at that level, (B, C, H, W): what a preview shows. An adaptive sampler, which goes one picture
    /// after the other, gives that of the one it works on, (1, C, H, W), and the finished ones at the end.
    pub denoised: &'a Tensor,
    /// With the last report of an adaptive sampler, what it took.
    pub effort: Option<Effort>,
}

impl Sampler {
    /// All samplers with their default settings, in the order in which a form lists them.
    pub const ALL: [Self; 23] = [
        Self::Dpmpp2m,
        Self::Unipc { order: 2, basis: Basis::Bh2 },
        Self::Dpmpp3m,
        Self::Deis { order: 3 },
        Self::Euler { churn: Churn::NONE },
        Self::Heun { churn: Churn::NONE },
        Self::Dpmpp2s { eta: 0.0 },
        Self::Dpm2 { eta: 0.0 },
        Self::Lms,
        Self::Pndm,
        Self::Dopri5 { tolerance: 1e-3 },
        Self::Dpmpp2mSde { eta: 1.0, kind: SecondOrder::Midpoint },
        Self::Dpmpp3mSde { eta: 1.0 },
        Self::EulerA { eta: 1.0 },
        Self::Dpmpp2s { eta: 1.0 },
        Self::Dpm2 { eta: 1.0 },
        Self::Restart { restart: Restart::USUAL },
        Self::PredictorCorrector { method: PredictorCorrector::PREDICTOR },
        Self::PredictorCorrector { method: PredictorCorrector::USUAL },
        Self::Langevin { annealed: Annealed::USUAL },
        Self::Ddim { eta: 0.0 },
        Self::Ddpm { variance: Variance::FixedSmall },
        Self::Lcm,
    ];
    /// Euler's method as it is.
    pub const EULER: Self = Self::Euler { churn: Churn::NONE };
    /// Heun's method as it is.
    pub const HEUN: Self = Self::Heun { churn: Churn::NONE };

    /// The name used in JSON, in the form and on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ddpm { .. } => "ddpm",
            Self::Ddim { .. } => "ddim",
            Self::Euler { .. } => "euler",
            Self::Heun { .. } => "heun",
            Self::EulerA { .. } => "euler_a",
            Self::Dpmpp2m => "dpmpp_2m",
            Self::Dpmpp3m => "dpmpp_3m",
            Self::Dpmpp2mSde { .. } => "dpmpp_2m_sde",
            Self::Dpmpp3mSde { .. } => "dpmpp_3m_sde",
            Self::Dpmpp2s { eta: 0.0 } => "dpmpp_2s",
            Self::Dpmpp2s { .. } => "dpmpp_2s_a",
            Self::Dpm2 { eta: 0.0 } => "dpm2",
            Self::Dpm2 { .. } => "dpm2_a",
            Self::Unipc { .. } => "unipc",
            Self::Lms => "lms",
            Self::Deis { .. } => "deis",
            Self::Pndm => "pndm",
            Self::Restart { .. } => "restart",
            Self::Dopri5 { .. } => "dopri5",
            Self::PredictorCorrector { method } if method.corrector_steps == 0 => "reverse_sde",
            Self::PredictorCorrector { .. } => "pc",
            Self::Langevin { .. } => "langevin",
            Self::Lcm => "lcm",
        }
    }

    /// Whether fresh noise comes in on the way, so that more steps are another picture.
    pub fn is_stochastic(&self) -> bool {
        match *self {
            Self::Ddim { eta } | Self::EulerA { eta } | Self::Dpmpp2s { eta } | Self::Dpm2 { eta } => eta > 0.0,
            Self::Dpmpp2mSde { eta, .. } | Self::Dpmpp3mSde { eta } => eta > 0.0,
            Self::Euler { churn } | Self::Heun { churn } => churn.amount > 0.0,
            Self::Ddpm { .. } | Self::Lcm | Self::Restart { .. } | Self::Langevin { .. } => true,
            Self::PredictorCorrector { method } => method.corrector_steps > 0 || method.predictor != Predictor::Flow,
            Self::Dpmpp2m
            | Self::Dpmpp3m
            | Self::Unipc { .. }
            | Self::Lms
            | Self::Deis { .. }
            | Self::Pndm
            | Self::Dopri5 { .. } => false,
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
        if let Self::Restart { restart } = self {
            let stretches = restart.stretches(sigmas);
            return again::run(&Self::HEUN, denoiser, x, (sigmas, &stretches), noise, on_step);
        }
        self.walk(denoiser, x, sigmas, noise, on_step, None)
    }

    /// The same as a part of a longer walk.
    fn walk(
        &self,
        denoiser: &dyn Denoiser,
        x: Tensor,
        sigmas: &[f64],
        noise: &mut dyn NoiseSource,
        on_step: &mut dyn FnMut(Step<'_>) -> Result<()>,
        part: Option<Part>,
    ) -> Result<Tensor> {
        let mut walk = Walk::new(denoiser, sigmas, noise, on_step, part)?;
        match *self {
            Self::Ddpm { variance } => ddpm::run(&mut walk, x, variance),
            Self::Ddim { eta } | Self::EulerA { eta } => ancestral::run(&mut walk, x, eta),
            Self::Euler { churn } => ode::euler(&mut walk, x, churn),
            Self::Heun { churn } => ode::heun(&mut walk, x, churn),
            Self::Dpmpp2m => {
                dpmpp_multistep::run(&mut walk, x, Multistep { order: 2, eta: 0.0, kind: SecondOrder::Midpoint })
            }
            Self::Dpmpp3m => {
                dpmpp_multistep::run(&mut walk, x, Multistep { order: 3, eta: 0.0, kind: SecondOrder::Midpoint })
            }
            Self::Dpmpp2mSde { eta, kind } => dpmpp_multistep::run(&mut walk, x, Multistep { order: 2, eta, kind }),
            Self::Dpmpp3mSde { eta } => {
                dpmpp_multistep::run(&mut walk, x, Multistep { order: 3, eta, kind: SecondOrder::Heun })
            }
            Self::Dpmpp2s { eta } => singlestep::run(&mut walk, x, Held::Clean, eta),
            Self::Dpm2 { eta } => singlestep::run(&mut walk, x, Held::Noise, eta),
            Self::Unipc { order, basis } => unipc::run(&mut walk, x, order, basis),
            Self::Lms => adams::run(&mut walk, x, Over::Sigma, 4),
            Self::Deis { order } => adams::run(&mut walk, x, Over::LogSigma, order),
            Self::Pndm => adams::run(&mut walk, x, Over::Steps, 4),
            // Its stretches are walked by another; here there is none.
            Self::Restart { .. } => ode::heun(&mut walk, x, Churn::NONE),
            Self::Dopri5 { tolerance } => adaptive::run(&mut walk, &x, tolerance),
            Self::PredictorCorrector { method } => sde::run(&mut walk, x, method),
            Self::Langevin { annealed } => langevin::annealed(&mut walk, x, annealed),
            Self::Lcm => lcm::run(&mut walk, x),
        }
    }

    /// Checks the settings a variant carries.
    pub fn validate(&self) -> Result<()> {
        match *self {
            Self::Ddim { eta }
            | Self::EulerA { eta }
            | Self::Dpmpp2mSde { eta, .. }
            | Self::Dpmpp3mSde { eta }
            | Self::Dpmpp2s { eta }
            | Self::Dpm2 { eta } => within("eta", eta, 0.0, 1.0),
            Self::Euler { churn } | Self::Heun { churn } => churn.validate(),
            Self::Unipc { order, .. } | Self::Deis { order } => within("order", order as f64, 2.0, 3.0),
            Self::Restart { restart } => restart.validate(),
            Self::Dopri5 { tolerance } => within("tolerance", tolerance, 1e-7, 0.1),
            Self::PredictorCorrector { method } => method.validate(),
            Self::Langevin { annealed } => annealed.validate(),
            Self::Ddpm { .. } | Self::Dpmpp2m | Self::Dpmpp3m | Self::Lms | Self::Pndm | Self::Lcm => Ok(()),
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

impl TryFrom<String> for Sampler {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Sampler> for String {
    fn from(sampler: Sampler) -> Self {
        sampler.to_string()
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
        assert!(message.contains("\"eulr\"") && message.contains("lcm"), "{message}");
    }

    #[test]
    fn every_sampler_is_in_the_documentation() {
        let (table, readme) = (include_str!("../../../docs/samplers.md"), include_str!("../../../README.md"));
        for name in Sampler::names() {
            let listed = |text: &str| text.contains(&format!("`{name}`")) || text.contains(&format!("`{name}("));
            assert!(listed(table) && listed(readme), "{name}");
        }
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
