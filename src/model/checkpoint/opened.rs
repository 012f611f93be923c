//! A model of which everything was read but its weights: enough to say what it is and what it will take, and to load it.

use super::parts::Parts;
use super::{Defaults, Model, folder, name, single};
use crate::Result;
use crate::model::unet::UNetConfig;
use candle_core::{DType, Device};
use std::path::{Path, PathBuf};

/// A model before any network is built.
pub struct Opened {
    path: PathBuf,
    parts: Parts,
}

impl Opened {
    /// Reads the small files of a diffusers folder, or the header of a single file. Fails as [`Model::load`] does.
    pub fn read(path: &Path) -> Result<Self> {
        let parts = if path.is_file() { single::read(path)? } else { folder::read(path)? };
        Ok(Self { path: path.to_owned(), parts })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Model::name`].
    pub fn name(&self) -> String {
        name(&self.path)
    }

    /// What it is, in words.
    pub fn kind(&self) -> &'static str {
        match self.parts.unet.0.cross_attention_dim {
            _ if self.parts.codec.0.is_patch() => "Limner",
            768 => "Stable Diffusion 1",
            1024 => "Stable Diffusion 2",
            2048 => "Stable Diffusion XL",
            _ => "Stable Diffusion",
        }
    }

    /// The noise-prediction network.
    pub fn unet(&self) -> &UNetConfig {
        &self.parts.unet.0
    }

    /// Pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        self.parts.codec.0.factor()
    }

    /// Times of the forward process.
    pub fn times(&self) -> usize {
        self.parts.schedule.steps()
    }

    /// What to use where a request says nothing.
    pub fn defaults(&self) -> Defaults {
        Defaults::of(self.unet())
    }

    /// Bytes that its weights will take as `dtype`: an estimate from the files' headers, to which tensors that no
    /// network asks for belong, too.
    pub fn bytes(&self, dtype: DType) -> u64 {
        let Parts { text, unet, codec, .. } = &self.parts;
        [&text.1, &unet.1, &codec.1].into_iter().map(|weights| weights.bytes(dtype)).sum()
    }

    /// Builds the networks.
    pub fn load(self, device: &Device, dtype: DType) -> Result<Model> {
        Model::build(name(&self.path), self.parts, device, dtype)
    }
}
