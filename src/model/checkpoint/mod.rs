//! What is on disk to networks in memory: a diffusers folder or a single file, read by [`Model::load`].

mod file;
mod find;
mod folder;
mod opened;
mod parts;
mod single;
mod weights;

pub(crate) use file::{read_file, read_json, without_mark};
pub use find::{find, places};
pub(crate) use find::{named, names};
pub use opened::Opened;

use super::clip::ClipTextModel;
use super::codec::Codec;
use super::tokenizer::Tokenizer;
use super::unet::{UNet2DConditionModel, UNetConfig};
use crate::Result;
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::schedule::NoiseSchedule;
use candle_core::{DType, Device};
use parts::Parts;
use std::path::Path;
use weights::Weights;

/// A loaded model: everything that the pipeline joins.
#[derive(Debug)]
pub struct Model {
    /// The folder's name, or the file's without its ending.
    pub name: String,
    /// The first ten hexadecimal digits of a SHA-256 over all weights; of a single file, those of the file's own.
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
    /// Bytes that its weights take in memory.
    pub bytes: u64,
}

/// A model's own defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Defaults {
    /// Guidance scale.
    pub guidance: f64,
}

impl Defaults {
    /// Of 3 and 5, small models of icons are recognised more often at 5; 7.5 is what Stable Diffusion is used with.
    fn of(unet: &UNetConfig) -> Self {
        Self { guidance: if unet.sample_size <= 16 { 5.0 } else { 7.5 } }
    }
}

impl Model {
    /// Loads a diffusers folder, or a single file in the names of the original Stable Diffusion, weights as `dtype`. An
    /// unusable one is an [`crate::Error::Model`] that names the file and, where one is at fault, the tensor with its
    /// expected and found shape.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        Opened::read(path)?.load(device, dtype)
    }

    fn build(name: String, parts: Parts, device: &Device, dtype: DType) -> Result<Self> {
        let Parts { tokenizer, text, unet, codec, schedule, prediction } = parts;
        let weights = [&text.1, &unet.1, &codec.1];
        let networks = || -> Result<_> {
            let text_encoder = text.1.build(dtype, device, |vb| ClipTextModel::new(&text.0, vb))?;
            let unet = unet.1.build(dtype, device, |vb| UNet2DConditionModel::new(&unet.0, vb))?;
            Ok((text_encoder, unet, codec.1.build(dtype, device, |vb| Codec::new(&codec.0, vb))?))
        };
        let (hash, networks) = rayon::join(|| weights::hash(weights), networks);
        let (text_encoder, unet, codec) = networks?;
        let (defaults, bytes) = (Defaults::of(unet.config()), weights.into_iter().map(Weights::taken).sum());
        Ok(Self { name, hash, tokenizer, text_encoder, unet, codec, schedule, prediction, defaults, bytes })
    }
}

/// What the model at `path` is called: as its folder, or as its file without the ending. A link has its own name.
pub(crate) fn name(path: &Path) -> String {
    // "." and ".." have none.
    let named = if path.file_name().is_some() { Ok(path.to_owned()) } else { path.canonicalize() };
    let path = named.unwrap_or_default();
    let name = if path.is_file() { path.file_stem() } else { path.file_name() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
