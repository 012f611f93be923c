//! The few functions where nearly all time goes: linear, convolution, normalisation, attention.
//!
//! Networks call these and nothing else for such work. Activations are **channels-last**: pictures are `(B, H, W, C)`
//! and sequences `(B, T, C)`, so that a 1x1 convolution is a linear layer and a transformer block needs no transposes.
//! All functions are differentiable, in every argument. In f32 on the CPU they are our own operations; other types and
//! devices run candle's. There, the weights of linear layers and convolutions may be in half precision, with results and
//! activations in f32: see `stored`. Those weights have no gradient; inputs have.
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
mod moments;
mod native;
mod norm;
mod packed;
mod panels;
pub mod profile;
mod reference;
mod spread;
mod stored;
mod threads;

pub use fused::{
    Convolution, Normalisation, Residual, add_conv2d, enlarged_conv2d, enlarged_conv2d_for_block, norm_conv2d,
    residual_block,
};
pub use moments::{GroupMoments, Moments};
pub(crate) use native::with_values;
pub use packed::{Isa, Packed, of_f16, of_f32, pack, pack_rows};
pub use spread::{add, beside};
pub use threads::{is_alone, on_this_thread};

use crate::Result;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
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

/// The weights of a layer.
#[derive(Debug, Clone)]
pub enum Weight {
    /// One by one, in the type in which they are stored: (O, I), or (O, kh, kw, I) of a convolution.
    Plain(Tensor),
    /// The same in f32, rounded to bf16 each time they are multiplied: those of a layer in training.
    Rounded(Tensor),
    /// In bf16, laid out for products in bf16, on the CPU. They have no gradient; inputs have.
    Packed(Packed),
}

impl Weight {
    /// (O, I), or (O, kh, kw, I).
    fn dims(&self) -> Vec<usize> {
        match self {
            Self::Plain(tensor) | Self::Rounded(tensor) => tensor.dims().to_vec(),
            Self::Packed(packed) => packed.shape().into_dims(),
        }
    }

    fn plain(&self) -> Option<&Tensor> {
        match self {
            Self::Plain(tensor) | Self::Rounded(tensor) => Some(tensor),
            Self::Packed(_) => None,
        }
    }

    /// How products with them are computed.
    pub fn products(&self) -> Products {
        match self {
            Self::Plain(_) => Products::Full,
            Self::Rounded(_) | Self::Packed(_) => Products::Brain,
        }
    }
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Plain(tensor)
    }
}

/// In what products are computed on the CPU, where they are our own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Products {
    /// f32.
    #[default]
    #[serde(rename = "f32")]
    Full,
    /// bf16, summed in f32.
    #[serde(rename = "bf16")]
    Brain,
}

impl Products {
    /// Those that take less time on this processor.
    pub fn fastest() -> Self {
        if Isa::best().gains() { Self::Brain } else { Self::Full }
    }
}

impl std::fmt::Display for Products {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "f32",
            Self::Brain => "bf16",
        })
    }
}

/// The parameters of an attention with what is around it: see [`attention_block`].
#[derive(Clone, Copy)]
pub struct AttentionBlock<'a> {
    /// Scale and shift of the layer norm before it, and what is added to its variance.
    pub norm: (&'a Tensor, &'a Tensor, f64),
    /// (C, C), without bias.
    pub queries: &'a Weight,
    /// (C, D), without bias.
    pub keys: &'a Weight,
    /// (C, D), without bias.
    pub values: &'a Weight,
    /// (C, C), with a bias.
    pub out: (&'a Weight, &'a Tensor),
    /// How many heads.
    pub heads: usize,
}

/// `x + linear(attention(q, k, v))` with `q` of `layer_norm(x)`, and `k` and `v` of `context`, or of `layer_norm(x)` where
/// there is none. Shapes: `x` (B, T, C), `context` (B, S, D); returns (B, T, C).
pub fn attention_block(x: &Tensor, context: Option<&Tensor>, a: AttentionBlock<'_>) -> Result<Tensor> {
    let (batch, queries, channels) = x.dims3()?;
    let keys = context.map_or(queries, |context| context.dims().get(1).copied().unwrap_or(0));
    let _span = profile::kernel(|| {
        let inputs = a.keys.dims()[1];
        let products = 4.0 * (x.elem_count() * channels) as f64 + 4.0 * (batch * keys * inputs * channels) as f64;
        let name = format!("attention block {:?}, {keys}, {} heads", x.dims(), a.heads);
        (name, products + 4.0 * (x.elem_count() * keys) as f64)
    });
    let tensors = [Some(x), context, Some(a.norm.0), Some(a.norm.1), Some(a.out.1)];
    let plain = tensors.into_iter().flatten().all(|tensor| !tensor.track_op());
    if let (Weight::Packed(q), Weight::Packed(k), Weight::Packed(v), Weight::Packed(out)) =
        (a.queries, a.keys, a.values, a.out.0)
        && plain
        && is_native(x)
        && a.heads > 0
        && channels.is_multiple_of(a.heads)
    {
        let sizes = packed::attention::Sizes { queries, keys, channels, head: channels / a.heads, causal: false };
        let (x, context) = (x.contiguous()?, context.map(Tensor::contiguous).transpose()?);
        let y = with_values([&x, a.norm.0, a.norm.1, a.out.1], |[rows, scale, shift, bias]| {
            let attend = packed::attend::Attend { sizes, queries: q, keys: k, values: v, out, bias };
            let norm = |x: &[f32], y: &mut [f32]| norm::normalise_rows(x, scale, shift, a.norm.2, y);
            let run = |context: Option<&[f32]>| attend.run(Isa::best(), rows, context, norm);
            let fits = context.as_ref().is_none_or(|context| context.dims().last() == Some(&k.inputs()));
            (fits && attend.serves()).then(|| native::with_some(context.as_ref(), run)?).transpose()
        })??;
        if let Some(y) = y {
            return Ok(Tensor::from_vec(y, x.shape().clone(), x.device())?);
        }
    }
    let h = layer_norm(x, a.norm.0, a.norm.1, a.norm.2)?;
    let context = context.unwrap_or(&h);
    let (q, k, v) = (linear(&h, a.queries, None)?, linear(context, a.keys, None)?, linear(context, a.values, None)?);
    let attended = attention(&q, &k, &v, a.heads, false, a.queries.products())?;
    add(x, &linear(&attended, a.out.0, Some(a.out.1))?)
}

/// The parameters of a gated feed-forward network: see [`feed_forward`].
#[derive(Clone, Copy)]
pub struct FeedForward<'a> {
    /// Scale and shift of the layer norm before it, and what is added to its variance.
    pub norm: (&'a Tensor, &'a Tensor, f64),
    /// Of values and gates, (2 D, I), with a bias.
    pub first: (&'a Weight, &'a Tensor),
    /// (I, D), with a bias.
    pub second: (&'a Weight, &'a Tensor),
}

/// `x + linear2(geglu(linear1(layer_norm(x))))`. Shapes: `x` (.., I); returns the same.
pub fn feed_forward(x: &Tensor, f: FeedForward<'_>) -> Result<Tensor> {
    let (norm, (first, first_bias), (second, second_bias)) = (f.norm, f.first, f.second);
    let _span = profile::kernel(|| {
        let d = first.dims()[0] / 2;
        (format!("feed-forward {:?}, {d}", x.dims()), 6.0 * (x.elem_count() * d) as f64)
    });
    let plain = [x, norm.0, norm.1, first_bias, second_bias].iter().all(|tensor| !tensor.track_op());
    if let (Weight::Packed(a), Weight::Packed(b), true) = (first, second, plain && is_native(x)) {
        let rows = x.elem_count() / x.dim(candle_core::D::Minus1)?.max(1);
        if packed::feed::Feed::serves([a, b], rows) {
            let x = x.contiguous()?;
            let y = with_values([&x, norm.0, norm.1, first_bias, second_bias], |[x, scale, shift, first, second]| {
                let feed = packed::feed::Feed { weights: [a, b], biases: [first, second] };
                feed.run(Isa::best(), x, |x, y| norm::normalise_rows(x, scale, shift, norm.2, y))
            })??;
            return Ok(Tensor::from_vec(y, x.shape().clone(), x.device())?);
        }
    }
    let h = geglu_linear(&layer_norm(x, norm.0, norm.1, norm.2)?, first, Some(first_bias))?;
    add(x, &linear(&h, second, Some(second_bias))?)
}

/// [`geglu`] of [`linear`]. Shapes: `x` (.., I), `w` (2 D, I), `b` (2 D); returns (.., D).
pub fn geglu_linear(x: &Tensor, w: &Weight, b: Option<&Tensor>) -> Result<Tensor> {
    let _span = linear_span("gated linear", x, w);
    match w {
        Weight::Packed(w) if packed::linear::is_gated(w) && is_native(x) && !x.track_op() => {
            packed::linear::forward(w, x, b, true)
        }
        _ => geglu(&linear(x, w, b)?),
    }
}

/// `x w^T + b`. Shapes: `x` (.., I), `w` (O, I), `b` (O); returns (.., O).
pub fn linear(x: &Tensor, w: &Weight, b: Option<&Tensor>) -> Result<Tensor> {
    let _span = linear_span("linear", x, w);
    let (w, products) = match w {
        Weight::Plain(w) => (w, Products::Full),
        Weight::Rounded(w) => (w, Products::Brain),
        Weight::Packed(w) if is_native(x) && !x.track_op() => return packed::linear::forward(w, x, b, false),
        Weight::Packed(w) => (&w.unpack()?, Products::Full),
    };
    if !is_native(x) || !stored::serves(w.dtype()) {
        return reference::linear(x, w, b);
    }
    let op = linear::Linear { products };
    Ok(x.contiguous()?.apply_op3(&w.contiguous()?, &bias_or_zeros(b, w, x.dtype())?, op)?)
}

fn linear_span(name: &str, x: &Tensor, w: &Weight) -> profile::Span {
    let outputs = || w.dims()[0];
    profile::kernel(|| (format!("{name} {:?}, {}", x.dims(), outputs()), 2.0 * (x.elem_count() * outputs()) as f64))
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
pub fn conv2d(x: &Tensor, w: &Weight, b: Option<&Tensor>, stride: usize, padding: Padding) -> Result<Tensor> {
    let convolution = Convolution { weight: w, bias: b, stride, padding };
    let _span = profile::kernel(|| (format!("convolution {}", convolution.told(x)), convolution.flops(x)));
    let (w, products) = match w {
        Weight::Plain(w) => (w, Products::Full),
        Weight::Rounded(w) => (w, Products::Brain),
        Weight::Packed(packed) if is_native(x) && !x.track_op() => {
            return packed::fused::conv2d::<f32>(x, (convolution, packed), None, None);
        }
        Weight::Packed(packed) => (&packed.unpack()?.reshape(packed.shape())?, Products::Full),
    };
    if !is_native(x) || !stored::serves(w.dtype()) {
        return reference::conv2d(x, w, b, stride, padding);
    }
    let op = conv2d::Conv2d { stride, padding, products };
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
    let _span = profile::kernel(|| (format!("group norm {:?}", x.dims()), 0.0));
    if !is_native(x) {
        return reference::group_norm(x, w, b, groups, eps, activation);
    }
    let positions = x.elem_count() / (x.dim(0)? * w.elem_count()).max(1);
    let op = norm::Norm { name: "group-norm", positions, groups, eps, activation };
    Ok(x.contiguous()?.apply_op3(w, b, op)?)
}

/// Layer normalisation over the last dimension. Shapes: `x` (.., C), `w` and `b` (C).
pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    let _span = profile::kernel(|| (format!("layer norm {:?}", x.dims()), 0.0));
    if !is_native(x) {
        return reference::layer_norm(x, w, b, eps);
    }
    let op = norm::Norm { name: "layer-norm", positions: 1, groups: 1, eps, activation: Activation::Identity };
    Ok(x.contiguous()?.apply_op3(w, b, op)?)
}

/// Scaled dot-product attention with `heads` heads side by side in the channels.
/// Shapes: `q` (B, T, C), `k` and `v` (B, S, C); returns (B, T, C). With `causal`, position t sees positions 0..=t.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool, products: Products) -> Result<Tensor> {
    let _span = profile::kernel(|| {
        let keys = k.dims().get(1).copied().unwrap_or(0);
        (format!("attention {:?}, {keys}, {heads} heads", q.dims()), 4.0 * (q.elem_count() * keys) as f64)
    });
    #[cfg(feature = "flash-attn")]
    if flash::serves(q, k, heads, causal) {
        return flash::attention(q, k, v, heads, causal);
    }
    if !is_native(q) {
        return reference::attention_in_blocks(q, k, v, heads, causal);
    }
    let op = attention::Attention { heads, causal };
    if products == Products::Brain && ![q, k, v].iter().any(|x| x.track_op()) {
        return op.in_brain(&q.contiguous()?, &k.contiguous()?, &v.contiguous()?);
    }
    Ok(q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, op)?)
}

/// Gated GELU: the last dimension holds values, then gates; returns `values * gelu(gates)` with the exact (erf) GELU.
/// Shapes: `x` (.., 2 D); returns (.., D).
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let _span = profile::kernel(|| (format!("geglu {:?}", x.dims()), 0.0));
    if !is_native(x) {
        return reference::geglu(x);
    }
    Ok(x.contiguous()?.apply_op1(activation::Geglu)?)
}

/// `x * sigmoid(x)`, any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    let _span = profile::kernel(|| (format!("silu {:?}", x.dims()), 0.0));
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
