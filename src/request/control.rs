//! What a picture is drawn along: ControlNets (Zhang et al., arXiv:2302.05543), each with a picture that it follows, and
//! an IP-Adapter (Ye et al., arXiv:2308.06721) with a picture as a prompt.

use super::GenerateRequest;
use super::check::Checker;
use super::numbers::{real, whole};
use super::plan::Facts;
use super::quoted;
use crate::error::FieldError;
use crate::image::{self, RgbImage, canny};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most ControlNets of one request: as many as there are file fields for them.
pub const MAX_CONTROLS: usize = IMAGES.len();
/// Where their pictures are.
const IMAGES: [&str; 3] = ["control_image", "control_image_2", "control_image_3"];
/// How much a net may count.
const WEIGHT: std::ops::RangeInclusive<f64> = 0.0..=2.0;
/// The usual thresholds of Canny's method, and more than any slope it finds.
const CANNY: (u32, u32) = (100, 200);
const STEEPEST: u64 = 2040;

/// A ControlNet and the picture it follows, or an IP-Adapter and the picture that it takes for a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Control {
    /// Which net, and how much it counts when.
    pub setting: ControlSetting,
    /// What it is shown: for a ControlNet of the size that is drawn, preprocessed.
    pub picture: RgbImage,
}

/// A ControlNet or an IP-Adapter, and how much it counts when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlSetting {
    /// The net's name.
    pub net: String,
    /// What its answers are multiplied with; 1 is as it was trained.
    pub weight: f64,
    /// The share of the steps after which it begins to count.
    pub start: f64,
    /// The share of the steps after which it counts no more.
    pub end: f64,
    /// What was done to its picture.
    pub preprocessor: Preprocessor,
}

impl ControlSetting {
    /// Whether the net counts in step `step`, from 0, of `steps`: where all of the step lies between start and end, as
    /// diffusers has it.
    pub fn counts_in(&self, step: usize, steps: usize) -> bool {
        lies_within(step, steps, (self.start, self.end))
    }
}

/// Whether all of step `step`, from 0, of `steps` lies between two shares of them.
pub(super) fn lies_within(step: usize, steps: usize, (start, end): (f64, f64)) -> bool {
    let share = |step: usize| step as f64 / steps as f64;
    share(step) >= start && share(step + 1) <= end
}

/// `NAME:WEIGHT:START:END`, what is usual left out at the end.
impl fmt::Display for ControlSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { net, weight, start, end, .. } = self;
        match (*weight, *start, *end) {
            (1.0, 0.0, 1.0) => write!(f, "{net}"),
            (_, 0.0, 1.0) => write!(f, "{net}:{weight}"),
            (_, _, 1.0) => write!(f, "{net}:{weight}:{start}"),
            _ => write!(f, "{net}:{weight}:{start}:{end}"),
        }
    }
}

/// What is done to a picture before a net sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preprocessor {
    /// Nothing: it is what the net knows already.
    #[default]
    None,
    /// Its edges, see [`canny`].
    Canny {
        /// Edges go on down to this slope.
        low: u32,
        /// Edges begin at this slope.
        high: u32,
    },
}

impl Preprocessor {
    /// The picture that a net would see.
    pub fn apply(self, picture: RgbImage) -> RgbImage {
        match self {
            Self::None => picture,
            Self::Canny { low, high } => canny(&picture, low, high),
        }
    }

    /// What was typed, of which "" is none. `field` is named in errors.
    pub fn read(field: &str, typed: &str) -> Result<Self, FieldError> {
        let slope = |typed| whole(field, typed, 0..=STEEPEST).map(|slope| slope as u32);
        match typed.split(':').map(str::trim).collect::<Vec<_>>()[..] {
            ["" | "none"] => Ok(Self::None),
            ["canny"] => Ok(Self::Canny { low: CANNY.0, high: CANNY.1 }),
            ["canny", low, high] => Ok(Self::Canny { low: slope(low)?, high: slope(high)? }),
            _ => {
                let message = format!("must be none, canny or canny:LOW:HIGH, was {}", quoted(typed));
                Err(FieldError::new(field, "unknown_value", message))
            }
        }
    }
}

impl fmt::Display for Preprocessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::None => write!(f, "none"),
            Self::Canny { low, high } if (low, high) == CANNY => write!(f, "canny"),
            Self::Canny { low, high } => write!(f, "canny:{low}:{high}"),
        }
    }
}

/// The two text fields that give these settings again; nothing where there are none.
pub(crate) fn typed<'a>(settings: impl Iterator<Item = &'a ControlSetting> + Clone) -> [Option<String>; 2] {
    let joined = |texts: Vec<String>| Some(texts.join(", ")).filter(|text| !text.is_empty());
    let nets = settings.clone().map(ToString::to_string).collect();
    [joined(nets), joined(settings.map(|setting| setting.preprocessor.to_string()).collect())]
}

impl Checker {
    /// The ControlNets of a request with their pictures at `size`.
    pub(super) fn controls(&mut self, request: &GenerateRequest, facts: &Facts, size: (usize, usize)) -> Vec<Control> {
        let settings = self.control_settings(request, facts);
        if self.errors.iter().any(|error| error.field == "control") {
            return Vec::new();
        }
        self.needs_net(request, settings.len());
        let mut controls = Vec::new();
        for (setting, field) in settings.into_iter().zip(IMAGES) {
            if let Some(picture) = self.shown(request, field, &setting.net) {
                let picture = image::fit(picture, size.0 as u32, size.1 as u32);
                controls.push(Control { picture: setting.preprocessor.apply(picture), setting });
            }
        }
        controls
    }

    /// The IP-Adapter of a request with its picture.
    pub(super) fn image_prompt(&mut self, request: &GenerateRequest, facts: &Facts) -> Option<Control> {
        const FIELD: &str = "ip_adapter_image";
        let typed = request.text("ip_adapter").trim();
        if typed.is_empty() {
            if request.ip_adapter_image.is_some() {
                let message = "was given without an adapter that takes it for a prompt (the field ip_adapter)";
                self.errors.push(FieldError::new(FIELD, "without_ip_adapter", message));
            }
            return None;
        }
        let setting = control_setting("ip_adapter", typed, Preprocessor::None).and_then(|setting| {
            facts.ip_adapters.check("ip_adapter", &setting.net)?;
            Ok(Some(setting))
        });
        let setting = self.note(setting, None)?;
        Some(Control { picture: self.shown(request, FIELD, &setting.net)?, setting })
    }

    /// The picture that `net` is to see.
    fn shown(&mut self, request: &GenerateRequest, field: &str, net: &str) -> Option<RgbImage> {
        // A file that could not even be sent right is noted already.
        if self.errors.iter().any(|error| error.field == field) {
            return None;
        }
        let read = match request.files().find(|(name, _)| *name == field) {
            Some((_, bytes)) => image::read(field, bytes).map(Some),
            None => Err(FieldError::new(field, "required", format!("is missing: {net} has to see it"))),
        };
        self.note(read, None)
    }

    fn control_settings(&mut self, request: &GenerateRequest, facts: &Facts) -> Vec<ControlSetting> {
        let nets = entries(&request.control);
        let preprocessors = entries(&request.control_preprocessor);
        if nets.len() > MAX_CONTROLS {
            let message = format!("names {} nets; {MAX_CONTROLS} are the most", nets.len());
            let error = FieldError::new("control", "too_many", message).range(0.0, MAX_CONTROLS as f64);
            self.errors.push(error);
        }
        if preprocessors.len() > nets.len() {
            let message = format!("has {} entries for {} nets", preprocessors.len(), nets.len());
            self.errors.push(FieldError::new("control_preprocessor", "without_control", message));
        }
        let mut settings = Vec::new();
        for (i, typed) in nets.into_iter().take(MAX_CONTROLS).enumerate() {
            let preprocessor = preprocessors.get(i).copied().unwrap_or_default();
            let preprocessor = Preprocessor::read("control_preprocessor", preprocessor);
            let preprocessor = self.note(preprocessor, Preprocessor::None);
            let setting = control_setting("control", typed, preprocessor).and_then(|setting| {
                facts.controlnets.check("control", &setting.net)?;
                Ok(Some(setting))
            });
            settings.extend(self.note(setting, None));
        }
        settings
    }

    /// Notices pictures that no net would follow.
    fn needs_net(&mut self, request: &GenerateRequest, nets: usize) {
        for (field, _) in request.files().filter(|(field, _)| IMAGES[nets..].contains(field)) {
            let message = "was given without a net that follows it (the field control)";
            self.errors.push(FieldError::new(field, "without_control", message));
        }
    }
}

/// What commas separate; nothing where nothing was typed.
fn entries(typed: &Option<String>) -> Vec<&str> {
    match typed.as_deref().map(str::trim) {
        None | Some("") => Vec::new(),
        Some(typed) => typed.split(',').map(str::trim).collect(),
    }
}

/// `NAME[:WEIGHT[:START[:END]]]`.
fn control_setting(field: &str, typed: &str, preprocessor: Preprocessor) -> Result<ControlSetting, FieldError> {
    let parts: Vec<&str> = typed.split(':').map(str::trim).collect();
    if parts.len() > 4 || parts[0].is_empty() {
        let message = format!("must be NAME:WEIGHT:START:END, was {}", quoted(typed));
        return Err(FieldError::new(field, "malformed", message));
    }
    let number = |i: usize, usual: f64, range| match parts.get(i) {
        None | Some(&"") => Ok(usual),
        Some(typed) => real(field, typed, range),
    };
    let (weight, start, end) = (number(1, 1.0, WEIGHT)?, number(2, 0.0, 0.0..=1.0)?, number(3, 1.0, 0.0..=1.0)?);
    if start >= end {
        let message = format!("must start before it ends, but {} is from {start} to {end}", quoted(parts[0]));
        return Err(FieldError::new(field, "empty_range", message));
    }
    Ok(ControlSetting { net: parts[0].to_owned(), weight, start, end, preprocessor })
}
