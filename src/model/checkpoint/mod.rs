//! What is on disk to networks in memory: a diffusers folder, read by [`Model::load`].

mod file;
mod find;
mod folder;
mod weights;

pub(crate) use file::{read_file, read_json, without_mark};
pub use find::find;

use super::clip::{ClipTextConfig, ClipTextModel};
use super::codec::{Codec, CodecConfig};
use super::tokenizer::Tokenizer;
use super::unet::{UNet2DConditionModel, UNetConfig};
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::schedule::NoiseSchedule;
use crate::{Error, Result};
use candle_core::{DType, Device};
use folder::SchedulerConfig;
use std::path::Path;
use weights::Weights;

/// A loaded model: everything that the pipeline joins.
#[derive(Debug)]
pub struct Model {
    /// The folder's name.
    pub name: String,
    /// The first ten hexadecimal digits of a SHA-256 over all weights.
    pub hash: String,
    /// Prompts to ids.
    pub tokenizer: Tokenizer,
    /// Ids to states.
    pub text_encoder: ClipTextModel,
    /// The noise-prediction network.
    pub unet: UNet2DConditionModel,
    /// Latents to pictures and back.
    pub codec: Codec,
    /// The forward process it was trained with.
    pub schedule: NoiseSchedule,
    /// What the U-Net predicts.
    pub prediction: Prediction,
    /// What to use where a request says nothing.
    pub defaults: Defaults,
}

/// A model's own defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Guidance scale.
    pub guidance: f64,
}

impl Model {
    /// Loads the diffusers folder `path`, weights as `dtype`. An unusable folder is an [`Error::Model`] that names the file
    /// and, where one is at fault, the tensor with its expected and found shape.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        folder::check_index(path)?;
        let text_config: ClipTextConfig = read_json(&path.join("text_encoder/config.json"))?;
        let unet_config: UNetConfig = read_json(&path.join("unet/config.json"))?;
        let codec_config = CodecConfig::read(&path.join("vae/config.json"))?;
        let scheduler: SchedulerConfig = read_json(&path.join("scheduler/scheduler_config.json"))?;
        folder::check_sizes(path, &text_config, &unet_config)?;
        folder::check_latents(path, &codec_config, &unet_config)?;
        let (schedule, prediction) = (scheduler.schedule(path)?, scheduler.prediction(path)?);
        let tokenizer = open_tokenizer(path, &text_config)?;

        let [text, unet, vae] = read_all(path)?;
        let networks = || -> Result<_> {
            let text_encoder = text.build(dtype, device, |vb| ClipTextModel::new(&text_config, vb))?;
            let unet = unet.build(dtype, device, |vb| UNet2DConditionModel::new(&unet_config, vb))?;
            Ok((text_encoder, unet, vae.build(dtype, device, |vb| Codec::new(&codec_config, vb))?))
        };
        let (hash, networks) = rayon::join(|| weights::hash([&text, &unet, &vae]), networks);
        let (text_encoder, unet, codec) = networks?;
        // Of 3 and 5, small models of icons are recognised more often at 5; 7.5 is what Stable Diffusion is used with.
        let defaults = Defaults { guidance: if unet_config.sample_size <= 16 { 5.0 } else { 7.5 } };
        Ok(Self { name: name(path), hash, tokenizer, text_encoder, unet, codec, schedule, prediction, defaults })
    }
}

/// The tokenizer, whose ids all have a row in the text encoder's table.
fn open_tokenizer(path: &Path, text: &ClipTextConfig) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::from_folder(&path.join("tokenizer"), text.max_position_embeddings)?;
    let (ids, rows) = (tokenizer.vocabulary_size(), text.vocab_size);
    if ids > rows {
        let message = format!("it has ids up to {}, but the text encoder's table only {rows} rows", ids - 1);
        return Err(Error::model(path.join("tokenizer/vocab.json"), message));
    }
    Ok(tokenizer)
}

/// The three weight files, read side by side.
fn read_all(path: &Path) -> Result<[Weights; 3]> {
    let parts = [("text_encoder", "model"), ("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")];
    let [text, unet, vae] = std::thread::scope(|scope| {
        let read = |(part, stem): (&'static str, &'static str)| {
            let folder = path.join(part);
            scope.spawn(move || Weights::read(&folder, stem))
        };
        parts.map(read).map(|thread| match thread.join() {
            Ok(weights) => weights,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    Ok([text?, unet?, vae?])
}

fn name(path: &Path) -> String {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolved.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
