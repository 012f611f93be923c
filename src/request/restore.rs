//! A picture that is to be made whole again: grey, small or blurred as it is, what was it?

use super::GenerateRequest;
use super::check::{Checker, choice};
use super::plan::Facts;
use super::task::TaskKind;
use crate::diffusion::settings::{as_text, no_setting, within};
use crate::error::FieldError;
use crate::image::{self, RgbImage};
use crate::model::unet::Beside;
use serde::{Deserialize, Serialize};

/// What the picture that was sent shows of the one that is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// Its brightness: colourising.
    Grey,
    /// The mean of every square of so many pixels: super-resolution.
    Small {
        /// Pixels along a side of a square.
        factor: usize,
    },
    /// What a Gaussian blur left of it: deblurring.
    Blurred {
        /// Standard deviation of the blur in pixels.
        radius: f64,
    },
}

/// How a picture is restored. As text a name, or `name(key=value, ..)`; `docs/conditioning.md` says what comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Restore {
    /// What is known.
    pub shown: Shown,
    /// Standard deviation of errors that the known picture may have, where black to white is 2.
    pub noise: f64,
    /// How strongly every step moves against what is left unexplained, by diffusion posterior sampling; without, by
    /// pseudo-inverse guidance, which needs no strength.
    pub posterior: Option<f64>,
}

/// What was asked for, and the picture that shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Restoration {
    /// How.
    pub how: Restore,
    /// As large as what is known: of a small picture, not as large as what is drawn.
    pub picture: RgbImage,
}

/// A byte's rounding is less; but networks do not know their own errors, and a blur hardly leaves anything of some waves.
const NOISE: f64 = 0.02;

impl Restore {
    /// Everything that can be restored with its usual settings, in the order in which a form lists it.
    pub const ALL: [Self; 3] = [
        Self { shown: Shown::Grey, noise: NOISE, posterior: None },
        Self { shown: Shown::Small { factor: 4 }, noise: NOISE, posterior: None },
        Self { shown: Shown::Blurred { radius: 2.0 }, noise: NOISE, posterior: None },
    ];

    /// The name used in JSON, in the form and on the command line.
    pub const fn name(self) -> &'static str {
        match self.shown {
            Shown::Grey => "grey",
            Shown::Small { .. } => "small",
            Shown::Blurred { .. } => "blurred",
        }
    }

    fn settings(self) -> Vec<(&'static str, String)> {
        let own = match self.shown {
            Shown::Grey => None,
            Shown::Small { factor } => Some(("factor", factor.to_string())),
            Shown::Blurred { radius } => Some(("radius", radius.to_string())),
        };
        let posterior = self.posterior.map(|scale| ("posterior", scale.to_string()));
        own.into_iter().chain([("noise", self.noise.to_string())]).chain(posterior).collect()
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match (&mut self.shown, key) {
            (Shown::Small { factor }, "factor") => *factor = within(key, value, 2.0..=64.0)?.round() as usize,
            (Shown::Blurred { radius }, "radius") => *radius = within(key, value, 0.1..=64.0)?,
            (_, "noise") => self.noise = within(key, value, 0.0..=10.0)?,
            (_, "posterior") => self.posterior = Some(within(key, value, 0.0..=100.0)?),
            _ => {
                let own = self.settings().into_iter().map(|(key, _)| key).filter(|key| *key != "posterior");
                let keys: Vec<_> = own.chain(["posterior"]).collect();
                return Err(no_setting(self.name(), key, &keys));
            }
        }
        Ok(())
    }
}

as_text!(Restore);

impl Checker {
    /// What is to be restored, where pictures of `size` are drawn.
    pub(super) fn restoration(
        &mut self,
        request: &GenerateRequest,
        facts: &Facts,
        kind: TaskKind,
        (width, height): (usize, usize),
    ) -> Option<Restoration> {
        let how: Restore =
            self.or_default("restore", &request.restore, None, |field, typed| choice(field, typed).map(Some))?;
        self.refuse_restoring(request, facts, kind);
        let (width, height) = self.known_size(how.shown, (width as u32, height as u32));
        let missing = || FieldError::new("image", "required", "is missing: there is no picture to restore");
        let read = request.image.as_deref().ok_or_else(missing).and_then(|bytes| image::read("image", bytes));
        let picture = self.note(read, RgbImage::new(1, 1));
        Some(Restoration { how, picture: image::fit(picture, width, height) })
    }

    /// What does not go together with restoring.
    fn refuse_restoring(&mut self, request: &GenerateRequest, facts: &Facts, kind: TaskKind) {
        let mut refuse = |message: &str| self.errors.push(FieldError::new("restore", "not_used", message));
        if kind != TaskKind::Generate {
            refuse("is for pictures that are drawn, and not for a task");
        }
        if facts.beside != Beside::Nothing {
            refuse("is for models that were not made for inpainting or editing");
        }
        // A plan's own request says that nothing is added.
        let extended = request.text("extend").contains(|c: char| c.is_ascii_digit() && c != '0');
        let given = [
            ("mask", request.mask.is_some()),
            ("extend", extended),
            ("strength", !request.text("strength").trim().is_empty()),
        ];
        for (field, _) in given.into_iter().filter(|(_, given)| *given) {
            let message = "does not go with restore: the whole picture is drawn from noise";
            self.errors.push(FieldError::new(field, "not_used", message));
        }
    }

    /// The size of a picture that shows this of one of `size`.
    fn known_size(&mut self, shown: Shown, (width, height): (u32, u32)) -> (u32, u32) {
        let Shown::Small { factor } = shown else { return (width, height) };
        let factor = factor as u32;
        if !width.is_multiple_of(factor) || !height.is_multiple_of(factor) {
            let message = format!("has the factor {factor}, of which {width} x {height} is no multiple");
            self.errors.push(FieldError::new("restore", "multiple_of", message));
        }
        ((width / factor).max(1), (height / factor).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restorations_come_back_from_text_and_wrong_ones_say_what_there_is() {
        for text in ["grey", "small", "small(factor=2)", "blurred(radius=1.5, noise=0.1)", "grey(posterior=0.5)"] {
            assert_eq!(text.parse::<Restore>().unwrap().to_string(), text);
        }
        for (text, wrong) in [
            ("colour", "must be one of grey, small, blurred"),
            ("small(factor=1)", "factor must be between 2 and 64"),
            ("grey(factor=2)", "it has noise, posterior"),
        ] {
            assert!(text.parse::<Restore>().unwrap_err().contains(wrong), "{text}");
        }
    }
}
