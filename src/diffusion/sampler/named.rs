//! Samplers as text: `name`, or `name(key=value, ..)` where settings are not the usual ones. Each sampler's keys are here.

use super::{Basis, Predictor, Process, Sampler, SecondOrder, Variance};
use crate::diffusion::settings::{Written, name_of, no_setting, number, one_of, short};
use crate::error::{Error, FieldError, Result};
use std::fmt;
use std::str::FromStr;

const VARIANCES: [(&str, Variance); 4] = [
    ("fixed_small", Variance::FixedSmall),
    ("fixed_large", Variance::FixedLarge),
    ("optimal", Variance::Optimal),
    ("learned_range", Variance::LearnedRange),
];
const KINDS: [(&str, SecondOrder); 2] = [("midpoint", SecondOrder::Midpoint), ("heun", SecondOrder::Heun)];
const BASES: [(&str, Basis); 2] = [("bh1", Basis::Bh1), ("bh2", Basis::Bh2)];

impl Sampler {
    /// All of its settings, as text.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let eta = |eta: f64| vec![("eta", eta.to_string())];
        match *self {
            Self::Ddpm { variance } => vec![("variance", name_of(variance, &VARIANCES))],
            Self::Dpmpp2s { eta: 0.0 } | Self::Dpm2 { eta: 0.0 } => Vec::new(),
            Self::Ddim { eta: value }
            | Self::EulerA { eta: value }
            | Self::Dpmpp2s { eta: value }
            | Self::Dpm2 { eta: value }
            | Self::Dpmpp3mSde { eta: value } => eta(value),
            Self::Dpmpp2mSde { eta: value, kind } => [eta(value), vec![("kind", name_of(kind, &KINDS))]].concat(),
            Self::Euler { churn } | Self::Heun { churn } => vec![
                ("churn", churn.amount.to_string()),
                ("churn_sigma_min", churn.sigma_min.to_string()),
                ("churn_sigma_max", churn.sigma_max.to_string()),
                ("churn_noise", churn.noise.to_string()),
            ],
            Self::Unipc { order, basis } => vec![("order", order.to_string()), ("basis", name_of(basis, &BASES))],
            Self::Deis { order } => vec![("order", order.to_string())],
            Self::Restart { restart } => vec![
                ("low", restart.low.to_string()),
                ("high", restart.high.to_string()),
                ("times", restart.times.to_string()),
            ],
            Self::Dopri5 { tolerance } => vec![("tolerance", tolerance.to_string())],
            Self::PredictorCorrector { method } => vec![
                ("process", name_of(method.process, &Process::NAMES)),
                ("predictor", name_of(method.predictor, &Predictor::NAMES)),
                ("corrector_steps", method.corrector_steps.to_string()),
                ("snr", method.snr.to_string()),
            ],
            Self::Langevin { annealed } => {
                vec![("repeats", annealed.repeats.to_string()), ("step", annealed.step.to_string())]
            }
            Self::Dpmpp2m | Self::Dpmpp3m | Self::Lms | Self::Pndm | Self::Lcm => Vec::new(),
        }
    }

    /// Changes one setting; what is wrong is a sentence. Whether the value makes sense is [`Sampler::validate`]'s question.
    fn set(&mut self, key: &str, value: &str) -> std::result::Result<(), String> {
        match (self, key) {
            (Self::Ddpm { variance }, "variance") => *variance = one_of(key, value, &VARIANCES)?,
            (
                Self::Ddim { eta }
                | Self::EulerA { eta }
                | Self::Dpmpp2s { eta }
                | Self::Dpm2 { eta }
                | Self::Dpmpp2mSde { eta, .. }
                | Self::Dpmpp3mSde { eta },
                "eta",
            ) => *eta = number(key, value)?,
            (Self::Dpmpp2mSde { kind, .. }, "kind") => *kind = one_of(key, value, &KINDS)?,
            (Self::Euler { churn } | Self::Heun { churn }, "churn") => churn.amount = number(key, value)?,
            (Self::Euler { churn } | Self::Heun { churn }, "churn_sigma_min") => churn.sigma_min = number(key, value)?,
            (Self::Euler { churn } | Self::Heun { churn }, "churn_sigma_max") => churn.sigma_max = number(key, value)?,
            (Self::Euler { churn } | Self::Heun { churn }, "churn_noise") => churn.noise = number(key, value)?,
            (Self::Unipc { order, .. } | Self::Deis { order }, "order") => *order = number(key, value)?,
            (Self::Unipc { basis, .. }, "basis") => *basis = one_of(key, value, &BASES)?,
            (Self::Restart { restart }, "low") => restart.low = number(key, value)?,
            (Self::Restart { restart }, "high") => restart.high = number(key, value)?,
            (Self::Restart { restart }, "times") => restart.times = number(key, value)?,
            (Self::Dopri5 { tolerance }, "tolerance") => *tolerance = number(key, value)?,
            (Self::PredictorCorrector { method }, "process") => method.process = one_of(key, value, &Process::NAMES)?,
            (Self::PredictorCorrector { method }, "predictor") => {
                method.predictor = one_of(key, value, &Predictor::NAMES)?;
            }
            (Self::PredictorCorrector { method }, "corrector_steps") => method.corrector_steps = number(key, value)?,
            (Self::PredictorCorrector { method }, "snr") => method.snr = number(key, value)?,
            (Self::Langevin { annealed }, "repeats") => annealed.repeats = number(key, value)?,
            (Self::Langevin { annealed }, "step") => annealed.step = number(key, value)?,
            (sampler, key) => return Err(sampler.unknown(key)),
        }
        Ok(())
    }

    fn unknown(&self, key: &str) -> String {
        let keys: Vec<_> = self.settings().into_iter().map(|(key, _)| key).collect();
        no_setting(self.name(), key, &keys)
    }

    /// The sampler of that name with its usual settings. Dashes count as underscores.
    fn named(name: &str) -> Option<Self> {
        let name = name.replace('-', "_");
        Self::ALL.into_iter().find(|sampler| sampler.name() == name)
    }
}

impl fmt::Display for Sampler {
    /// The name, and those settings that are not as usual.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::named(self.name()).map(|usual| usual.settings()).unwrap_or_default();
        f.write_str(&short(self.name(), &self.settings(), &usual))
    }
}

impl FromStr for Sampler {
    type Err = Error;

    /// The inverse of `Display`. An unknown name lists the known ones, an unknown key the sampler's.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |code, message| Error::invalid(FieldError::new("sampler", code, message));
        let written = Written::parse(text).map_err(|message| wrong("bad_settings", message))?;
        let mut sampler = Self::named(written.name).ok_or_else(|| {
            let message = format!("must be one of {}, was {:?}", Self::names().join(", "), written.name);
            wrong("unknown_value", message)
        })?;
        for (key, value) in written.settings {
            sampler.set(key, value).map_err(|message| wrong("bad_settings", message))?;
        }
        sampler.validate().map(|()| sampler)
    }
}
