//! Reverse-time stochastic differential equations, discretised as Song et al. (arXiv:2011.13456) do, with Langevin steps
//! between: predictor-corrector sampling.
//!
//! The state here is `x = y / a` with the process's own variable y and the signal's factor a, so that all three processes
//! have the same ladder of sigmas; each steps in y. The process's time is not asked for: what a step needs of it is the
//! integral of beta over the step, which is `2 ln(a'/a)`, and for VE that of `g^2`, taken as the paper takes them.

use super::walk::Walk;
use super::{langevin, within};
use crate::error::{Error, FieldError, Result};
use candle_core::Tensor;

/// Which forward process is reversed (arXiv:2011.13456, section 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Process {
    /// Variance exploding: noise is added and nothing taken away.
    #[default]
    Ve,
    /// Variance preserving: DDPM's.
    Vp,
    /// Below the variance of VP at all times.
    SubVp,
}

/// How a step of the reverse process is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Predictor {
    /// As the forward process was discretised (appendix E).
    #[default]
    ReverseDiffusion,
    /// With the rates at the step's beginning.
    EulerMaruyama,
    /// DDPM's posterior, and its likeness for VE (appendix F).
    Ancestral,
    /// The probability-flow ODE, by Euler's method.
    Flow,
    /// None: the corrector alone follows the noise down.
    Nothing,
}

impl Process {
    /// The names of all, as settings have them.
    pub(super) const NAMES: [(&'static str, Self); 3] = [("ve", Self::Ve), ("vp", Self::Vp), ("sub_vp", Self::SubVp)];

    /// The signal's factor at a noise level.
    fn signal(self, sigma: f64) -> f64 {
        match self {
            Self::Ve => 1.0,
            Self::Vp => 1.0 / sigma.hypot(1.0),
            // (1 - a^2) / a = sigma.
            Self::SubVp => 2.0 / (sigma + sigma.hypot(2.0)),
        }
    }
}

impl Predictor {
    /// The names of all, as settings have them.
    pub(super) const NAMES: [(&'static str, Self); 5] = [
        ("reverse_diffusion", Self::ReverseDiffusion),
        ("euler_maruyama", Self::EulerMaruyama),
        ("ancestral", Self::Ancestral),
        ("flow", Self::Flow),
        ("none", Self::Nothing),
    ];
}

/// Predictor and corrector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PredictorCorrector {
    /// What is reversed.
    pub process: Process,
    /// How.
    pub predictor: Predictor,
    /// Langevin steps before each step down: more computation per step.
    pub corrector_steps: usize,
    /// Their signal-to-noise ratio.
    pub snr: f64,
}

impl PredictorCorrector {
    /// Song et al.'s for VE, without a corrector.
    pub const PREDICTOR: Self =
        Self { process: Process::Ve, predictor: Predictor::ReverseDiffusion, corrector_steps: 0, snr: 0.16 };
    pub(super) fn validate(&self) -> Result<()> {
        within("corrector_steps", self.corrector_steps as f64, 0.0, 100.0)?;
        within("snr", self.snr, 1e-3, 1.0)?;
        let wrong = |message: &str| Err(Error::invalid(FieldError::new("predictor", "unsupported", message)));
        match (self.predictor, self.process) {
            (Predictor::Ancestral, Process::SubVp) => wrong("ancestral sampling is not defined for sub_vp"),
            (Predictor::Nothing, _) if self.corrector_steps == 0 => {
                wrong("without a predictor it needs corrector_steps")
            }
            _ => Ok(()),
        }
    }

    /// And with one.
    pub const USUAL: Self = Self { corrector_steps: 1, ..Self::PREDICTOR };
}

/// What a step of the reverse process does to y: `y' = keep y + draw (score s^2) / s^2 + noise z`, told for the clean
/// estimate: `y' = keep y + pull (a D - y) + noise z`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Kick {
    keep: f64,
    pull: f64,
    noise: f64,
}

/// Corrects at every level and steps to the next. A step to 0 gives the clean estimate.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor, method: PredictorCorrector) -> Result<Tensor> {
    let PredictorCorrector { process, predictor, corrector_steps, snr } = method;
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let (a, a_next) = (process.signal(sigma), process.signal(next));
        for _ in 0..corrector_steps {
            // alpha of the paper: the signal that a step keeps, 1 for VE.
            x = langevin::correct(walk, &x, sigma, snr, (a / a_next).powi(2))?;
        }
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        x = match predictor {
            _ if next == 0.0 => denoised.clone(),
            Predictor::Nothing => x,
            _ => {
                let Kick { keep, pull, noise } = kick(process, predictor, (sigma, next));
                // y' = keep y + pull (a D - y), and x = y / a on either side.
                let stepped = ((&x * (a / a_next * (keep - pull)))? + (&denoised * (a / a_next * pull))?)?;
                walk.perturb(stepped, noise / a_next)?
            }
        };
        x = walk.close(index, &denoised, x)?;
    }
    Ok(x)
}

/// The coefficients of one step down, between levels above 0.
fn kick(process: Process, predictor: Predictor, (sigma, next): (f64, f64)) -> Kick {
    let (a, a_next) = (process.signal(sigma), process.signal(next));
    // y's deviation, the integral of beta, and the squared diffusion coefficient's.
    let deviation = a * sigma;
    let beta = 2.0 * (a_next / a).ln();
    let diffusion = match process {
        Process::Ve => 2.0 * sigma * sigma * (sigma / next).ln(),
        Process::Vp => beta,
        Process::SubVp => beta * (1.0 - a.powi(4)),
    };
    let euler = |share: f64| Kick {
        keep: 1.0 + beta / 2.0,
        pull: share * diffusion / (deviation * deviation),
        noise: if share == 1.0 { diffusion.sqrt() } else { 0.0 },
    };
    // The discrete chain's: rates between neighbouring levels.
    let drop = sigma * sigma - next * next;
    let rate = 1.0 - (a / a_next).powi(2);
    match (predictor, process) {
        (Predictor::EulerMaruyama, _) | (Predictor::ReverseDiffusion, Process::SubVp) => euler(1.0),
        (Predictor::Flow, _) => euler(0.5),
        (Predictor::ReverseDiffusion, Process::Ve) => {
            Kick { keep: 1.0, pull: drop / (sigma * sigma), noise: drop.sqrt() }
        }
        (Predictor::Ancestral, Process::Ve) => {
            Kick { keep: 1.0, pull: drop / (sigma * sigma), noise: next / sigma * drop.sqrt() }
        }
        (Predictor::ReverseDiffusion, Process::Vp) => {
            Kick { keep: 2.0 - a / a_next, pull: rate / (deviation * deviation), noise: rate.sqrt() }
        }
        // For sub-VP it is not defined, and refused before.
        (Predictor::Ancestral, _) => {
            let keep = a_next / a;
            Kick { keep, pull: keep * rate / (deviation * deviation), noise: rate.sqrt() }
        }
        (Predictor::Nothing, _) => Kick { keep: 1.0, pull: 0.0, noise: 0.0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_those_of_the_processes() {
        for sigma in [0.0, 0.3, 2.0, 50.0] {
            let a = Process::Vp.signal(sigma);
            assert!((a * a + (a * sigma).powi(2) - 1.0).abs() < 1e-12);
            let a = Process::SubVp.signal(sigma);
            assert!(((1.0 - a * a) / a - sigma).abs() < 1e-9, "{sigma}");
            assert_eq!(Process::Ve.signal(sigma), 1.0);
        }
    }
}
