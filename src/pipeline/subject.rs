//! What the tasks other than drawing work with: the model under one or several prompts, as denoisers, and its spaces.

use super::found::Found;
use super::receipt::Receipt;
use super::text::{States, Text};
use super::told::Told;
use super::{Outcome, Picture, Pipeline, Progress, Report};
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::flow::Course;
use crate::error::{Error, FieldError, Result};
use crate::image::{self, RgbImage};
use crate::kernels::Products;
use crate::model::checkpoint::Model;
use crate::request::{Economy, Plan, Start};
use candle_core::{DType, Device, Tensor};

/// Steps that the way along a flow counts for in progress: it is told in hundredths.
pub(super) const WAY: usize = 100;

/// What hears of steps.
pub(super) type OnStep<'a> = &'a mut dyn FnMut(&Progress<'_>) -> Result<()>;

/// A model with a plan's adapters and settings. Denoisers are made anew for each thread.
pub(super) struct Subject<'a> {
    pub(super) model: &'a Model,
    pub(super) plan: &'a Plan,
    pub(super) receipt: Receipt,
    device: &'a Device,
    told: &'a Told<'a>,
    states: Vec<States>,
}

impl Pipeline {
    /// Does `work`, which tells `on_step` of what it does, with the model under each of `prompts`.
    pub(super) fn under<R>(
        &self,
        plan: &Plan,
        prompts: &[&str],
        on_step: OnStep<'_>,
        work: impl FnOnce(&Subject<'_>, OnStep<'_>) -> Result<R>,
    ) -> Result<R> {
        self.check_precision()?;
        let on_wait = &mut || on_step(&Progress::waiting());
        let (model, added) = (self.with_loras(&plan.loras, on_wait)?, self.added(plan)?);
        let make_room = &mut |bytes| self.make_room(bytes, on_wait);
        let guides = self.nets.guides(plan, &self.facts, (1, model.unet.dtype()), make_room)?;
        let seen = match &plan.start {
            Start::Picture { picture, .. } => Some(picture),
            Start::Noise => None,
        };
        let told = Told::new(&model, plan, seen, None, &self.device)?.with(guides.clone());
        let read = |prompt: &&str| {
            let plan = Plan { prompt: (*prompt).to_owned(), ..plan.clone() };
            Text::new(&model, &plan, &added, 1)?.at(0)
        };
        let states = prompts.iter().map(read).collect::<Result<_>>()?;
        let receipt = Receipt::new(plan, plan.seed, &model, &added, &guides);
        work(&Subject { model: &model, plan, receipt, device: &self.device, told: &told, states }, on_step)
    }

    /// A divergence is a sum over all elements, and a way back repeats every rounding of the way there.
    fn check_precision(&self) -> Result<()> {
        let message = match (self.model.unet.dtype(), self.model.unet.products()) {
            (DType::F32, Products::Full) => return Ok(()),
            (DType::F32, Products::Brain) => {
                "multiplies in bf16 here, which the flow cannot be followed in; load it with --products f32"
            }
            _ => "computes in half precision here, which the flow cannot be followed in; load it with --dtype f32",
        };
        Err(Error::invalid(FieldError::new("model", "half_precision", message)))
    }
}

impl Subject<'_> {
    /// The network under prompt number `i`, guided as the plan says.
    pub(super) fn denoiser(&self, i: usize) -> Result<impl Denoiser + use<'_>> {
        self.told.denoiser(&self.states[i], 0, &Found::new(Economy::EXACT))
    }

    /// All of the flow.
    pub(super) fn course(&self, tolerance: f64) -> Course {
        Course::of(&self.model.schedule, tolerance)
    }

    /// The picture of the plan.
    pub(super) fn picture(&self) -> Result<&RgbImage> {
        match &self.plan.start {
            Start::Picture { picture, .. } => Ok(picture),
            Start::Noise => {
                Err(Error::invalid(FieldError::new("image", "required", "is missing: the task is about a picture")))
            }
        }
    }

    /// (1, 3, H, W) in [-1, 1].
    pub(super) fn pixels(&self, picture: &RgbImage) -> Result<Tensor> {
        image::to_tensor(picture, self.device)
    }

    /// What the network sees of a picture, (1, C, h, w).
    pub(super) fn state(&self, picture: &RgbImage) -> Result<Tensor> {
        self.model.codec.encode(&self.pixels(picture)?)
    }

    /// The inverse of [`Subject::state`].
    pub(super) fn shown(&self, state: &Tensor) -> Result<RgbImage> {
        image::from_tensor(&self.model.decode(state, self.plan.decoder)?)
    }

    pub(super) fn device(&self) -> &Device {
        self.device
    }

    /// The outcome with pictures that have this subject's receipt.
    pub(super) fn outcome(&self, pictures: Vec<RgbImage>, report: Report) -> Outcome {
        let still = |pixels| Picture::still(pixels, self.receipt.clone());
        Outcome { pictures: pictures.into_iter().map(still).collect(), report: Some(report) }
    }
}

/// Tells of work that is no drawing: `step` of `steps` done.
pub(super) fn tell(on_step: OnStep<'_>, (step, steps): (usize, usize), sigma: f64) -> Result<()> {
    on_step(&Progress { picture: 0, pictures: 1, step: step.min(steps), steps, sigma, estimate: None })
}
