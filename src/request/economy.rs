//! What of the work of drawing is left out, for a picture that is done sooner and is not quite the same.

use super::GenerateRequest;
use super::check::{Checker, choice};
use super::control::lies_within;
use super::plan::{Facts, Plan};
use super::task::TaskKind;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::settings::{Written, no_setting, short, within};
use crate::error::FieldError;
use crate::model::unet::Beside;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which work is left out; `docs/performance.md` says what that costs. As text the name of a preset, with settings in brackets
/// that change it: `fast`, `exact(cache=2, guide_to=0.8)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Economy {
    /// Of so many steps the first one runs the whole network, and the others only its finest level, beside what the first one
    /// found below (Ma et al., DeepCache, arXiv:2312.00858); 1 for none of that.
    pub cache: usize,
    /// How many skip connections of the finest level are computed at every step.
    pub depth: usize,
    /// The share of the positions that the finest self-attentions take for one with the position they are most like (Bolya and
    /// Hoffman, arXiv:2303.17604); 0 for none.
    pub merge: f64,
    /// From which share of the steps on guidance steers (Kynkaanniemi et al., arXiv:2404.07724).
    pub guide_from: f64,
    /// Up to which share of the steps it steers.
    pub guide_to: f64,
}

impl Default for Economy {
    fn default() -> Self {
        Self::EXACT
    }
}

impl Economy {
    /// Nothing is left out.
    pub const EXACT: Self = Self { cache: 1, depth: 1, merge: 0.0, guide_from: 0.0, guide_to: 1.0 };

    /// All presets by name, in the order in which a form lists them.
    pub const PRESETS: [(&'static str, Self); 3] = [
        ("exact", Self::EXACT),
        ("balanced", Self { cache: 2, ..Self::EXACT }),
        ("fast", Self { cache: 3, ..Self::EXACT }),
    ];

    /// The most positions of four that can be merged: one of each 2 x 2 stays.
    const MOST_MERGED: f64 = 0.75;

    fn settings(self) -> [(&'static str, String); 5] {
        [
            ("cache", self.cache.to_string()),
            ("depth", self.depth.to_string()),
            ("merge", self.merge.to_string()),
            ("guide_from", self.guide_from.to_string()),
            ("guide_to", self.guide_to.to_string()),
        ]
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "cache" => self.cache = within(key, value, 1.0..=20.0)?.round() as usize,
            "depth" => self.depth = within(key, value, 1.0..=10.0)?.round() as usize,
            "merge" => self.merge = within(key, value, 0.0..=Self::MOST_MERGED)?,
            "guide_from" => self.guide_from = within(key, value, 0.0..=1.0)?,
            "guide_to" => self.guide_to = within(key, value, 0.0..=1.0)?,
            key => return Err(no_setting("economy", key, &self.settings().map(|(key, _)| key))),
        }
        Ok(())
    }

    /// Whether guidance steers in step `step`, from 0, of `steps`.
    pub fn guides(&self, step: usize, steps: usize) -> bool {
        lies_within(step, steps, (self.guide_from, self.guide_to))
    }

    /// The name of the preset that this is, in this version of the program.
    pub fn preset(&self) -> Option<&'static str> {
        Self::PRESETS.into_iter().find(|(_, preset)| preset == self).map(|(name, _)| name)
    }

    /// What goes with what, where that is not as for any field.
    fn clash(&self, plan: &Plan, kind: TaskKind, facts: &Facts) -> Option<String> {
        if *self == Self::EXACT {
            return None;
        }
        let guides_always = (self.guide_from, self.guide_to) == (0.0, 1.0);
        if kind != TaskKind::Generate {
            Some("is for pictures that are drawn, and not for a task".to_owned())
        } else if self.cache > 1 && matches!(plan.sampler, Sampler::Dopri5 { .. }) {
            Some("cache does not go with dopri5, which measures how much a step errs".to_owned())
        } else if self.cache > 1 && self.depth > facts.cache_depth {
            Some(format!("depth must be at most {} for {}, was {}", facts.cache_depth, facts.name, self.depth))
        } else if !guides_always && facts.beside == Beside::Picture {
            Some("guide_from and guide_to are for models that were not made for editing".to_owned())
        } else {
            None
        }
    }
}

/// In full, so that it says the same to every version of this program.
impl fmt::Display for Economy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short("exact", &self.settings(), &Self::EXACT.settings()))
    }
}

impl FromStr for Economy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written = Written::parse(text)?;
        let preset = Self::PRESETS.into_iter().find(|(name, _)| *name == written.name);
        let (_, mut economy) = preset.ok_or_else(|| {
            let names = Self::PRESETS.map(|(name, _)| name).join(", ");
            format!("must be one of {names}, was {:?}", written.name)
        })?;
        written.settings.into_iter().try_for_each(|(key, value)| economy.set(key, value))?;
        if economy.guide_from > economy.guide_to {
            return Err(format!("guide_from {} is after guide_to {}", economy.guide_from, economy.guide_to));
        }
        Ok(economy)
    }
}

impl TryFrom<String> for Economy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Economy> for String {
    fn from(economy: Economy) -> Self {
        economy.to_string()
    }
}

impl Checker {
    pub(super) fn economy(&mut self, request: &GenerateRequest) -> Economy {
        self.or_default("economy", &request.economy, Economy::EXACT, choice)
    }

    /// What is left out has to go with the rest of the plan.
    pub(super) fn economy_fits(&mut self, plan: &Plan, kind: TaskKind, facts: &Facts) {
        if let Some(message) = plan.economy.clash(plan, kind, facts) {
            self.errors.push(FieldError::new("economy", "not_used", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn economies_come_back_from_text_and_wrong_ones_say_what_there_is() {
        for (text, full) in [
            ("exact", "exact"),
            ("exact(cache=3, guide_to=0.8)", "exact(cache=3, guide_to=0.8)"),
            ("balanced(cache=1)", "exact"),
            ("exact( merge = 0.5 )", "exact(merge=0.5)"),
        ] {
            assert_eq!(text.parse::<Economy>().unwrap().to_string(), full);
        }
        for (name, preset) in Economy::PRESETS {
            assert_eq!((name.parse(), preset.to_string().parse()), (Ok(preset), Ok(preset)));
            assert_eq!(preset.preset(), Some(name));
        }
        for (text, wrong) in [
            ("quick", "must be one of exact, balanced, fast"),
            ("exact(cache=0)", "cache must be between 1 and 20"),
            ("exact(merge=0.8)", "merge must be between 0 and 0.75"),
            ("fast(speed=2)", "it has cache, depth, merge"),
            ("exact(guide_from=0.9, guide_to=0.1)", "is after"),
        ] {
            assert!(text.parse::<Economy>().unwrap_err().contains(wrong), "{text}");
        }
    }

    #[test]
    fn guidance_steers_in_the_steps_that_lie_within() {
        let economy: Economy = "exact(guide_from=0.25, guide_to=0.75)".parse().unwrap();
        assert_eq!((0..4).map(|step| economy.guides(step, 4)).collect::<Vec<_>>(), [false, true, true, false]);
        assert!((0..7).all(|step| Economy::EXACT.guides(step, 7)));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let facts = Facts { cache_depth: 3, ..Facts::plain("tiny", (64, 64), 16) };
        let message = |set: &[(&str, &str)]| {
            let mut request = GenerateRequest { prompt: Some(String::new()), ..Default::default() };
            set.iter().for_each(|(field, value)| assert!(request.set_text(field, (*value).to_owned())));
            Plan::new(&request, &facts).map(|plan| plan.economy.to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(message(&[("economy", "exact(cache=2, depth=3)")]), Ok("exact(cache=2, depth=3)".to_owned()));
        let wrong = |set: &[(&str, &str)], part: &str| {
            let found = message(set).unwrap_err();
            assert!(found.contains("economy: ") && found.contains(part), "{found}");
        };
        wrong(&[("economy", "exact(cache=2, depth=4)")], "depth must be at most 3 for tiny");
        wrong(&[("economy", "fast"), ("sampler", "dopri5")], "does not go with dopri5");
        wrong(&[("economy", "fast"), ("task", "encode")], "not for a task");
    }
}
