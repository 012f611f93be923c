//! Pictures to the latents that a U-Net works on, and back: an autoencoder with its normalisation.

use super::autoencoder::{Moments, PatchAutoencoder, PatchAutoencoderConfig};
use super::checkpoint::read_json;
use crate::{Error, Result};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde::Deserialize;
use std::path::Path;

/// An autoencoder of one of the known kinds.
#[derive(Debug)]
pub enum Codec {
    /// The bundled model's.
    Patch(PatchAutoencoder),
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "_class_name")]
    class_name: String,
}

impl Codec {
    /// Reads the configuration file, then the weights through `build`.
    pub(super) fn load(config: &Path, build: impl FnOnce(Build<'_>) -> Result<Self>) -> Result<Self> {
        let Kind { class_name } = read_json(config)?;
        match class_name.as_str() {
            "PatchAutoencoder" => {
                let sizes: PatchAutoencoderConfig = read_json(config)?;
                sizes.check().map_err(|message| Error::model(config, message))?;
                build(Box::new(move |vb| Ok(Self::Patch(PatchAutoencoder::new(&sizes, vb)?))))
            }
            other => Err(Error::model(config, format!("unknown autoencoder {other:?}"))),
        }
    }

    /// Pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        match self {
            Self::Patch(model) => model.config().factor(),
        }
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Patch(model) => model.config().latent_channels,
        }
    }

    /// Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, h, w) as the U-Net sees them: the mean, normalised.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        match self {
            Self::Patch(model) => {
                let Moments { mean, .. } = model.encode(pictures)?;
                model.normalise(&mean)
            }
        }
    }

    /// The inverse of [`Codec::encode`], as far as the autoencoder goes: about [-1, 1], not clipped.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        match self {
            Self::Patch(model) => model.decode(&model.denormalise(latents)?),
        }
    }
}

/// Builds a codec from variables.
pub(super) type Build<'a> = Box<dyn FnOnce(&VarBuilder<'_>) -> Result<Codec> + 'a>;
