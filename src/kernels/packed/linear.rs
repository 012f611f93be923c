//! Products of rows: linear layers, and what of a convolution has been unfolded.

use super::isa::Isa;
use super::product::{Form, Panels, Strip, Target, multiply};
use super::round::Number;
use super::tile::{Block, DEPTH, PAIR, WIDTH};
use super::{Packed, activation};
use crate::kernels::math::{gelu_for_bf16, vectorised};
use candle_core::{Result, Tensor};

/// Numbers of a strip: it lies in a core's own cache, beside the weights.
pub(super) const STRIP: usize = 1 << 18;

/// The most rows of a strip.
const ROWS: usize = 512;

/// What is added to the sums of a product.
#[derive(Clone, Copy, Default)]
pub(in crate::kernels) struct Added<'a> {
    /// To all rows: one for each column.
    pub(in crate::kernels) bias: Option<&'a [f32]>,
    /// To all rows of a sample: for each sample, one for each column.
    pub(in crate::kernels) per_sample: Option<&'a [f32]>,
    /// To each row, and column.
    pub(in crate::kernels) rows: Option<&'a [f32]>,
    /// What is where the results go.
    pub(in crate::kernels) onto: bool,
}

impl Added<'_> {
    /// The sums of a row, which is one of `sample`'s, with what is added; they are those of the columns from `column` on.
    #[inline(always)]
    pub(super) fn to(
        &self,
        sums: &[f32; PAIR],
        (row, sample): (usize, usize),
        (column, columns): (usize, usize),
    ) -> [f32; PAIR] {
        let bias = self.bias.map(|bias| &bias[column..]);
        let e = self.per_sample.map(|e| &e[sample * columns + column..(sample + 1) * columns]);
        let rows = self.rows.map(|rows| &rows[row * columns + column..(row + 1) * columns]);
        let mut all = *sums;
        for values in [bias, e, rows].into_iter().flatten() {
            // A number of columns that the compiler knows, but for the last ones.
            match values.first_chunk::<PAIR>() {
                Some(values) => all.iter_mut().zip(values).for_each(|(y, v)| *y += v),
                None => all.iter_mut().zip(values).for_each(|(y, v)| *y += v),
            }
        }
        all
    }
}

/// `x w^T` and what is added, (n, O), for `x` (n, I).
pub(in crate::kernels) fn linear(isa: Isa, weights: &Packed, x: &[f32], added: Added<'_>) -> Result<Vec<f32>> {
    let inputs = weights.inputs;
    let fill = |strip: Strip, values: &mut [u16]| {
        let x = &x[strip.first * inputs..(strip.first + strip.rows) * inputs];
        round_rows(x, inputs, values);
    };
    times(isa, weights, x.len() / inputs.max(1), fill, added)
}

/// The same for so many rows, of which `fill` writes those of a strip as bf16, each filled up with zeros.
pub(super) fn times(
    isa: Isa,
    weights: &Packed,
    rows: usize,
    fill: impl Fn(Strip, &mut [u16]) + Sync,
    added: Added<'_>,
) -> Result<Vec<f32>> {
    let (depth, columns) = (weights.inputs.next_multiple_of(DEPTH), weights.outputs);
    let (form, strips) = (Form::of_rows(depth), strips(rows, depth, STRIP));
    let place = |strip: Strip, i: usize| (i < strip.rows).then_some((strip.first + i, 0));
    let write = |target: &Target<'_, f32>| {
        weights.with_panels(|bits| {
            let panels = &Panels::in_order(bits, columns);
            Results { target, panels, added }.multiply(isa, &form, &strips, fill, place);
        })
    };
    // SAFETY: the strips are all rows, and the panels all columns.
    #[allow(unsafe_code)]
    unsafe {
        Target::fresh(rows, columns, write)
    }
}

/// Whether [`geglu`] serves these weights.
pub(in crate::kernels) fn is_gated(weights: &Packed) -> bool {
    weights.outputs.is_multiple_of(PAIR)
}

/// The first half of `x w^T + b` times the GELU of the second, (n, O / 2), for `x` (n, I).
pub(in crate::kernels) fn geglu(isa: Isa, weights: &Packed, x: &[f32], bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let (inputs, columns) = (weights.inputs, weights.outputs);
    let depth = inputs.next_multiple_of(DEPTH);
    let form = Form::of_rows(depth);
    let rows = x.len() / inputs.max(1);
    let fill = |strip: Strip, values: &mut [u16]| {
        round_rows(&x[strip.first * inputs..(strip.first + strip.rows) * inputs], inputs, values);
    };
    let zeros = vec![0.0; if bias.is_none() { columns } else { 0 }];
    let bias = bias.unwrap_or(&zeros);
    // SAFETY: the strips are all rows, and the panels all columns.
    #[allow(unsafe_code)]
    let y = unsafe {
        Target::fresh(rows, columns / 2, |target| {
            weights.with_panels(|bits| {
                let panels = Panels::of_halves(bits, columns);
                multiply(isa, &form, &panels, &strips(rows, depth, STRIP), fill, |strip, row, pair, block| {
                    let column = pair * WIDTH;
                    gate(block, PAIR.min(strip.rows - row), bias, column, |i, gated: &[f32; WIDTH]| {
                        // SAFETY: each block is given to one task, and strips have no rows in common.
                        target.write(strip.first + row + i, column, gated);
                    });
                });
            })
        })
    };
    y
}

/// Sixteen numbers, of which the compiler then knows how many they are.
#[inline(always)]
fn sixteen(values: &[f32]) -> &[f32; WIDTH] {
    values.try_into().expect("sixteen numbers")
}

/// Of the first `count` rows of a block the first half times the GELU of the second. `bias` is that of all columns; those
/// of the block begin at `column` of either half.
fn gate(block: &Block, count: usize, bias: &[f32], column: usize, mut give: impl FnMut(usize, &[f32; WIDTH])) {
    let biases = halves(bias, column);
    vectorised!(|| {
        for (i, sums) in block.0.iter().take(count).enumerate() {
            let (values, gates) = (sixteen(&sums[..WIDTH]), sixteen(&sums[WIDTH..]));
            let mut gated = [0.0; WIDTH];
            for j in 0..WIDTH {
                gated[j] = (values[j] + biases[0][j]) * gelu_for_bf16(gates[j] + biases[1][j]);
            }
            give(i, &gated);
        }
    });
}

/// The biases of the sixteen columns from `column` on of either half.
pub(super) fn halves(bias: &[f32], column: usize) -> [&[f32; WIDTH]; 2] {
    let (values, gates) = bias.split_at(bias.len() / 2);
    [values, gates].map(|half| sixteen(&half[column..column + WIDTH]))
}

/// Rows of `depth` numbers in strips of about so many numbers.
pub(super) fn strips(rows: usize, depth: usize, numbers: usize) -> Vec<Strip> {
    let together = (numbers / depth.max(1) / PAIR * PAIR).clamp(PAIR, ROWS);
    (0..rows).step_by(together).map(|first| Strip { first, rows: together.min(rows - first) }).collect()
}

/// Rows of `inputs` numbers as bf16, each filled up with zeros.
pub(super) fn round_rows(x: &[f32], inputs: usize, values: &mut [u16]) {
    let depth = inputs.next_multiple_of(DEPTH);
    if depth == inputs {
        return activation::round(x, values);
    }
    vectorised!(|| {
        for (x, row) in x.chunks_exact(inputs).zip(values.chunks_exact_mut(depth)) {
            let (row, rest) = row.split_at_mut(inputs);
            activation::round(x, row);
            rest.fill(0);
        }
    });
}

/// What rows are multiplied with, where the results go, and what is added to them.
#[derive(Clone, Copy)]
pub(super) struct Results<'a, T> {
    pub(super) target: &'a Target<'a, T>,
    pub(super) panels: &'a Panels<'a>,
    pub(super) added: Added<'a>,
}

impl<T: Number> Results<'_, T> {
    /// Computes them. `fill` writes a strip as bf16, see [`multiply`], and `place` tells for each of its rows which row of the
    /// results it is, and of which sample; some are none.
    pub(super) fn multiply(
        self,
        isa: Isa,
        form: &Form,
        strips: &[Strip],
        fill: impl Fn(Strip, &mut [u16]) + Sync,
        place: impl Fn(Strip, usize) -> Option<(usize, usize)> + Sync,
    ) {
        let Self { target, panels, added } = self;
        multiply(isa, form, panels, strips, fill, |strip, row, pair, block| {
            give_rows(target, |i| place(strip, i), (row, pair * PAIR), block, added);
        });
    }
}

/// Writes a block that begins at `row` of a strip and at `column`, with what is added. `place` tells for each row of the
/// strip which row of the results it is, and of which sample; some are none.
pub(super) fn give_rows<T: Number>(
    target: &Target<'_, T>,
    place: impl Fn(usize) -> Option<(usize, usize)>,
    (row, column): (usize, usize),
    block: &Block,
    added: Added<'_>,
) {
    vectorised!(|| {
        for (i, sums) in block.0.iter().enumerate() {
            let Some((row, sample)) = place(row + i) else { continue };
            let mut sums = added.to(sums, (row, sample), (column, target.columns()));
            // SAFETY: each block is given to one task, and no row has two places; what is added to is there.
            #[allow(unsafe_code)]
            unsafe {
                if added.onto {
                    let mut before = [T::default(); PAIR];
                    target.read(row, column, &mut before);
                    sums.iter_mut().zip(before).for_each(|(y, v)| *y += v.wide());
                }
                target.write(row, column, &sums.map(T::of));
            }
        }
    });
}

/// [`linear`] of a tensor (.., I), or [`geglu`].
pub(in crate::kernels) fn forward(
    weights: &Packed,
    x: &Tensor,
    bias: Option<&Tensor>,
    gated: bool,
) -> crate::Result<Tensor> {
    use crate::kernels::native::{with_some, with_values};
    let mut shape = x.dims().to_vec();
    if shape.pop() != Some(weights.inputs) {
        let message = format!("linear: input {:?} does not fit {} inputs", x.shape(), weights.inputs);
        return Err(candle_core::Error::Msg(message).into());
    }
    let outputs = if gated { weights.outputs / 2 } else { weights.outputs };
    shape.push(outputs);
    let x = x.contiguous()?;
    let y = with_values([&x], |[x]| {
        with_some(bias, |bias| match gated {
            true => geglu(Isa::best(), weights, x, bias),
            false => linear(Isa::best(), weights, x, Added { bias, ..Added::default() }),
        })?
    })??;
    Ok(Tensor::from_vec(y, shape, x.device())?)
}
