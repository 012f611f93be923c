//! What is on disk to networks in memory: a diffusers folder or a single file, read by [`Model::load`].

mod defaults;
mod file;
mod find;
mod folder;
mod parts;
mod single;
mod weights;

pub use defaults::Defaults;
pub(crate) use file::{read_file, read_json, without_mark};
pub use find::find;
pub(super) use single::ldm_unet;
pub(super) use weights::{Base, Weights};

use super::adapter::{Adaptable, Bases};
use super::clip::ClipTextModel;
use super::codec::Codec;
use super::text_encoder::TextEncoder;
use super::unet::UNet2DConditionModel;
use crate::Result;
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::schedule::NoiseSchedule;
use candle_core::{DType, Device};
use parts::{Parts, TextParts};
use std::path::Path;
use std::sync::Arc;

/// A loaded model: everything that the pipeline joins. A clone shares all of it.
#[derive(Debug, Clone)]
pub struct Model {
    /// The folder's name, or the file's without its ending.
    pub name: String,
    /// The first ten hexadecimal digits of a SHA-256 over all weights; of a single file, those of the file's own.
    pub hash: String,
    /// Prompts to states: one encoder, or two whose states stand side by side, of which the last gives the vector.
    pub text: Vec<TextEncoder>,
    /// Whether an empty negative prompt is told as zeros instead of being read (SDXL).
    pub zeros_for_empty: bool,
    /// The noise-prediction network.
    pub unet: Arc<UNet2DConditionModel>,
    /// Latents to pictures and back.
    pub codec: Arc<Codec>,
    /// The forward process it was trained with.
    pub schedule: NoiseSchedule,
    /// What the U-Net predicts.
    pub prediction: Prediction,
    /// What to use where a request says nothing.
    pub defaults: Defaults,
    /// What adapters need to make another model of this one.
    pub(super) adaptable: Arc<Adaptable>,
}

impl Model {
    /// Loads a diffusers folder, or a single file in the names of the original Stable Diffusion, weights as `dtype`. An
    /// unusable one is an [`crate::Error::Model`] that names the file and, where one is at fault, the tensor with its
    /// expected and found shape.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let parts = if path.is_file() { single::read(path)? } else { folder::read(path)? };
        let Parts { text, unet, codec, schedule, prediction, defaults, zeros_for_empty } = parts;
        let all = text.iter().map(|text| &text.weights).chain([&unet.1, &codec.1]).collect();
        let networks = || -> Result<_> {
            let texts = text.iter().map(|text| {
                text.weights.build_kept(dtype, device, |vb| ClipTextModel::new(&text.config, vb))
            });
            let texts = texts.collect::<Result<Vec<_>>>()?;
            let unet = unet.1.build_kept(dtype, device, |vb| UNet2DConditionModel::new(&unet.0, vb))?;
            Ok((texts, unet, codec.1.build(dtype, device, |vb| Codec::new(&codec.0, vb))?))
        };
        let (hash, networks) = rayon::join(|| weights::hash(all), networks);
        let (texts, (unet, unet_base), codec) = networks?;
        let (mut encoders, mut configs, mut bases) = (Vec::new(), Vec::new(), Vec::new());
        for (TextParts { tokenizer, reading, config, .. }, (network, base)) in text.into_iter().zip(texts) {
            encoders.push(TextEncoder { tokenizer: Arc::new(tokenizer), network: Arc::new(network), reading });
            configs.push(config);
            bases.push(base);
        }
        let adaptable = Arc::new(Adaptable::new(Bases { text: bases, unet: unet_base }, configs));
        let (name, text, unet, codec) = (name(path), encoders, Arc::new(unet), Arc::new(codec));
        Ok(Self { name, hash, text, zeros_for_empty, unet, codec, schedule, prediction, defaults, adaptable })
    }
}

fn name(path: &Path) -> String {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if path.is_file() { path.file_stem() } else { resolved.file_name() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
