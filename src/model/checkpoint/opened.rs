//! A model of which everything was read but its weights: enough to say what it is and what it will take, and to load it.

use super::parts::Parts;
use super::{ControlNets, Defaults, IpAdapters, Model, Precision, companion, folder, name, places, single};
use crate::Result;
use crate::diffusion::schedule::NoiseSchedule;
use crate::model::adapter::{Adapters, Catalogue, Layout};
use crate::model::tokenizer::Tokenizer;
use crate::model::unet::{Beside, UNetConfig};
use candle_core::Device;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A judge in a model folder (see [`crate::train::judge`]).
const JUDGE: &str = "judge.safetensors";

/// A model before any network is built.
pub struct Opened {
    path: PathBuf,
    parts: Parts,
    layout: Arc<Layout>,
    /// Where a tiny decoder for its latents is.
    companion: Option<PathBuf>,
    catalogue: Catalogue,
}

impl Opened {
    /// Reads the small files of a diffusers folder, or the header of a single file. Fails as [`Model::load`] does.
    pub fn read(path: &Path) -> Result<Self> {
        let parts = if path.is_file() { single::read(path)? } else { folder::read(path)? };
        let layout = Arc::new(Layout::new(parts.text.iter().map(|text| &text.weights), &parts.unet.1));
        let companion = companion::find(path, &parts.codec.0);
        Ok(Self { path: path.to_owned(), parts, layout, companion, catalogue: Catalogue::new(places()) })
    }

    /// The same with adapters and embeddings from a catalogue; without it, they are looked for where models are.
    #[must_use]
    pub fn with_catalogue(self, catalogue: Catalogue) -> Self {
        Self { catalogue, ..self }
    }

    /// What it can be drawn with besides.
    pub fn adapters(&self) -> Adapters {
        Adapters::new(self.catalogue.clone(), self.layout.clone())
    }

    /// The file of a judge of its pictures, where there is one.
    pub fn judge(&self) -> Option<PathBuf> {
        Some(self.path.join(JUDGE)).filter(|file| file.is_file())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Model::name`].
    pub fn name(&self) -> String {
        name(&self.path)
    }

    /// What it is, in words: its family, and what it is for besides plain drawing.
    pub fn kind(&self) -> String {
        let family = match self.unet().cross_attention_dim {
            _ if self.parts.codec.0.is_own() => "Limner",
            768 => "Stable Diffusion 1",
            1024 => "Stable Diffusion 2",
            2048 => "Stable Diffusion XL",
            _ => "Stable Diffusion",
        };
        let purpose = match self.unet().beside() {
            Some(Beside::Picture) => " for editing",
            Some(Beside::MaskAndPicture) => " for inpainting",
            Some(Beside::Nothing) | None => "",
        };
        format!("{family}{purpose}")
    }

    /// The noise-prediction network.
    pub fn unet(&self) -> &UNetConfig {
        &self.parts.unet.0
    }

    /// Pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        self.parts.codec.0.factor()
    }

    /// Layers of the text encoder, of the smaller where there are two.
    pub fn text_layers(&self) -> usize {
        self.parts.text.iter().map(|text| text.config.num_hidden_layers).min().unwrap_or(1)
    }

    /// Times of the forward process.
    pub fn times(&self) -> usize {
        self.parts.schedule.steps()
    }

    /// The forward process.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.parts.schedule
    }

    /// What to use where a request says nothing.
    pub fn defaults(&self) -> Defaults {
        self.parts.defaults
    }

    /// Whether a tiny decoder can be asked for.
    pub fn has_tiny_decoder(&self) -> bool {
        self.companion.is_some() || self.parts.codec.0.is_tiny()
    }

    /// The IP-Adapters among the models, seen from this one.
    pub fn ip_adapters(&self) -> IpAdapters {
        IpAdapters::of(&self.path, self.unet())
    }

    /// The ControlNets among the models, seen from this one.
    pub fn controlnets(&self) -> ControlNets {
        ControlNets::of(&self.path, self.unet(), self.factor())
    }

    /// Bytes that its weights will take in a precision: an estimate from the files' headers, to which tensors that no
    /// network asks for belong, too.
    pub fn bytes(&self, precision: Precision) -> u64 {
        let Parts { text, unet, codec, .. } = &self.parts;
        let precision = precision.of_model(unet.1.stored());
        let weights = text.iter().map(|text| &text.weights).chain([&unet.1]);
        weights.map(|weights| weights.bytes(precision)).sum::<u64>() + codec.1.bytes(precision.of_codec())
    }

    /// What splits prompts into tokens: of two text encoders, the first one's, whose vocabulary is also the other's.
    pub fn into_tokenizer(mut self) -> Tokenizer {
        self.parts.text.remove(0).tokenizer
    }

    /// Builds the networks.
    pub fn load(self, device: &Device, precision: impl Into<Precision>) -> Result<Model> {
        Model::build(name(&self.path), self.parts, (self.layout, self.companion), device, precision.into())
    }
}
