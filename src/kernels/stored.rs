//! Weights in the type in which they are stored. Products are computed in f32: some rows at a time are widened where they
//! are used, few enough to stay in a core's cache. Half precision then takes half the memory, and what it gives are the
//! same bits as its numbers give in f32.

use super::gemm::{Columns, Matrix, Onto, product};
use super::math::vectorised;
use super::threads::{self, Scratch};
use candle_core::{CpuStorage, DType, Layout, Result, Tensor, bail};
use half::{bf16, f16};
use std::ops::Range;

/// Numbers that are widened at a time: 1 MiB of them, half of what a core's own cache commonly holds.
const BLOCK: usize = 1 << 18;

/// Rows of weights that are widened at a time are a multiple of this.
const ROWS: usize = 64;

/// The product of `gemm` has roads of its own, on which it sums in another order: for results of up to 256 numbers, for up
/// to 64 rows by 64 columns, and for single rows and columns. Parts of a product that are no smaller than this take the
/// road of the whole.
const fn fewest(rows_of_activations: usize) -> usize {
    if rows_of_activations < FEW { 5 * ROWS } else { 2 * ROWS }
}

/// With fewer rows of activations than this, it takes more rows of weights.
pub(super) const FEW: usize = 3;

/// Rows of activations for one task, where few weights are to keep all cores at work.
const TASK: usize = 256;

/// Tasks that suffice for any number of cores that this is run on.
const TASKS: usize = 16;

/// A matrix of weights (O, I) without gaps.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    numbers: Numbers<'a>,
    outputs: usize,
    inputs: usize,
}

#[derive(Clone, Copy)]
enum Numbers<'a> {
    Full(&'a [f32]),
    Half(&'a [f16]),
    Brain(&'a [bf16]),
}

/// Whether weights of this type are multiplied here.
pub(super) fn serves(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Weights in f32, all of them at once: for gradients of inputs, whose networks are not run in order to save memory.
pub(super) fn widened(w: &Tensor) -> Result<Tensor> {
    // Detached: what is made of weights on the way back is no part of what is differentiated.
    w.detach().to_dtype(DType::F32)
}

/// Fails for weights in half precision: training is in f32.
pub(super) fn check_trainable(name: &str, dtype: DType) -> Result<()> {
    if dtype == DType::F32 {
        return Ok(());
    }
    bail!("{name}: gradients are computed for weights in F32, these are {dtype:?}")
}

impl<'a> Weights<'a> {
    /// A contiguous argument of a custom operation, all dimensions but the first taken as one.
    pub(super) fn of(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("weights are not contiguous") };
        let outputs = layout.dims().first().copied().unwrap_or(1);
        let numbers = match storage {
            CpuStorage::F32(all) => Numbers::Full(&all[start..end]),
            CpuStorage::F16(all) => Numbers::Half(&all[start..end]),
            CpuStorage::BF16(all) => Numbers::Brain(&all[start..end]),
            _ => bail!("weights are neither F32 nor F16 nor BF16"),
        };
        Ok(Self { numbers, outputs, inputs: (end - start) / outputs.max(1) })
    }

    /// Whether nothing has to be widened.
    pub(super) fn is_full(self) -> bool {
        matches!(self.numbers, Numbers::Full(_))
    }

    /// Whether one product for many positions takes less time than several for a few each, with the same bits.
    pub(super) fn gain_by_all_at_once(self) -> bool {
        !self.is_full() && self.outputs >= fewest(FEW)
    }

    /// `y += x w^T` on this thread, for each pair of y (n, O) and x (n, I).
    pub(super) fn add_products(self, pairs: &mut [(&mut [f32], Matrix<'_>)]) {
        let least = pairs.iter().map(|(_, x)| x.rows()).min().unwrap_or(0);
        for block in self.blocks(least) {
            let first = block.start;
            self.widened(block, |w| {
                for (y, x) in pairs.iter_mut() {
                    product(&mut y[first..], self.outputs, Onto::Sum, 1.0, *x, w.transposed());
                }
            });
        }
    }

    /// The same for one pair without gaps, over the cores.
    pub(super) fn add_product_spread(self, y: &mut [f32], x: &[f32]) {
        let rows = y.len() / self.outputs.max(1);
        if self.is_full() {
            return self.add_products(&mut [(y, Matrix::dense(x, rows, self.inputs))]);
        }
        let blocks: Vec<_> = self.blocks(rows).collect();
        // The product of a single row of weights sums in an order of its own, which depends on what is beside it.
        let most = if self.outputs == 1 { 1 } else { TASKS / blocks.len() };
        let parts = most.min(rows / TASK).max(1);
        let part = rows.div_ceil(parts).max(1);
        let mut tasks = Vec::new();
        for (x, y) in x.chunks(part * self.inputs).zip(y.chunks_mut(part * self.outputs)) {
            let mut rest = Columns::of(y, self.outputs);
            for block in &blocks {
                let (columns, others) = rest.split_at(block.len());
                rest = others;
                tasks.push((block.clone(), columns, x));
            }
        }
        threads::for_each(tasks, |(block, mut columns, x)| {
            let x = Matrix::dense(x, columns.rows(), self.inputs);
            self.widened(block, |w| columns.add_product(x, w.transposed()));
        });
    }

    /// Which rows to widen at a time, for products with so many rows of activations, or more.
    fn blocks(self, activations: usize) -> impl Iterator<Item = Range<usize>> {
        let fewest = fewest(activations);
        let fitting = BLOCK / self.inputs.max(1) / ROWS * ROWS;
        let step = if self.is_full() { self.outputs } else { fitting.max(fewest) };
        // The last block takes those that are left over and too few for a block of their own.
        let whole = (self.outputs + step.saturating_sub(fewest)) / step.max(1);
        let count = whole.max(1);
        (0..count).map(move |i| i * step..if i + 1 == count { self.outputs } else { (i + 1) * step })
    }

    fn widened(self, rows: Range<usize>, f: impl FnOnce(Matrix<'_>)) {
        let count = rows.len();
        self.with_rows(rows, |numbers| f(Matrix::dense(numbers, count, self.inputs)));
    }

    /// Calls `f` with some rows in f32.
    pub(super) fn with_rows(self, rows: Range<usize>, f: impl FnOnce(&[f32])) {
        let span = rows.start * self.inputs..rows.end * self.inputs;
        match self.numbers {
            Numbers::Full(all) => f(&all[span]),
            Numbers::Half(all) => threads::with_scratch(Scratch::Weights, span.len(), |numbers| {
                vectorised!(|| numbers.iter_mut().zip(&all[span.clone()]).for_each(|(to, v)| *to = widen(v.to_bits())));
                f(numbers);
            }),
            Numbers::Brain(all) => threads::with_scratch(Scratch::Weights, span.len(), |numbers| {
                let bits = |v: &bf16| f32::from_bits(u32::from(v.to_bits()) << 16);
                vectorised!(|| numbers.iter_mut().zip(&all[span.clone()]).for_each(|(to, v)| *to = bits(v)));
                f(numbers);
            }),
        }
    }
}

/// The number that the bits of an f16 stand for, exactly, without branches and without numbers below f32's normal ones,
/// which processors are slow at.
#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    const MORE_EXPONENT: u32 = (127 - 15) << 23;
    let (magnitude, sign) = (u32::from(bits & 0x7fff), u32::from(bits & 0x8000) << 16);
    let infinite = if magnitude >= 0x7c00 { MORE_EXPONENT } else { 0 };
    let normal = (magnitude << 13) + MORE_EXPONENT + infinite;
    let small = (magnitude as i32 as f32 * (1.0 / 16_777_216.0)).to_bits(); // in units of 2^-24
    f32::from_bits(if magnitude < 0x400 { small } else { normal } | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_to_its_value() {
        for bits in 0..=u16::MAX {
            let (found, expected) = (widen(bits), f16::from_bits(bits).to_f32());
            assert!(found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan(), "{bits:#x}");
        }
    }
}
