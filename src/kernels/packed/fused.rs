//! Convolutions with packed weights and what is joined to them, of tensors.

use super::Packed;
use super::conv2d::Convolution as Ready;
use super::isa::Isa;
use super::linear::Added;
use super::round::Number;
use crate::Result;
use crate::kernels::conv2d::Sizes;
use crate::kernels::fused::{Convolution, Residual};
use crate::kernels::native::{with_some, with_values};
use crate::kernels::norm::Affine;
use candle_core::{Shape, Tensor};

/// `convolution` of `x` (B, H, W, I), which is enlarged to `enlarged` or goes through `affine` first, as numbers of type `Y`.
pub(in crate::kernels) fn conv2d<Y: Number>(
    x: &Tensor,
    (convolution, weights): (Convolution<'_>, &Packed),
    enlarged: Option<(usize, usize)>,
    affine: Option<&Affine>,
) -> Result<Tensor> {
    let sizes = sizes(x.shape(), (convolution, weights), enlarged)?;
    let x = x.contiguous()?;
    let y: Vec<Y> = with_values([&x], |[x]| run((convolution, weights), sizes, affine, x, Added::default(), None))??;
    Ok(Y::tensor(y, sizes.result())?)
}

/// `y + convolution(x)`, (B, H', W', O), for `x` (B, H, W, I).
pub(in crate::kernels) fn add_conv2d(
    y: &Tensor,
    x: &Tensor,
    (convolution, weights): (Convolution<'_>, &Packed),
) -> Result<Tensor> {
    let sizes = sizes(x.shape(), (convolution, weights), None)?;
    check(&sizes.result(), y.shape())?;
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let sum: Vec<f32> = with_values([&x, &y], |[x, y]| {
        run((convolution, weights), sizes, None, x, Added { rows: Some(y), ..Added::default() }, None)
    })??;
    Ok(Tensor::from_vec(sum, y.shape().clone(), x.device())?)
}

fn sizes(
    x: &Shape,
    (convolution, weights): (Convolution<'_>, &Packed),
    enlarged: Option<(usize, usize)>,
) -> candle_core::Result<Sizes> {
    Sizes::new(x, &weights.shape(), enlarged, convolution.stride, convolution.padding)
}

fn run<X: Number, Y: Number>(
    (convolution, weights): (Convolution<'_>, &Packed),
    sizes: Sizes,
    affine: Option<&Affine>,
    x: &[X],
    added: Added<'_>,
    onto: Option<Vec<Y>>,
) -> candle_core::Result<Vec<Y>> {
    let ready = Ready { sizes, weights, affine };
    with_some(convolution.bias, |bias| ready.run(Isa::best(), x, Added { bias, ..added }, onto))?
}

/// See `kernels::residual_block`, of an input of type `X`. `packed`: the weights of the first, the second and the shortcut's
/// convolution.
pub(in crate::kernels) fn residual_block<X: Number>(
    x: &Tensor,
    block: Residual<'_>,
    packed: (&Packed, &Packed, Option<&Packed>),
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (first, second) = ((block.first.1, packed.0), (block.second.1, packed.1));
    let inner = sizes(x.shape(), first, None)?;
    let outer = sizes(&inner.result(), second, None)?;
    let shape = outer.result();
    let per_sample = block.per_sample.map(Tensor::contiguous).transpose()?;
    let e = per_sample.as_ref();
    let h = X::with(&x, |values| -> Result<Vec<u16>> {
        let affine = block.first.0.affine(values, x.shape())?;
        // Only as bf16, in which it goes into the second product as well: half of the memory to write and read.
        Ok(with_some(e, |per_sample| {
            run(first, inner, Some(&affine), values, Added { per_sample, ..Added::default() }, None)
        })??)
    })??;
    let affine = block.second.0.affine(&h, &inner.result())?;
    let beside = beside::<X>(&x, block.shortcut.zip(packed.2), &shape)?;
    let last = |rows: Option<&[f32]>| run(second, outer, Some(&affine), &h, Added { rows, ..Added::default() }, beside);
    let y = if block.shortcut.is_some() || X::ROUNDED { last(None) } else { with_values([&x], |[x]| last(Some(x)))? };
    Ok(Tensor::from_vec(y?, shape, x.device())?)
}

/// What the result of a residual block is added onto: the shortcut's, or `x` where that is not there as f32 anyway.
fn beside<X: Number>(
    x: &Tensor,
    shortcut: Option<(Convolution<'_>, &Packed)>,
    shape: &Shape,
) -> Result<Option<Vec<f32>>> {
    let Some(shortcut) = shortcut else {
        check(x.shape(), shape)?;
        let wide = |x: &[X]| X::ROUNDED.then(|| x.iter().map(|v| v.wide()).collect());
        return Ok(X::with(x, wide)?);
    };
    let sizes = sizes(x.shape(), shortcut, None)?;
    check(&sizes.result(), shape)?;
    Ok(Some(X::with(x, |x| run(shortcut, sizes, None, x, Added::default(), None))??))
}

fn check(input: &Shape, result: &Shape) -> Result<()> {
    crate::kernels::fused::check(input, result)
}
