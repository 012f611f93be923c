//! What is on disk to networks in memory: a diffusers folder or a single file, read by [`Model::load`].

mod companion;
mod controlnets;
mod file;
mod find;
mod folder;
mod parts;
mod single;
mod weights;

pub use companion::Companion;
pub use controlnets::{ControlNets, LoadedControlNet};
pub(crate) use file::{read_file, read_json, without_mark};
pub use find::find;

use super::clip::ClipTextModel;
use super::codec::{Codec, Decoder};
use super::tokenizer::Tokenizer;
use super::unet::UNet2DConditionModel;
use crate::Result;
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::schedule::NoiseSchedule;
use candle_core::{DType, Device, Tensor};
use parts::Parts;
use std::path::Path;

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
    /// Latents to pictures in less time and not as well, where there is such a decoder.
    pub companion: Option<Companion>,
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
    /// Loads a diffusers folder, or a single file in the names of the original Stable Diffusion, weights as `dtype`. An
    /// unusable one is an [`crate::Error::Model`] that names the file and, where one is at fault, the tensor with its
    /// expected and found shape.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let parts = if path.is_file() { single::read(path)? } else { folder::read(path)? };
        let Parts { tokenizer, text, unet, codec, schedule, prediction } = parts;
        let networks = || -> Result<_> {
            let text_encoder = text.1.build(dtype, device, |vb| ClipTextModel::new(&text.0, vb))?;
            let unet = unet.1.build(dtype, device, |vb| UNet2DConditionModel::new(&unet.0, vb))?;
            Ok((text_encoder, unet, codec.1.build(dtype, device, |vb| Codec::new(&codec.0, vb))?))
        };
        let companion = Companion::find(path, &codec.0, dtype, device)?;
        let (hash, networks) = rayon::join(|| weights::hash([&text.1, &unet.1, &codec.1]), networks);
        let (text_encoder, unet, codec) = networks?;
        // Of 3 and 5, small models of icons are recognised more often at 5; 7.5 is what Stable Diffusion is used with.
        let defaults = Defaults { guidance: if unet.config().sample_size <= 16 { 5.0 } else { 7.5 } };
        let name = name(path);
        Ok(Self { name, hash, tokenizer, text_encoder, unet, codec, companion, schedule, prediction, defaults })
    }

    /// Whether [`Decoder::Tiny`] can be asked for.
    pub fn has_tiny_decoder(&self) -> bool {
        self.companion.is_some() || matches!(self.codec, Codec::Tiny(_))
    }

    /// The companion, where it is asked for and there is one.
    pub fn companion_for(&self, decoder: Decoder) -> Option<&Companion> {
        self.companion.as_ref().filter(|_| decoder == Decoder::Tiny)
    }

    /// Latents (B, C, h, w) as the U-Net sees them to pictures (B, 3, H, W), about [-1, 1], not clipped. Without a
    /// companion its own decoder is the only one.
    pub fn decode(&self, latents: &Tensor, decoder: Decoder) -> Result<Tensor> {
        match self.companion_for(decoder) {
            Some(companion) => companion.decoder.decode(latents),
            None => self.codec.decode(latents),
        }
    }

    /// A quick look at latents: by the companion, or as quickly as the codec can.
    pub fn preview(&self, latents: &Tensor) -> Result<Tensor> {
        match &self.companion {
            Some(companion) => companion.decoder.decode(latents),
            None => self.codec.preview(latents),
        }
    }
}

fn name(path: &Path) -> String {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if path.is_file() { path.file_stem() } else { resolved.file_name() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
