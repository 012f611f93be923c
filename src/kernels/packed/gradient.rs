//! What training multiplies: weights that change at every step are rounded as they are used, and so are gradients.
//!
//! `y = x w^T` is a product like any other, and so is `dx = dy w`, with inputs and outputs in each other's place. The
//! gradient of weights, `dw = dy^T x`, is one of activations with activations, and its sums run over rows: those of `dy`
//! lie transposed, those of `x` as weights do. Sums are kept in f32, and rows are added in one order on any number of
//! threads.

use super::isa::Isa;
use super::product::{Target, with_lines};
use super::tile::{Block, DEPTH, PAIR, Ready, Rows, STEP, WIDTH};
use super::{Packed, fill, panels_of, round, sizes, steps};
use crate::kernels::conv2d::Sizes;
use crate::kernels::math::vectorised;
use crate::kernels::threads;
use candle_core::{Result, Tensor};
use std::ops::Range;

/// Rows that are multiplied at a time. With 256 outputs they take half of a core's own cache of 2 MiB, beside 32 columns.
const ROWS: usize = 2048;

/// Numbers of a block of rows, for each 32 that are summed.
const SQUARE: usize = PAIR * DEPTH;

impl Packed {
    /// Weights in f32, (O, I) or (O, kh, kw, I).
    pub(in crate::kernels) fn of(weights: &[f32], dims: &[usize]) -> Result<Self> {
        let (outputs, kernel, inputs) = sizes(dims);
        let taps = kernel.0 * kernel.1;
        let together = (WIDTH * taps * inputs).max(1);
        let panels = panels((outputs, taps, inputs), |i, panel| {
            if let Some(rows) = weights.chunks(together).nth(i) {
                fill(panel, rows, (taps, inputs), round::bits);
            }
        })?;
        Ok(Self { panels, outputs, kernel, inputs })
    }

    /// What takes gradients back to the inputs of these weights: inputs and outputs in each other's place, and the taps in
    /// reverse, (I, kh, kw, O).
    pub(in crate::kernels) fn reversed(weights: &[f32], dims: &[usize]) -> Result<Self> {
        let (outputs, kernel, inputs) = sizes(dims);
        let taps = kernel.0 * kernel.1;
        let panels = panels((inputs, taps, outputs), |i, panel| {
            for (at, tile) in panel.chunks_exact_mut(STEP).enumerate() {
                let (tap, step) = (taps - 1 - at / steps(outputs), at % steps(outputs));
                let count = DEPTH.min(outputs - step * DEPTH);
                let mut rows = [&[][..]; DEPTH];
                for (j, row) in rows.iter_mut().take(count).enumerate() {
                    *row = &weights[((step * DEPTH + j) * taps + tap) * inputs..][..inputs];
                }
                vectorised!(|| upright(&rows[..count], i * WIDTH, tile));
            }
        })?;
        Ok(Self { panels, outputs: inputs, kernel, inputs: outputs })
    }
}

/// The panels of weights of these outputs, taps and inputs: `write` writes each, knowing its number. They begin as zeros.
fn panels((outputs, taps, inputs): (usize, usize, usize), write: impl Fn(usize, &mut [u16]) + Sync) -> Result<Tensor> {
    super::panels(panels_of(outputs, taps, inputs), 1, |i, panel| {
        write(i, panel);
        Ok(())
    })
}

/// 16 numbers of row `i` of `rows` from a column on; zeros are past the last row and past its end.
#[inline(always)]
fn sixteen(rows: &[&[f32]], i: usize, column: usize) -> [f32; WIDTH] {
    let mut numbers = [0.0; WIDTH];
    let row = if i < rows.len() { rows[i] } else { &[] };
    if column + WIDTH <= row.len() {
        numbers.copy_from_slice(&row[column..column + WIDTH]);
    } else if column < row.len() {
        numbers[..row.len() - column].copy_from_slice(&row[column..]);
    }
    numbers
}

/// Two rows as bf16: 16 pairs, from a column on. (Loops and no closures, here and below: those of arrays are not inlined,
/// and then keep the baseline's instructions.)
#[inline(always)]
fn pairs(rows: &[&[f32]], pair: usize, column: usize) -> [u32; WIDTH] {
    let (first, second) = (sixteen(rows, 2 * pair, column), sixteen(rows, 2 * pair + 1, column));
    let mut pairs = [0; WIDTH];
    for i in 0..WIDTH {
        pairs[i] = (u32::from(round::bits(first[i])) | u32::from(round::bits(second[i])) << 16).to_le();
    }
    pairs
}

#[inline(always)]
fn write(pairs: [u32; WIDTH], line: &mut [u16]) {
    line.copy_from_slice(&bytemuck::cast::<_, [u16; DEPTH]>(pairs));
}

/// 16 columns of up to 32 rows as a tile of weights: for each two rows, their pairs.
#[inline(always)]
fn upright(rows: &[&[f32]], column: usize, tile: &mut [u16]) {
    for (pair, line) in tile.chunks_exact_mut(DEPTH).enumerate() {
        write(pairs(rows, pair, column), line);
    }
}

/// The same as a tile of activations: a row for each column.
#[inline(always)]
fn transposed(rows: &[&[f32]], column: usize, tile: &mut [u16]) {
    let mut all = [[0; WIDTH]; WIDTH];
    for (pair, all) in all.iter_mut().enumerate() {
        *all = pairs(rows, pair, column);
    }
    for (i, line) in tile.chunks_exact_mut(DEPTH).enumerate() {
        let mut row = [0; WIDTH];
        for pair in 0..WIDTH {
            row[pair] = all[pair][i];
        }
        write(row, line);
    }
}

/// The gradient of weights (O, I): the sum over rows of `dy` (n, O) times `x` (n, I).
pub(in crate::kernels) fn of_linear(isa: Isa, x: &[f32], dy: &[f32], (outputs, inputs): (usize, usize)) -> Vec<f32> {
    let seen = |rows: Range<usize>| x[rows.start * inputs..rows.end * inputs].chunks_exact(inputs).collect();
    summed(isa, (dy, outputs), (1, inputs), seen)
}

/// The gradient of weights (O, kh, kw, I) of a convolution of `x` (B, H, W, I), for `dy` (B, H', W', O).
pub(in crate::kernels) fn of_convolution(isa: Isa, sizes: &Sizes, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let taps = sizes.kernel_height * sizes.kernel_width;
    let seen = |positions: Range<usize>| {
        let mut all = vec![&[][..]; taps * positions.len()];
        for (i, position) in positions.clone().enumerate() {
            let mut at = i;
            sizes.for_each_part(position, |_, offset| {
                all[at] = offset.map_or(&[], |offset| &x[offset..offset + sizes.inputs]);
                at += positions.len();
            });
        }
        all
    };
    summed(isa, (dy, sizes.outputs), (taps, sizes.inputs), seen)
}

/// For each tap the sum over rows of `dy` times what that tap has seen, (O, taps, I). `seen` tells of some rows what the first
/// tap has seen of each, what the second, and so on: I numbers, or none for zeros.
fn summed<'a>(
    isa: Isa,
    (dy, outputs): (&[f32], usize),
    (taps, inputs): (usize, usize),
    seen: impl Fn(Range<usize>) -> Vec<&'a [f32]>,
) -> Vec<f32> {
    let mut dw = vec![0.0; outputs * taps * inputs];
    let target = Target::of(&mut dw, taps * inputs);
    let blocks = inputs.div_ceil(PAIR);
    for (i, dy) in dy.chunks(ROWS * outputs).enumerate() {
        let dy: Vec<_> = dy.chunks_exact(outputs).collect();
        let seen = seen(i * ROWS..i * ROWS + dy.len());
        with_transposed(&dy, outputs, |left| {
            threads::for_each((0..taps * blocks).collect(), |task| {
                let (tap, column) = (task / blocks, task % blocks * PAIR);
                let right = &seen[tap * dy.len()..(tap + 1) * dy.len()];
                let count = PAIR.min(inputs - column);
                multiply(isa, left, right, column, |row, block| {
                    give(&target, (row, outputs), (tap * inputs + column, count), block);
                });
            });
        });
    }
    dw
}

/// Calls `f` with the rows of `dy` transposed: for each 32 outputs, and each 32 rows, a row for each output.
fn with_transposed<R>(dy: &[&[f32]], outputs: usize, f: impl FnOnce(&[u16]) -> R) -> R {
    let steps = steps(dy.len());
    with_lines(outputs.next_multiple_of(PAIR) * steps * DEPTH, |left| {
        threads::for_each(left.chunks_exact_mut(steps * SQUARE).enumerate().collect(), |(i, block)| {
            for (square, rows) in block.chunks_exact_mut(SQUARE).zip(dy.chunks(DEPTH)) {
                for (half, tile) in square.chunks_exact_mut(STEP).enumerate() {
                    vectorised!(|| transposed(rows, i * PAIR + half * WIDTH, tile));
                }
            }
        });
        f(left)
    })
}

/// The product of all that lies in `left` with 32 columns of `right`, whose first is `column`. `give` is told of the sums of
/// each 32 outputs.
fn multiply(isa: Isa, left: &[u16], right: &[&[f32]], column: usize, mut give: impl FnMut(usize, &Block)) {
    let steps = steps(right.len());
    with_lines(2 * steps * STEP, |lines| {
        let (first, second) = lines.split_at_mut(steps * STEP);
        for (half, panel) in [&mut *first, &mut *second].into_iter().enumerate() {
            for (tile, rows) in panel.chunks_exact_mut(STEP).zip(right.chunks(DEPTH)) {
                vectorised!(|| upright(rows, column + half * WIDTH, tile));
            }
        }
        let squares: Vec<usize> = (0..steps).map(|step| step * SQUARE).collect();
        let (ready, mut block) = (Ready::new(isa), Block::zero());
        for (i, values) in left.chunks_exact(steps * SQUARE).enumerate() {
            let rows = Rows { values, stride: DEPTH, taps: &squares, steps: 1 };
            ready.multiply(rows, [first, second], &mut block);
            give(i * PAIR, &block);
        }
    });
}

/// Adds the first `count` columns of a block to what is there. The columns after them may be another task's.
fn give(target: &Target<'_, f32>, (row, rows): (usize, usize), (column, count): (usize, usize), block: &Block) {
    vectorised!(|| {
        for (i, sums) in block.0.iter().take(rows - row).enumerate() {
            let (mut sums, mut before) = (*sums, [0.0; PAIR]);
            // SAFETY: no column has two tasks at a time, and the matrix has been written as zeros at least.
            #[allow(unsafe_code)]
            unsafe {
                match count == PAIR {
                    true => target.read(row + i, column, &mut before),
                    false => target.read_some(row + i, column, &mut before[..count]),
                }
                sums.iter_mut().zip(before).for_each(|(sum, v)| *sum += v);
                match count == PAIR {
                    true => target.write(row + i, column, &sums),
                    false => target.write_some(row + i, column, &sums[..count]),
                }
            }
        }
    });
}
