//! Operations joined, so that what one gives the next never exists whole: for networks that are run and not trained. Where
//! a gradient is wanted, and on other devices, they run one by one. The numbers are the same, bit for bit.

use super::activation::add_to_samples;
use super::conv2d::{Conv2d, Forward};
use super::native::with_values;
use super::norm::{Affine, Norm};
use super::packed::round::Number;
use super::{
    Activation, GroupMoments, Padding, Products, Weight, add, add_per_sample, bias_or_zeros, conv2d, group_norm,
    is_native, packed, profile, reference, stored, threads,
};
use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Storage, Tensor};

/// The parameters of a group normalisation: see [`group_norm`].
#[derive(Clone, Copy)]
pub struct Normalisation<'a> {
    /// (C).
    pub weight: &'a Tensor,
    /// (C).
    pub bias: &'a Tensor,
    /// How many groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
    /// What follows.
    pub activation: Activation,
    /// Those of the whole picture, where the input is a part of one, of a single sample; otherwise those of the input.
    pub moments: Option<&'a GroupMoments>,
}

/// The parameters of a convolution: see [`conv2d`].
#[derive(Clone, Copy)]
pub struct Convolution<'a> {
    /// (O, kh, kw, I).
    pub weight: &'a Weight,
    /// (O).
    pub bias: Option<&'a Tensor>,
    /// Positions from one result to the next.
    pub stride: usize,
    /// Zeros around the picture.
    pub padding: Padding,
}

/// A residual block: normalisation, SiLU and convolution, twice.
#[derive(Clone, Copy)]
pub struct Residual<'a> {
    /// What comes first.
    pub first: (Normalisation<'a>, Convolution<'a>),
    /// Added to all positions between the two, (B, C).
    pub per_sample: Option<&'a Tensor>,
    /// What comes second.
    pub second: (Normalisation<'a>, Convolution<'a>),
    /// What is made of the input before it is added to the result, where their channels differ.
    pub shortcut: Option<Convolution<'a>>,
}

impl Normalisation<'_> {
    fn of(self, x: &Tensor) -> Result<Tensor> {
        let Some(moments) = self.moments else {
            return group_norm(x, self.weight, self.bias, self.groups, self.eps, self.activation);
        };
        let on_host = |tensor: &Tensor| tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32);
        let [w, b] = [on_host(self.weight)?, on_host(self.bias)?];
        let affine = with_values([&w, &b], |[w, b]| self.norm(1).affine_of([moments].into_iter(), w, b))?;
        reference::scaled(x, affine.parts(), self.activation)
    }

    fn norm(self, positions: usize) -> Norm {
        let Self { groups, eps, activation, .. } = self;
        Norm { name: "group-norm", positions, groups, eps, activation }
    }

    /// What it does to `x`, (B, .., C).
    pub(super) fn affine<T: Number>(self, x: &[T], shape: &Shape) -> Result<Affine> {
        let norm = self.norm(shape.elem_count() / (shape.dims()[0] * self.weight.elem_count()).max(1));
        if self.moments.is_some() && shape.dims()[0] != 1 {
            return Err(fault("moments of one picture, and several that they should be of"));
        }
        Ok(with_values([self.weight, self.bias], |[w, b]| match self.moments {
            Some(moments) => norm.affine_of([moments].into_iter(), w, b),
            None => norm.affine(x, w, b),
        })?)
    }
}

impl Convolution<'_> {
    /// Its sizes, for an input (B, H, W, I).
    pub(super) fn told(&self, x: &Tensor) -> String {
        let dims = self.weight.dims();
        let outputs = dims.first().copied().unwrap_or(0);
        let kernel = dims.get(1).copied().unwrap_or(0);
        format!("{:?}, {outputs}, {kernel}x{kernel}", x.dims())
    }

    /// Additions and multiplications of its own, for an input (B, H, W, I).
    pub(super) fn flops(&self, x: &Tensor) -> f64 {
        let weights: usize = self.weight.dims().iter().product();
        let positions: usize = x.dims().iter().take(3).product();
        2.0 * (weights * positions) as f64 / (self.stride * self.stride) as f64
    }

    fn of(self, x: &Tensor) -> Result<Tensor> {
        conv2d(x, self.weight, self.bias, self.stride, self.padding)
    }

    /// Calls `f` with the convolution of an input of this shape, enlarged to `enlarged`.
    fn forward<R>(
        self,
        x: &Shape,
        enlarged: Option<(usize, usize)>,
        f: impl FnOnce(Forward<'_>) -> Result<R>,
    ) -> Result<R> {
        let Weight::Plain(weight) = self.weight else { return Err(fault("a convolution of another kind of weights")) };
        let bias = bias_or_zeros(self.bias, weight, DType::F32)?;
        let op = Conv2d { stride: self.stride, padding: self.padding, products: Products::Full };
        with_values([&bias], |[b]| {
            let (storage, layout) = weight.storage_and_layout();
            match &*storage {
                Storage::Cpu(cpu) => f(op.forward(x, enlarged, (cpu, layout), b)?),
                _ => Err(fault("a CPU kernel was given weights elsewhere")),
            }
        })?
    }
}

pub(super) fn fault(message: &str) -> Error {
    candle_core::Error::Msg(message.to_owned()).into()
}

/// Whether the operations may be joined: no gradient is wanted of the input or of any parameter.
fn joins<'a>(x: &Tensor, norms: &[Normalisation<'a>], convolutions: &[Convolution<'a>]) -> bool {
    let norms = norms.iter().flat_map(|norm| [norm.weight, norm.bias]);
    let convolved = convolutions.iter().flat_map(|conv| [conv.weight.plain(), conv.bias]).flatten();
    let served = |weight: &Weight| match weight {
        Weight::Plain(w) => stored::serves(w.dtype()) && w.is_contiguous(),
        Weight::Packed(_) => true,
        Weight::Rounded(_) => false,
    };
    let all_served = convolutions.iter().all(|conv| served(conv.weight));
    is_native(x) && all_served && norms.chain(convolved).chain([x]).all(|tensor| !tensor.track_op())
}

/// `conv2d(activation(group_norm(x)))`. Shapes: `x` (B, H, W, I); returns (B, H', W', O).
pub fn norm_conv2d(x: &Tensor, norm: Normalisation<'_>, convolution: Convolution<'_>) -> Result<Tensor> {
    let _span = profile::kernel(|| (format!("normed convolution {}", convolution.told(x)), convolution.flops(x)));
    if !joins(x, &[norm], &[convolution]) {
        return convolution.of(&norm.of(x)?);
    }
    let x = x.contiguous()?;
    if let Weight::Packed(packed) = convolution.weight {
        let affine = with_values([&x], |[values]| norm.affine(values, x.shape()))??;
        return packed::fused::conv2d::<f32>(&x, (convolution, packed), None, Some(&affine));
    }
    let (y, shape) = normed(&x, norm, convolution)?;
    Ok(Tensor::from_vec(y, shape, x.device())?)
}

/// [`enlarged_conv2d`] for a [`residual_block`] that follows, which takes bf16 as well: so it comes where weights are packed, in
/// half of the memory.
pub fn enlarged_conv2d_for_block(x: &Tensor, size: (usize, usize), convolution: Convolution<'_>) -> Result<Tensor> {
    enlarged::<u16>(x, size, convolution)
}

/// `conv2d` of `x` enlarged to `height` x `width` by repeating the nearest position before.
/// Shapes: `x` (B, H, W, I); returns (B, H', W', O).
pub fn enlarged_conv2d(x: &Tensor, size: (usize, usize), convolution: Convolution<'_>) -> Result<Tensor> {
    enlarged::<f32>(x, size, convolution)
}

/// The same, as numbers of type `Y` where weights are packed, and else in f32.
fn enlarged<Y: Number>(x: &Tensor, (height, width): (usize, usize), convolution: Convolution<'_>) -> Result<Tensor> {
    let _span = profile::kernel(|| {
        let positions = x.dims().iter().skip(1).take(2).product::<usize>().max(1);
        let grown = (height * width) as f64 / positions as f64;
        (format!("enlarged convolution {}", convolution.told(x)), grown * convolution.flops(x))
    });
    if !joins(x, &[], &[convolution]) {
        return convolution.of(&reference::enlarge(x, height, width)?);
    }
    if let Weight::Packed(packed) = convolution.weight {
        return packed::fused::conv2d::<Y>(x, (convolution, packed), Some((height, width)), None);
    }
    let x = x.contiguous()?;
    let (y, shape) = convolution.forward(x.shape(), Some((height, width)), |forward| {
        let mut y = threads::zeros(forward.shape().elem_count());
        with_values([&x], |[x]| forward.run(x, &mut y))?;
        Ok((y, forward.shape()))
    })?;
    Ok(Tensor::from_vec(y, shape, x.device())?)
}

/// `y + conv2d(x)`. Shapes: `x` (B, H, W, I), `y` (B, H', W', O); returns that of `y`.
pub fn add_conv2d(y: &Tensor, x: &Tensor, convolution: Convolution<'_>) -> Result<Tensor> {
    match convolution.weight {
        Weight::Packed(packed) if joins(x, &[], &[convolution]) && is_native(y) && !y.track_op() => {
            let _span =
                profile::kernel(|| (format!("added convolution {}", convolution.told(x)), convolution.flops(x)));
            packed::fused::add_conv2d(y, x, (convolution, packed))
        }
        _ => add(y, &convolution.of(x)?),
    }
}

/// `shortcut(x) + second(per_sample + first(x))`. Shapes: `x` (B, H, W, I), also in bf16; returns (B, H, W, O).
pub fn residual_block(x: &Tensor, block: Residual<'_>) -> Result<Tensor> {
    let Residual { first, per_sample, second, shortcut } = block;
    let convolutions: Vec<_> = [first.1, second.1].into_iter().chain(shortcut).collect();
    let _span = profile::kernel(|| {
        let flops = convolutions.iter().map(|convolution| convolution.flops(x)).sum();
        (format!("residual block {}", first.1.told(x)), flops)
    });
    let packed = match (first.1.weight, second.1.weight, shortcut.map(|shortcut| shortcut.weight)) {
        (Weight::Packed(a), Weight::Packed(b), None) => Some((a, b, None)),
        (Weight::Packed(a), Weight::Packed(b), Some(Weight::Packed(c))) => Some((a, b, Some(c))),
        _ => None,
    };
    if let (DType::BF16, Some(packed)) = (x.dtype(), packed) {
        return packed::fused::residual_block::<u16>(x, block, packed);
    }
    if !joins(x, &[first.0, second.0], &convolutions) || per_sample.is_some_and(Tensor::track_op) {
        let mut h = first.1.of(&first.0.of(x)?)?;
        if let Some(e) = per_sample {
            h = add_per_sample(&h, e)?;
        }
        let h = second.1.of(&second.0.of(&h)?)?;
        return Ok(match shortcut {
            Some(shortcut) => (shortcut.of(x)? + h)?,
            None => (x + h)?,
        });
    }
    if let Some(packed) = packed {
        return packed::fused::residual_block::<f32>(x, block, packed);
    }
    let x = x.contiguous()?;
    let (mut h, shape) = normed(&x, first.0, first.1)?;
    if let Some(e) = per_sample {
        with_values([&e.contiguous()?], |[e]| add_to_samples(&mut h, e, shape.dims()[3]))?;
    }
    let affine = second.0.affine(&h, &shape)?;
    second.1.forward(&shape, None, |forward| Ok(forward.run_in_place(&affine, &mut h)?))?;
    match shortcut {
        Some(shortcut) => shortcut.forward(x.shape(), None, |forward| {
            check(&forward.shape(), &shape)?;
            Ok(with_values([&x], |[x]| forward.adding().run(x, &mut h))?)
        })?,
        None => {
            check(x.shape(), &shape)?;
            with_values([&x], |[x]| {
                threads::for_each_part(x, &mut h, x.len(), |x, h| h.iter_mut().zip(x).for_each(|(h, x)| *h += x));
            })?;
        }
    }
    Ok(Tensor::from_vec(h, shape, x.device())?)
}

pub(super) fn check(input: &Shape, result: &Shape) -> Result<()> {
    if input == result {
        return Ok(());
    }
    Err(fault(&format!("residual block: {input:?} and {result:?} cannot be added")))
}

/// [`norm_conv2d`] of a contiguous input.
fn normed(x: &Tensor, norm: Normalisation<'_>, convolution: Convolution<'_>) -> Result<(Vec<f32>, Shape)> {
    let affine = with_values([x], |[values]| norm.affine(values, x.shape()))??;
    convolution.forward(x.shape(), None, |forward| {
        let mut y = threads::zeros(forward.shape().elem_count());
        with_values([x], |[x]| forward.run_normed(&affine, x, &mut y))?;
        Ok((y, forward.shape()))
    })
}
