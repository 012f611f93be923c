//! What the network is told of a picture: its texts, its sizes, and what stands beside the noisy latents.

use super::canvas::Canvas;
use super::controls::Guides;
use super::found::{Found, Place};
use super::text::{States, TextStates};
use crate::Result;
use crate::diffusion::denoiser::{Denoiser, Network, Preconditioned};
use crate::diffusion::guidance::{Guidance, Guided};
use crate::image::{self, RgbImage};
use crate::model::checkpoint::Model;
use crate::model::unet::{Added, Beside, Conditioning, UNet2DConditionModel};
use crate::request::{Economy, Plan};
use candle_core::{DType, Device, Tensor};

/// What is the same at every step and for every picture of a plan; with a step's texts it makes the denoiser.
pub(super) struct Told<'a> {
    model: &'a Model,
    guidance: Guidance,
    /// The guidance scale, where the network itself knows what to do with it.
    distilled: Option<f64>,
    /// Height and width in pixels.
    size: [f32; 2],
    beside: Channels,
    guides: Guides,
    economy: Economy,
}

/// Channels that the network sees beside the noisy latents.
enum Channels {
    /// None.
    Nothing,
    /// These at every call, (1, C', h, w).
    Always(Tensor),
    /// A picture to be edited, and how closely to follow it: InstructPix2Pix's second guidance scale.
    Edited { picture: Tensor, scale: f64 },
}

impl<'a> Told<'a> {
    /// `seen` is what the input picture looks like on the sheet that is drawn, and `canvas` says what of it may change.
    pub(super) fn new(
        model: &'a Model,
        plan: &Plan,
        seen: Option<&RgbImage>,
        canvas: Option<&Canvas<'_>>,
        device: &Device,
    ) -> Result<Self> {
        let distilled = model.unet.config().time_cond_proj_dim.map(|_| plan.guidance);
        let scale = if distilled.is_some() { 1.0 } else { plan.guidance };
        let (width, height) = plan.drawn();
        let beside = match model.unet.config().beside().unwrap_or(Beside::Nothing) {
            Beside::Nothing => Channels::Nothing,
            Beside::MaskAndPicture => {
                Channels::Always(mask_and_picture(model, seen.zip(canvas), (width, height), device)?)
            }
            Beside::Picture => edited(model, plan, seen, device)?,
        };
        let guidance = Guidance { scale, rescale: plan.guidance_rescale, ..Guidance::default() };
        let (size, guides) = ([height as f32, width as f32], Guides::default());
        Ok(Self { model, guidance, distilled, size, beside, guides, economy: plan.economy })
    }

    /// The same, with guides that have a say in some of the steps.
    pub(super) fn with(self, guides: Guides) -> Self {
        Self { guides, ..self }
    }

    /// The network with the texts of step `step`, from 0, made a denoiser and guided. `found` is what the picture's earlier steps
    /// left.
    pub(super) fn denoiser(&self, states: &States, step: usize, found: &Found) -> Result<impl Denoiser + use<'a>> {
        let prompts = &states.prompts;
        let guides = self.guides.at(step);
        // A picture that is a prompt goes where the prompt goes.
        let network = |number: usize, texts: &TextStates, sees: &[bool], prompted: &[bool]| -> Result<_> {
            let given = Conditioning { image: guides.image_prompt(prompted)?, ..self.given(texts)? };
            let place = found.place(number, step);
            Ok(self.network(Conditioned {
                unet: &self.model.unet,
                given,
                beside: self.beside.rows(sees)?,
                guides: guides.clone(),
                place,
            }))
        };
        let pair = TextStates::stacked(&[&states.negative, &prompts[0].1])?;
        let Channels::Edited { scale, .. } = &self.beside else {
            let conditional = |(k, (weight, states)): (usize, &(f64, TextStates))| {
                Ok((*weight, network(1 + k, states, &[true], &[true])?))
            };
            let conditionals = prompts.iter().enumerate().map(conditional).collect::<Result<_>>()?;
            let pair = network(0, &pair, &[true; 2], &[false, true])?;
            return Ok(Guided::composed(conditionals, pair, self.guidance_in(step)));
        };
        // D_u + text (D - D_p) + picture (D_p - D_u), with the picture but no prompt in D_p and neither in D_u (Brooks et
        // al., arXiv:2211.09800, eq. 3): a composition of the two, whose weights hold the scales.
        let text = self.guidance.scale;
        let mut conditionals = Vec::with_capacity(prompts.len() + 1);
        for (k, (weight, states)) in prompts.iter().enumerate() {
            conditionals.push((text * weight, network(1 + k, states, &[true], &[true])?));
        }
        let rest = scale - text * prompts.iter().map(|(weight, _)| weight).sum::<f64>();
        conditionals.push((rest, network(1 + prompts.len(), &states.negative, &[true], &[false])?));
        let guidance = Guidance { scale: 1.0, ..self.guidance };
        Ok(Guided::composed(conditionals, network(0, &pair, &[false, true], &[false, true])?, guidance))
    }

    /// Guidance, where it steers in this step.
    fn guidance_in(&self, step: usize) -> Guidance {
        let steers = self.economy.guides(step, self.guides.steps());
        Guidance { scale: if steers { self.guidance.scale } else { 1.0 }, ..self.guidance }
    }

    fn network(&self, network: Conditioned<'a>) -> Preconditioned<Conditioned<'a>> {
        let preconditioned = Preconditioned::new(network, self.model.prediction, self.model.schedule.clone());
        preconditioned.erring(self.model.errors.clone())
    }

    /// What the U-Net is told besides what it sees.
    pub(super) fn given(&self, texts: &TextStates) -> Result<Conditioning> {
        let context = texts.context.clone();
        let added = texts.pooled.as_ref().map(|pooled| {
            let [height, width] = self.size;
            let sizes = Tensor::new(&[[height, width, 0.0, 0.0, height, width]], pooled.device())?;
            Ok::<_, crate::Error>(Added { pooled: pooled.clone(), sizes: sizes.repeat((pooled.dim(0)?, 1))? })
        });
        let (added, merge) = (added.transpose()?, self.economy.merge);
        Ok(Conditioning { context, added, guidance: self.distilled, image: None, residuals: None, merge })
    }

    /// The same channels for each of `rows` rows.
    pub(super) fn beside(&self, rows: usize) -> Result<Option<Tensor>> {
        self.beside.rows(&vec![true; rows])
    }
}

impl Channels {
    fn rows(&self, sees: &[bool]) -> Result<Option<Tensor>> {
        Ok(match self {
            Self::Nothing => None,
            Self::Always(channels) => Some(channels.repeat((sees.len(), 1, 1, 1))?),
            Self::Edited { picture, .. } => {
                let nothing = picture.zeros_like()?;
                let rows: Vec<_> = sees.iter().map(|sees| if *sees { picture } else { &nothing }).collect();
                Some(Tensor::cat(&rows, 0)?)
            }
        })
    }
}

/// The mask, 1 where to paint, and the latents of the picture with that part grey. Without a picture all is to be
/// painted.
fn mask_and_picture(
    model: &Model,
    known: Option<(&RgbImage, &Canvas<'_>)>,
    (width, height): (usize, usize),
    device: &Device,
) -> Result<Tensor> {
    let factor = model.codec.factor();
    let (mask, picture) = match known {
        Some((seen, canvas)) => {
            let mask = canvas.mask();
            let keep = mask.kept(device)?;
            (mask.to_latents(factor, device)?, image::to_tensor(seen, device)?.broadcast_mul(&keep)?)
        }
        None => {
            let ones = Tensor::ones((1, 1, height / factor, width / factor), DType::F32, device)?;
            (ones, Tensor::zeros((1, 3, height, width), DType::F32, device)?)
        }
    };
    Ok(Tensor::cat(&[&mask, &model.codec.encode(&picture)?], 1)?)
}

/// The picture to be edited as the autoencoder gives it, not normalised: so these networks were trained.
fn edited(model: &Model, plan: &Plan, seen: Option<&RgbImage>, device: &Device) -> Result<Channels> {
    let (factor, (width, height)) = (model.codec.factor(), plan.drawn());
    Ok(match seen {
        Some(seen) => Channels::Edited {
            picture: model.codec.mean(&image::to_tensor(seen, device)?)?,
            scale: plan.image_guidance,
        },
        None => {
            let shape = (1, model.codec.latent_channels(), height / factor, width / factor);
            Channels::Always(Tensor::zeros(shape, DType::F32, device)?)
        }
    })
}

/// The U-Net with everything that it is told.
struct Conditioned<'a> {
    unet: &'a UNet2DConditionModel,
    given: Conditioning,
    /// (B, C', h, w).
    beside: Option<Tensor>,
    guides: Guides,
    place: Place,
}

impl Network for Conditioned<'_> {
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let given = |whole: bool| {
            let residuals = if whole { self.guides.residuals(x, t, &self.given)? } else { None };
            Ok(Conditioning { residuals, ..self.given.clone() })
        };
        let seen = self.beside.as_ref().map(|beside| Tensor::cat(&[x, beside], 1)).transpose()?;
        self.place.call(self.unet, seen.as_ref().unwrap_or(x), t, given)
    }
}
