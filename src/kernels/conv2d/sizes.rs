//! The sizes of a convolution, and its input unfolded into the rows of a matrix.

use crate::kernels::Padding;
use crate::kernels::math::vectorised;
use candle_core::{Result, Shape, bail};
use std::ops::Range;

/// All sizes of one call.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Sizes {
    pub(in crate::kernels) batch: usize,
    /// Of the input as it lies in memory.
    pub(in crate::kernels) source: [usize; 2],
    /// Of the input as the kernel sees it: enlarged, where it differs, by repeating the nearest position before.
    pub(in crate::kernels) height: usize,
    pub(in crate::kernels) width: usize,
    pub(in crate::kernels) inputs: usize,
    pub(in crate::kernels) outputs: usize,
    pub(in crate::kernels) kernel_height: usize,
    pub(in crate::kernels) kernel_width: usize,
    pub(in crate::kernels) out_height: usize,
    pub(in crate::kernels) out_width: usize,
    pub(in crate::kernels) positions: usize,
    pub(in crate::kernels) stride: usize,
    pub(in crate::kernels) padding: Padding,
}

impl Sizes {
    /// Of an input (B, H, W, I), enlarged to `enlarged` where that is given, and weights (O, kh, kw, I).
    pub(in crate::kernels) fn new(
        x: &Shape,
        w: &Shape,
        enlarged: Option<(usize, usize)>,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        let (batch, source_height, source_width, inputs) = x.dims4()?;
        let (outputs, kernel_height, kernel_width, w_inputs) = w.dims4()?;
        let (height, width) = enlarged.unwrap_or((source_height, source_width));
        let Padding { top, bottom, left, right } = padding;
        let (padded_height, padded_width) = (height + top + bottom, width + left + right);
        if inputs != w_inputs || padded_height < kernel_height || padded_width < kernel_width {
            bail!("conv2d: input {x:?} does not fit weights {w:?}");
        }
        let out_height = (padded_height - kernel_height) / stride + 1;
        let out_width = (padded_width - kernel_width) / stride + 1;
        Ok(Self {
            batch,
            source: [source_height, source_width],
            height,
            width,
            inputs,
            outputs,
            kernel_height,
            kernel_width,
            out_height,
            out_width,
            positions: batch * out_height * out_width,
            stride,
            padding,
        })
    }

    /// The shape of the result.
    pub(in crate::kernels) fn result(&self) -> Shape {
        Shape::from((self.batch, self.out_height, self.out_width, self.outputs))
    }

    /// Those of the weights.
    pub(super) fn weights(&self) -> [usize; 4] {
        [self.outputs, self.kernel_height, self.kernel_width, self.inputs]
    }

    /// Of the convolution that takes gradients back to the input, where that is one: at stride 1, and where no result lies
    /// wholly in the padding.
    pub(super) fn reversed(&self) -> Option<Self> {
        let (rows, columns, p) = (self.kernel_height - 1, self.kernel_width - 1, self.padding);
        let padding = Padding {
            top: rows.checked_sub(p.top)?,
            bottom: rows.checked_sub(p.bottom)?,
            left: columns.checked_sub(p.left)?,
            right: columns.checked_sub(p.right)?,
        };
        (self.stride == 1 && self.source == [self.height, self.width]).then_some(Self {
            source: [self.out_height, self.out_width],
            height: self.out_height,
            width: self.out_width,
            inputs: self.outputs,
            outputs: self.inputs,
            out_height: self.height,
            out_width: self.width,
            positions: self.batch * self.height * self.width,
            padding,
            ..*self
        })
    }

    /// Whether the result has the shape of the input, position for position.
    pub(super) fn keeps_shape(&self) -> bool {
        let out = [self.out_height, self.out_width];
        self.stride == 1 && out == self.source && out == [self.height, self.width] && self.inputs == self.outputs
    }

    /// Length of an unfolded row.
    pub(super) fn patch(&self) -> usize {
        self.kernel_height * self.kernel_width * self.inputs
    }

    /// Numbers of a row of the input, as it lies in memory.
    pub(super) fn source_row(&self) -> usize {
        self.source[1] * self.inputs
    }

    /// Rows of a sample.
    pub(super) fn source_rows(&self) -> usize {
        self.source[0]
    }

    /// Output positions unfolded at a time: a function of the sizes alone, so that results do not depend on threads.
    pub(super) fn chunk(&self) -> usize {
        (self.positions / 2).next_multiple_of(16).clamp(16, 256)
    }

    /// The same for the gradients, which are not spread over threads. Each chunk packs all weights and goes over their
    /// whole gradient, so it has as many rows as fit in a few megabytes.
    pub(super) fn gradient_chunk(&self) -> usize {
        ((1 << 20) / self.patch()).clamp(256, 1024).min(self.positions)
    }

    /// The rows of the input, counted through all samples, that these output positions look at.
    pub(super) fn rows_seen(&self, positions: &Range<usize>) -> Range<usize> {
        let row = |p: usize| (p / (self.out_height * self.out_width), p / self.out_width % self.out_height);
        let ((sample, y), (last_sample, last_y)) = (row(positions.start), row(positions.end - 1));
        let first = (y * self.stride).saturating_sub(self.padding.top).min(self.height - 1);
        let end = (last_y * self.stride + self.kernel_height).saturating_sub(self.padding.top).clamp(1, self.height);
        let [height, _] = self.source;
        let source = |y: usize| y * height / self.height;
        sample * height + source(first)..last_sample * height + source(end - 1) + 1
    }

    /// For the output position `p` and each part of its row: the offset in x of that part, or `None` in the padding.
    #[inline(always)]
    pub(in crate::kernels) fn for_each_part(&self, p: usize, mut f: impl FnMut(usize, Option<usize>)) {
        let (sample, y, x) =
            (p / (self.out_height * self.out_width), p / self.out_width % self.out_height, p % self.out_width);
        let [source_height, source_width] = self.source;
        for ky in 0..self.kernel_height {
            let row = (y * self.stride + ky).checked_sub(self.padding.top).filter(|&r| r < self.height);
            let row = row.map(|r| sample * source_height + nearest(r, source_height, self.height));
            for kx in 0..self.kernel_width {
                let column = (x * self.stride + kx).checked_sub(self.padding.left).filter(|&c| c < self.width);
                let column = column.map(|c| nearest(c, source_width, self.width));
                let offset = row.zip(column).map(|(r, c)| (r * source_width + c) * self.inputs);
                f((ky * self.kernel_width + kx) * self.inputs, offset);
            }
        }
    }

    /// The rows of the output positions from `first` on. `x` is the input from its row `first_row` on.
    pub(in crate::kernels) fn unfold(&self, x: &[f32], first_row: usize, first: usize, rows: &mut [f32]) {
        let before = first_row * self.source_row();
        for (i, row) in rows.chunks_exact_mut(self.patch()).enumerate() {
            self.for_each_part(first + i, |at, offset| {
                let part = &mut row[at..at + self.inputs];
                match offset {
                    Some(offset) => part.copy_from_slice(&x[offset - before..offset - before + self.inputs]),
                    None => part.fill(0.0),
                }
            });
        }
    }

    /// The reverse, for gradients: what lies in rows is added to where it was taken from.
    pub(super) fn fold_add(&self, rows: &[f32], first: usize, x: &mut [f32]) {
        vectorised!(|| {
            for (i, row) in rows.chunks_exact(self.patch()).enumerate() {
                self.for_each_part(first + i, |at, offset| {
                    if let Some(offset) = offset {
                        let target = &mut x[offset..offset + self.inputs];
                        target.iter_mut().zip(&row[at..at + self.inputs]).for_each(|(t, v)| *t += v);
                    }
                });
            }
        });
    }
}

/// Which of `from` positions one of `to` repeats.
#[inline(always)]
pub(in crate::kernels) fn nearest(position: usize, from: usize, to: usize) -> usize {
    if from == to { position } else { position * from / to }
}
