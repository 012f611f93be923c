//! The noise-prediction U-Net of latent diffusion (Rombach et al. 2021), as diffusers' `UNet2DConditionModel` stores it.

mod blocks;
mod config;
mod deep;
mod embedding;
mod merging;
mod supported;
mod text_embedding;
mod transformer;
mod trunk;

pub use config::{AdditionEmbedType, Beside, DownBlockType, PerBlock, UNetConfig, UpBlockType};

pub use deep::Deep;

pub(in crate::model) use blocks::Conditions;
pub(in crate::model) use trunk::Trunk;

use super::layers::{Conv2d, GroupNorm, to_channels_first};
use crate::Result;
use crate::kernels::{Products, profile};
use blocks::UpBlock;
use candle_core::{DType, Tensor, bail};
use candle_nn::VarBuilder;
use std::collections::HashMap;
use std::sync::Arc;

/// What the U-Net is told besides noisy latents and the time; one row per sample.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Text states, (B, S, D).
    pub context: Tensor,
    /// What SDXL adds to the time embedding.
    pub added: Option<Added>,
    /// The guidance scale, for models that were distilled to know it; others do not hear of it.
    pub guidance: Option<f64>,
    /// A picture as a prompt.
    pub image: Option<ImagePrompt>,
    /// What ControlNets add.
    pub residuals: Option<Residuals>,
    /// The share of the positions that the finest self-attentions take for one with the position they are most like, below
    /// 3/4: token merging (Bolya and Hoffman, arXiv:2303.17604). 0 for none.
    pub merge: f64,
}

/// A picture as a prompt (Ye et al., arXiv:2308.06721): every cross-attention attends to it as well, beside the text.
#[derive(Debug, Clone)]
pub struct ImagePrompt {
    /// Keys and values by the name of the cross-attention, see [`UNetConfig::cross_attentions`]; each (B, T, C).
    pub layers: Arc<HashMap<String, (Tensor, Tensor)>>,
    /// What is multiplied with what comes of it.
    pub scale: f64,
}

impl ImagePrompt {
    /// One row for each of `rows`, which are numbers of rows of this.
    pub fn rows(&self, rows: &[u32]) -> Result<Self> {
        let layer = |(name, (k, v)): (&String, &(Tensor, Tensor))| {
            let rows = Tensor::new(rows, k.device())?;
            Ok((name.clone(), (k.index_select(&rows, 0)?, v.index_select(&rows, 0)?)))
        };
        let layers: HashMap<_, _> = self.layers.iter().map(layer).collect::<Result<_>>()?;
        Ok(Self { layers: Arc::new(layers), scale: self.scale })
    }
}

/// What ControlNets add on the way through a U-Net (Zhang et al., arXiv:2302.05543, section 3.2). Channels-last.
#[derive(Debug, Clone)]
pub struct Residuals {
    /// To each skip connection, in the order of the way down, (B, h, w, C).
    pub skips: Vec<Tensor>,
    /// To what comes from the middle.
    pub middle: Tensor,
}

impl Residuals {
    /// These times `weight`.
    pub fn scaled(&self, weight: f64) -> Result<Self> {
        let skips = self.skips.iter().map(|skip| Ok((skip * weight)?)).collect::<Result<_>>()?;
        Ok(Self { skips, middle: (&self.middle * weight)? })
    }

    /// The sum of these and those of another net for the same U-Net.
    pub fn plus(&self, other: &Self) -> Result<Self> {
        let mut skips = self.skips.clone();
        other.add_to(&mut skips)?;
        Ok(Self { skips, middle: (&self.middle + &other.middle)? })
    }

    fn add_to(&self, skips: &mut [Tensor]) -> Result<()> {
        if skips.len() != self.skips.len() {
            let (found, expected) = (self.skips.len(), skips.len());
            let message = format!("U-Net: {found} residuals for {expected} skip connections");
            return Err(candle_core::Error::Msg(message).into());
        }
        self.add_to_first(skips)
    }

    /// The same to the first of all skip connections.
    fn add_to_first(&self, skips: &mut [Tensor]) -> Result<()> {
        for (skip, residual) in skips.iter_mut().zip(&self.skips) {
            *skip = (&*skip + residual.to_dtype(skip.dtype())?)?;
        }
        Ok(())
    }
}

/// The whole text as one vector, and the sizes of the picture (Podell et al., arXiv:2307.01952, section 2.2).
#[derive(Debug, Clone)]
pub struct Added {
    /// (B, P).
    pub pooled: Tensor,
    /// Original height and width, top and left of the crop, height and width of the target, in pixels: (B, 6), f32.
    pub sizes: Tensor,
}

impl Conditioning {
    /// Text states alone, (B, S, D): all that Stable Diffusion 1 and 2 are told.
    pub fn text(context: &Tensor) -> Self {
        Self { context: context.clone(), added: None, guidance: None, image: None, residuals: None, merge: 0.0 }
    }

    /// What blocks are given of it, beside the time.
    fn conditions<'a>(&'a self, time: &'a Tensor) -> Conditions<'a> {
        Conditions { time, context: &self.context, image: self.image.as_ref(), merge: self.merge }
    }

    /// With text states of this type.
    pub(in crate::model) fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self { context: self.context.to_dtype(dtype)?, ..self.clone() })
    }
}

/// The U-Net. Channels-last inside, (B, C, H, W) outside.
#[derive(Debug)]
pub struct UNet2DConditionModel {
    config: UNetConfig,
    trunk: Trunk,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet2DConditionModel {
    /// Reads all parameters. Sizes that do not fit each other are an error here, not a panic later.
    pub fn new(config: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        config.check().map_err(|message| candle_core::Error::Msg(format!("U-Net configuration: {message}")))?;
        let finest = config.block_out_channels[0];
        Ok(Self {
            config: config.clone(),
            trunk: Trunk::new(config, true, vb)?,
            up_blocks: up_blocks(config, &vb.pp("up_blocks"))?,
            conv_norm_out: GroupNorm::new(config.norm_num_groups, finest, config.norm_eps, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::same3x3(finest, config.out_channels, &vb.pp("conv_out"))?,
        })
    }

    /// The sizes this was built with.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// How its products are computed on a CPU.
    pub fn products(&self) -> Products {
        self.conv_out.products()
    }

    /// The type that it computes in.
    pub fn dtype(&self) -> DType {
        self.conv_norm_out.dtype()
    }

    /// Noisy latents (B, C, H, W), one time per sample (B,), fractional ones too, and what else is known of the picture
    /// to the prediction (B, C', H, W). Any H and W will do; shapes that do not fit each other are an error. What goes in
    /// may be of any type; what comes out is of [`Self::dtype`].
    pub fn forward(&self, x: &Tensor, t: &Tensor, given: &Conditioning) -> Result<Tensor> {
        let (x, given) = (&x.to_dtype(self.dtype())?, &given.to_dtype(self.dtype())?);
        let time = self.time(x, t, given)?;
        let blocks = given.conditions(&time);
        let (mut x, mut skips) = self.coarse(x, given, blocks)?;
        x = self.finest(x, 0, &mut skips, blocks)?;
        self.leave(&x)
    }

    /// What residual blocks see of the time, after a look at the shapes of what comes in.
    fn time(&self, x: &Tensor, t: &Tensor, given: &Conditioning) -> Result<Tensor> {
        self.check_shapes(x, t, &given.context)?;
        self.trunk.time(t, given, x.dtype())
    }

    /// The way down, the middle, and the way up but for the finest level: what comes in there, and the skip connections that
    /// are left for it.
    fn coarse(&self, x: &Tensor, given: &Conditioning, blocks: Conditions<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let (mut x, mut skips) = self.trunk.forward(x, None, blocks)?;
        if let Some(residuals) = &given.residuals {
            residuals.add_to(&mut skips)?;
            x = (&x + residuals.middle.to_dtype(x.dtype())?)?;
        }
        for (i, block) in self.up_blocks[..self.up_blocks.len() - 1].iter().enumerate() {
            x = profile::part(|| format!("up {i}"), || block.forward(x, blocks, &mut skips))?;
        }
        Ok((x, skips))
    }

    /// The finest level of the way up, from its residual block `first` on.
    fn finest(&self, x: Tensor, first: usize, skips: &mut Vec<Tensor>, blocks: Conditions<'_>) -> Result<Tensor> {
        let (block, i) = (self.last(), self.up_blocks.len() - 1);
        profile::part(|| format!("up {i}"), || block.stages(x, first..block.len(), blocks, skips))
    }

    fn leave(&self, x: &Tensor) -> Result<Tensor> {
        to_channels_first(&self.conv_out.forward_normed(&self.conv_norm_out, x)?)
    }

    /// The finest block of the way up: the configuration was checked to have one.
    fn last(&self) -> &UpBlock {
        &self.up_blocks[self.up_blocks.len() - 1]
    }

    fn check_shapes(&self, x: &Tensor, t: &Tensor, context: &Tensor) -> candle_core::Result<()> {
        let (batch, channels, height, width) = x.dims4()?;
        let (times, (texts, _, features)) = (t.dims1()?, context.dims3()?);
        if channels != self.config.in_channels || height == 0 || width == 0 {
            bail!("U-Net: the input is {:?}, it needs {} channels", x.dims(), self.config.in_channels);
        }
        if times != batch || texts != batch {
            bail!("U-Net: {batch} samples need as many times and texts, not {times} and {texts}");
        }
        if features != self.config.cross_attention_dim {
            bail!("U-Net: text states have {features} channels, not {}", self.config.cross_attention_dim);
        }
        Ok(())
    }
}

/// The way up mirrors the way down: each residual block takes one of the skip connections, latest first.
fn up_blocks(config: &UNetConfig, vb: &VarBuilder) -> Result<Vec<UpBlock>> {
    let (channels, mut skips) = (&config.block_out_channels, config.skips());
    let mut inputs = channels[channels.len() - 1];
    let block = |index: usize| -> Result<UpBlock> {
        let taken: Vec<usize> = skips.drain(skips.len() - config.layers_per_block - 1..).rev().collect();
        let block = UpBlock::new(config, index, inputs, &taken, &vb.pp(index))?;
        inputs = channels[channels.len() - 1 - index];
        Ok(block)
    };
    (0..channels.len()).map(block).collect()
}
