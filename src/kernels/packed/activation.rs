//! What is done to numbers on their way into a product: an affine map, an activation, and rounding to bf16. In AVX-512 where
//! that is here, which rounds by itself and has an approximate reciprocal; else in loops that the compiler vectorises.

use super::avx512;
use super::round::{Number, bits};
use super::tile::{Block, WIDTH};
use crate::kernels::math::{gelu_for_bf16, silu_for_bf16, vectorised};

/// `x` as bf16.
pub(in crate::kernels) fn round<T: Number>(x: &[T], y: &mut [u16]) {
    let done = wide::round(x, y);
    if done < x.len() {
        vectorised!(|| y[done..].iter_mut().zip(&x[done..]).for_each(|(y, v)| *y = v.bits()));
    }
}

/// `x * scale + shift`, or the SiLU of that, as bf16; all of the same length.
pub(in crate::kernels) fn scale<T: Number>(x: &[T], scale: &[f32], shift: &[f32], silu: bool, y: &mut [u16]) {
    let done = wide::scale(x, scale, shift, silu, y);
    if done < x.len() {
        vectorised!(|| {
            let terms = y[done..].iter_mut().zip(&x[done..]).zip(&scale[done..]).zip(&shift[done..]);
            match silu {
                true => terms.for_each(|(((y, v), s), t)| *y = bits(silu_for_bf16(v.wide() * s + t))),
                false => terms.for_each(|(((y, v), s), t)| *y = bits(v.wide() * s + t)),
            }
        });
    }
}

/// Of the first `count` rows of a block the first half times the GELU of the second, as bf16, rows `stride` apart. The biases
/// are those of either half.
pub(super) fn gate(block: &Block, count: usize, biases: [&[f32; WIDTH]; 2], (y, stride): (&mut [u16], usize)) {
    if avx512::is_here() {
        return wide::gate(block, count, biases, (y, stride));
    }
    vectorised!(|| {
        for (sums, y) in block.0.iter().take(count).zip(y.chunks_mut(stride)) {
            for j in 0..WIDTH {
                let (value, gate) = (sums[j] + biases[0][j], sums[WIDTH + j] + biases[1][j]);
                y[j] = bits(value * gelu_for_bf16(gate));
            }
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::avx512::{self, exp2, polynomial, store};
    use super::{Block, Number, WIDTH};
    use crate::kernels::math::UPPER;
    use std::arch::x86_64::*;
    use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

    /// As many as there are in whole vectors; returns how many that are.
    pub(super) fn round<T: Number>(x: &[T], y: &mut [u16]) -> usize {
        match avx512::is_here() {
            // SAFETY: the processor has the instructions.
            #[allow(unsafe_code)]
            true => unsafe { map(x, y, |v, _| v) },
            false => 0,
        }
    }

    pub(super) fn scale<T: Number>(x: &[T], scale: &[f32], shift: &[f32], silu: bool, y: &mut [u16]) -> usize {
        assert!(scale.len() >= x.len() && shift.len() >= x.len());
        if !avx512::is_here() {
            return 0;
        }
        // SAFETY: the processor has the instructions, and there is a scale and a shift for each number.
        #[allow(unsafe_code)]
        unsafe {
            scale_here(x, scale, shift, silu, y)
        }
    }

    pub(super) fn gate(block: &Block, count: usize, biases: [&[f32; WIDTH]; 2], (y, stride): (&mut [u16], usize)) {
        assert!(avx512::is_here() && (count == 0 || y.len() >= (count - 1) * stride + WIDTH));
        // SAFETY: the processor has the instructions, and there is room for so many rows.
        #[allow(unsafe_code)]
        unsafe {
            gate_here(block, count, biases, (y, stride));
        }
    }

    /// # Safety
    ///
    /// The processor has AVX-512 BF16; there is a scale and a shift for each number.
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512dq,avx512vl")]
    #[allow(unsafe_code)]
    unsafe fn scale_here<T: Number>(x: &[T], scale: &[f32], shift: &[f32], silu: bool, y: &mut [u16]) -> usize {
        // SAFETY: as for this function.
        let affine = |v, i| unsafe {
            _mm512_fmadd_ps(v, _mm512_loadu_ps(scale.as_ptr().add(i)), _mm512_loadu_ps(shift.as_ptr().add(i)))
        };
        // SAFETY: as for this function.
        unsafe {
            match silu {
                true => map(x, y, |v, i| self::silu(affine(v, i))),
                false => map(x, y, affine),
            }
        }
    }

    /// `f` of all whole vectors and where they begin, as bf16; returns how many numbers these are.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 BF16.
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512dq,avx512vl")]
    #[allow(unsafe_code)]
    unsafe fn map<T: Number>(x: &[T], y: &mut [u16], f: impl Fn(__m512, usize) -> __m512) -> usize {
        let whole = x.len().min(y.len()) / WIDTH * WIDTH;
        for i in (0..whole).step_by(WIDTH) {
            // SAFETY: sixteen numbers from `i` on are in both.
            unsafe { store(f(load(x.as_ptr().add(i)), i), y.as_mut_ptr().add(i)) };
        }
        whole
    }

    /// # Safety
    ///
    /// The processor has AVX-512 BF16; there is room for `count` rows.
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512dq,avx512vl")]
    #[allow(unsafe_code)]
    unsafe fn gate_here(block: &Block, count: usize, biases: [&[f32; WIDTH]; 2], (y, stride): (&mut [u16], usize)) {
        for (i, sums) in block.0.iter().take(count).enumerate() {
            // SAFETY: a row has two times sixteen sums, and `y` has room for it.
            unsafe {
                let [value, gate] = [0, 1].map(|half| {
                    let sums = _mm512_loadu_ps(sums.as_ptr().add(half * WIDTH));
                    _mm512_add_ps(sums, _mm512_loadu_ps(biases[half].as_ptr()))
                });
                store(_mm512_mul_ps(value, gelu(gate)), y.as_mut_ptr().add(i * stride));
            }
        }
    }

    /// # Safety
    ///
    /// The processor has AVX-512; there are sixteen numbers.
    #[target_feature(enable = "avx512f")]
    #[allow(unsafe_code)]
    unsafe fn load<T: Number>(place: *const T) -> __m512 {
        // SAFETY: as for this function; a number is f32 or the bits of bf16, its upper half.
        unsafe {
            match T::ROUNDED {
                true => {
                    let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(place.cast()));
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
                }
                false => _mm512_loadu_ps(place.cast()),
            }
        }
    }

    /// See `math::silu_for_bf16`.
    #[target_feature(enable = "avx512f,avx512dq")]
    fn silu(x: __m512) -> __m512 {
        let power = exp2(!0, _mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
        _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(power, _mm512_set1_ps(1.0))))
    }

    /// See `math::gelu_for_bf16`.
    #[target_feature(enable = "avx512f,avx512dq")]
    fn gelu(x: __m512) -> __m512 {
        let one = _mm512_set1_ps(1.0);
        let gauss = exp2(!0, _mm512_mul_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(-0.5 * LOG2_E)));
        let t = _mm512_rcp14_ps(_mm512_fmadd_ps(_mm512_abs_ps(x), _mm512_set1_ps(UPPER.0 * FRAC_1_SQRT_2), one));
        let upper = _mm512_mul_ps(_mm512_mul_ps(t, polynomial(t, &UPPER.1)), _mm512_mul_ps(gauss, _mm512_set1_ps(0.5)));
        let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(x, _mm512_setzero_ps());
        _mm512_mul_ps(x, _mm512_mask_sub_ps(upper, !below, one, upper))
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod wide {
    use super::{Block, Number, WIDTH};

    pub(super) fn round<T: Number>(_: &[T], _: &mut [u16]) -> usize {
        0
    }

    pub(super) fn scale<T: Number>(_: &[T], _: &[f32], _: &[f32], _: bool, _: &mut [u16]) -> usize {
        0
    }

    pub(super) fn gate(_: &Block, _: usize, _: [&[f32; WIDTH]; 2], _: (&mut [u16], usize)) {
        unreachable!("there is no AVX-512 here")
    }
}
