//! f32 to bf16, to the nearest, ties to even, in a form that the compiler turns into vector instructions.

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

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

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
