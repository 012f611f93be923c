//! A tiny autoencoder in the latents of a large one: TAESD (Ollin Boer Bohan 2023), as diffusers' `AutoencoderTiny` stores
//! it.
//!
//! Plain convolutions and ReLUs, distilled from Stable Diffusion's autoencoder. Its latents are those that the U-Net sees,
//! so nothing is scaled, and decoding takes about a twentieth of the large one's arithmetic: good enough to watch a
//! picture appear, and nearly good enough to keep.

use super::layers::{Conv2d, to_channels_first, to_channels_last};
use crate::kernels::Padding;
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

/// More than any has of anything.
const LARGEST_COUNT: usize = 1 << 12;
/// Latents beyond this are bent back into -3 to 3 before they are decoded.
const MAGNITUDE: f64 = 3.0;

/// The contents of `config.json`, with diffusers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TinyConfig {
    /// Always `AutoencoderTiny`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Channels of the pictures that are encoded.
    pub in_channels: usize,
    /// Channels of the decoded pictures.
    pub out_channels: usize,
    /// Channels of the encoder, finest first; the layers fit each other only where all are the same.
    pub encoder_block_out_channels: Vec<usize>,
    /// Channels of the decoder, coarsest first; all the same.
    pub decoder_block_out_channels: Vec<usize>,
    /// Residual blocks of the encoder at each resolution, finest first.
    pub num_encoder_blocks: Vec<usize>,
    /// Residual blocks of the decoder at each resolution, coarsest first.
    pub num_decoder_blocks: Vec<usize>,
    /// The activation: `relu`.
    pub act_fn: String,
    /// How the decoder doubles its resolution: `nearest`.
    pub upsample_fn: String,
    /// By how much: 2.
    pub upsampling_scaling_factor: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// What the pipeline multiplies latents with: 1.
    pub scaling_factor: f64,
    /// What the pipeline subtracts from latents before that: 0.
    pub shift_factor: f64,
}

impl Default for TinyConfig {
    fn default() -> Self {
        Self {
            class_name: "AutoencoderTiny".into(),
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            act_fn: "relu".into(),
            upsample_fn: "nearest".into(),
            upsampling_scaling_factor: 2,
            latent_channels: 4,
            scaling_factor: 1.0,
            shift_factor: 0.0,
        }
    }
}

impl TinyConfig {
    /// What is wrong with these sizes, if anything.
    pub fn check(&self) -> std::result::Result<(), String> {
        let kinds = [("act_fn", &self.act_fn, "relu"), ("upsample_fn", &self.upsample_fn, "nearest")];
        if let Some((name, found, known)) = kinds.into_iter().find(|(_, found, known)| found != known) {
            return Err(format!("{name} {found:?} is not supported, only {known:?}"));
        }
        if self.upsampling_scaling_factor != 2 {
            return Err(format!(
                "upsampling_scaling_factor is {}, only 2 is supported",
                self.upsampling_scaling_factor
            ));
        }
        if (self.in_channels, self.out_channels) != (3, 3) {
            let (from, to) = (self.in_channels, self.out_channels);
            return Err(format!("{from} input and {to} output channels, but pictures have 3"));
        }
        if (self.scaling_factor, self.shift_factor) != (1.0, 0.0) {
            let (scale, shift) = (self.scaling_factor, self.shift_factor);
            return Err(format!("scaling_factor {scale} and shift_factor {shift} are not supported, only 1 and 0"));
        }
        self.check_levels()
    }

    fn check_levels(&self) -> std::result::Result<(), String> {
        let sides = [
            ("encoder", &self.encoder_block_out_channels, &self.num_encoder_blocks),
            ("decoder", &self.decoder_block_out_channels, &self.num_decoder_blocks),
        ];
        let levels = self.num_decoder_blocks.len();
        for (side, channels, blocks) in sides {
            if blocks.len() != levels || channels.len() != levels || !(1..=8).contains(&levels) {
                let (widths, found) = (channels.len(), blocks.len());
                return Err(format!(
                    "{widths} {side}_block_out_channels and {found} num_{side}_blocks for {levels} levels"
                ));
            }
            if channels.iter().any(|width| *width != channels[0]) {
                return Err(format!("{side}_block_out_channels {channels:?} are not all the same"));
            }
            let counts = channels.iter().chain([&self.latent_channels]);
            if let Some(n) = counts.chain(blocks).find(|n| **n == 0 || **n > LARGEST_COUNT) {
                return Err(format!("the {side} has a size of {n}, outside 1 to {LARGEST_COUNT}"));
            }
        }
        Ok(())
    }

    /// Pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        1 << (self.num_decoder_blocks.len() - 1)
    }
}

/// Encoder and decoder.
#[derive(Debug)]
pub struct AutoencoderTiny {
    config: TinyConfig,
    encoder: Sequence,
    decoder: TinyDecoder,
    dtype: DType,
}

impl AutoencoderTiny {
    /// Reads the parameters `encoder.layers.*` and `decoder.layers.*`. `config` must have passed [`TinyConfig::check`].
    pub fn new(config: &TinyConfig, vb: &VarBuilder) -> Result<Self> {
        let encoder = Sequence::encoder(config, &vb.pp("encoder.layers"))?;
        Ok(Self { config: config.clone(), encoder, decoder: TinyDecoder::new(config, vb)?, dtype: vb.dtype() })
    }

    /// The type that it computes in: that of pictures and latents, in and out.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes this was built with.
    pub fn config(&self) -> &TinyConfig {
        &self.config
    }

    /// Pictures (B, 3, H, W) in [-1, 1] to latents as the U-Net sees them, (B, C, H/f, W/f). Fails unless f,
    /// [`TinyConfig::factor`], divides the sides.
    pub fn encode(&self, pictures: &Tensor) -> Result<Tensor> {
        let (_, _, h, w) = pictures.dims4()?;
        let factor = self.config.factor();
        if h % factor != 0 || w % factor != 0 {
            return Err(Error::Tensor(candle_core::Error::Msg(format!("{factor} does not divide {w} x {h} pixels"))));
        }
        to_channels_first(&self.encoder.forward(to_channels_last(&pictures.affine(0.5, 0.5)?)?)?)
    }

    /// See [`TinyDecoder::decode`].
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decoder.decode(latents)
    }
}

/// The decoder alone, which is all that previews need.
#[derive(Debug)]
pub struct TinyDecoder {
    layers: Sequence,
}

impl TinyDecoder {
    /// Reads the parameters `decoder.layers.*`. `config` must have passed [`TinyConfig::check`].
    pub fn new(config: &TinyConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { layers: Sequence::decoder(config, &vb.pp("decoder.layers"))? })
    }

    /// Latents as the U-Net sees them, (B, C, h, w), to pictures (B, 3, f h, f w), about [-1, 1], not clipped.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let x = ((latents / MAGNITUDE)?.tanh()? * MAGNITUDE)?;
        to_channels_first(&self.layers.forward(to_channels_last(&x)?)?.affine(2.0, -1.0)?)
    }
}

/// Layers under their numbers, one after the other; those without weights are counted too.
#[derive(Debug)]
struct Sequence(Vec<Layer>);

#[derive(Debug)]
enum Layer {
    Conv(Conv2d),
    Relu,
    Block(Block),
    /// Twice the height and width, which the convolution that follows does itself.
    Upsample,
    Enlarged(Conv2d),
}

impl Sequence {
    fn encoder(c: &TinyConfig, vb: &VarBuilder) -> Result<Self> {
        let (mut layers, width) = (Vec::new(), c.encoder_block_out_channels[0]);
        for (level, &blocks) in c.num_encoder_blocks.iter().enumerate() {
            let vb_here = vb.pp(layers.len());
            layers.push(Layer::Conv(match level {
                0 => Conv2d::same3x3(c.in_channels, width, &vb_here)?,
                _ => Conv2d::without_bias(width, width, 3, 2, Padding::same(1), &vb_here)?,
            }));
            Block::push(blocks, width, &mut layers, vb)?;
        }
        layers.push(Layer::Conv(Conv2d::same3x3(width, c.latent_channels, &vb.pp(layers.len()))?));
        Ok(Self(layers))
    }

    fn decoder(c: &TinyConfig, vb: &VarBuilder) -> Result<Self> {
        let (width, finest) = (c.decoder_block_out_channels[0], c.num_decoder_blocks.len() - 1);
        let mut layers = vec![Layer::Conv(Conv2d::same3x3(c.latent_channels, width, &vb.pp(0))?), Layer::Relu];
        for (level, &blocks) in c.num_decoder_blocks.iter().enumerate() {
            Block::push(blocks, width, &mut layers, vb)?;
            if level < finest {
                layers.push(Layer::Upsample);
                let conv = Conv2d::without_bias(width, width, 3, 1, Padding::same(1), &vb.pp(layers.len()))?;
                layers.push(Layer::Enlarged(conv));
            }
        }
        layers.push(Layer::Conv(Conv2d::same3x3(width, c.out_channels, &vb.pp(layers.len()))?));
        Ok(Self(layers))
    }

    /// (B, H, W, C) -> (B, H', W', C').
    fn forward(&self, x: Tensor) -> Result<Tensor> {
        self.0.iter().try_fold(x, |x, layer| match layer {
            Layer::Conv(conv) => conv.forward(&x),
            Layer::Relu => Ok(x.relu()?),
            Layer::Block(block) => block.forward(&x),
            Layer::Upsample => Ok(x),
            Layer::Enlarged(conv) => conv.forward_enlarged(&x, (2 * x.dim(1)?, 2 * x.dim(2)?)),
        })
    }
}

/// relu(x + conv(relu(conv(relu(conv(x)))))).
#[derive(Debug)]
struct Block([Conv2d; 3]);

impl Block {
    fn new(width: usize, vb: &VarBuilder) -> Result<Self> {
        let conv = |i: usize| Conv2d::same3x3(width, width, &vb.pp("conv").pp(i));
        Ok(Self([conv(0)?, conv(2)?, conv(4)?]))
    }

    /// Puts `count` blocks after `layers`, under their numbers there.
    fn push(count: usize, width: usize, layers: &mut Vec<Layer>, vb: &VarBuilder) -> Result<()> {
        for _ in 0..count {
            layers.push(Layer::Block(Self::new(width, &vb.pp(layers.len()))?));
        }
        Ok(())
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [first, second, third] = &self.0;
        let h = second.forward(&first.forward(x)?.relu()?)?;
        Ok((third.forward(&h.relu()?)? + x)?.relu()?)
    }
}
