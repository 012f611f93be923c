//! What is to be done: a picture drawn, which is the rule, or something found out about one, or made of one, by the flow.

use super::GenerateRequest;
use super::check::{Checker, one_of};
use super::numbers::{real, whole};
use super::plan::Facts;
use super::start::switch;
use crate::error::{Error, FieldError, Result};
use crate::image::{self, Encoded, RgbImage};
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The most captions that are ranked at a time.
pub const MAX_CAPTIONS: usize = 64;
/// Below this, f32 networks have nothing to say, and solvers stand still.
const TOLERANCE: RangeInclusive<f64> = 1e-7..=0.1;
const USUAL_TOLERANCE: f64 = 1e-4;
const USUAL_DRAWS: usize = 4;
const USUAL_LEVELS: u64 = 100;

/// A checked task.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// To draw.
    Generate,
    /// To say how likely a picture is.
    Likelihood(Likelihood),
    /// To take a picture to its noise.
    Encode {
        /// Of the solver.
        tolerance: f64,
    },
    /// To take noise to its picture.
    Decode {
        /// Of the solver.
        tolerance: f64,
        /// What [`Task::Encode`] gave.
        noise: Encoded,
    },
    /// To take a picture apart under one prompt and put it together under another.
    Edit {
        /// Of the solver.
        tolerance: f64,
        /// What the picture shows.
        source_prompt: String,
    },
    /// To go from one picture to another through their noises.
    Interpolate {
        /// Of the solver.
        tolerance: f64,
        /// Where to go.
        other: RgbImage,
    },
    /// To say which caption fits a picture best.
    Rank {
        /// At least two.
        captions: Vec<String>,
        /// At which they are compared.
        levels: usize,
    },
}

/// How a likelihood is to be computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// Of the solver.
    pub tolerance: f64,
    /// Estimates, each with random numbers of its own.
    pub draws: usize,
    /// Probes of the divergence for each draw; 0 for the exact trace.
    pub probes: usize,
    /// Noise levels of the evidence lower bound; 0 leaves it out.
    pub levels: usize,
}

impl Task {
    /// The name used in JSON, in forms and on the command line.
    pub fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Whether it draws by a sampler.
    pub fn is_generate(&self) -> bool {
        matches!(self, Self::Generate)
    }

    fn kind(&self) -> TaskKind {
        match self {
            Self::Generate => TaskKind::Generate,
            Self::Likelihood(_) => TaskKind::Likelihood,
            Self::Encode { .. } => TaskKind::Encode,
            Self::Decode { .. } => TaskKind::Decode,
            Self::Edit { .. } => TaskKind::Edit,
            Self::Interpolate { .. } => TaskKind::Interpolate,
            Self::Rank { .. } => TaskKind::Rank,
        }
    }

    /// The text fields that give this task again; none for a drawing.
    pub fn typed(&self) -> Vec<(&'static str, String)> {
        let own = match self {
            Self::Generate => return Vec::new(),
            Self::Likelihood(Likelihood { tolerance, draws, probes, levels }) => vec![
                ("tolerance", tolerance.to_string()),
                ("draws", draws.to_string()),
                ("probes", probes.to_string()),
                ("levels", levels.to_string()),
            ],
            Self::Encode { tolerance } | Self::Decode { tolerance, .. } | Self::Interpolate { tolerance, .. } => {
                vec![("tolerance", tolerance.to_string())]
            }
            Self::Edit { tolerance, source_prompt } => {
                vec![("tolerance", tolerance.to_string()), ("source_prompt", source_prompt.clone())]
            }
            Self::Rank { captions, levels } => {
                vec![("captions", captions.join("\n")), ("levels", levels.to_string())]
            }
        };
        [vec![("task", self.name().to_owned())], own].concat()
    }
}

/// Which task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskKind {
    Generate,
    Likelihood,
    Encode,
    Decode,
    Edit,
    Interpolate,
    Rank,
}

impl TaskKind {
    const ALL: [Self; 7] =
        [Self::Generate, Self::Likelihood, Self::Encode, Self::Decode, Self::Edit, Self::Interpolate, Self::Rank];

    fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Likelihood => "likelihood",
            Self::Encode => "encode",
            Self::Decode => "decode",
            Self::Edit => "edit",
            Self::Interpolate => "interpolate",
            Self::Rank => "rank",
        }
    }

    pub(super) fn read(field: &str, typed: &str) -> Result<Self, FieldError> {
        one_of(field, typed, &Self::ALL.map(Self::name))
    }

    /// Pictures, where the request does not say how many: of an interpolation they are its frames.
    pub(super) fn count(self) -> usize {
        if self == Self::Interpolate { 8 } else { 1 }
    }

    /// The guidance scale, where the request names none: the flow of the model itself has none.
    pub(super) fn guidance(self, facts: &Facts) -> f64 {
        if matches!(self, Self::Generate | Self::Edit) { facts.guidance } else { 1.0 }
    }

    /// Whether it needs the field `image` to hold a picture.
    fn takes_picture(self) -> bool {
        !matches!(self, Self::Generate | Self::Decode)
    }
}

impl FromStr for TaskKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| Error::invalid(FieldError::new("task", "unknown_value", "is no task")))
    }
}

impl Checker {
    /// The task that is asked for, with pictures of `size`.
    pub(super) fn task(
        &mut self,
        kind: TaskKind,
        request: &GenerateRequest,
        facts: &Facts,
        size: (usize, usize),
    ) -> Task {
        if kind != TaskKind::Generate {
            self.refuse_masks(kind, request);
        }
        let tolerance = self.or_default("tolerance", &request.tolerance, USUAL_TOLERANCE, |f, t| real(f, t, TOLERANCE));
        let usual = USUAL_LEVELS.min(facts.times as u64);
        let levels = self.or_default("levels", &request.levels, usual, |f, t| whole(f, t, 0..=facts.times as u64));
        let levels = levels as usize;
        match kind {
            TaskKind::Generate => Task::Generate,
            TaskKind::Encode => Task::Encode { tolerance },
            TaskKind::Decode => Task::Decode { tolerance, noise: self.encoded(request) },
            TaskKind::Interpolate => Task::Interpolate { tolerance, other: self.other(request, size) },
            TaskKind::Edit => {
                let source_prompt = self.text("source_prompt", request.text("source_prompt"));
                Task::Edit { tolerance, source_prompt }
            }
            TaskKind::Rank => Task::Rank { captions: self.captions(request), levels: levels.max(1) },
            TaskKind::Likelihood => {
                self.check_guidance(request, kind.guidance(facts));
                let draws = self.count("draws", &request.draws, USUAL_DRAWS, 1000);
                let probes = self.or_default("probes", &request.probes, 1, |f, t| whole(f, t, 0..=1000));
                Task::Likelihood(Likelihood { tolerance, draws, probes: probes as usize, levels })
            }
        }
    }

    /// What only a drawing can have, and what a task cannot do without.
    fn refuse_masks(&mut self, kind: TaskKind, request: &GenerateRequest) {
        // A plan's own request says that nothing is added.
        let extended = request.text("extend").contains(|c: char| c.is_ascii_digit() && c != '0');
        let given = [("mask", request.mask.is_some()), ("extend", extended)];
        for (field, _) in given.into_iter().filter(|(_, given)| *given) {
            let message = format!("is for pictures that are drawn, and not for the task {}", kind.name());
            self.errors.push(FieldError::new(field, "without_drawing", message));
        }
        if kind.takes_picture() && request.image.is_none() && !self.errors.iter().any(|error| error.field == "image") {
            let message = format!("is missing: the task {} is about a picture", kind.name());
            self.errors.push(FieldError::new("image", "required", message));
        }
    }

    /// A guided flow is that of no forward process (arXiv:2408.09000), so that it says nothing of `p(x)`.
    fn check_guidance(&mut self, request: &GenerateRequest, usual: f64) {
        let guidance = request.text("guidance").trim().parse().unwrap_or(usual);
        let wanted = self.or_default("guided_flow", &request.guided_flow, false, switch);
        if guidance != 1.0 && !wanted {
            let message = "must be 1: the flow under guidance does not lead back from any model's noise, so its density is \
                           neither p(x) nor p(x | prompt); set guided_flow to have it all the same";
            self.errors.push(FieldError::new("guidance", "no_likelihood", message));
        }
    }

    fn captions(&mut self, request: &GenerateRequest) -> Vec<String> {
        let typed = self.text("captions", request.text("captions"));
        let captions: Vec<String> =
            typed.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        if !(2..=MAX_CAPTIONS).contains(&captions.len()) {
            let message = format!("must be 2 to {MAX_CAPTIONS} captions, one a line; there were {}", captions.len());
            let error = FieldError::new("captions", "out_of_range", message).range(2.0, MAX_CAPTIONS as f64);
            self.errors.push(error);
        }
        captions
    }

    /// The second picture, as large as the first is made.
    fn other(&mut self, request: &GenerateRequest, (width, height): (usize, usize)) -> RgbImage {
        let missing = || FieldError::new("image_2", "required", "is missing: there is nothing to interpolate to");
        let read = request.image_2.as_deref().ok_or_else(missing).and_then(|bytes| image::read("image_2", bytes));
        let picture = self.note(read, RgbImage::new(1, 1));
        image::fit(picture, width as u32, height as u32)
    }

    fn encoded(&mut self, request: &GenerateRequest) -> Encoded {
        let wrong = || {
            let message =
                "must be a PNG file that the task encode gave: its noise stands in the file beside the pixels";
            FieldError::new("image", "no_noise", message)
        };
        self.note(request.image.as_deref().and_then(Encoded::from_png).ok_or_else(wrong), Encoded::default())
    }
}
