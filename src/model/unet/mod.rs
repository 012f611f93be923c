//! The noise-prediction U-Net of latent diffusion (Rombach et al. 2021), as diffusers' `UNet2DConditionModel` stores it.

mod blocks;
mod config;
mod transformer;

pub use config::{DownBlockType, PerBlock, UNetConfig, UpBlockType};

use super::layers::{Conv2d, GroupNorm, Linear, to_channels_first, to_channels_last};
use crate::kernels;
use crate::{Error, Result};
use blocks::{Conditions, DownBlock, MidBlock, UpBlock};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

/// The U-Net. Channels-last inside, (B, C, H, W) outside.
#[derive(Debug)]
pub struct UNet2DConditionModel {
    config: UNetConfig,
    conv_in: Conv2d,
    linear_1: Linear,
    linear_2: Linear,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl UNet2DConditionModel {
    /// Reads all parameters. Sizes that do not fit each other are an error here, not a panic later.
    pub fn new(config: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        check(config)?;
        let channels = &config.block_out_channels;
        let (finest, embedding) = (channels[0], 4 * channels[0]);
        let (down, up) = (vb.pp("down_blocks"), vb.pp("up_blocks"));
        let inputs = |level: usize| if level == 0 { finest } else { channels[level - 1] };
        let down_block = |level| DownBlock::new(config, level, inputs(level), &down.pp(level));
        Ok(Self {
            config: config.clone(),
            conv_in: Conv2d::same3x3(config.in_channels, finest, &vb.pp("conv_in"))?,
            linear_1: Linear::new(finest, embedding, &vb.pp("time_embedding.linear_1"))?,
            linear_2: Linear::new(embedding, embedding, &vb.pp("time_embedding.linear_2"))?,
            down_blocks: (0..channels.len()).map(down_block).collect::<Result<_>>()?,
            mid_block: MidBlock::new(config, &vb.pp("mid_block"))?,
            up_blocks: up_blocks(config, &up)?,
            conv_norm_out: GroupNorm::new(config.norm_num_groups, finest, config.norm_eps, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::same3x3(finest, config.out_channels, &vb.pp("conv_out"))?,
        })
    }

    /// The sizes this was built with.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// Noisy latents (B, C, H, W), one time per sample (B,), text states (B, S, D) to the prediction (B, C', H, W).
    pub fn forward(&self, x: &Tensor, t: &Tensor, context: &Tensor) -> Result<Tensor> {
        let time = self.embed(t)?.to_dtype(x.dtype())?;
        let time = self.linear_2.forward(&kernels::silu(&self.linear_1.forward(&time)?)?)?;
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
        to_channels_first(&self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)?)
    }

    /// Sinusoids of the times at geometrically spaced frequencies, (B,) to (B, E), computed in f64 on the host.
    fn embed(&self, t: &Tensor) -> Result<Tensor> {
        let width = self.config.block_out_channels[0];
        let half = width / 2;
        let decay = -(10_000f64.ln()) / (half as f64 - self.config.freq_shift);
        let times = t.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let mut values = Vec::with_capacity(times.len() * width);
        for time in &times {
            let angles = (0..half).map(|i| time * (decay * i as f64).exp());
            let (sines, cosines): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
            let (first, second) = if self.config.flip_sin_to_cos { (cosines, sines) } else { (sines, cosines) };
            values.extend(first);
            values.extend(second);
        }
        Ok(Tensor::from_vec(values, (times.len(), width), t.device())?)
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

fn check(c: &UNetConfig) -> Result<()> {
    let levels = c.block_out_channels.len();
    let fail = |message: String| Err(Error::Tensor(candle_core::Error::Msg(format!("U-Net configuration: {message}"))));
    if levels == 0 || c.down_block_types.len() != levels || c.up_block_types.len() != levels {
        return fail(format!(
            "{levels} block_out_channels, {} down_block_types and {} up_block_types do not match",
            c.down_block_types.len(),
            c.up_block_types.len()
        ));
    }
    if c.layers_per_block == 0 || c.norm_num_groups == 0 {
        return fail("layers_per_block and norm_num_groups must be at least 1".into());
    }
    for (level, &channels) in c.block_out_channels.iter().enumerate() {
        let heads = c.attention_head_dim.at(level);
        if channels == 0 || channels % c.norm_num_groups != 0 || heads == 0 || channels % heads != 0 {
            let groups = c.norm_num_groups;
            return fail(format!("{channels} channels are not divisible into {groups} groups and {heads} heads"));
        }
    }
    Ok(())
}
