//! IP-Adapter (Ye et al., arXiv:2308.06721): a picture as a prompt. What an image encoder sees becomes a few states beside
//! those of the text, to which every cross-attention of the U-Net attends with keys and values of their own.

mod resampler;

use super::layers::{LayerNorm, Linear};
use super::unet::{ImagePrompt, UNetConfig};
use crate::Result;
use crate::image::RgbImage;
use crate::model::clip_vision::ClipVisionModel;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use resampler::Resampler;
pub use resampler::ResamplerSizes;
use std::collections::HashMap;
use std::sync::Arc;

/// Sizes of an adapter, which has no configuration: they are read off its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct IpAdapterSizes {
    /// How states are made of what the encoder sees.
    pub projection: ProjectionSizes,
    /// Channels of the states, which are those of the text's.
    pub context: usize,
    /// Channels that the keys of each cross-attention have, in the order of [`UNetConfig::cross_attentions`].
    pub layers: Vec<usize>,
}

/// The two ways from an encoder to states.
#[derive(Debug, Clone, PartialEq)]
pub enum ProjectionSizes {
    /// From one vector for the whole picture.
    Linear {
        /// Channels of the encoder's vector.
        embed: usize,
        /// How many states.
        tokens: usize,
    },
    /// From all states of the encoder's last layer but one: the adapters called "plus".
    Resampler(ResamplerSizes),
}

impl IpAdapterSizes {
    /// What keeps it from serving `unet`, if anything.
    pub fn fits(&self, unet: &UNetConfig) -> std::result::Result<(), String> {
        let (ours, theirs) = (self.context, unet.cross_attention_dim);
        if ours != theirs {
            return Err(format!("its cross_attention_dim is {ours}, the model's {theirs}"));
        }
        let expected: Vec<usize> = unet.cross_attentions().into_iter().map(|(_, channels)| channels).collect();
        if self.layers == expected {
            return Ok(());
        }
        let (ours, theirs) = (self.layers.len(), expected.len());
        let differs = self.layers.iter().zip(&expected).position(|(a, b)| a != b);
        Err(match differs {
            Some(i) => format!("layer {i} has {} channels, the model's {}", self.layers[i], expected[i]),
            None => format!("it has {ours} cross-attentions, the model {theirs}"),
        })
    }
}

/// The adapter.
#[derive(Debug)]
pub struct IpAdapter {
    projection: Projection,
    /// Keys and values by the name of the cross-attention.
    layers: Vec<(String, Linear, Linear)>,
    /// That it computes in.
    dtype: DType,
}

#[derive(Debug)]
enum Projection {
    Linear { proj: Linear, norm: LayerNorm, tokens: usize },
    Resampler(Resampler),
}

impl IpAdapter {
    /// Reads the parameters `image_proj.*` and `ip_adapter.N.*` for a U-Net that `sizes` fit.
    pub fn new(sizes: &IpAdapterSizes, unet: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        let layer = |(i, (name, channels)): (usize, (String, usize))| -> Result<_> {
            // Self-attentions are counted, too, and come first.
            let vb = vb.pp("ip_adapter").pp(2 * i + 1);
            let projection = |name: &str| Linear::without_bias(sizes.context, channels, &vb.pp(name));
            Ok((name, projection("to_k_ip")?, projection("to_v_ip")?))
        };
        Ok(Self {
            projection: Projection::new(sizes, &vb.pp("image_proj"))?,
            layers: unet.cross_attentions().into_iter().enumerate().map(layer).collect::<Result<_>>()?,
            dtype: vb.dtype(),
        })
    }

    /// What the adapter makes of a picture and, as the first row, of none: (2, T, C).
    pub fn states(&self, encoder: &ClipVisionModel, picture: &RgbImage, device: &Device) -> Result<Tensor> {
        let pixels = encoder.pixels(picture, device)?;
        match self.projection {
            Projection::Linear { .. } => {
                let seen = encoder.embeds(&pixels)?;
                self.project(&Tensor::cat(&[&seen.zeros_like()?, &seen], 0)?)
            }
            Projection::Resampler(_) => {
                let both = Tensor::cat(&[&pixels.zeros_like()?, &pixels], 0)?;
                self.project(&encoder.hidden(&both, 1)?)
            }
        }
    }

    /// What an encoder saw, vectors (B, P) or states (B, S, C), to states beside the text's, (B, T, D).
    pub fn project(&self, seen: &Tensor) -> Result<Tensor> {
        let seen = &seen.to_dtype(self.dtype)?;
        match &self.projection {
            Projection::Linear { proj, norm, tokens } => {
                norm.forward(&proj.forward(seen)?.reshape((seen.dim(0)?, *tokens, ()))?)
            }
            Projection::Resampler(resampler) => resampler.forward(seen),
        }
    }

    /// Keys and values that every cross-attention has for these states, (B, T, D), for a U-Net that computes in `dtype`.
    pub fn prompt(&self, states: &Tensor, scale: f64, dtype: DType) -> Result<ImagePrompt> {
        let layer = |(name, to_k, to_v): &(String, Linear, Linear)| {
            let (k, v) = (to_k.forward(states)?.to_dtype(dtype)?, to_v.forward(states)?.to_dtype(dtype)?);
            Ok((name.clone(), (k, v)))
        };
        let layers: HashMap<_, _> = self.layers.iter().map(layer).collect::<Result<_>>()?;
        Ok(ImagePrompt { layers: Arc::new(layers), scale })
    }
}

impl Projection {
    fn new(sizes: &IpAdapterSizes, vb: &VarBuilder) -> Result<Self> {
        Ok(match &sizes.projection {
            ProjectionSizes::Linear { embed, tokens } => Self::Linear {
                proj: Linear::new(*embed, tokens * sizes.context, &vb.pp("proj"))?,
                norm: LayerNorm::new(sizes.context, 1e-5, &vb.pp("norm"))?,
                tokens: *tokens,
            },
            ProjectionSizes::Resampler(resampler) => Self::Resampler(Resampler::new(resampler, sizes.context, vb)?),
        })
    }
}
