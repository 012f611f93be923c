//! The same functions in candle's own operations: what other devices and types run, and what tests hold the kernels
//! against. Shapes and meanings are those of the functions in [`super`].
//!
//! Of half precision, squares, exponentials and sums of many values are taken in f32, as PyTorch takes them: f16 ends at
//! 65,504.

use super::{Activation, Padding};
use crate::Result;
use candle_core::{D, DType, Module, Tensor};

/// In f32 where `x` is in half precision.
fn wide(x: &Tensor) -> candle_core::Result<Tensor> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32),
        _ => Ok(x.clone()),
    }
}

pub(super) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let b = b.map(|b| b.to_dtype(x.dtype())).transpose()?;
    Ok(candle_nn::Linear::new(w.to_dtype(x.dtype())?, b).forward(x)?)
}

pub(super) fn add_product(w: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((w.to_dtype(DType::F32)? + a.matmul(b)?)?.to_dtype(w.dtype())?)
}

pub(super) fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, stride: usize, padding: Padding) -> Result<Tensor> {
    // Of which candle has no convolution on the CPU.
    if x.device().is_cpu() && x.dtype() == DType::BF16 {
        let y = conv2d(&x.to_dtype(DType::F32)?, w, b, stride, padding)?;
        return Ok(y.to_dtype(DType::BF16)?);
    }
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let x = x.pad_with_zeros(2, padding.top, padding.bottom)?.pad_with_zeros(3, padding.left, padding.right)?;
    let w = w.to_dtype(x.dtype())?.permute((0, 3, 1, 2))?.contiguous()?;
    let y = x.conv2d(&w, 0, stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()?;
    Ok(match b {
        Some(b) => y.broadcast_add(&b.to_dtype(y.dtype())?)?,
        None => y,
    })
}

pub(super) fn group_norm(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let shape = x.shape().clone();
    let (batch, channels) = (shape.dims()[0], shape.dims()[shape.rank() - 1]);
    let g = wide(x)?.reshape((batch, (), groups, channels / groups))?;
    let mean = g.mean_keepdim(3)?.mean_keepdim(1)?;
    let centred = g.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(3)?.mean_keepdim(1)?;
    let y = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape(shape)?;
    let y = y.broadcast_mul(&wide(w)?)?.broadcast_add(&wide(b)?)?;
    let y = match activation {
        Activation::Identity => y,
        Activation::Silu => y.silu()?,
    };
    Ok(y.to_dtype(x.dtype())?)
}

/// Mean of each channel of `x`, (1, .., C), over all positions, and the sum of its squared deviations from that.
pub(super) fn moments(x: &Tensor) -> Result<[Vec<f32>; 2]> {
    let rows = wide(x)?.reshape(((), x.dim(D::Minus1)?))?;
    let means = rows.mean_keepdim(0)?;
    let squares = rows.broadcast_sub(&means)?.sqr()?.sum(0)?;
    let numbers = |x: &Tensor| x.flatten_all()?.to_dtype(DType::F32)?.to_vec1();
    Ok([numbers(&means)?, numbers(&squares)?])
}

/// `activation(x * scale + shift)`, both of as many numbers as there are channels.
pub(super) fn scaled(x: &Tensor, [scale, shift]: [&[f32]; 2], activation: Activation) -> Result<Tensor> {
    let values = wide(x)?;
    let row = |numbers: &[f32]| Tensor::new(numbers, x.device())?.to_dtype(values.dtype());
    let y = values.broadcast_mul(&row(scale)?)?.broadcast_add(&row(shift)?)?;
    let y = if activation == Activation::Silu { y.silu()? } else { y };
    Ok(y.to_dtype(x.dtype())?)
}

pub(super) fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    let values = wide(x)?;
    let centred = values.broadcast_sub(&values.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let y = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    Ok(y.broadcast_mul(&wide(w)?)?.broadcast_add(&wide(b)?)?.to_dtype(x.dtype())?)
}

pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (b, t, c) = q.dims3()?;
    let s = k.dim(1)?;
    let split = |x: &Tensor, n| x.reshape((b, n, heads, c / heads))?.transpose(1, 2)?.contiguous();
    // Scaled before they are multiplied, so that the product stays small.
    let (q, k, v) = ((split(q, t)? * (1.0 / ((c / heads) as f64).sqrt()))?, split(k, s)?, split(v, s)?);
    let mut scores = wide(&q.matmul(&k.transpose(2, 3)?)?)?;
    if causal {
        let mask: Vec<f32> = (0..t * s).map(|i| if i % s > i / s { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (t, s), q.device())?.to_dtype(scores.dtype())?;
        scores = scores.broadcast_add(&mask)?;
    }
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(v.dtype())?;
    Ok(weights.matmul(&v)?.transpose(1, 2)?.reshape((b, t, c))?)
}

/// (B, H, W, C) to (B, `height`, `width`, C) by repeating the nearest position before.
pub(super) fn enlarge(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    if (height, width) == (2 * h, 2 * w) {
        let x = x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?;
        return Ok(x.reshape((b, height, width, c))?);
    }
    let pick = |from: usize, to: usize| Tensor::from_iter((0..to).map(|i| (i * from / to) as u32), x.device());
    Ok(x.index_select(&pick(h, height)?, 1)?.index_select(&pick(w, width)?, 2)?)
}

/// The most scores that exist at a time: those of 2048 queries and keys, eight heads and two samples.
const MOST_SCORES: usize = 1 << 26;

/// [`attention`], of some queries at a time where there are many.
pub(super) fn attention_in_blocks(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let ((batch, queries, _), keys) = (q.dims3()?, k.dim(1)?);
    let block = (MOST_SCORES / (batch * heads * keys).max(1)).max(1);
    if causal || queries <= block {
        return attention(q, k, v, heads, causal);
    }
    let parts = (0..queries).step_by(block).map(|first| {
        let part = q.narrow(1, first, block.min(queries - first))?;
        attention(&part, k, v, heads, causal)
    });
    Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?)
}

pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    let parts = x.chunk(2, D::Minus1)?;
    Ok((&parts[0] * parts[1].gelu_erf()?)?)
}

pub(super) fn add_per_sample(x: &Tensor, e: &Tensor) -> Result<Tensor> {
    let (batch, channels) = e.dims2()?;
    let mut shape = vec![1; x.rank()];
    (shape[0], shape[x.rank() - 1]) = (batch, channels);
    Ok(x.broadcast_add(&e.reshape(shape)?)?)
}
