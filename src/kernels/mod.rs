//! The few functions where nearly all time goes: linear, convolution, normalisation, attention.
//!
//! Networks call these and nothing else for such work. Activations are **channels-last**: pictures are `(B, H, W, C)`
//! and sequences `(B, T, C)`, so that a 1x1 convolution is a linear layer and a transformer block needs no transposes.
//! All functions are differentiable, in every argument. In f32 on the CPU they are our own operations; other types and
//! devices run candle's. There, the weights of linear layers and convolutions may be in half precision, with results and
//! activations in f32: see `stored`. Those have no gradient.
//! Half precision on NVIDIA's GPUs runs flash attention, where the crate is built with it.

mod activation;
mod attention;
mod conv2d;
#[cfg(feature = "flash-attn")]
mod flash;
mod fused;
mod gemm;
mod linear;
mod math;
mod merged;
mod native;
mod norm;
mod reference;
mod stored;
mod threads;

pub use fused::{Convolution, Normalisation, Residual, enlarged_conv2d, norm_silu_conv2d, residual_block};
pub(crate) use native::with_values;
pub use threads::on_this_thread;

use crate::Result;
use candle_core::{DType, Tensor};
use std::cell::Cell;

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
    if !is_native(x) || !stored::serves(w.dtype()) {
        return reference::linear(x, w, b);
    }
    Ok(x.contiguous()?.apply_op3(&w.contiguous()?, &bias_or_zeros(b, w, x.dtype())?, linear::Linear)?)
}

/// `w + a b`, summed in f32 and rounded to the type of `w`; has no gradient. Shapes: `w` (O, I), `a` (O, R) and `b` (R, I)
/// in f32; returns (O, I).
pub fn add_product(w: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !is_native(a) || !stored::serves(w.dtype()) {
        return reference::add_product(w, a, b);
    }
    Ok(w.contiguous()?.apply_op3_no_bwd(&a.contiguous()?, &b.contiguous()?, &merged::AddProduct)?)
}

/// 2-D convolution (cross-correlation). Shapes: `x` (B, H, W, I), `w` (O, kh, kw, I), `b` (O); returns (B, H', W', O).
pub fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, stride: usize, padding: Padding) -> Result<Tensor> {
    if !is_native(x) || !stored::serves(w.dtype()) {
        return reference::conv2d(x, w, b, stride, padding);
    }
    let op = conv2d::Conv2d { stride, padding };
    Ok(x.contiguous()?.apply_op3(&w.contiguous()?, &bias_or_zeros(b, w, x.dtype())?, op)?)
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
    if !is_native(x) {
        return reference::group_norm(x, w, b, groups, eps, activation);
    }
    let positions = x.elem_count() / (x.dim(0)? * w.elem_count()).max(1);
    let op = norm::Norm { name: "group-norm", positions, groups, eps, activation };
    Ok(x.contiguous()?.apply_op3(w, b, op)?)
}

/// Layer normalisation over the last dimension. Shapes: `x` (.., C), `w` and `b` (C).
pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    if !is_native(x) {
        return reference::layer_norm(x, w, b, eps);
    }
    let op = norm::Norm { name: "layer-norm", positions: 1, groups: 1, eps, activation: Activation::Identity };
    Ok(x.contiguous()?.apply_op3(w, b, op)?)
}

/// Scaled dot-product attention with `heads` heads side by side in the channels.
/// Shapes: `q` (B, T, C), `k` and `v` (B, S, C); returns (B, T, C). With `causal`, position t sees positions 0..=t.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    #[cfg(feature = "flash-attn")]
    if flash::serves(q, k, heads, causal) {
        return flash::attention(q, k, v, heads, causal);
    }
    if !is_native(q) {
        return reference::attention_in_blocks(q, k, v, heads, causal);
    }
    let op = attention::Attention { heads, causal };
    Ok(q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)?)
}

/// Gated GELU: the last dimension holds values, then gates; returns `values * gelu(gates)` with the exact (erf) GELU.
/// Shapes: `x` (.., 2 D); returns (.., D).
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    if !is_native(x) {
        return reference::geglu(x);
    }
    Ok(x.contiguous()?.apply_op1(activation::Geglu)?)
}

/// `x * sigmoid(x)`, any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if !is_native(x) {
        return Ok(x.silu()?);
    }
    Ok(x.contiguous()?.apply_op1(activation::Silu)?)
}

/// Adds one vector per sample to all its positions. Shapes: `x` (B, .., C), `e` (B, C); returns the shape of `x`.
pub fn add_per_sample(x: &Tensor, e: &Tensor) -> Result<Tensor> {
    if !is_native(x) {
        return reference::add_per_sample(x, e);
    }
    Ok(x.contiguous()?.apply_op2(&e.contiguous()?, activation::AddPerSample)?)
}

thread_local! {
    static BY_REFERENCE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with candle's own operations in place of ours, as on other devices: how tests go that road without one.
pub fn by_reference<R>(f: impl FnOnce() -> R) -> R {
    let before = BY_REFERENCE.replace(true);
    let result = f();
    BY_REFERENCE.set(before);
    result
}

/// Whether a kernel of our own serves this tensor.
fn is_native(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && !BY_REFERENCE.get()
}

fn bias_or_zeros(b: Option<&Tensor>, w: &Tensor, dtype: DType) -> Result<Tensor> {
    Ok(match b {
        Some(b) => b.to_dtype(dtype)?,
        None => Tensor::zeros(w.dim(0)?, dtype, w.device())?,
    })
}

#[cfg(test)]
mod tests;
