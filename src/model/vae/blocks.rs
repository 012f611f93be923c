//! The blocks of encoder and decoder. All take and give (B, H, W, C).

mod bands;

use super::config::VaeConfig;
use crate::Result;
use crate::kernels::{self, Padding};
use crate::model::layers::{Conv2d, GroupNorm, Linear, residual_block};
use candle_core::Tensor;
use candle_nn::VarBuilder;

/// Of every group norm in this network.
pub(super) const EPSILON: f64 = 1e-6;

/// shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))).
#[derive(Debug)]
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResnetBlock {
    fn new(c: &VaeConfig, inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let norm = |channels, name: &str| GroupNorm::new(c.norm_num_groups, channels, EPSILON, &vb.pp(name));
        let shortcut = || Conv2d::pointwise(inputs, outputs, &vb.pp("conv_shortcut"));
        Ok(Self {
            norm1: norm(inputs, "norm1")?,
            conv1: Conv2d::same3x3(inputs, outputs, &vb.pp("conv1"))?,
            norm2: norm(outputs, "norm2")?,
            conv2: Conv2d::same3x3(outputs, outputs, &vb.pp("conv2"))?,
            conv_shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    /// `count` blocks, the first of which takes `inputs` channels.
    fn several(count: usize, c: &VaeConfig, inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Vec<Self>> {
        let vb = vb.pp("resnets");
        (0..count).map(|i| Self::new(c, if i == 0 { inputs } else { outputs }, outputs, &vb.pp(i))).collect()
    }

    fn run(blocks: &[Self], x: Tensor) -> Result<Tensor> {
        blocks.iter().try_fold(x, |x, block| block.forward(&x))
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (first, second) = ((&self.norm1, &self.conv1), (&self.norm2, &self.conv2));
        residual_block(x, first, None, second, self.conv_shortcut.as_ref())
    }
}

/// Residual blocks, then half the resolution, except at the last level.
#[derive(Debug)]
pub(super) struct DownBlock {
    resnets: Vec<ResnetBlock>,
    downsample: Option<Conv2d>,
}

impl DownBlock {
    /// The encoder's block at `level`, the finest being 0.
    pub(super) fn new(c: &VaeConfig, level: usize, vb: &VarBuilder) -> Result<Self> {
        let (inputs, outputs) = (c.channels(level.saturating_sub(1)), c.channels(level));
        // Zeros below and to the right only: diffusers keeps the padding of the first such encoder.
        let downsample = || Conv2d::new(outputs, outputs, 3, 2, Padding::after(1), &vb.pp("downsamplers.0.conv"));
        Ok(Self {
            resnets: ResnetBlock::several(c.layers_per_block, c, inputs, outputs, vb)?,
            downsample: (level + 1 < c.levels()).then(downsample).transpose()?,
        })
    }

    pub(super) fn forward(&self, x: Tensor) -> Result<Tensor> {
        let x = ResnetBlock::run(&self.resnets, x)?;
        match &self.downsample {
            Some(conv) => conv.forward(&x),
            None => Ok(x),
        }
    }
}

/// Residual blocks, one more than in the encoder, then twice the resolution, except at the last level.
#[derive(Debug)]
pub(super) struct UpBlock {
    resnets: Vec<ResnetBlock>,
    upsample: Option<Conv2d>,
}

impl UpBlock {
    /// The decoder's block `i`, counted from the coarsest level.
    pub(super) fn new(c: &VaeConfig, i: usize, vb: &VarBuilder) -> Result<Self> {
        let level = c.levels() - 1 - i;
        let (inputs, outputs) = (c.channels((level + 1).min(c.levels() - 1)), c.channels(level));
        let upsample = || Conv2d::same3x3(outputs, outputs, &vb.pp("upsamplers.0.conv"));
        Ok(Self {
            resnets: ResnetBlock::several(c.layers_per_block + 1, c, inputs, outputs, vb)?,
            upsample: (level > 0).then(upsample).transpose()?,
        })
    }

    pub(super) fn forward(&self, x: Tensor) -> Result<Tensor> {
        let x = ResnetBlock::run(&self.resnets, x)?;
        match &self.upsample {
            // Another such block comes next, which begins with a residual one.
            Some(conv) => conv.forward_enlarged_for_block(&x, (2 * x.dim(1)?, 2 * x.dim(2)?)),
            None => Ok(x),
        }
    }
}

/// Residual block, attention (where the configuration has it), residual block.
#[derive(Debug)]
pub(super) struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attention: Option<Attention>,
}

impl MidBlock {
    pub(super) fn new(c: &VaeConfig, vb: &VarBuilder) -> Result<Self> {
        let channels = c.channels(c.levels() - 1);
        let attention = || Attention::new(c, channels, &vb.pp("attentions.0"));
        Ok(Self {
            resnets: ResnetBlock::several(2, c, channels, channels, vb)?,
            attention: c.mid_block_add_attention.then(attention).transpose()?,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.resnets[0].forward(x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.resnets[1].forward(&x)
    }
}

/// x + out(attention(norm(x))) over all positions, with one head.
#[derive(Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    fn new(c: &VaeConfig, channels: usize, vb: &VarBuilder) -> Result<Self> {
        // Checkpoints from before diffusers 0.15, Stable Diffusion 1's among them, have the older names.
        let projection = |name: &str, older: &str| {
            let name = if vb.contains_tensor(&format!("{older}.weight")) { older } else { name };
            Linear::new(channels, channels, &vb.pp(name))
        };
        Ok(Self {
            group_norm: GroupNorm::new(c.norm_num_groups, channels, EPSILON, &vb.pp("group_norm"))?,
            to_q: projection("to_q", "query")?,
            to_k: projection("to_k", "key")?,
            to_v: projection("to_v", "value")?,
            to_out: projection("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let positions = self.group_norm.forward(x)?.reshape((b, h * w, c))?;
        let [q, k, v] = [&self.to_q, &self.to_k, &self.to_v].map(|layer| layer.forward(&positions));
        let y = self.to_out.forward(&kernels::attention(&q?, &k?, &v?, 1, false, self.to_q.products())?)?;
        kernels::add(x, &y.reshape((b, h, w, c))?)
    }
}
