//! Residual blocks, and the down, middle and up blocks made of them.

use super::ImagePrompt;
use super::config::{DownBlockType, UNetConfig};
use super::transformer::{Transformer, TransformerSizes};
use crate::Result;
use crate::kernels::{self, Padding};
use crate::model::layers::{Conv2d, GroupNorm, Linear, residual_block};
use candle_core::Tensor;
use candle_nn::VarBuilder;
use std::ops::Range;

/// What every block is given besides its input.
#[derive(Clone, Copy)]
pub(in crate::model) struct Conditions<'a> {
    /// The time embedding after its SiLU, (B, E).
    pub(in crate::model) time: &'a Tensor,
    /// Text states, (B, S, D).
    pub(in crate::model) context: &'a Tensor,
    /// A picture as a prompt.
    pub(in crate::model) image: Option<&'a ImagePrompt>,
    /// The share of the positions that the finest self-attentions take for one with another.
    pub(in crate::model) merge: f64,
}

/// shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + project(time)))).
#[derive(Debug)]
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    pub(super) fn new(c: &UNetConfig, inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let norm = |channels, name: &str| GroupNorm::new(c.norm_num_groups, channels, c.norm_eps, &vb.pp(name));
        let shortcut = || Conv2d::pointwise(inputs, outputs, &vb.pp("conv_shortcut"));
        Ok(Self {
            norm1: norm(inputs, "norm1")?,
            conv1: Conv2d::same3x3(inputs, outputs, &vb.pp("conv1"))?,
            time_emb_proj: Linear::new(c.time_channels(), outputs, &vb.pp("time_emb_proj"))?,
            norm2: norm(outputs, "norm2")?,
            conv2: Conv2d::same3x3(outputs, outputs, &vb.pp("conv2"))?,
            conv_shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, time: &Tensor) -> Result<Tensor> {
        let (first, second) = ((&self.norm1, &self.conv1), (&self.norm2, &self.conv2));
        let time = self.time_emb_proj.forward(time)?;
        residual_block(x, first, Some(&time), second, self.conv_shortcut.as_ref())
    }
}

/// A residual block and the transformer after it, where the block type has one.
#[derive(Debug)]
struct Stage {
    resnet: ResnetBlock,
    transformer: Option<Transformer>,
}

impl Stage {
    fn forward(&self, x: &Tensor, given: Conditions<'_>) -> Result<Tensor> {
        let x = self.resnet.forward(x, given.time)?;
        match &self.transformer {
            Some(transformer) => transformer.forward(&x, given),
            None => Ok(x),
        }
    }
}

/// The transformer of level `level` (a down block's index) with its channels.
fn transformer(c: &UNetConfig, level: usize, vb: &VarBuilder) -> Result<Transformer> {
    let sizes = TransformerSizes {
        channels: c.block_out_channels[level],
        heads: c.attention_head_dim.at(level),
        depth: c.transformer_layers_per_block.at(level),
        context: c.cross_attention_dim,
        groups: c.norm_num_groups,
        linear_projection: c.use_linear_projection,
        finest: c.down_block_types.iter().position(|kind| *kind == DownBlockType::CrossAttention) == Some(level),
    };
    Transformer::new(sizes, vb)
}

/// Residual blocks (with transformers), then half the resolution.
#[derive(Debug)]
pub(super) struct DownBlock {
    stages: Vec<Stage>,
    downsample: Option<Conv2d>,
}

impl DownBlock {
    /// The block at `level` that takes `inputs` channels.
    pub(super) fn new(c: &UNetConfig, level: usize, inputs: usize, vb: &VarBuilder) -> Result<Self> {
        let outputs = c.block_out_channels[level];
        let attends = c.down_block_types[level] == DownBlockType::CrossAttention;
        let stage = |i: usize| -> Result<Stage> {
            let inputs = if i == 0 { inputs } else { outputs };
            let attention = || transformer(c, level, &vb.pp("attentions").pp(i));
            Ok(Stage {
                resnet: ResnetBlock::new(c, inputs, outputs, &vb.pp("resnets").pp(i))?,
                transformer: attends.then(attention).transpose()?,
            })
        };
        let padding = match c.downsample_padding {
            0 => Padding::after(1),
            n => Padding::same(n),
        };
        let downsample = || Conv2d::new(outputs, outputs, 3, 2, padding, &vb.pp("downsamplers.0.conv"));
        Ok(Self {
            stages: (0..c.layers_per_block).map(stage).collect::<Result<_>>()?,
            downsample: (level + 1 < c.block_out_channels.len()).then(downsample).transpose()?,
        })
    }

    /// Returns the output and pushes everything the way up will want.
    pub(super) fn forward(&self, x: Tensor, given: Conditions<'_>, skips: &mut Vec<Tensor>) -> Result<Tensor> {
        let mut x = self.begin(x, self.stages.len(), given, skips)?;
        if let Some(conv) = &self.downsample {
            x = conv.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }

    /// The same of the first `count` residual blocks alone.
    pub(super) fn begin(
        &self,
        mut x: Tensor,
        count: usize,
        given: Conditions<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for stage in &self.stages[..count] {
            x = stage.forward(&x, given)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// Residual block, and but for some ControlNets transformer and residual block, at the coarsest resolution.
#[derive(Debug)]
pub(super) struct MidBlock {
    first: ResnetBlock,
    rest: Option<(Transformer, ResnetBlock)>,
}

impl MidBlock {
    pub(super) fn new(c: &UNetConfig, attentive: bool, vb: &VarBuilder) -> Result<Self> {
        let level = c.block_out_channels.len() - 1;
        let channels = c.block_out_channels[level];
        let residual = |i: usize| ResnetBlock::new(c, channels, channels, &vb.pp("resnets").pp(i));
        let rest = || Ok::<_, crate::Error>((transformer(c, level, &vb.pp("attentions.0"))?, residual(1)?));
        Ok(Self { first: residual(0)?, rest: attentive.then(rest).transpose()? })
    }

    pub(super) fn forward(&self, x: &Tensor, given: Conditions<'_>) -> Result<Tensor> {
        let x = self.first.forward(x, given.time)?;
        match &self.rest {
            Some((transformer, second)) => second.forward(&transformer.forward(&x, given)?, given.time),
            None => Ok(x),
        }
    }
}

/// Residual blocks (with transformers) on the input beside a skip connection, then twice the resolution.
#[derive(Debug)]
pub(super) struct UpBlock {
    stages: Vec<Stage>,
    upsample: Option<Conv2d>,
}

impl UpBlock {
    /// Up block `index` (coarsest first); `inputs` channels come from below, `skips` from the way down, in order of use.
    pub(super) fn new(c: &UNetConfig, index: usize, inputs: usize, skips: &[usize], vb: &VarBuilder) -> Result<Self> {
        use super::config::UpBlockType::CrossAttention;
        let level = c.block_out_channels.len() - 1 - index;
        let outputs = c.block_out_channels[level];
        let attends = c.up_block_types[index] == CrossAttention;
        let stage = |(i, skip): (usize, &usize)| -> Result<Stage> {
            let inputs = skip + if i == 0 { inputs } else { outputs };
            let attention = || transformer(c, level, &vb.pp("attentions").pp(i));
            Ok(Stage {
                resnet: ResnetBlock::new(c, inputs, outputs, &vb.pp("resnets").pp(i))?,
                transformer: attends.then(attention).transpose()?,
            })
        };
        let upsample = || Conv2d::same3x3(outputs, outputs, &vb.pp("upsamplers.0.conv"));
        Ok(Self {
            stages: skips.iter().enumerate().map(stage).collect::<Result<_>>()?,
            upsample: (level > 0).then(upsample).transpose()?,
        })
    }

    pub(super) fn forward(&self, x: Tensor, given: Conditions<'_>, skips: &mut Vec<Tensor>) -> Result<Tensor> {
        let x = self.stages(x, 0..self.stages.len(), given, skips)?;
        let Some(conv) = &self.upsample else { return Ok(x) };
        let next = skips.last().ok_or_else(too_few_skips)?;
        // The way down rounds odd sizes, so that this need not be the double.
        conv.forward_enlarged(&x, (next.dim(1)?, next.dim(2)?))
    }

    /// How many residual blocks it has, each with a skip connection.
    pub(super) fn len(&self) -> usize {
        self.stages.len()
    }

    /// Some of its residual blocks alone.
    pub(super) fn stages(
        &self,
        mut x: Tensor,
        which: Range<usize>,
        given: Conditions<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        for stage in &self.stages[which] {
            let skip = skips.pop().ok_or_else(too_few_skips)?;
            x = stage.forward(&kernels::beside(&x, &skip)?, given)?;
        }
        Ok(x)
    }
}

fn too_few_skips() -> candle_core::Error {
    candle_core::Error::Msg("U-Net: too few skip connections".into())
}
