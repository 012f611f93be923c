//! The way down and the middle of a U-Net: what a ControlNet has a copy of.

use super::Conditioning;
use super::blocks::{Conditions, DownBlock, MidBlock};
use super::config::{AdditionEmbedType, UNetConfig};
use super::embedding::{TextTimeEmbedding, TimeEmbedding};
use super::text_embedding::TextEmbedding;
use crate::Result;
use crate::kernels::{self, profile};
use crate::model::layers::{Conv2d, to_channels_last};
use candle_core::{DType, Error, Tensor};
use candle_nn::VarBuilder;

/// All of a U-Net up to its middle.
#[derive(Debug)]
pub(in crate::model) struct Trunk {
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    add_embedding: Option<AddEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
}

impl Trunk {
    /// Reads its parameters. `config` must have passed [`UNetConfig::check`].
    pub(in crate::model) fn new(config: &UNetConfig, attentive_middle: bool, vb: &VarBuilder) -> Result<Self> {
        let channels = &config.block_out_channels;
        let finest = channels[0];
        let down = vb.pp("down_blocks");
        let inputs = |level: usize| if level == 0 { finest } else { channels[level - 1] };
        let down_block = |level| DownBlock::new(config, level, inputs(level), &down.pp(level));
        Ok(Self {
            conv_in: Conv2d::same3x3(config.in_channels, finest, &vb.pp("conv_in"))?,
            time_embedding: TimeEmbedding::new(config, &vb.pp("time_embedding"))?,
            add_embedding: config
                .addition_embed_type
                .map(|kind| AddEmbedding::new(kind, config, &vb.pp("add_embedding")))
                .transpose()?,
            down_blocks: (0..channels.len()).map(down_block).collect::<Result<_>>()?,
            mid_block: MidBlock::new(config, attentive_middle, &vb.pp("mid_block"))?,
        })
    }

    /// What residual blocks see of the time and of what is added to it, (B, E) in `dtype`.
    pub(in crate::model) fn time(&self, t: &Tensor, given: &Conditioning, dtype: DType) -> Result<Tensor> {
        let mut time = self.time_embedding.forward(t, given.guidance, dtype)?;
        if let Some(embedding) = &self.add_embedding {
            time = (time + embedding.forward(given)?)?;
        }
        // Every block's projection begins with the SiLU: once is enough.
        kernels::silu(&time)
    }

    /// Noisy latents (B, C, H, W), and what is added to them after the first convolution, (1 or B, H, W, C'), to what
    /// comes from the middle and the skip connections, finest first; all channels-last.
    pub(in crate::model) fn forward(
        &self,
        x: &Tensor,
        hint: Option<&Tensor>,
        given: Conditions<'_>,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let mut x = self.enter(x)?;
        if let Some(hint) = hint {
            x = x.broadcast_add(hint)?;
        }
        let mut skips = vec![x.clone()];
        for (i, block) in self.down_blocks.iter().enumerate() {
            x = profile::part(|| format!("down {i}"), || block.forward(x, given, &mut skips))?;
        }
        Ok((profile::part(|| "middle".into(), || self.mid_block.forward(&x, given))?, skips))
    }

    /// The first `count` skip connections of noisy latents (B, C, H, W), at most those of the finest level before it is halved.
    pub(super) fn first_skips(&self, x: &Tensor, count: usize, given: Conditions<'_>) -> Result<Vec<Tensor>> {
        let x = self.enter(x)?;
        let mut skips = vec![x.clone()];
        profile::part(|| "down 0".into(), || self.down_blocks[0].begin(x, count - 1, given, &mut skips))?;
        Ok(skips)
    }

    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        self.conv_in.forward(&to_channels_last(x)?)
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
