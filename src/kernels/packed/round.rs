//! f32 to bf16, to the nearest, ties to even, in a form that the compiler turns into vector instructions.

use crate::kernels::native::with_values;
use candle_core::{Device, Result, Shape, Storage, Tensor, bail};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;

/// The bits of the bf16 nearest to `v`. No number is made of what is none: NaN stays NaN.
#[inline(always)]
pub(in crate::kernels) fn bits(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    (if v.is_nan() { (bits >> 16) | 0x40 } else { rounded }) as u16
}

/// The same of a number that is none of NaN, in less.
#[inline(always)]
pub(super) fn positive_bits(v: f32) -> u16 {
    let bits = v.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The number that the bits of a bf16 stand for.
#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// A number between two products: f32, or the bits of bf16.
pub(in crate::kernels) trait Number: Copy + Default + Send + Sync + 'static {
    /// Whether it is the bits of bf16.
    const ROUNDED: bool;

    /// The nearest to `v`.
    fn of(v: f32) -> Self;

    /// As f32.
    fn wide(self) -> f32;

    /// The bits of the nearest bf16.
    fn bits(self) -> u16;

    /// A tensor of them.
    fn tensor(values: Vec<Self>, shape: Shape) -> Result<Tensor>;

    /// Calls `f` with those of a contiguous tensor on the CPU.
    fn with<R>(tensor: &Tensor, f: impl FnOnce(&[Self]) -> R) -> Result<R>;
}

impl Number for f32 {
    const ROUNDED: bool = false;

    #[inline(always)]
    fn of(v: f32) -> Self {
        v
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn bits(self) -> u16 {
        bits(self)
    }

    fn tensor(values: Vec<Self>, shape: Shape) -> Result<Tensor> {
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    fn with<R>(tensor: &Tensor, f: impl FnOnce(&[Self]) -> R) -> Result<R> {
        with_values([tensor], |[values]| f(values))
    }
}

impl Number for u16 {
    const ROUNDED: bool = true;

    #[inline(always)]
    fn of(v: f32) -> Self {
        bits(v)
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        widen(self)
    }

    #[inline(always)]
    fn bits(self) -> u16 {
        self
    }

    fn tensor(values: Vec<Self>, shape: Shape) -> Result<Tensor> {
        Tensor::from_vec(values.reinterpret_into::<bf16>(), shape, &Device::Cpu)
    }

    fn with<R>(tensor: &Tensor, f: impl FnOnce(&[Self]) -> R) -> Result<R> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(cpu) = &*storage else { bail!("numbers in bf16 are not on the CPU") };
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("numbers in bf16 are not contiguous") };
        Ok(f(cpu.as_slice::<bf16>()?[start..end].reinterpret_cast()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_as_half_rounds_them() {
        let awkward =
            [0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, f32::INFINITY, f32::NEG_INFINITY, 1e-40, 1.0 + 2f32.powi(-8)];
        let many = (0..100_000u32).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761)));
        for v in awkward.into_iter().chain(many) {
            let expected = bf16::from_f32(v);
            assert!(bits(v) == expected.to_bits() || v.is_nan() && bf16::from_bits(bits(v)).is_nan(), "{v}");
            assert!(v.is_nan() || v < 0.0 || positive_bits(v) == expected.to_bits());
            assert!(widen(expected.to_bits()) == expected.to_f32() || v.is_nan());
        }
    }
}
