//! 2-D convolution, channels-last, as im2col and a matrix product, with its gradients.
//!
//! A chunk of output positions at a time is unfolded into rows of `kh * kw * I` values, so the unfolded copy stays in the
//! cache and memory does not grow with the picture. With channels last, each of the `kh * kw` parts of a row is one copy.

use super::Padding;
use super::gemm::{Matrix, Onto, product};
use super::linear::column_sums;
use super::math::vectorised;
use super::native::{gradient, output, values, with_values};
use super::stored::{Weights, check_trainable};
use super::threads::{self, Scratch};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Arguments: x (B, H, W, I), w (O, kh, kw, I), b (O).
#[derive(Clone, Copy)]
pub(super) struct Conv2d {
    pub(super) stride: usize,
    pub(super) padding: Padding,
}

/// All sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    height: usize,
    width: usize,
    inputs: usize,
    outputs: usize,
    kernel_height: usize,
    kernel_width: usize,
    out_height: usize,
    out_width: usize,
    positions: usize,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    fn sizes(&self, x: &Shape, w: &Shape) -> Result<Sizes> {
        let (batch, height, width, inputs) = x.dims4()?;
        let (outputs, kernel_height, kernel_width, w_inputs) = w.dims4()?;
        let Padding { top, bottom, left, right } = self.padding;
        let (padded_height, padded_width) = (height + top + bottom, width + left + right);
        if inputs != w_inputs || padded_height < kernel_height || padded_width < kernel_width {
            candle_core::bail!("conv2d: input {x:?} does not fit weights {w:?}");
        }
        let out_height = (padded_height - kernel_height) / self.stride + 1;
        let out_width = (padded_width - kernel_width) / self.stride + 1;
        let positions = batch * out_height * out_width;
        let (stride, padding) = (self.stride, self.padding);
        Ok(Sizes {
            height,
            width,
            inputs,
            outputs,
            kernel_height,
            kernel_width,
            out_height,
            out_width,
            positions,
            stride,
            padding,
        })
    }
}

impl Sizes {
    /// Length of an unfolded row.
    fn patch(&self) -> usize {
        self.kernel_height * self.kernel_width * self.inputs
    }

    /// Output positions unfolded at a time: a function of the sizes alone, so that results do not depend on threads.
    fn chunk(&self) -> usize {
        (self.positions / 2).next_multiple_of(16).clamp(16, 256)
    }

    /// The same for the gradients, which are not spread over threads. Each chunk packs all weights and goes over their
    /// whole gradient, so it has as many rows as fit in a few megabytes.
    fn gradient_chunk(&self) -> usize {
        ((1 << 20) / self.patch()).clamp(256, 1024).min(self.positions)
    }

    /// For the output position `p` and each part of its row: the offset in x of that part, or `None` in the padding.
    #[inline(always)]
    fn for_each_part(&self, p: usize, mut f: impl FnMut(usize, Option<usize>)) {
        let (sample, y, x) =
            (p / (self.out_height * self.out_width), p / self.out_width % self.out_height, p % self.out_width);
        for ky in 0..self.kernel_height {
            let row = (y * self.stride + ky).checked_sub(self.padding.top).filter(|&r| r < self.height);
            for kx in 0..self.kernel_width {
                let column = (x * self.stride + kx).checked_sub(self.padding.left).filter(|&c| c < self.width);
                let offset = row.zip(column).map(|(r, c)| ((sample * self.height + r) * self.width + c) * self.inputs);
                f((ky * self.kernel_width + kx) * self.inputs, offset);
            }
        }
    }

    fn unfold(&self, x: &[f32], first: usize, rows: &mut [f32]) {
        for (i, row) in rows.chunks_exact_mut(self.patch()).enumerate() {
            self.for_each_part(first + i, |at, offset| {
                let part = &mut row[at..at + self.inputs];
                match offset {
                    Some(offset) => part.copy_from_slice(&x[offset..offset + self.inputs]),
                    None => part.fill(0.0),
                }
            });
        }
    }

    fn fold_add(&self, rows: &[f32], first: usize, x: &mut [f32]) {
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

    fn forward(&self, x: &[f32], w: Weights<'_>, b: &[f32]) -> Vec<f32> {
        let mut y = b.repeat(self.positions);
        // Weights of which all tasks together would widen many for few positions: each of them once, then, for all.
        if !w.is_full() && self.positions <= 2 * self.chunk() {
            self.forward_at_once(x, w, &mut y);
            return y;
        }
        let (patch, chunk) = (self.patch(), self.chunk());
        threads::for_each(y.chunks_mut(chunk * self.outputs).enumerate().collect(), |(i, y)| {
            let count = y.len() / self.outputs;
            threads::with_scratch(Scratch::Activations, count * patch, |rows| {
                self.unfold(x, i * chunk, rows);
                w.add_product(y, Matrix::dense(rows, count, patch));
            });
        });
        y
    }

    /// Everything is unfolded before anything is multiplied.
    fn forward_at_once(&self, x: &[f32], w: Weights<'_>, y: &mut [f32]) {
        let (patch, chunk) = (self.patch(), self.chunk());
        threads::with_scratch(Scratch::Activations, self.positions * patch, |rows| {
            threads::for_each(rows.chunks_mut(chunk * patch).enumerate().collect(), |(i, rows)| {
                self.unfold(x, i * chunk, rows);
            });
            w.add_product_spread(y, rows);
        });
    }

    /// Gradients of x, w and b. On one thread: the trainer spreads samples over the cores instead.
    fn backward(&self, x: &[f32], w: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        let (patch, chunk) = (self.patch(), self.gradient_chunk());
        let weights = Matrix::dense(w, self.outputs, patch);
        threads::with_scratch(Scratch::Activations, chunk * patch, |rows| {
            for (i, dy) in dy.chunks(chunk * self.outputs).enumerate() {
                let count = dy.len() / self.outputs;
                let (rows, dy) = (&mut rows[..count * patch], Matrix::dense(dy, count, self.outputs));
                self.unfold(x, i * chunk, rows);
                product(&mut dw, patch, Onto::Sum, 1.0, dy.transposed(), Matrix::dense(rows, count, patch));
                product(rows, patch, Onto::Nothing, 1.0, dy, weights);
                self.fold_add(rows, i * chunk, &mut dx);
            }
        });
        (dx, dw, column_sums(dy, self.outputs))
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d-channels-last"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(lx.shape(), lw.shape())?;
        let y = sizes.forward(values(x, lx)?, Weights::of(w, lw)?, values(b, lb)?);
        output(y, (lx.dims()[0], sizes.out_height, sizes.out_width, sizes.outputs))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        check_trainable("conv2d", w.dtype())?;
        let sizes = self.sizes(x.shape(), w.shape())?;
        let (dx, dw, db) = with_values([x, w, &grad.contiguous()?], |[x, w, dy]| sizes.backward(x, w, dy))?;
        Ok((gradient(dx, x)?, gradient(dw, w)?, gradient(db, b)?))
    }
}
