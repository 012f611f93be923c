//! A block of a product by AVX-512 BF16: sums of pairs, 16 at a time.

use super::tile::{Block, Rows};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, Rows};
    use crate::kernels::math::{EXP2, EXP2_FROM_0};
    use crate::kernels::packed::tile::{DEPTH, PAIR, STEP, WIDTH};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// Rows whose sums are in registers at a time: with 32 columns, 16 of the 32 registers.
    const ROWS: usize = 8;

    pub(in crate::kernels::packed) fn is_here() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bf16")
    }

    /// Whether it is faster than f32: see `Isa::gains`.
    pub(in crate::kernels::packed) fn is_fast() -> bool {
        const AMD: [u32; 3] =
            [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"enti"), u32::from_le_bytes(*b"cAMD")];
        // SAFETY: every x86-64 processor has the instruction. (Safe to call since some Rust after 1.91.)
        #[allow(unsafe_code, unused_unsafe)]
        let maker = unsafe { __cpuid(0) };
        [maker.ebx, maker.edx, maker.ecx] == AMD
    }

    /// See `Ready::multiply_onto`, which has checked that everything lies where it is read.
    pub(in crate::kernels::packed) fn multiply(rows: Rows<'_>, panels: [&[u16]; 2], block: &mut Block) {
        assert!(is_here(), "this processor has no AVX-512 BF16");
        // SAFETY: the processor has the instructions, and the caller asserts what `multiply_here` asks for.
        #[allow(unsafe_code)]
        unsafe {
            multiply_here(rows, panels, block);
        }
    }

    /// See `attention::soften`, of which this is a faster form.
    pub(in crate::kernels::packed) fn soften(
        scores: &[Block],
        row: usize,
        seen: usize,
        top: f32,
        weights: &mut [u16],
    ) -> (f32, f32) {
        assert!(is_here() && weights.len() >= scores.len() * PAIR && row < PAIR);
        // SAFETY: the processor has the instructions, and there is room for as many weights as there are scores.
        #[allow(unsafe_code)]
        unsafe {
            soften_here(scores, row, seen, top, weights)
        }
    }

    /// Which of the 16 scores from `first` on are seen.
    fn mask(seen: usize, first: usize) -> __mmask16 {
        ((1u32 << seen.saturating_sub(first).min(WIDTH)) - 1) as __mmask16
    }

    /// # Safety
    ///
    /// The processor has AVX-512 BF16; there are as many weights as scores.
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512vl")]
    #[allow(unsafe_code)]
    unsafe fn soften_here(scores: &[Block], row: usize, seen: usize, top: f32, weights: &mut [u16]) -> (f32, f32) {
        let mut tops = [_mm512_set1_ps(top); 2];
        for (i, block) in scores.iter().enumerate() {
            let row = block.0[row].as_ptr();
            for (half, tops) in tops.iter_mut().enumerate() {
                // SAFETY: a row of a block has sixteen scores from either half on.
                let scores = unsafe { _mm512_loadu_ps(row.add(half * WIDTH)) };
                *tops = match (i + 1) * PAIR <= seen {
                    true => _mm512_max_ps(*tops, scores),
                    false => _mm512_mask_max_ps(*tops, mask(seen, i * PAIR + half * WIDTH), *tops, scores),
                };
            }
        }
        let top = _mm512_reduce_max_ps(_mm512_max_ps(tops[0], tops[1]));
        let (tops, mut sums) = (_mm512_set1_ps(top), [_mm512_setzero_ps(); 2]);
        for (i, block) in scores.iter().enumerate() {
            let row = block.0[row].as_ptr();
            for (half, sum) in sums.iter_mut().enumerate() {
                let first = i * PAIR + half * WIDTH;
                // SAFETY: as above, and there is room for as many weights as there are scores.
                unsafe {
                    let scores = _mm512_loadu_ps(row.add(half * WIDTH));
                    let apart = _mm512_sub_ps(scores, tops);
                    let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(apart);
                    let r = _mm512_sub_ps(apart, whole);
                    let power = polynomial(r, &EXP2);
                    let power = match (i + 1) * PAIR <= seen {
                        true => _mm512_scalef_ps(power, whole),
                        false => _mm512_maskz_scalef_ps(mask(seen, first), power, whole),
                    };
                    *sum = _mm512_add_ps(*sum, power);
                    store(power, weights.as_mut_ptr().add(first));
                }
            }
        }
        let sums = _mm512_add_ps(sums[0], sums[1]);
        (top, _mm512_reduce_add_ps(sums))
    }

    /// See `attention::weigh`, of which this is a faster form.
    pub(in crate::kernels::packed) fn weigh(
        scores: &Block,
        seen: &[usize; PAIR],
        (weights, stride): (&mut [u16], usize),
        sums: &mut [[f32; WIDTH]; PAIR],
    ) {
        assert!(is_here() && weights.len() >= (PAIR - 1) * stride + PAIR);
        // SAFETY: the processor has the instructions, and there is room for the weights of 32 rows.
        #[allow(unsafe_code)]
        unsafe {
            weigh_here(scores, seen, (weights, stride), sums);
        }
    }

    /// Sixteen numbers as bf16.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 BF16; there is room for them.
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512dq,avx512vl")]
    #[allow(unsafe_code)]
    pub(in crate::kernels::packed) unsafe fn store(v: __m512, place: *mut u16) {
        // SAFETY: as for this function.
        unsafe { _mm256_storeu_si256(place.cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v))) };
    }

    /// `2^x` to four digits where `mask` says so, and else 0.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(in crate::kernels::packed) fn exp2(mask: __mmask16, x: __m512) -> __m512 {
        // The part of a number behind its point, counted from the whole number below it.
        const FRACTION: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
        let r = _mm512_reduce_ps::<FRACTION>(x);
        // Takes the whole number below `x` for the power.
        _mm512_maskz_scalef_ps(mask, polynomial(r, &EXP2_FROM_0), x)
    }

    /// With these coefficients, from the constant on.
    #[target_feature(enable = "avx512f")]
    pub(in crate::kernels::packed) fn polynomial<const N: usize>(x: __m512, coefficients: &[f32; N]) -> __m512 {
        let mut y = _mm512_set1_ps(coefficients[N - 1]);
        for c in coefficients[..N - 1].iter().rev() {
            y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(*c));
        }
        y
    }

    /// # Safety
    ///
    /// The processor has AVX-512 BF16; there is room for the weights of 32 rows.
    #[target_feature(enable = "avx512f,avx512bf16,avx512bw,avx512dq,avx512vl")]
    #[allow(unsafe_code)]
    unsafe fn weigh_here(
        scores: &Block,
        seen: &[usize; PAIR],
        (weights, stride): (&mut [u16], usize),
        sums: &mut [[f32; WIDTH]; PAIR],
    ) {
        for (i, ((scores, seen), sum)) in scores.0.iter().zip(seen).zip(sums).enumerate() {
            for half in 0..2 {
                // SAFETY: a row of a block has sixteen scores from either half on, and there is room for as many weights.
                unsafe {
                    let scores = _mm512_loadu_ps(scores.as_ptr().add(half * WIDTH));
                    let power = exp2(mask(*seen, half * WIDTH), scores);
                    let place = sum.as_mut_ptr();
                    _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), power));
                    store(power, weights.as_mut_ptr().add(i * stride + half * WIDTH));
                }
            }
        }
    }

    /// # Safety
    ///
    /// The processor has AVX-512 BF16; `rows` fit, and the panels are as long as they must be.
    #[target_feature(enable = "avx512f,avx512bf16")]
    #[allow(unsafe_code)]
    unsafe fn multiply_here(rows: Rows<'_>, panels: [&[u16]; 2], block: &mut Block) {
        for first in (0..PAIR).step_by(ROWS) {
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            let mut tile = 0;
            for tap in rows.taps {
                for step in 0..rows.steps {
                    let at = tap + first * rows.stride + step * DEPTH;
                    for pair in 0..DEPTH / 2 {
                        // SAFETY: in the panels and in the rows, by what the caller asserts.
                        unsafe {
                            let weights = panels.map(|panel| {
                                let place = panel.as_ptr().add(tile * STEP + pair * 2 * WIDTH);
                                transmute::<_, __m512bh>(_mm512_loadu_epi32(place.cast()))
                            });
                            for (row, sums) in sums.iter_mut().enumerate() {
                                let place = rows.values.as_ptr().add(at + row * rows.stride + 2 * pair);
                                let value: __m512bh =
                                    transmute(_mm512_set1_epi32(place.cast::<i32>().read_unaligned()));
                                for (sum, weights) in sums.iter_mut().zip(weights) {
                                    *sum = _mm512_dpbf16_ps(*sum, value, weights);
                                }
                            }
                        }
                    }
                    tile += 1;
                }
            }
            for (sums, row) in sums.iter().zip(&mut block.0[first..first + ROWS]) {
                for (half, sum) in sums.iter().enumerate() {
                    // SAFETY: a row of a block is twice as long.
                    unsafe {
                        let place = row.as_mut_ptr().add(half * WIDTH);
                        _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), *sum));
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{exp2, is_fast, is_here, multiply, polynomial, soften, store, weigh};

#[cfg(not(target_arch = "x86_64"))]
mod elsewhere {
    use super::{Block, Rows};
    use crate::kernels::packed::tile::{PAIR, WIDTH};

    pub(in crate::kernels::packed) fn is_here() -> bool {
        false
    }

    pub(in crate::kernels::packed) fn is_fast() -> bool {
        false
    }

    pub(in crate::kernels::packed) fn multiply(_: Rows<'_>, _: [&[u16]; 2], _: &mut Block) {
        unreachable!("there is no AVX-512 here")
    }

    pub(in crate::kernels::packed) fn soften(_: &[Block], _: usize, _: usize, _: f32, _: &mut [u16]) -> (f32, f32) {
        unreachable!("there is no AVX-512 here")
    }

    pub(in crate::kernels::packed) fn weigh(
        _: &Block,
        _: &[usize; PAIR],
        _: (&mut [u16], usize),
        _: &mut [[f32; WIDTH]; PAIR],
    ) {
        unreachable!("there is no AVX-512 here")
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use elsewhere::{is_fast, is_here, multiply, soften, weigh};
