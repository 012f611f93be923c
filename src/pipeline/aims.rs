//! What a plan's pictures are drawn towards beside their prompt: what is known of them, and energies.

use super::Pipeline;
use crate::diffusion::inverse::{
    Blur, Colours, Energy, Grey, LinearOperator, Measured, Pull, Rule, Shrink, Steered, View,
};
use crate::error::{Error, FieldError, Result};
use crate::image::{self, RgbImage};
use crate::request::{Plan, Restoration, Restore, Shown, Wanted};
use crate::train::judge::Judge;
use candle_core::{Device, Tensor};

/// The same for all pictures of a plan.
pub(super) struct Aims {
    known: Option<Known>,
    energy: Option<(f64, Box<dyn Energy>)>,
}

struct Known {
    operator: Box<dyn LinearOperator>,
    measurement: Tensor,
    how: Restore,
}

impl Aims {
    pub(super) fn new(pipeline: &Pipeline, plan: &Plan) -> Result<Self> {
        let known = plan.restoration.as_ref().map(|restoration| Known::new(restoration, &pipeline.device));
        let energy = plan.wanted.as_ref().map(|wanted| energy(pipeline, plan, wanted));
        Ok(Self { known: known.transpose()?, energy: energy.transpose()? })
    }

    /// For a sampler that walks down `sigmas`. `view` shows pictures in what the model draws.
    pub(super) fn pulls<'a>(&'a self, view: Option<View<'a>>, sigmas: &[f64]) -> Vec<Box<dyn Pull + 'a>> {
        let known = self.known.as_ref().map(|known| known.pull(view, sigmas));
        let energy = self.energy.as_ref().map(|(scale, energy)| {
            let steered: Box<dyn Pull + 'a> = Box::new(Steered::new(&**energy, *scale, view));
            steered
        });
        known.into_iter().chain(energy).collect()
    }
}

impl Known {
    fn new(Restoration { how, picture }: &Restoration, device: &Device) -> Result<Self> {
        let picture = image::to_tensor(picture, device)?;
        let operator: Box<dyn LinearOperator> = match how.shown {
            Shown::Grey => Box::new(Grey::new(picture.dim(1)?)),
            Shown::Small { factor } => Box::new(Shrink::new(factor)),
            Shown::Blurred { radius } => Box::new(Blur::new(radius, &picture)?),
        };
        // A small or blurred picture is a measurement as it was sent; of a grey one, which may have come in colours, only
        // the brightness is.
        let measurement = if how.shown == Shown::Grey { operator.apply(&picture)? } else { picture };
        Ok(Self { operator, measurement, how: *how })
    }

    fn pull<'a>(&'a self, view: Option<View<'a>>, sigmas: &[f64]) -> Box<dyn Pull + 'a> {
        let rule = match self.how.posterior {
            None => Rule::PseudoInverse { data_variance: 1.0 },
            Some(scale) => Rule::Posterior { scale, ladder: sigmas.to_vec() },
        };
        let measured = Measured::new(&*self.operator, self.measurement.clone(), self.how.noise, rule);
        Box::new(match view {
            None => measured,
            Some(view) => measured.through(view),
        })
    }
}

fn energy(pipeline: &Pipeline, plan: &Plan, wanted: &Wanted) -> Result<(f64, Box<dyn Energy>)> {
    Ok(match wanted {
        Wanted::Colours { scale, picture } => (*scale, Box::new(colours(picture, &pipeline.device)?)),
        Wanted::Judge { scale } => (*scale, judge(pipeline, plan)?),
    })
}

fn colours(picture: &RgbImage, device: &Device) -> Result<Colours> {
    Colours::of(&image::to_tensor(picture, device)?)
}

fn judge(pipeline: &Pipeline, plan: &Plan) -> Result<Box<dyn Energy>> {
    let refused = |message: &str| Error::invalid(FieldError::new("energy", "no_judge", message));
    let file = pipeline.facts.judge.as_deref().ok_or_else(|| refused("needs a judge, and the model has none"))?;
    let recognised = Judge::open(file)?.into_recognised(&plan.prompt)?;
    let unknown = || refused("needs a prompt of which the model's judge knows a word");
    Ok(Box::new(recognised.ok_or_else(unknown)?))
}
