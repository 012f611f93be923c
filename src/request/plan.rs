//! The checked request: from here on nothing about it can be wrong.

use super::GenerateRequest;
use super::check::Checker;
use super::control::{self, Control};
use super::economy::Economy;
use super::energy::Wanted;
use super::inpainting::Inpainting;
use super::repaint::Repaint;
use super::restore::Restoration;
use super::task::Task;
use crate::diffusion::noise::NoiseKind;
use crate::diffusion::sampler::Sampler;
use crate::diffusion::schedule::Spacing;
use crate::error::{Error, Result};
use crate::image::{Mask, RgbImage};
use crate::model::adapter::{Adapters, Applied, Inversion};
use crate::model::checkpoint::{ControlNets, IpAdapters};
use crate::model::codec::Decoder;
use crate::model::unet::Beside;
use std::path::PathBuf;

/// The most sampler steps.
pub const MAX_STEPS: usize = 1000;
/// The most pictures of one request.
pub const MAX_COUNT: usize = 64;
/// The longest side in pixels.
pub const MAX_SIDE: usize = 2048;
/// The most pixels of all pictures of one request together.
pub const MAX_PIXELS: usize = 4 << 20;
/// The most pixels of all finished pictures, where only a part of each is drawn: twice the largest picture that is read.
pub const MAX_RESULT_PIXELS: usize = 2 * crate::image::MAX_INPUT_PIXELS as usize;
/// The most adapters of one request.
pub const MAX_LORAS: usize = 16;
/// The most characters of a prompt.
pub const MAX_PROMPT_CHARS: usize = 32_000;

/// What a plan must know of the model it is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The model's name.
    pub name: String,
    /// Width and height have to be multiples of this.
    pub multiple_of: usize,
    /// The size the model was trained at.
    pub width: usize,
    /// The size the model was trained at.
    pub height: usize,
    /// Steps, where the request names none.
    pub steps: usize,
    /// Guidance scale, where the request names none.
    pub guidance: f64,
    /// How the ladder is walked, where the request names nothing.
    pub sampler: Sampler,
    /// How the ladder is spaced, where the request names nothing.
    pub schedule: Spacing,
    /// What the model sees beside noisy latents.
    pub beside: Beside,
    /// Layers of the text encoder: the most that `clip_skip` can be.
    pub text_layers: usize,
    /// Times of the model's noise schedule: more steps than that make no sense.
    pub times: usize,
    /// Whether there is a tiny decoder beside the model's own.
    pub tiny_decoder: bool,
    /// Skip connections of the network's finest level: the most that `depth` of an [`Economy`] can be.
    pub cache_depth: usize,
    /// The ControlNets that can be asked for.
    pub controlnets: ControlNets,
    /// The IP-Adapters that can be asked for.
    pub ip_adapters: IpAdapters,
    /// The adapters and embeddings that there are.
    pub adapters: Adapters,
    /// The file of a judge of its pictures, where there is one beside its weights.
    pub judge: Option<PathBuf>,
}

impl Facts {
    /// Those of a plain model, drawn at `width` x `height` pixels, both multiples of `multiple_of`, with usual settings.
    pub fn plain(name: &str, (width, height): (usize, usize), multiple_of: usize) -> Self {
        Self {
            name: name.to_owned(),
            multiple_of,
            width,
            height,
            steps: 20,
            guidance: 5.0,
            sampler: Sampler::default(),
            schedule: Spacing::default(),
            beside: Beside::Nothing,
            text_layers: 1,
            times: 1000,
            tiny_decoder: false,
            cache_depth: 1,
            controlnets: ControlNets::default(),
            ip_adapters: IpAdapters::default(),
            adapters: Adapters::default(),
            judge: None,
        }
    }

    /// The most steps for this model.
    pub fn max_steps(&self) -> usize {
        MAX_STEPS.min(self.times)
    }
}

/// What sampling begins with.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// Noise alone: text to picture.
    Noise,
    /// A picture of which a share of the ladder, `strength`, is redrawn; with a mask, only where that is white.
    Picture {
        /// The picture with its new borders, of the size that is drawn or, when only a part is, of its own.
        picture: RgbImage,
        /// Above 0, up to 1.
        strength: f64,
        /// Which pixels may change, of the picture's size; without one, all.
        mask: Option<Mask>,
        /// How the new part is fitted into the old.
        repaint: Repaint,
    },
}

/// A request that was checked, sized and given a seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What to draw, adapters as tags among it; may be empty.
    pub prompt: String,
    /// What not to draw; may be empty.
    pub negative_prompt: String,
    /// Sampler steps.
    pub steps: usize,
    /// Scale of classifier-free guidance.
    pub guidance: f64,
    /// Share of guidance rescaling.
    pub guidance_rescale: f64,
    /// How closely a model for editing follows the picture that it edits.
    pub image_guidance: f64,
    /// Which layer of the text encoder is read, counted from its end; without one, that which the model was trained with.
    pub clip_skip: Option<usize>,
    /// How the ladder is walked.
    pub sampler: Sampler,
    /// How the ladder is spaced.
    pub schedule: Spacing,
    /// Seed of the first picture.
    pub seed: u64,
    /// Number of pictures.
    pub count: usize,
    /// Pixels, before a picture is extended.
    pub width: usize,
    /// Pixels, before a picture is extended.
    pub height: usize,
    /// What sampling begins with.
    pub start: Start,
    /// Which generator makes the noise.
    pub noise: NoiseKind,
    /// How what is drawn anew follows what is kept.
    pub inpainting: Inpainting,
    /// A picture to be made whole again.
    pub restoration: Option<Restoration>,
    /// What else than the prompt to draw towards.
    pub wanted: Option<Wanted>,
    /// Which decoder draws the finished picture.
    pub decoder: Decoder,
    /// What of the work is left out.
    pub economy: Economy,
    /// What it is drawn along.
    pub controls: Vec<Control>,
    /// A picture as a prompt, as it was sent.
    pub image_prompt: Option<Control>,
    /// The name of the model that this is for.
    pub model: String,
    /// The adapters that the prompt asks for, each once.
    pub loras: Vec<Applied>,
    /// The embeddings that the prompts name.
    pub embeddings: Vec<Inversion>,
    /// What is to be done.
    pub task: Task,
}

impl Plan {
    /// Checks `request` for the model that it means: which one that is, `facts` say. On failure lists every wrong field
    /// ([`Error::Invalid`]). Decodes the pictures, so it may take a while: keep it off async threads.
    pub fn new(request: &GenerateRequest, facts: &Facts) -> Result<Self> {
        let mut checker = Checker { errors: request.problems.clone() };
        let plan = checker.plan(request, facts);
        if checker.errors.is_empty() { Ok(plan) } else { Err(Error::Invalid(checker.errors)) }
    }

    /// The resolved request: every text field explicit, so that it gives an equal plan again. Files stay in the
    /// request that the plan was made from, and have to be added by whoever kept them.
    pub fn request(&self) -> GenerateRequest {
        let (strength, repaint) = match &self.start {
            Start::Noise => (None, GenerateRequest::default()),
            Start::Picture { strength, repaint, .. } => (Some(strength.to_string()), repaint.request()),
        };
        let [control, control_preprocessor] = control::typed(self.controls.iter().map(|control| &control.setting));
        let mut request = GenerateRequest {
            prompt: Some(self.prompt.clone()),
            negative_prompt: Some(self.negative_prompt.clone()),
            steps: Some(self.steps.to_string()),
            guidance: Some(self.guidance.to_string()),
            guidance_rescale: Some(self.guidance_rescale.to_string()),
            image_guidance: Some(self.image_guidance.to_string()),
            clip_skip: self.clip_skip.map(|skip| skip.to_string()),
            sampler: Some(self.sampler.to_string()),
            schedule: Some(self.schedule.to_string()),
            seed: Some(self.seed.to_string()),
            count: Some(self.count.to_string()),
            width: Some(self.width.to_string()),
            height: Some(self.height.to_string()),
            strength,
            noise: Some(self.noise.name().to_owned()),
            inpainting: Some(self.inpainting.to_string()),
            restore: self.restoration.as_ref().map(|restoration| restoration.how.to_string()),
            energy: self.wanted.as_ref().map(|wanted| wanted.setting().to_string()),
            decoder: Some(self.decoder.name().to_owned()),
            economy: Some(self.economy.to_string()),
            control,
            control_preprocessor,
            ip_adapter: self.image_prompt.as_ref().map(|prompt| prompt.setting.to_string()),
            model: Some(self.model.clone()),
            ..repaint
        };
        for (field, value) in self.task.typed() {
            request.set_text(field, value);
        }
        request
    }

    /// The pixels that are drawn.
    pub fn drawn(&self) -> (usize, usize) {
        match &self.start {
            Start::Noise => (self.width, self.height),
            Start::Picture { repaint, .. } => repaint.drawn((self.width, self.height)),
        }
    }

    /// The seed of picture `k`; seeds count up and wrap around.
    pub fn seed_of(&self, k: usize) -> u64 {
        self.seed.wrapping_add(k as u64)
    }
}
