//! The noise-prediction U-Net of latent diffusion (Rombach et al. 2021), as diffusers' `UNet2DConditionModel` stores it.

mod blocks;
mod config;
mod embedding;
mod supported;
mod text_embedding;
mod transformer;

pub use config::{AdditionEmbedType, Beside, DownBlockType, PerBlock, UNetConfig, UpBlockType};

use super::layers::{Conv2d, GroupNorm, to_channels_first, to_channels_last};
use crate::Result;
use crate::kernels;
use blocks::{Conditions, DownBlock, MidBlock, UpBlock};
use candle_core::{DType, Error, Tensor, bail};
use candle_nn::VarBuilder;
use embedding::{TextTimeEmbedding, TimeEmbedding};
use text_embedding::TextEmbedding;

/// What the U-Net is told besides noisy latents and the time; one row per sample.
#[derive(Debug, Clone)]
pub struct Conditioning {
    /// Text states, (B, S, D).
    pub context: Tensor,
    /// What SDXL adds to the time embedding.
    pub added: Option<Added>,
    /// The guidance scale, for models that were distilled to know it; others do not hear of it.
    pub guidance: Option<f64>,
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
        Self { context: context.clone(), added: None, guidance: None }
    }

    /// With text states of this type.
    fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(Self { context: self.context.to_dtype(dtype)?, ..self.clone() })
    }
}

/// What is added to the time embedding.
#[derive(Debug)]
enum AddEmbedding {
    Text(TextEmbedding),
    TextTime(TextTimeEmbedding),
}

impl AddEmbedding {
    fn new(kind: AdditionEmbedType, config: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        Ok(match kind {
            AdditionEmbedType::Text => Self::Text(TextEmbedding::new(config, vb)?),
            AdditionEmbedType::TextTime => Self::TextTime(TextTimeEmbedding::new(config, vb)?),
        })
    }

    fn forward(&self, given: &Conditioning) -> Result<Tensor> {
        match (self, &given.added) {
            (Self::Text(embedding), _) => embedding.forward(&given.context),
            (Self::TextTime(embedding), Some(added)) => embedding.forward(added, given.context.dtype()),
            (Self::TextTime(_), None) => Err(Error::Msg("U-Net: pooled text and sizes are missing".into()).into()),
        }
    }
}

/// The U-Net. Channels-last inside, (B, C, H, W) outside.
#[derive(Debug)]
pub struct UNet2DConditionModel {
    config: UNetConfig,
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    add_embedding: Option<AddEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet2DConditionModel {
    /// Reads all parameters. Sizes that do not fit each other are an error here, not a panic later.
    pub fn new(config: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        config.check().map_err(|message| candle_core::Error::Msg(format!("U-Net configuration: {message}")))?;
        let channels = &config.block_out_channels;
        let finest = channels[0];
        let down = vb.pp("down_blocks");
        let inputs = |level: usize| if level == 0 { finest } else { channels[level - 1] };
        let down_block = |level| DownBlock::new(config, level, inputs(level), &down.pp(level));
        Ok(Self {
            config: config.clone(),
            conv_in: Conv2d::same3x3(config.in_channels, finest, &vb.pp("conv_in"))?,
            time_embedding: TimeEmbedding::new(config, &vb.pp("time_embedding"))?,
            add_embedding: config
                .addition_embed_type
                .map(|kind| AddEmbedding::new(kind, config, &vb.pp("add_embedding")))
                .transpose()?,
            down_blocks: (0..channels.len()).map(down_block).collect::<Result<_>>()?,
            mid_block: MidBlock::new(config, &vb.pp("mid_block"))?,
            up_blocks: up_blocks(config, &vb.pp("up_blocks"))?,
            conv_norm_out: GroupNorm::new(config.norm_num_groups, finest, config.norm_eps, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::same3x3(finest, config.out_channels, &vb.pp("conv_out"))?,
        })
    }

    /// The sizes this was built with.
    pub fn config(&self) -> &UNetConfig {
        &self.config
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
        let context = &given.context;
        self.check_shapes(x, t, context)?;
        let mut time = self.time_embedding.forward(t, given.guidance, x.dtype())?;
        if let Some(embedding) = &self.add_embedding {
            time = (time + embedding.forward(given)?)?;
        }
        // Every block's projection begins with the SiLU: once is enough.
        let time = kernels::silu(&time)?;
        let given = Conditions { time: &time, context };
        let mut x = self.conv_in.forward(&to_channels_last(x)?)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, given, &mut skips)?;
        }
        x = self.mid_block.forward(&x, given)?;
        for block in &self.up_blocks {
            x = block.forward(x, given, &mut skips)?;
        }
        to_channels_first(&self.conv_out.forward_normed(&self.conv_norm_out, &x)?)
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
    let channels = &config.block_out_channels;
    let mut skips = vec![channels[0]];
    for (level, &width) in channels.iter().enumerate() {
        let downsampled = usize::from(level + 1 < channels.len());
        skips.extend(std::iter::repeat_n(width, config.layers_per_block + downsampled));
    }
    let mut inputs = channels[channels.len() - 1];
    let block = |index: usize| -> Result<UpBlock> {
        let taken: Vec<usize> = skips.drain(skips.len() - config.layers_per_block - 1..).rev().collect();
        let block = UpBlock::new(config, index, inputs, &taken, &vb.pp(index))?;
        inputs = channels[channels.len() - 1 - index];
        Ok(block)
    };
    (0..channels.len()).map(block).collect()
}
