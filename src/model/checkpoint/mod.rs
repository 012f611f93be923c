//! What is on disk to networks in memory: a diffusers folder or a single file, read by [`Model::load`].

mod companion;
mod controlnets;
mod defaults;
mod file;
mod find;
mod folder;
mod ip_adapters;
mod kept;
mod opened;
mod origin;
mod parts;
mod precision;
mod single;
mod stamp;
mod weights;

pub use companion::Companion;
pub(crate) use companion::companions;
pub use controlnets::{ControlNets, LoadedControlNet};
pub use defaults::Defaults;
pub(crate) use file::{read_file, read_json, without_mark};
pub(crate) use find::{BUNDLED, all, is_model, is_name, named, names, users_folder};
pub use find::{find, places};
pub(crate) use folder::{ERRORS, REFINER, check_index};
pub use ip_adapters::{IpAdapters, LoadedIpAdapter};
pub use opened::Opened;
pub(crate) use origin::{RECORD, record};
pub use precision::Precision;
pub(super) use single::ldm_unet;
pub(crate) use stamp::{Stamp, Stamps};
pub(super) use weights::{Base, Hash, Weights};
pub(crate) use weights::{PICKLE, is_pickle_name};

use super::adapter::{Adaptable, Bases, Layout, Used};
use super::clip::ClipTextModel;
use super::codec::{Codec, Decoder};
use super::text_encoder::TextEncoder;
use super::unet::UNet2DConditionModel;
use crate::Result;
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::errors::SquaredErrors;
use crate::diffusion::schedule::NoiseSchedule;
use candle_core::{Device, Tensor};
use parts::{Parts, TextParts};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A loaded model: everything that the pipeline joins. A clone shares all of it.
#[derive(Debug, Clone)]
pub struct Model {
    /// The folder's name, or the file's without its ending.
    pub name: String,
    /// Prompts to states: one encoder, or two whose states stand side by side, of which the last gives the vector.
    pub text: Vec<TextEncoder>,
    /// Whether an empty negative prompt is told as zeros instead of being read (SDXL).
    pub zeros_for_empty: bool,
    /// The noise-prediction network.
    pub unet: Arc<UNet2DConditionModel>,
    /// Latents to pictures and back.
    pub codec: Arc<Codec>,
    /// Latents to pictures in less time and not as well, where there is such a decoder.
    pub companion: Option<Arc<Companion>>,
    /// The forward process it was trained with.
    pub schedule: NoiseSchedule,
    /// How much it errs at each noise level, where that was measured.
    pub errors: Option<Arc<SquaredErrors>>,
    /// What the U-Net predicts.
    pub prediction: Prediction,
    /// What to use where a request says nothing.
    pub defaults: Defaults,
    /// Bytes that its weights take in memory.
    pub bytes: u64,
    hash: Arc<Hash>,
    /// What it was made with, of another model.
    pub adapters: Vec<Used>,
    /// What adapters need to make another model of this one.
    pub(super) adaptable: Arc<Adaptable>,
}

impl Model {
    /// Loads a diffusers folder, or a single file in the names of the original Stable Diffusion, in a [`Precision`], or
    /// everything in one type. An unusable one is an [`crate::Error::Model`] that names the file and, where one is at
    /// fault, the tensor with its expected and found shape.
    pub fn load(path: &Path, device: &Device, precision: impl Into<Precision>) -> Result<Self> {
        Opened::read(path)?.load(device, precision)
    }

    fn build(
        name: String,
        parts: Parts,
        (layout, companion): (Arc<Layout>, Option<PathBuf>),
        device: &Device,
        precision: Precision,
    ) -> Result<Self> {
        let Parts { text, unet, codec, schedule, errors, prediction, defaults, zeros_for_empty } = parts;
        let all: Vec<_> = text.iter().map(|text| &text.weights).chain([&unet.1, &codec.1]).cloned().collect();
        let hash = Arc::new(Hash::of(&all));
        let precision = precision.of_model(unet.1.stored());
        let (mut encoders, mut configs, mut bases) = (Vec::new(), Vec::new(), Vec::new());
        for TextParts { tokenizer, config, weights, reading } in text {
            let (network, base) = weights.build_kept(precision, device, |vb| ClipTextModel::new(&config, vb))?;
            encoders.push(TextEncoder { tokenizer: Arc::new(tokenizer), network: Arc::new(network), reading });
            configs.push(config);
            bases.push(base);
        }
        let (unet, base) = unet.1.build_kept(precision, device, |vb| UNet2DConditionModel::new(&unet.0, vb))?;
        let companion = companion.map(|path| Companion::load(&path, &codec.0, device).map(Arc::new)).transpose()?;
        let codec = codec.1.build(precision.of_codec(), device, |vb| Codec::new(&codec.0, vb))?;
        let adaptable = Arc::new(Adaptable { layout, bases: Bases { text: bases, unet: base }, configs });
        let bytes = all.iter().map(Weights::taken).chain(companion.iter().map(|companion| companion.bytes)).sum();
        let (text, unet, codec) = (encoders, Arc::new(unet), Arc::new(codec));
        let adapters = Vec::new();
        Ok(Self {
            name,
            text,
            zeros_for_empty,
            unet,
            codec,
            companion,
            schedule,
            errors: errors.map(Arc::new),
            prediction,
            defaults,
            bytes,
            hash,
            adapters,
            adaptable,
        })
    }

    /// The first ten hexadecimal digits of a SHA-256 over all weights; of a single file, those of the file's own. The
    /// first call may read all files. `unknown` where one was changed after it was loaded.
    pub fn hash(&self) -> &str {
        self.hash.get()
    }

    /// The companion, where it is asked for and there is one.
    pub fn companion_for(&self, decoder: Decoder) -> Option<&Companion> {
        self.companion.as_deref().filter(|_| decoder == Decoder::Tiny)
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

/// What the model at `path` is called: as its folder, or as its file without the ending. A link has its own name.
pub(crate) fn name(path: &Path) -> String {
    // "." and ".." have none.
    let named = if path.file_name().is_some() { Ok(path.to_owned()) } else { path.canonicalize() };
    let path = named.unwrap_or_default();
    let name = if path.is_file() { path.file_stem() } else { path.file_name() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
