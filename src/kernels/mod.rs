//! The few functions where nearly all time goes: linear, convolution, normalisation, attention.
//!
//! Networks call these and nothing else for such work. Activations are **channels-last**: pictures are `(B, H, W, C)`
//! and sequences `(B, T, C)`, so that a 1x1 convolution is a linear layer and a transformer block needs no transposes.
//! All functions are differentiable, in every argument.

use crate::Result;
use candle_core::{D, DType, Module, Tensor};

/// Zero rows and columns added around a picture before a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// Rows above.
    pub top: usize,
    /// Rows below.
    pub bottom: usize,
    /// Columns to the left.
    pub left: usize,
    /// Columns to the right.
    pub right: usize,
}

impl Padding {
    /// The same padding on all four sides.
    pub const fn same(n: usize) -> Self {
        Self { top: n, bottom: n, left: n, right: n }
    }

    /// Below and to the right only, as diffusers' VAE encoder pads before its stride-2 convolutions.
    pub const fn after(n: usize) -> Self {
        Self { top: 0, bottom: n, left: 0, right: n }
    }
}

/// What follows a normalisation in the same pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `x * sigmoid(x)`.
    Silu,
}

/// `x w^T + b`. Shapes: `x` (.., I), `w` (O, I), `b` (O); returns (.., O).
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let y = candle_nn::Linear::new(w.clone(), b.cloned()).forward(x)?;
    Ok(y)
}

/// 2-D convolution (cross-correlation). Shapes: `x` (B, H, W, I), `w` (O, I, kh, kw), `b` (O); returns (B, H', W', O).
pub fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, stride: usize, padding: Padding) -> Result<Tensor> {
    let x = x.permute((0, 3, 1, 2))?.contiguous()?;
    let x = x.pad_with_zeros(2, padding.top, padding.bottom)?.pad_with_zeros(3, padding.left, padding.right)?;
    let y = x.conv2d(w, 0, stride, 1, 1)?.permute((0, 2, 3, 1))?.contiguous()?;
    Ok(match b {
        Some(b) => y.broadcast_add(b)?,
        None => y,
    })
}

/// Group normalisation over all positions of a sample and the channels of a group, then `activation`.
/// Shapes: `x` (B, .., C), `w` and `b` (C); returns the shape of `x`.
pub fn group_norm(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    groups: usize,
    eps: f64,
    activation: Activation,
) -> Result<Tensor> {
    let shape = x.shape().clone();
    let (batch, channels) = (shape.dims()[0], shape.dims()[shape.rank() - 1]);
    let g = x.reshape((batch, (), groups, channels / groups))?;
    let mean = g.mean_keepdim(3)?.mean_keepdim(1)?;
    let centred = g.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(3)?.mean_keepdim(1)?;
    let y = centred.broadcast_div(&(variance + eps)?.sqrt()?)?.reshape(shape)?;
    let y = y.broadcast_mul(w)?.broadcast_add(b)?;
    Ok(match activation {
        Activation::Identity => y,
        Activation::Silu => y.silu()?,
    })
}

/// Layer normalisation over the last dimension. Shapes: `x` (.., C), `w` and `b` (C).
pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.mean_keepdim(D::Minus1)?;
    let centred = x.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(w)?.broadcast_add(b)?)
}

/// Scaled dot-product attention with `heads` heads side by side in the channels.
/// Shapes: `q` (B, T, C), `k` and `v` (B, S, C); returns (B, T, C). With `causal`, position t sees positions 0..=t.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (b, t, c) = q.dims3()?;
    let s = k.dim(1)?;
    let split = |x: &Tensor, n| x.reshape((b, n, heads, c / heads))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q, t)?, split(k, s)?, split(v, s)?);
    let mut scores = (q.matmul(&k.transpose(2, 3)?)? * (1.0 / ((c / heads) as f64).sqrt()))?;
    if causal {
        let mask: Vec<f32> = (0..t * s).map(|i| if i % s > i / s { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (t, s), q.device())?.to_dtype(scores.dtype())?;
        scores = scores.broadcast_add(&mask)?;
    }
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    Ok(weights.matmul(&v)?.transpose(1, 2)?.reshape((b, t, c))?)
}

/// Gated GELU: the last dimension holds values, then gates; returns `values * gelu(gates)` with the exact (erf) GELU.
/// Shapes: `x` (.., 2 D); returns (.., D).
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let parts = x.chunk(2, D::Minus1)?;
    Ok((&parts[0] * parts[1].gelu_erf()?)?)
}

/// Whether a kernel of our own serves this tensor: f32 on the CPU. Elsewhere candle's own operations do.
pub fn is_native(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}
