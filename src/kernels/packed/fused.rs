//! Convolutions with packed weights and what is joined to them, of tensors.

use super::Packed;
use super::conv2d::Convolution as Ready;
use super::isa::Isa;
use super::linear::Added;
use crate::Result;
use crate::kernels::conv2d::Sizes;
use crate::kernels::fused::{Convolution, Residual};
use crate::kernels::native::{with_some, with_values};
use crate::kernels::norm::Affine;
use candle_core::{Shape, Tensor};

/// `convolution` of `x` (B, H, W, I), which is enlarged to `enlarged` or goes through `affine` first.
pub(in crate::kernels) fn conv2d(
    x: &Tensor,
    (convolution, weights): (Convolution<'_>, &Packed),
    enlarged: Option<(usize, usize)>,
    affine: Option<&Affine>,
) -> Result<Tensor> {
    let sizes = sizes(x.shape(), (convolution, weights), enlarged)?;
    let x = x.contiguous()?;
    let y = with_values([&x], |[x]| run((convolution, weights), sizes, affine, x, Added::default(), None))??;
    Ok(Tensor::from_vec(y, result(&sizes), x.device())?)
}

/// `y + convolution(x)`, (B, H', W', O), for `x` (B, H, W, I).
pub(in crate::kernels) fn add_conv2d(
    y: &Tensor,
    x: &Tensor,
    (convolution, weights): (Convolution<'_>, &Packed),
) -> Result<Tensor> {
    let sizes = sizes(x.shape(), (convolution, weights), None)?;
    check(&result(&sizes), y.shape())?;
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let sum = with_values([&x, &y], |[x, y]| {
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

fn result(sizes: &Sizes) -> Shape {
    Shape::from((sizes.batch, sizes.out_height, sizes.out_width, sizes.outputs))
}

fn run(
    (convolution, weights): (Convolution<'_>, &Packed),
    sizes: Sizes,
    affine: Option<&Affine>,
    x: &[f32],
    added: Added<'_>,
    onto: Option<Vec<f32>>,
) -> candle_core::Result<Vec<f32>> {
    let ready = Ready { sizes, weights, affine };
    with_some(convolution.bias, |bias| ready.run(Isa::best(), x, Added { bias, ..added }, onto))?
}

/// See `kernels::residual_block`. `packed`: the weights of the first, the second and the shortcut's convolution.
pub(in crate::kernels) fn residual_block(
    x: &Tensor,
    block: Residual<'_>,
    packed: (&Packed, &Packed, Option<&Packed>),
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (first, second) = ((block.first.1, packed.0), (block.second.1, packed.1));
    let inner = sizes(x.shape(), first, None)?;
    let outer = sizes(&result(&inner), second, None)?;
    let shape = result(&outer);
    let per_sample = block.per_sample.map(Tensor::contiguous).transpose()?;
    let e = per_sample.as_ref();
    let values = with_values([&x], |[values]| -> Result<Vec<f32>> {
        let affine = block.first.0.affine(values, x.shape())?;
        let h = with_some(e, |per_sample| {
            run(first, inner, Some(&affine), values, Added { per_sample, ..Added::default() }, None)
        })??;
        let affine = block.second.0.affine(&h, &result(&inner))?;
        let beside = block.shortcut.zip(packed.2);
        let shortcut = beside
            .map(|beside| {
                let sizes = sizes(x.shape(), beside, None)?;
                check(&result(&sizes), &shape)?;
                Ok::<_, crate::Error>(run(beside, sizes, None, values, Added::default(), None)?)
            })
            .transpose()?;
        if shortcut.is_none() {
            check(x.shape(), &shape)?;
        }
        let rows = shortcut.is_none().then_some(values);
        Ok(run(second, outer, Some(&affine), &h, Added { rows, ..Added::default() }, shortcut)?)
    })??;
    Ok(Tensor::from_vec(values, shape, x.device())?)
}

fn check(input: &Shape, result: &Shape) -> Result<()> {
    crate::kernels::fused::check(input, result)
}
