//! ControlNets (Zhang et al., arXiv:2302.05543), as diffusers' `ControlNetModel` stores them: a copy of the way down of a
//! U-Net that sees a picture of conditions (edges, depths, poses), and whose answers are added to the skip connections of
//! the U-Net itself.

mod config;

pub use config::ControlNetConfig;

use super::layers::{Conv2d, to_channels_last};
use super::unet::{Conditioning, Conditions, Residuals, Trunk};
use crate::Result;
use crate::kernels::{self, Padding};
use candle_core::{DType, Tensor, bail};
use candle_nn::VarBuilder;

/// The network. Channels-last inside.
#[derive(Debug)]
pub struct ControlNet {
    config: ControlNetConfig,
    trunk: Trunk,
    embedding: PictureEmbedding,
    down: Vec<Conv2d>,
    middle: Conv2d,
    /// The type that it computes in. What goes in may be of any.
    dtype: DType,
}

impl ControlNet {
    /// Reads all parameters. Sizes that do not fit each other are an error here, not a panic later.
    pub fn new(config: &ControlNetConfig, vb: &VarBuilder) -> Result<Self> {
        config.check().map_err(|message| candle_core::Error::Msg(format!("ControlNet configuration: {message}")))?;
        let channels = &config.unet.block_out_channels;
        let zero = |channels: usize, vb: VarBuilder<'_>| Conv2d::pointwise(channels, channels, &vb);
        let down = vb.pp("controlnet_down_blocks");
        let skips = config.unet.skips().into_iter().enumerate();
        Ok(Self {
            config: config.clone(),
            trunk: Trunk::new(&config.unet, config.attentive_middle, vb)?,
            embedding: PictureEmbedding::new(config, &vb.pp("controlnet_cond_embedding"))?,
            down: skips.map(|(i, channels)| zero(channels, down.pp(i))).collect::<Result<_>>()?,
            middle: zero(channels[channels.len() - 1], vb.pp("controlnet_mid_block"))?,
            dtype: vb.dtype(),
        })
    }

    /// The sizes this was built with.
    pub fn config(&self) -> &ControlNetConfig {
        &self.config
    }

    /// Pictures (B, 3, H, W) in [0, 1] as the network takes them in, (B, H/f, W/f, C), which is the same at every step;
    /// f is [`ControlNetConfig::factor`].
    pub fn hint(&self, pictures: &Tensor) -> Result<Tensor> {
        let flipped = || pictures.index_select(&Tensor::new(&[2u32, 1, 0], pictures.device())?, 1);
        let pictures = if self.config.bgr { flipped()? } else { pictures.clone() };
        self.embedding.forward(&to_channels_last(&pictures.to_dtype(self.dtype)?)?)
    }

    /// Noisy latents (B, C, H, W), one time per sample, what the U-Net is told, and the picture to follow (one for all
    /// samples, or one for each, see [`ControlNet::hint`]) to what is added to the U-Net's skip connections.
    pub fn forward(&self, x: &Tensor, t: &Tensor, given: &Conditioning, hint: &Tensor) -> Result<Residuals> {
        self.check_shapes(x, hint)?;
        let (x, given) = (&x.to_dtype(self.dtype)?, &given.to_dtype(self.dtype)?);
        let time = self.trunk.time(t, given, x.dtype())?;
        let (middle, skips) = self.trunk.forward(
            x,
            Some(hint),
            Conditions { time: &time, context: &given.context, image: None, merge: 0.0 },
        )?;
        let skips = self.down.iter().zip(&skips).map(|(conv, skip)| conv.forward(skip)).collect::<Result<_>>()?;
        Ok(Residuals { skips, middle: self.middle.forward(&middle)? })
    }

    fn check_shapes(&self, x: &Tensor, hint: &Tensor) -> candle_core::Result<()> {
        let ((batch, channels, height, width), (hints, rows, columns, _)) = (x.dims4()?, hint.dims4()?);
        if channels != self.config.unet.in_channels {
            bail!("ControlNet: the input is {:?}, it needs {} channels", x.dims(), self.config.unet.in_channels);
        }
        if (rows, columns) != (height, width) || ![1, batch].contains(&hints) {
            bail!("ControlNet: the picture to follow became {:?}, the latents are {:?}", hint.dims(), x.dims());
        }
        Ok(())
    }
}

/// A picture to features of the size of latents: convolutions, each but the last followed by SiLU, of which every second
/// one halves the resolution.
#[derive(Debug)]
struct PictureEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

impl PictureEmbedding {
    fn new(config: &ControlNetConfig, vb: &VarBuilder) -> Result<Self> {
        let channels = &config.conditioning_embedding_out_channels;
        let (blocks, mut layers) = (vb.pp("blocks"), Vec::new());
        for (&from, &to) in channels.iter().zip(&channels[1..]) {
            layers.push(Conv2d::same3x3(from, from, &blocks.pp(layers.len()))?);
            layers.push(Conv2d::new(from, to, 3, 2, Padding::same(1), &blocks.pp(layers.len()))?);
        }
        let coarsest = channels[channels.len() - 1];
        Ok(Self {
            conv_in: Conv2d::same3x3(3, channels[0], &vb.pp("conv_in"))?,
            blocks: layers,
            conv_out: Conv2d::same3x3(coarsest, config.unet.block_out_channels[0], &vb.pp("conv_out"))?,
        })
    }

    /// (B, H, W, 3) -> (B, H/f, W/f, C).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = kernels::silu(&self.conv_in.forward(x)?)?;
        let x = self.blocks.iter().try_fold(x, |x, conv| kernels::silu(&conv.forward(&x)?))?;
        self.conv_out.forward(&x)
    }
}
