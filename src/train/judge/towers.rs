//! The judge's two towers: pictures by strided convolutions, texts as bags of words.

use crate::Result;
use crate::kernels::{self, Padding};
use crate::model::layers::{Conv2d, GroupNorm, Linear};
use candle_core::{D, Device, Tensor};
use candle_nn::{Init, VarBuilder};

/// Values of an embedding.
const WIDTH: usize = 128;
/// Side of the patches that the first convolution takes as channels: most of the cost of a picture is in its pixels.
const PATCH: usize = 4;
/// Channels at 1/4, 1/8 and 1/16 of the picture's resolution.
const CHANNELS: [usize; 3] = [64, 96, 128];
/// Groups of every group normalisation.
const GROUPS: usize = 8;
/// Pixels per position of the last feature map, along one side.
pub(super) const REDUCTION: usize = 4 * PATCH;
/// ln 14: CLIP's first temperature, 1/0.07.
pub(super) const FIRST_LOG_SCALE: f64 = 2.66;
/// Added under square roots that may be of zero.
const TINY: f64 = 1e-8;

/// (B, S, S, 3) in [-1, 1] to unit vectors (B, [`WIDTH`]).
pub(super) struct PictureTower {
    conv_in: Conv2d,
    fine: Block,
    coarse: Block,
    norm: GroupNorm,
    out: Linear,
}

impl PictureTower {
    pub(super) fn new(size: usize, vb: &VarBuilder) -> Result<Self> {
        let [a, b, c] = CHANNELS;
        let positions = (size / REDUCTION).pow(2);
        Ok(Self {
            conv_in: Conv2d::same3x3(3 * PATCH * PATCH, a, &vb.pp("conv_in"))?,
            fine: Block::new(a, b, &vb.pp("fine"))?,
            coarse: Block::new(b, c, &vb.pp("coarse"))?,
            norm: GroupNorm::new(GROUPS, c, 1e-5, &vb.pp("norm"))?,
            out: Linear::new(positions * c, WIDTH, &vb.pp("out"))?,
        })
    }

    pub(super) fn forward(&self, pictures: &Tensor) -> Result<Tensor> {
        let x = self.conv_in.forward(&patches(pictures)?)?;
        let x = self.coarse.forward(&self.fine.forward(&x)?)?;
        // Positions are kept apart, not averaged: left and right arrows differ in nothing else.
        unit(&self.out.forward(&self.norm.forward_silu(&x)?.flatten_from(1)?)?)
    }
}

/// Halves the resolution, then adds one residual convolution.
struct Block {
    norm_in: GroupNorm,
    down: Conv2d,
    norm: GroupNorm,
    conv: Conv2d,
}

impl Block {
    fn new(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            norm_in: GroupNorm::new(GROUPS, inputs, 1e-5, &vb.pp("norm_in"))?,
            down: Conv2d::new(inputs, outputs, 3, 2, Padding::same(1), &vb.pp("down"))?,
            norm: GroupNorm::new(GROUPS, outputs, 1e-5, &vb.pp("norm"))?,
            conv: Conv2d::same3x3(outputs, outputs, &vb.pp("conv"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.down.forward(&self.norm_in.forward_silu(x)?)?;
        Ok((&x + self.conv.forward(&self.norm.forward_silu(&x)?)?)?)
    }
}

/// Word ids of each text to unit vectors (texts, [`WIDTH`]): the mean of the words' vectors through a small network.
pub(super) struct TextTower {
    words: Tensor,
    hidden: Linear,
    out: Linear,
}

impl TextTower {
    /// `rows`: the words and the empty word 0.
    pub(super) fn new(rows: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            // Of unit variance: words must outweigh the biases from the start.
            words: vb.get_with_hints((rows, WIDTH), "words", Init::Randn { mean: 0.0, stdev: 1.0 })?,
            hidden: Linear::new(WIDTH, 2 * WIDTH, &vb.pp("hidden"))?,
            out: Linear::new(2 * WIDTH, WIDTH, &vb.pp("out"))?,
        })
    }

    pub(super) fn forward(&self, texts: &[Vec<u32>]) -> Result<Tensor> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let (mut ids, mut shares) = (vec![0u32; texts.len() * longest], vec![0f32; texts.len() * longest]);
        for (row, text) in texts.iter().enumerate() {
            let (start, end) = (row * longest, row * longest + text.len());
            ids[start..end].copy_from_slice(text);
            shares[start..end].fill(1.0 / text.len() as f32);
        }
        let ids = Tensor::from_vec(ids, texts.len() * longest, &Device::Cpu)?;
        let shares = Tensor::from_vec(shares, (texts.len(), longest, 1), &Device::Cpu)?;
        let words = self.words.index_select(&ids, 0)?.reshape((texts.len(), longest, WIDTH))?;
        let mean = words.broadcast_mul(&shares)?.sum(1)?;
        let hidden = kernels::silu(&self.hidden.forward(&mean)?)?;
        unit(&(self.out.forward(&hidden)? + mean)?)
    }
}

/// (B, S, S, 3) to (B, S/4, S/4, 48).
fn patches(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let x = x.reshape((b, h / PATCH, PATCH, w / PATCH, PATCH, c))?.permute((0, 1, 3, 2, 4, 5))?;
    Ok(x.contiguous()?.reshape((b, h / PATCH, w / PATCH, PATCH * PATCH * c))?)
}

/// Scales every row to length 1.
fn unit(x: &Tensor) -> Result<Tensor> {
    let length = (x.sqr()?.sum_keepdim(D::Minus1)? + TINY)?.sqrt()?;
    Ok(x.broadcast_div(&length)?)
}
