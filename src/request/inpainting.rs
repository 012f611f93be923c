//! By which rule what is drawn anew follows what is kept.

use crate::diffusion::inpaint::resampling::Resampling;
use crate::diffusion::settings::{as_text, no_setting, within};
use crate::image::Greys;
use serde::{Deserialize, Serialize};

/// The rule; `docs/inpainting.md` says what each costs and how biased it is. As text a name, or `name(key=value, ..)`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Inpainting {
    /// The known part with one noise for all levels.
    #[default]
    Blend,
    /// The same, with greys of the mask as strengths: a grey pixel keeps to the known picture for the first steps.
    Differential,
    /// The known part with fresh noise at every level.
    Replacement,
    /// The same, going back up the ladder.
    Repaint(Resampling),
    /// Guidance by the known part, as if data were Gaussian.
    PseudoInverse {
        /// Standard deviation of errors that the known part may have, in the latents' units.
        noise: f64,
    },
    /// Guidance by the known part, as if the clean estimate were certain.
    Posterior {
        /// How strong.
        scale: f64,
    },
}

impl Inpainting {
    /// All rules with their usual settings, in the order in which a form lists them.
    pub const ALL: [Self; 6] = [
        Self::Blend,
        Self::Differential,
        Self::Repaint(Resampling { jump: 10, times: 10 }),
        Self::PseudoInverse { noise: 0.0 },
        Self::Posterior { scale: 0.5 },
        Self::Replacement,
    ];

    /// The name used in JSON, in the form and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blend => "blend",
            Self::Differential => "differential",
            Self::Replacement => "replacement",
            Self::Repaint(_) => "repaint",
            Self::PseudoInverse { .. } => "pseudo_inverse",
            Self::Posterior { .. } => "posterior",
        }
    }

    /// What greys of the mask are.
    pub const fn greys(self) -> Greys {
        match self {
            Self::Differential => Greys::Strengths,
            _ => Greys::Split,
        }
    }

    fn settings(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Blend | Self::Differential | Self::Replacement => Vec::new(),
            Self::Repaint(Resampling { jump, times }) => vec![("jump", jump.to_string()), ("times", times.to_string())],
            Self::PseudoInverse { noise } => vec![("noise", noise.to_string())],
            Self::Posterior { scale } => vec![("scale", scale.to_string())],
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match (self, key) {
            (Self::Repaint(resampling), "jump") => {
                resampling.jump = within(key, value, 1.0..=100.0)?.round() as usize;
            }
            (Self::Repaint(resampling), "times") => {
                resampling.times = within(key, value, 1.0..=50.0)?.round() as usize;
            }
            (Self::PseudoInverse { noise }, "noise") => *noise = within(key, value, 0.0..=10.0)?,
            (Self::Posterior { scale }, "scale") => *scale = within(key, value, 0.0..=100.0)?,
            (rule, key) => {
                let keys: Vec<_> = rule.settings().into_iter().map(|(key, _)| key).collect();
                return Err(no_setting(rule.name(), key, &keys));
            }
        }
        Ok(())
    }
}

as_text!(Inpainting);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_back_from_text_and_wrong_ones_say_what_there_is() {
        for text in [
            "blend",
            "differential",
            "repaint",
            "repaint(times=3)",
            "posterior(scale=1.5)",
            "pseudo_inverse(noise=0.1)",
        ] {
            assert_eq!(text.parse::<Inpainting>().unwrap().to_string(), text);
        }
        for (text, wrong) in [
            ("paint", "must be one of blend, differential"),
            ("repaint(times=0)", "times must be between 1 and 50"),
            ("repaint(jump=ten)", "jump must be a number"),
            ("posterior(jump=1)", "it has scale"),
        ] {
            assert!(text.parse::<Inpainting>().unwrap_err().contains(wrong), "{text}");
        }
    }
}
