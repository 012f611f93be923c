//! What the network is told of a picture: its texts, its sizes, and what stands beside the noisy latents.

use super::canvas::Canvas;
use super::controls::Guides;
use super::text::{States, TextStates};
use crate::Result;
use crate::diffusion::denoiser::{Denoiser, Network, Preconditioned};
use crate::diffusion::guidance::{Guidance, Guided};
use crate::image::{self, RgbImage};
use crate::model::checkpoint::Model;
use crate::model::unet::{Added, Beside, Conditioning, UNet2DConditionModel};
use crate::request::Plan;
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
        Ok(Self { model, guidance, distilled, size: [height as f32, width as f32], beside, guides: Guides::default() })
    }

    /// The same, with guides that have a say in some of the steps.
    pub(super) fn with(self, guides: Guides) -> Self {
        Self { guides, ..self }
    }

    /// The network with the texts of step `step`, from 0, made a denoiser and guided.
    pub(super) fn denoiser(&self, states: &States, step: usize) -> Result<impl Denoiser + use<'a>> {
        let prompts = &states.prompts;
        let guides = self.guides.at(step);
        // A picture that is a prompt goes where the prompt goes.
        let network = |texts: &TextStates, sees: &[bool], prompted: &[bool]| -> Result<_> {
            let image = guides.image_prompt(prompted)?;
            let given = Conditioning { image, ..self.given(texts)? };
            Ok(self.network(given, self.beside.rows(sees)?, &guides))
        };
        let pair = TextStates::stacked(&[&states.negative, &prompts[0].1])?;
        let Channels::Edited { scale, .. } = &self.beside else {
            let conditionals = prompts.iter().map(|(weight, states)| Ok((*weight, network(states, &[true], &[true])?)));
            let conditionals = conditionals.collect::<Result<_>>()?;
            return Ok(Guided::composed(conditionals, network(&pair, &[true; 2], &[false, true])?, self.guidance));
        };
        // D_u + text (D - D_p) + picture (D_p - D_u), with the picture but no prompt in D_p and neither in D_u (Brooks et
        // al., arXiv:2211.09800, eq. 3): a composition of the two, whose weights hold the scales.
        let text = self.guidance.scale;
        let mut conditionals = Vec::with_capacity(prompts.len() + 1);
        for (weight, states) in prompts {
            conditionals.push((text * weight, network(states, &[true], &[true])?));
        }
        let rest = scale - text * prompts.iter().map(|(weight, _)| weight).sum::<f64>();
        conditionals.push((rest, network(&states.negative, &[true], &[false])?));
        let guidance = Guidance { scale: 1.0, ..self.guidance };
        Ok(Guided::composed(conditionals, network(&pair, &[false, true], &[false, true])?, guidance))
    }

    fn network(&self, given: Conditioning, beside: Option<Tensor>, guides: &Guides) -> Preconditioned<Conditioned<'a>> {
        let network = Conditioned { unet: &self.model.unet, given, beside, guides: guides.clone() };
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
        Ok(Conditioning { context, added: added.transpose()?, guidance: self.distilled, image: None, residuals: None })
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
}

impl Network for Conditioned<'_> {
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let residuals = self.guides.residuals(x, t, &self.given)?;
        let given = Conditioning { residuals, ..self.given.clone() };
        match &self.beside {
            Some(beside) => self.unet.forward(&Tensor::cat(&[x, beside], 1)?, t, &given),
            None => self.unet.forward(x, t, &given),
        }
    }
}
