//! A whole model in one safetensors file, as model sites have them: the names are those of the program that trained
//! Stable Diffusion, and the tensors themselves say which family and which sizes these are.

mod kind;
mod names;
mod shapes;

pub(in crate::model) use names::unet as ldm_unet;

use super::defaults::{Defaults, Distilled};
use super::parts::{Parts, Source, TextParts};
use super::weights::{Part, Weights};
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::schedule::{Betas, NoiseSchedule};
use crate::model::clip::ClipTextConfig;
use crate::model::tokenizer::{Padding, Tokenizer};
use crate::{Error, Result};
use kind::{Clip, Family, TextKind};
pub(super) use shapes::controlnet as controlnet_config;
use std::borrow::Cow;
use std::path::Path;

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
const CONTROLNET: &str = "control_model.";

/// Reads the file `path`, and `NAME.vae.safetensors` beside it where there is one: that autoencoder is then used
/// instead of the file's own.
pub(super) fn read(path: &Path) -> Result<Parts> {
    let file = Weights::read_file(path.to_owned())?;
    let unusable = |message: String| Error::model(path, message);
    let family = kind::recognise(&file).map_err(unusable)?;
    let texts = family.texts().into_iter().map(|kind| text(&file, kind)).collect::<Result<Vec<_>, _>>();
    let texts = texts.map_err(unusable)?;
    let unet_weights = unet(&file);
    let (codec_source, codec_weights) = vae(path, &file)?;

    let unet = shapes::unet(&unet_weights, family).map_err(unusable)?;
    let codec = shapes::vae(&codec_weights, family).map_err(|message| Error::model(codec_source, message))?;
    let described: Vec<_> = texts.iter().map(|(_, config, _)| ("text_encoder", config)).collect();
    Source::File(path).check(&described, &unet, &codec)?;
    Ok(Parts {
        text: texts
            .into_iter()
            .map(|(kind, config, weights)| parts(path, kind, config, weights))
            .collect::<Result<_>>()?,
        prediction: prediction(&file, &unet_weights, family),
        defaults: Defaults::new(&unet, Distilled::by_names(path)),
        unet: (unet, unet_weights),
        codec: (codec, codec_weights),
        schedule: schedule(&file)?,
        errors: None,
        zeros_for_empty: family == Family::Xl,
    })
}

/// A text encoder with the vocabulary that its kind has.
fn parts(path: &Path, kind: TextKind, config: ClipTextConfig, weights: Weights) -> Result<TextParts> {
    let padding = if kind.clip == Clip::OpenAi { Padding::End } else { Padding::Zero };
    let tokenizer = Tokenizer::clip(padding, config.max_position_embeddings)?;
    Source::File(path).check_vocabulary("tokenizer", &tokenizer, &config)?;
    Ok(TextParts { tokenizer, config, weights, reading: kind.reading })
}

/// The forward process of Stable Diffusion, ending in pure noise where the file says so as ComfyUI's users mark it.
fn schedule(file: &Weights) -> Result<NoiseSchedule> {
    let zero_terminal_snr = file.shape("ztsnr").is_some();
    NoiseSchedule::new(Betas::ScaledLinear { start: 0.000_85, end: 0.012 }, 1000, zero_terminal_snr)
}

/// What the network predicts: said by the file, or told from the weights of version 2.
fn prediction(file: &Weights, unet: &Weights, family: Family) -> Prediction {
    let noted = ["modelspec.prediction_type", "modelspec.predict_key"].iter().find_map(|key| file.note(key));
    match noted.map(str::to_ascii_lowercase).as_deref() {
        Some("v" | "velocity" | "v_prediction") => Prediction::Velocity,
        Some("epsilon" | "eps") => Prediction::Epsilon,
        _ if file.shape("v_pred").is_some() => Prediction::Velocity,
        _ if family == Family::V2 && shapes::looks_like_velocity(unet) => Prediction::Velocity,
        _ => Prediction::Epsilon,
    }
}

fn unet(file: &Weights) -> Weights {
    let layers = layers(file, UNET);
    file.renamed(|name| one(name.strip_prefix(UNET).and_then(|name| names::unet(name, layers))))
}

/// Residual blocks per level: the first convolution with a stride ends the first level.
fn layers(file: &Weights, prefix: &str) -> usize {
    let ends = |i: &usize| file.shape(&format!("{prefix}input_blocks.{i}.0.op.weight")).is_some();
    (2..100).find(ends).map_or(2, |i| i - 1)
}

/// A ControlNet's weights, whichever names they have in its file.
pub(super) fn controlnet(file: &Weights) -> Weights {
    let prefix = if file.names().any(|name| name.starts_with(CONTROLNET)) { CONTROLNET } else { "" };
    let original = file.shape(&format!("{prefix}input_hint_block.0.weight")).is_some();
    let layers = layers(file, prefix);
    file.renamed(|name| {
        let name = name.strip_prefix(prefix);
        one(if original { name.and_then(|name| names::controlnet(name, layers)) } else { name.map(str::to_owned) })
    })
}

fn text(file: &Weights, kind: TextKind) -> Result<(TextKind, ClipTextConfig, Weights), String> {
    let weights = file.renamed(|name| match (name.strip_prefix(kind.prefix), kind.clip) {
        (None, _) => Vec::new(),
        (Some(name), Clip::OpenAi) => one(Some(name.to_owned())),
        (Some(name), Clip::OpenClip) => names::open_clip(name),
    });
    Ok((kind, shapes::text(&weights, kind)?, weights))
}

/// The autoencoder's weights, and the file that they are from.
fn vae<'a>(path: &'a Path, file: &Weights) -> Result<(Cow<'a, Path>, Weights)> {
    let beside = path.with_extension("vae.safetensors");
    if beside.is_file() {
        let own = Weights::read_file(beside.clone())?;
        let Some(weights) = autoencoder(&own) else {
            return Err(Error::model(beside, "no autoencoder: it has neither encoder nor decoder"));
        };
        return Ok((beside.into(), weights));
    }
    match autoencoder(file) {
        Some(weights) => Ok((path.into(), weights)),
        None => {
            let name = beside.file_name().unwrap_or_default().to_string_lossy();
            Err(Error::model(path, format!("the file has no autoencoder; put one beside it, called {name}")))
        }
    }
}

/// The autoencoder in a file, by whichever names: those of a whole checkpoint, the same without their prefix, or
/// diffusers'.
fn autoencoder(file: &Weights) -> Option<Weights> {
    if file.shape("encoder.down_blocks.0.resnets.0.conv1.weight").is_some() {
        return Some(file.clone());
    }
    let prefix = [VAE, ""].into_iter().find(|p| file.shape(&format!("{p}decoder.conv_in.weight")).is_some())?;
    let level = |i: &usize| file.shape(&format!("{prefix}encoder.down.{i}.block.0.conv1.weight")).is_some();
    let levels = (0..).take_while(level).count().max(1);
    Some(file.renamed(|name| one(name.strip_prefix(prefix).and_then(|name| names::vae(name, levels)))))
}

fn one(name: Option<String>) -> Vec<(String, Part)> {
    name.map(|name| (name, Part::Whole)).into_iter().collect()
}
