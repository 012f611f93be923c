//! What else than its prompt a picture is drawn towards, by gradients.

use super::GenerateRequest;
use super::check::{Checker, choice};
use super::plan::Facts;
use super::task::TaskKind;
use crate::diffusion::settings::{as_text, no_setting, within};
use crate::error::FieldError;
use crate::image::{self, RgbImage};
use serde::{Deserialize, Serialize};

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
            _ => return Err(no_setting(self.name(), key, &["scale"])),
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

as_text!(EnergySetting);

impl Checker {
    /// What pictures of `size` are drawn towards.
    pub(super) fn wanted(
        &mut self,
        request: &GenerateRequest,
        facts: &Facts,
        kind: TaskKind,
        size: (usize, usize),
    ) -> Option<Wanted> {
        let setting: EnergySetting =
            self.or_default("energy", &request.energy, None, |field, typed| choice(field, typed).map(Some))?;
        if kind != TaskKind::Generate {
            let message = "is for pictures that are drawn, and not for a task";
            self.errors.push(FieldError::new("energy", "not_used", message));
        }
        match setting {
            EnergySetting::Colours { scale } => Some(Wanted::Colours { scale, picture: self.palette(request, size) }),
            EnergySetting::Judge { scale } => {
                if facts.judge.is_none() {
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
            ("colours(noise=1)", "it has scale"),
        ] {
            assert!(text.parse::<EnergySetting>().unwrap_err().contains(wrong), "{text}");
        }
    }
}
