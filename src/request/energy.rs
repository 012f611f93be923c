//! What else than its prompt a picture is drawn towards, by gradients.

use super::GenerateRequest;
use super::check::Checker;
use super::plan::Facts;
use super::task::TaskKind;
use crate::diffusion::settings::{Written, short, within};
use crate::error::FieldError;
use crate::image::{self, RgbImage};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An energy and how much it counts. As text a name, or `name(scale=5)`; `docs/conditioning.md` says what comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EnergySetting {
    /// A picture's colours, wherever they are in it.
    Colours {
        /// How much it counts.
        scale: f64,
    },
    /// What a judge, trained on real pictures, takes the picture for: classifier guidance.
    Judge {
        /// How much it counts.
        scale: f64,
    },
}

/// What was asked for, with all that it needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// This picture's colours.
    Colours {
        /// How much they count.
        scale: f64,
        /// As large as what is drawn.
        picture: RgbImage,
    },
    /// That the model's judge takes it for what the prompt says.
    Judge {
        /// How much that counts.
        scale: f64,
    },
}

impl EnergySetting {
    /// All energies with their usual settings, in the order in which a form lists them.
    pub const ALL: [Self; 2] = [Self::Colours { scale: 1.0 }, Self::Judge { scale: 10.0 }];

    /// The name used in JSON, in the form and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Colours { .. } => "colours",
            Self::Judge { .. } => "judge",
        }
    }

    fn settings(self) -> Vec<(&'static str, String)> {
        let (Self::Colours { scale } | Self::Judge { scale }) = self;
        vec![("scale", scale.to_string())]
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let (Self::Colours { scale } | Self::Judge { scale }) = self;
        match key {
            "scale" => *scale = within(key, value, 0.0..=1000.0)?,
            _ => return Err(format!("{} has no setting {key:?}; it has: scale", self.name())),
        }
        Ok(())
    }
}

impl Wanted {
    /// Without its picture.
    pub fn setting(&self) -> EnergySetting {
        match *self {
            Self::Colours { scale, .. } => EnergySetting::Colours { scale },
            Self::Judge { scale } => EnergySetting::Judge { scale },
        }
    }
}

impl fmt::Display for EnergySetting {
    /// The name, and those settings that are not as usual.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual =
            Self::ALL.into_iter().find(|usual| usual.name() == self.name()).map(Self::settings).unwrap_or_default();
        f.write_str(&short(self.name(), &self.settings(), &usual))
    }
}

impl FromStr for EnergySetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written = Written::parse(text)?;
        let mut energy = Self::ALL.into_iter().find(|usual| usual.name() == written.name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("must be one of {names}, was {:?}", written.name)
        })?;
        written.settings.into_iter().try_for_each(|(key, value)| energy.set(key, value))?;
        Ok(energy)
    }
}

impl TryFrom<String> for EnergySetting {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EnergySetting> for String {
    fn from(energy: EnergySetting) -> Self {
        energy.to_string()
    }
}

impl Checker {
    /// What pictures of `size` are drawn towards.
    pub(super) fn wanted(
        &mut self,
        request: &GenerateRequest,
        facts: &Facts,
        kind: TaskKind,
        size: (usize, usize),
    ) -> Option<Wanted> {
        let setting: EnergySetting = self.or_default("energy", &request.energy, None, |field, typed| {
            let wrong = |message: String| FieldError::new(field, "unknown_value", message);
            typed.parse().map(Some).map_err(wrong)
        })?;
        if kind != TaskKind::Generate {
            let message = "is for pictures that are drawn, and not for a task";
            self.errors.push(FieldError::new("energy", "not_used", message));
        }
        match setting {
            EnergySetting::Colours { scale } => Some(Wanted::Colours { scale, picture: self.palette(request, size) }),
            EnergySetting::Judge { scale } => {
                if !facts.judge {
                    let message = format!("needs a judge, and {} has none beside its weights", facts.name);
                    self.errors.push(FieldError::new("energy", "no_judge", message));
                }
                Some(Wanted::Judge { scale })
            }
        }
    }

    /// Every pixel of the picture once, and those that there would be too many of left out evenly: it is scaled.
    fn palette(&mut self, request: &GenerateRequest, (width, height): (usize, usize)) -> RgbImage {
        let missing = || FieldError::new("energy_image", "required", "is missing: whose colours are wanted?");
        let read = request.energy_image.as_deref().ok_or_else(missing);
        let picture = self.note(read.and_then(|bytes| image::read("energy_image", bytes)), RgbImage::new(1, 1));
        image::resize(picture, width as u32, height as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energies_come_back_from_text_and_wrong_ones_say_what_there_is() {
        for text in ["colours", "colours(scale=0.5)", "judge", "judge(scale=3)"] {
            assert_eq!(text.parse::<EnergySetting>().unwrap().to_string(), text);
        }
        for (text, wrong) in [
            ("beauty", "must be one of colours, judge"),
            ("judge(scale=-1)", "scale must be between 0 and 1000"),
            ("colours(noise=1)", "it has: scale"),
        ] {
            assert!(text.parse::<EnergySetting>().unwrap_err().contains(wrong), "{text}");
        }
    }
}
