//! The one place where everything meets: a loaded model draws a plan.
//!
//! text -> (noise -> sampler <-> denoiser) -> codec -> pixels. Each picture of a plan is sampled by itself: sums inside
//! a matrix product are ordered by its shape, so pictures drawn in a larger batch would differ in their last bits from
//! the same pictures drawn alone.

mod adapted;
mod aims;
mod canvas;
mod captions;
mod chunks;
mod controls;
mod errors;
mod found;
mod held;
mod likelihood;
mod notices;
mod progress;
mod receipt;
mod recent;
mod reversible;
mod room;
mod schedules;
mod side_by_side;
mod subject;
mod text;
mod told;
mod vocabulary;

pub use captions::{CaptionFit, CaptionReport};
pub use likelihood::{ElboReport, LikelihoodReport, PixelBound};
pub use notices::Notice;
pub use progress::{Estimate, Progress};
pub use receipt::{Controlled, EmbeddingReceipt, LoraReceipt, Receipt};
pub use reversible::FlowReport;
pub use room::Room;
pub use schedules::{Bound, Comparison};
pub use text::{TokenCount, count_tokens};

use crate::Result;
use crate::diffusion::diagnostics::{Recorder, StepFigures};
use crate::diffusion::flow::Effort;
use crate::diffusion::inverse::View;
use crate::diffusion::noise::{NoiseKind, NoiseSource, SeededNoise};
use crate::diffusion::sampler::Step;
use crate::diffusion::scheduled::Scheduled;
use crate::image::{self, Encoded, RgbImage};
use crate::memory;
use crate::model::checkpoint::{Model, Opened, Precision};
use crate::model::unet::{Beside, Conditioning};
use crate::request::{Facts, Inpainting, Plan, Start, Task};
use adapted::Adapted;
use aims::Aims;
use candle_core::{DType, Device, Shape, Tensor};
use canvas::Canvas;
use controls::Nets;
use found::Found;
use held::One;
use notices::Words;
use serde::Serialize;
use std::path::Path;
use text::{Text, TextStates};
use told::Told;
use vocabulary::Added;

/// Tells the noise in a known picture from the sampler's own: a picture's seed with these bits turned.
const KNOWN: u64 = 0x9e37_79b9_0000_0000;

/// Pixels from which on a decoder takes hundreds of MB: room in which the network's scratch memory, which the allocator
/// keeps for a while, would not fit. Smaller pictures are sooner done than that memory is given back.
const LARGE: usize = 512 * 384;

/// A model in memory, ready to draw.
pub struct Pipeline {
    model: Model,
    facts: Facts,
    words: Option<Words>,
    nets: Nets,
    device: Device,
    /// The model with the adapters of the last plan that had any.
    adapted: Adapted,
    /// Asked before anything takes memory beside the model.
    room: Room,
}

/// What a plan has to know of a model.
pub fn facts(model: &Opened) -> Facts {
    let (factor, size, defaults) = (model.factor(), model.unet().sample_size, model.defaults());
    Facts {
        name: model.name(),
        multiple_of: factor,
        width: size * factor,
        height: size * factor,
        steps: defaults.steps,
        guidance: defaults.guidance,
        sampler: defaults.sampler,
        schedule: defaults.schedule,
        beside: model.unet().beside().unwrap_or(Beside::Nothing),
        text_layers: model.text_layers(),
        times: model.times(),
        tiny_decoder: model.has_tiny_decoder(),
        cache_depth: model.unet().cache_depth(),
        controlnets: model.controlnets(),
        ip_adapters: model.ip_adapters(),
        adapters: model.adapters(),
        judge: model.judge(),
    }
}

/// A finished picture.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Its pixels; of an animation, the first frame's.
    pub pixels: RgbImage,
    /// Everything needed to draw it again.
    pub receipt: Receipt,
    /// The frames that follow, where it moves.
    pub more_frames: Vec<RgbImage>,
    /// The noise that it shows, where it is a picture of noise.
    pub noise: Option<Encoded>,
    /// What each of its steps did, where a sampler drew it. Not in the file.
    pub steps: Vec<StepFigures>,
}

/// What a sampler drew.
struct Sampled {
    pixels: RgbImage,
    effort: Option<Effort>,
    steps: Vec<StepFigures>,
}

/// How long each frame of an animation is shown, in milliseconds.
const FRAME_TIME: u16 = 120;

impl Picture {
    fn still(pixels: RgbImage, receipt: Receipt) -> Self {
        Self { pixels, receipt, more_frames: Vec::new(), noise: None, steps: Vec::new() }
    }

    /// The PNG file, with its parameters as other programs read them and as our own JSON.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut texts = self.receipt.texts().to_vec();
        texts.extend(self.noise.as_ref().map(Encoded::text).transpose()?);
        let frames = [std::slice::from_ref(&self.pixels), &self.more_frames].concat();
        image::encode_apng(&frames, FRAME_TIME, &texts)
    }
}

/// What came of a plan.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Pictures, where there are any.
    pub pictures: Vec<Picture>,
    /// What was found out, where the task asks something.
    pub report: Option<Report>,
}

/// What was found out about a picture.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "task")]
pub enum Report {
    /// How likely it is.
    Likelihood(Box<LikelihoodReport>),
    /// Which caption fits.
    Rank(CaptionReport),
    /// What a way along the flow took, and what it lost.
    Flow(FlowReport),
}

impl Pipeline {
    /// Loads the model at `path` in the precision that suits the device. Fails with [`crate::Error::Model`], naming file
    /// and tensor.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        Self::load_as(path, device, Precision::on(device, None))
    }

    /// The same in a precision that is asked for.
    pub fn load_as(path: &Path, device: &Device, precision: impl Into<Precision>) -> Result<Self> {
        Self::new(Opened::read(path)?, device, precision)
    }

    /// Loads the weights of a model. Fails as [`Pipeline::load`].
    pub fn new(opened: Opened, device: &Device, precision: impl Into<Precision>) -> Result<Self> {
        let (facts, words) = (facts(&opened), Words::read(opened.path())?);
        let (device, precision) = (device.clone(), precision.into());
        let nets = Nets::new(&device, precision);
        let (model, adapted) = (opened.load(&device, precision)?, Adapted::default());
        // What was needed only to load it.
        memory::give_back();
        Ok(Self { model, facts, words, nets, device, adapted, room: Room::default() })
    }

    /// The same, with `room` asked before anything is loaded beside the model, and before weights are computed for it.
    #[must_use]
    pub fn within(mut self, room: Room) -> Self {
        self.room = room;
        self
    }

    /// Offers an adapter that lies anywhere, by the name of its file, which is returned; none for a name that no prompt
    /// can have.
    pub fn offer_lora(&mut self, path: &Path) -> Option<String> {
        let (adapters, name) = self.facts.adapters.clone().with_file(path)?;
        self.facts.adapters = adapters;
        Some(name)
    }

    /// What a plan has to know of this model.
    pub fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// Bytes that its weights take in memory, with those of the ControlNets and LoRAs that were used with it lately.
    pub fn bytes(&self) -> u64 {
        self.model.bytes + self.nets.bytes() + self.adapted.bytes()
    }

    /// The model's name and the hash of its weights.
    pub fn identity(&self) -> (&str, &str) {
        (&self.model.name, self.model.hash())
    }

    /// Does what a plan's task is. `on_step` hears of every step, and while the first has to wait for memory; it stops the
    /// work by returning an error.
    pub fn run(&self, plan: &Plan, on_step: &mut dyn FnMut(&Progress<'_>) -> Result<()>) -> Result<Outcome> {
        match &plan.task {
            Task::Generate => Ok(Outcome { pictures: self.generate(plan, on_step)?, report: None }),
            Task::Likelihood(asked) => self.likelihood(plan, *asked, on_step),
            Task::Rank { captions, levels } => self.rank(plan, captions, *levels, on_step),
            Task::Encode { tolerance } => self.encode(plan, *tolerance, on_step),
            Task::Decode { tolerance, noise } => self.decode(plan, *tolerance, noise, on_step),
            Task::Edit { tolerance, source_prompt } => self.edit(plan, *tolerance, source_prompt, on_step),
            Task::Interpolate { tolerance, other } => self.interpolate(plan, *tolerance, other, on_step),
        }
    }

    /// Draws every picture of a plan. `on_step` is as for [`Pipeline::run`].
    pub fn generate(&self, plan: &Plan, on_step: &mut dyn FnMut(&Progress<'_>) -> Result<()>) -> Result<Vec<Picture>> {
        let known = self.known(plan)?;
        let ladder = plan.schedule.sigmas(&self.model.schedule, plan.steps)?;
        let sigmas = &ladder[plan.steps - redrawn_steps(plan)..];
        let on_wait = &mut || on_step(&Progress::waiting());
        let (model, added) = (self.with_loras(&plan.loras, on_wait)?, self.added(plan)?);
        let text = Text::new(&model, plan, &added, sigmas.len() - 1)?;
        let canvas = known.as_ref().and_then(|known| known.canvas.as_ref());
        let make_room = &mut |bytes| self.make_room(bytes, on_wait);
        let guides = self.nets.guides(plan, &self.facts, (sigmas.len() - 1, model.unet.dtype()), make_room)?;
        let told = Told::new(&model, plan, known.as_ref().map(|known| &known.seen), canvas, &self.device)?;
        let (told, aims) = (told.with(guides.clone()), Aims::new(self, plan)?);
        let draw = |k| {
            let Sampled { pixels, effort, steps } =
                self.draw((plan, k, sigmas), (&text, &told, &aims), known.as_ref(), on_step)?;
            let receipt = Receipt::new(plan, plan.seed_of(k), &model, &added, &guides);
            Ok(Picture { steps, ..Picture::still(pixels, Receipt { effort, ..receipt }) })
        };
        (0..plan.count).map(draw).collect()
    }

    fn added(&self, plan: &Plan) -> Result<Added> {
        Added::open(&plan.embeddings, &self.facts.adapters)
    }

    /// Things a person should know about what a plan draws, although nothing is wrong with it.
    pub fn notices(&self, plan: &Plan) -> Result<Vec<Notice>> {
        Ok(notices::of(plan, &self.facts(), self.words.as_ref()))
    }

    fn draw(
        &self,
        (plan, k, sigmas): One<'_>,
        (text, told, aims): (&Text<'_>, &Told<'_>, &Aims),
        known: Option<&Known<'_>>,
        on_step: &mut dyn FnMut(&Progress<'_>) -> Result<()>,
    ) -> Result<Sampled> {
        let mut noise = SeededNoise::new(plan.noise, &[plan.seed_of(k)]);
        let fresh = noise.normal(&self.latent_shape(plan), DType::F32, &self.device)?;
        let x = start(known, &fresh, sigmas, plan.noise)?;
        let canvas = known.and_then(|known| known.canvas.as_ref());
        let found = Found::new(plan.economy);
        let drawn = Scheduled::new(sigmas, |step| told.denoiser(&text.at(step)?, step, &found));
        let decoded = |latents: &Tensor| self.model.decode(latents, plan.decoder);
        let view: Option<View<'_>> = if self.model.codec.is_pixels() { None } else { Some(&decoded) };
        let denoiser = self.held(drawn, aims.pulls(view, sigmas), known, &fresh, (plan, k, sigmas))?;
        let recorder = Recorder::new(&*denoiser, sigmas);
        let mut effort = None;
        let mut on_step = |step: Step<'_>| {
            effort = step.effort;
            let is_pixels = self.model.codec.is_pixels();
            recorder.note(&step, is_pixels.then(|| image::clipped(step.denoised)).transpose()?)?;
            let estimate = Some(Estimate { model: &self.model, latents: step.denoised, canvas });
            let (picture, pictures, done, steps) = (k, plan.count, step.index + 1, step.total);
            on_step(&Progress { picture, pictures, step: done, steps, sigma: step.sigma, estimate })
        };
        let latents = match plan.inpainting {
            Inpainting::Repaint(resampling) => {
                resampling.run(&plan.sampler, &recorder, x, sigmas, &mut noise, &mut on_step)?
            }
            _ => plan.sampler.run(&recorder, x, sigmas, &mut noise, &mut on_step)?,
        };
        if plan.width * plan.height >= LARGE {
            memory::give_back();
        }
        let decoded = self.model.decode(&latents, plan.decoder)?;
        let (drawn, steps) = (image::from_tensor(&decoded)?, recorder.finish(image::clipped(&decoded)?));
        let pixels = match canvas {
            None => drawn,
            Some(canvas) => canvas.finish(drawn)?,
        };
        Ok(Sampled { pixels, effort, steps })
    }

    fn beside(&self) -> Beside {
        self.facts.beside
    }

    /// The two heavy parts of drawing `plan`, to be measured one at a time; the U-Net's call with or without guidance.
    pub fn parts(&self, plan: &Plan, batch: usize, guided: bool) -> Result<Parts<'_>> {
        let rows = if guided { 2 * batch } else { batch };
        let seeds: Vec<u64> = (0..rows).map(|k| plan.seed_of(k)).collect();
        let shape = Shape::from([&[rows], &self.latent_shape(plan).dims()[1..]].concat());
        let latents = SeededNoise::new(plan.noise, &seeds).normal(&shape, DType::F32, &self.device)?;
        let added = self.added(plan)?;
        let states = Text::new(&self.model, plan, &added, plan.steps)?.at(0)?;
        let texts: Vec<_> = [&states.prompts[0].1, &states.negative].into_iter().cycle().take(rows).collect();
        let told = Told::new(&self.model, plan, None, None, &self.device)?;
        let given = told.given(&TextStates::stacked(&texts)?)?;
        let beside = told.beside(rows)?;
        let time = Tensor::full(0.5 * self.model.schedule.steps() as f32, rows, &self.device)?;
        let input = beside.map(|beside| Tensor::cat(&[&latents, &beside], 1)).transpose()?;
        Ok(Parts { model: &self.model, input: input.unwrap_or_else(|| latents.clone()), latents, given, time, batch })
    }

    fn latent_shape(&self, plan: &Plan) -> Shape {
        let (factor, (width, height)) = (self.model.codec.factor(), plan.drawn());
        Shape::from((1, self.model.codec.latent_channels(), height / factor, width / factor))
    }

    fn known<'a>(&self, plan: &'a Plan) -> Result<Option<Known<'a>>> {
        let Start::Picture { picture, strength, mask, repaint } = &plan.start else { return Ok(None) };
        let canvas = mask.as_ref().map(|mask| Canvas::new(picture, mask, repaint, plan.drawn()));
        let seen = canvas.as_ref().map_or_else(|| picture.clone(), Canvas::seen);
        let whole = *strength >= 1.0;
        let encoded = !whole || (canvas.is_some() && self.beside() == Beside::Nothing);
        let encode = || self.model.codec.encode(&image::to_tensor(&seen, &self.device)?);
        let latents = encoded.then(encode).transpose()?;
        Ok(Some(Known { seen, latents, whole, canvas }))
    }
}

/// A model with inputs in hand, for `limner bench`.
pub struct Parts<'a> {
    model: &'a Model,
    /// Two for each picture, as guidance needs.
    latents: Tensor,
    /// The same, with what stands beside them.
    input: Tensor,
    given: Conditioning,
    time: Tensor,
    batch: usize,
}

impl Parts<'_> {
    /// One guided call of the U-Net: a batch of two for each picture.
    pub fn call_unet(&self) -> Result<()> {
        let prediction = self.model.unet.forward(&self.input, &self.time, &self.given)?;
        Ok(prediction.device().synchronize()?)
    }

    /// One latent per picture to pixels.
    pub fn decode(&self) -> Result<()> {
        let pictures = self.model.codec.decode(&self.latents.narrow(0, 0, self.batch)?)?;
        Ok(pictures.device().synchronize()?)
    }
}

/// An input picture.
struct Known<'a> {
    /// What it looks like on the sheet that is drawn.
    seen: RgbImage,
    /// The same, scaled as the network sees latents, (1, C, h, w), where anything of it is kept.
    latents: Option<Tensor>,
    /// Whether everything is drawn anew, so that nothing of the picture may shine through.
    whole: bool,
    /// With a mask, what is drawn goes back into it.
    canvas: Option<Canvas<'a>>,
}

/// How many steps of the ladder a plan takes: the last ones, when a picture is only partly redrawn (SDEdit, Meng et al.,
/// arXiv:2108.01073).
fn redrawn_steps(plan: &Plan) -> usize {
    match &plan.start {
        Start::Noise => plan.steps,
        Start::Picture { strength, .. } => ((plan.steps as f64 * strength).round() as usize).clamp(1, plan.steps),
    }
}

/// `x0 + sigma * noise` at the first sigma, or noise alone when nothing is to be kept.
fn start(known: Option<&Known<'_>>, fresh: &Tensor, sigmas: &[f64], kind: NoiseKind) -> Result<Tensor> {
    let sigma = sigmas.first().copied().unwrap_or_default();
    match known.filter(|known| !known.whole).and_then(|known| known.latents.as_ref()) {
        Some(latents) => Ok((latents + (fresh * sigma)?)?),
        None => Ok((fresh * kind.first_scale(sigma))?),
    }
}
