//! Pictures to the latents that a U-Net works on, and back: an autoencoder with its normalisation, or nothing at all.

use super::autoencoder::{PatchAutoencoder, PatchAutoencoderConfig};
use super::checkpoint::read_json;
use super::taesd::{AutoencoderTiny, TinyConfig};
use super::vae::{AutoencoderKl, VaeConfig};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// An autoencoder of one of the known kinds, or none.
#[derive(Debug)]
pub enum Codec {
    /// The bundled model's.
    Patch(Box<PatchAutoencoder>),
    /// Stable Diffusion's.
    Kl(Box<AutoencoderKl>),
    /// One that was distilled from that.
    Tiny(Box<AutoencoderTiny>),
    /// None: the U-Net works on pixels.
    Pixels,
}

/// The contents of `vae/config.json`, checked; [`CodecConfig::Pixels`] is a model without one.
#[derive(Debug, Clone)]
pub(super) enum CodecConfig {
    Patch(PatchAutoencoderConfig),
    Kl(VaeConfig),
    Tiny(TinyConfig),
    Pixels,
}

/// Colours of a pixel.
const COLOURS: usize = 3;

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "_class_name")]
    class_name: String,
}

impl CodecConfig {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let Kind { class_name } = read_json(path)?;
        let config = match class_name.as_str() {
            "PatchAutoencoder" => {
                let config: PatchAutoencoderConfig = read_json(path)?;
                config.check().map(|()| Self::Patch(config))
            }
            "AutoencoderKL" => Self::kl(read_json(path)?),
            "AutoencoderTiny" => {
                let config: TinyConfig = read_json(path)?;
                config.check().map(|()| Self::Tiny(config))
            }
            other => Err(format!(
                "unknown autoencoder {other:?}; known are AutoencoderKL, AutoencoderTiny and PatchAutoencoder"
            )),
        };
        config.map_err(|message| Error::model(path, message))
    }

    /// An `AutoencoderKL` for pictures, or what is wrong with it.
    pub(super) fn kl(config: VaeConfig) -> std::result::Result<Self, String> {
        config.check()?;
        match (config.in_channels, config.out_channels) {
            (3, 3) => Ok(Self::Kl(config)),
            (from, to) => Err(format!("{from} input and {to} output channels, but pictures have 3")),
        }
    }

    /// The name of a tiny decoder for the same latents: those of Stable Diffusion, or those of XL, which are scaled to
    /// another variance.
    pub(super) fn companion(&self) -> Option<&'static str> {
        match self {
            Self::Kl(config) if config.latent_channels != 4 => None,
            Self::Kl(config) if (config.scaling_factor - 0.13025).abs() < 1e-6 => Some("taesdxl"),
            Self::Kl(_) => Some("taesd"),
            Self::Patch(_) | Self::Tiny(_) | Self::Pixels => None,
        }
    }

    /// Pixels per latent, along one side.
    pub(super) fn factor(&self) -> usize {
        match self {
            Self::Patch(config) => config.factor(),
            Self::Kl(config) => config.factor(),
            Self::Tiny(config) => config.factor(),
            Self::Pixels => 1,
        }
    }

    /// Channels of the latents.
    pub(super) fn latent_channels(&self) -> usize {
        match self {
            Self::Patch(config) => config.latent_channels,
            Self::Kl(config) => config.latent_channels,
            Self::Tiny(config) => config.latent_channels,
            Self::Pixels => COLOURS,
        }
    }

    /// Whether it is tiny by itself.
    pub(super) fn is_tiny(&self) -> bool {
        matches!(self, Self::Tiny(_))
    }

    /// Whether only models that this program trained have it.
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Self::Patch(_) | Self::Pixels)
    }
}

/// Which decoder draws a finished picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoder {
    /// The model's own.
    #[default]
    Full,
    /// A tiny one that was distilled from it: in less time, and not as well.
    Tiny,
}

impl Decoder {
    /// Both, in the order in which a form lists them.
    pub const ALL: [Self; 2] = [Self::Full, Self::Tiny];

    /// The name used in JSON, in the form and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Tiny => "tiny",
        }
    }
}

impl Codec {
    pub(super) fn new(config: &CodecConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(match config {
            CodecConfig::Patch(config) => Self::Patch(Box::new(PatchAutoencoder::new(config, vb)?)),
            CodecConfig::Kl(config) => Self::Kl(Box::new(AutoencoderKl::new(config, vb)?)),
            CodecConfig::Tiny(config) => Self::Tiny(Box::new(AutoencoderTiny::new(config, vb)?)),
            CodecConfig::Pixels => Self::Pixels,
        })
    }

    /// Pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        match self {
            Self::Patch(model) => model.config().factor(),
            Self::Kl(model) => model.config().factor(),
            Self::Tiny(model) => model.config().factor(),
            Self::Pixels => 1,
        }
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Patch(model) => model.config().latent_channels,
            Self::Kl(model) => model.config().latent_channels,
            Self::Tiny(model) => model.config().latent_channels,
            Self::Pixels => COLOURS,
        }
    }

    /// The type that the autoencoder computes in. What goes in and what comes out may be of any.
    fn dtype(&self) -> DType {
        match self {
            Self::Patch(model) => model.dtype(),
            Self::Kl(model) => model.dtype(),
            Self::Tiny(model) => model.dtype(),
            Self::Pixels => DType::F32,
        }
    }

    /// Pictures (B, 3, H, W) in [-1, 1] to the mean of the autoencoder's own latents (B, C, h, w), not normalised.
    pub fn mean(&self, pictures: &Tensor) -> Result<Tensor> {
        let x = pictures.to_dtype(self.dtype())?;
        let mean = match self {
            Self::Patch(model) => model.encode(&x)?.mean,
            Self::Kl(model) => model.encode(&x)?.mean,
            Self::Tiny(model) => model.encode(&x)?,
            Self::Pixels => x,
        };
        Ok(mean.to_dtype(pictures.dtype())?)
    }

    /// Pictures (B, 3, H, W) in [-1, 1] to latents (B, C, h, w) as the U-Net sees them: the mean, normalised.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        match self {
            Self::Patch(model) => model.normalise(&self.mean(pictures)?),
            Self::Kl(model) => {
                let (scale, shift) = scale_and_shift(model.config());
                Ok(((self.mean(pictures)? - shift)? * scale)?)
            }
            Self::Tiny(model) => model.encode(pictures),
            Self::Pixels => Ok(pictures.clone()),
        }
    }

    /// The inverse of [`Codec::encode`], as far as the autoencoder goes: about [-1, 1], not clipped.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let x = latents.to_dtype(self.dtype())?;
        let pictures = match self {
            Self::Patch(model) => model.decode(&model.denormalise(&x)?)?,
            Self::Kl(model) => {
                let (scale, shift) = scale_and_shift(model.config());
                model.decode(&((x / scale)? + shift)?)?
            }
            Self::Tiny(model) => model.decode(&x)?,
            Self::Pixels => x,
        };
        Ok(pictures.to_dtype(latents.dtype())?)
    }

    /// A quick look at latents: decoded where that is cheap, else one pixel for each latent by a linear map.
    pub fn preview(&self, latents: &Tensor) -> Result<Tensor> {
        match self {
            Self::Kl(_) if self.latent_channels() == 4 => project(latents),
            _ => self.decode(latents),
        }
    }
}

/// How Stable Diffusion's four latent channels look as red, green and blue: the map that ComfyUI's previews use
/// (`latent_formats.SD15`), for latents as the U-Net sees them.
const LATENT_TO_RGB: [[f32; 3]; 4] =
    [[0.3512, 0.2297, 0.3227], [0.3250, 0.4974, 0.2350], [-0.2829, 0.1762, 0.2721], [-0.2120, -0.2616, -0.7177]];

/// (B, 4, h, w) to (B, 3, h, w) about [-1, 1].
fn project(latents: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = latents.dims4()?;
    let map = Tensor::new(&LATENT_TO_RGB, latents.device())?.t()?.to_dtype(latents.dtype())?;
    let flat = latents.reshape((batch, channels, height * width))?;
    Ok(map.contiguous()?.broadcast_matmul(&flat)?.reshape((batch, 3, height, width))?)
}

fn scale_and_shift(config: &VaeConfig) -> (f64, f64) {
    (config.scaling_factor, config.shift_factor.unwrap_or(0.0))
}
