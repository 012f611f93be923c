//! Rows times panels of weights in f32, where whoever makes the weights lays them out for it: nothing is packed.
//!
//! A product of the `gemm` crate packs what it is given at each call, which pays for large ones alone. Each result is a sum over
//! its row in order, whichever rows are computed beside it.

use pulp::{Arch, Simd, WithSimd};

/// Columns of a panel.
pub(super) const WIDTH: usize = 64;

/// The last panel may have any multiple of so many: a vector of 512 bits.
pub(super) const PART: usize = 16;

/// Rows that are multiplied together: their sums, of four vectors each, take 24 of 32 registers, or 12 of 16.
pub(super) const ROWS: usize = 6;

/// Rows (T, `depth`) times panels to `results` (T, columns), all without gaps. For each 64 columns, of which the last may be
/// fewer, there is a panel of `depth` times 64 numbers, each `apart` after the one before.
pub(super) struct Product<'a> {
    pub(super) rows: &'a [f32],
    pub(super) depth: usize,
    pub(super) panels: &'a [f32],
    pub(super) apart: usize,
    pub(super) results: &'a mut [f32],
    pub(super) columns: usize,
}

impl Product<'_> {
    /// Computes it on this thread.
    ///
    /// # Panics
    ///
    /// Where columns are no multiple of 16, or something is too short.
    pub(super) fn run(self) {
        assert!(self.columns.is_multiple_of(PART), "columns are no vectors");
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { rows, depth, panels, apart, results, columns } = self;
        let count = rows.len() / depth.max(1);
        for (i, column) in (0..columns).step_by(WIDTH).enumerate() {
            let vectors = WIDTH.min(columns - column) / S::F32_LANES;
            let panel = &panels[i * apart..][..depth * WIDTH];
            let part = Part { panel, vectors, depth, columns };
            let mut first = 0;
            while first < count {
                let (rows, to) = (&rows[first * depth..], &mut results[first * columns + column..]);
                first += match count - first {
                    ROWS.. => part.group::<S, ROWS>(simd, rows, to),
                    4.. => part.group::<S, 4>(simd, rows, to),
                    2.. => part.group::<S, 2>(simd, rows, to),
                    _ => part.group::<S, 1>(simd, rows, to),
                };
            }
        }
    }
}

/// A panel, of which the first vectors are used.
#[derive(Clone, Copy)]
struct Part<'a> {
    panel: &'a [f32],
    /// Of its columns.
    vectors: usize,
    /// Of rows.
    depth: usize,
    /// Of the results.
    columns: usize,
}

impl Part<'_> {
    /// `R` rows times the panel; returns `R`.
    #[inline(always)]
    fn group<S: Simd, const R: usize>(self, simd: S, rows: &[f32], results: &mut [f32]) -> usize {
        let rows: [&[f32]; R] = std::array::from_fn(|r| &rows[r * self.depth..][..self.depth]);
        // Vectors of 256 bits come with 16 registers.
        let together = if S::F32_LANES == 8 { 2 } else { 4 };
        for first in (0..self.vectors).step_by(together) {
            match (self.vectors - first).min(together) {
                4 => self.some::<S, R, 4>(simd, rows, first, results),
                3 => self.some::<S, R, 3>(simd, rows, first, results),
                2 => self.some::<S, R, 2>(simd, rows, first, results),
                _ => self.some::<S, R, 1>(simd, rows, first, results),
            }
        }
        R
    }

    /// The same of `N` vectors from one on.
    #[inline(always)]
    fn some<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        rows: [&[f32]; R],
        first: usize,
        results: &mut [f32],
    ) {
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        let (vectors, _) = S::as_simd_f32s(self.panel);
        for (k, line) in vectors.chunks_exact(WIDTH / S::F32_LANES).enumerate() {
            let line: [_; N] = std::array::from_fn(|i| line[first + i]);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let v = simd.splat_f32s(row[k]);
                for (sum, weights) in sums.iter_mut().zip(line) {
                    *sum = simd.mul_add_f32s(v, weights, *sum);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let (to, _) = S::as_mut_simd_f32s(&mut results[r * self.columns..][..(first + N) * S::F32_LANES]);
            to[first..].copy_from_slice(&sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same for all counts of rows, and on the vectors of 256 bits that most processors have.
    #[test]
    fn products_are_sums_over_rows() {
        let numbers = |n: usize, seed: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * 7919 + seed * 104_729) % 257) as f32 / 128.0 - 1.0).collect()
        };
        for (count, depth, columns) in
            [(1, 1, 32usize), (2, 5, 16), (5, 16, 64), (11, 7, 96), (12, 48, 48), (31, 133, 128), (23, 300, 144)]
        {
            let apart = depth * WIDTH;
            let (rows, panels) = (numbers(count * depth, 1), numbers(columns.div_ceil(WIDTH) * apart, 2));
            let run = |run: &dyn Fn(Product<'_>)| {
                let mut results = vec![f32::NAN; count * columns];
                run(Product { rows: &rows, depth, panels: &panels, apart, results: &mut results, columns });
                results
            };
            let mut found = vec![run(&|product| product.run()), run(&|product| product.with_simd(pulp::Scalar))];
            #[cfg(target_arch = "x86_64")]
            if let Some(narrow) = pulp::x86::V3::try_new() {
                found.push(run(&|product| Simd::vectorize(narrow, product)));
            }
            for found in found {
                for (i, found) in found.iter().enumerate() {
                    let (row, column) = (i / columns, i % columns);
                    let weight = |k: usize| panels[column / WIDTH * apart + k * WIDTH + column % WIDTH];
                    let term = |k: usize| f64::from(rows[row * depth + k]) * f64::from(weight(k));
                    let expected: f64 = (0..depth).map(term).sum();
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off < 2e-5, "{count} x {depth} x {columns}, at {i}: {found} is not {expected}");
                }
            }
        }
    }
}
