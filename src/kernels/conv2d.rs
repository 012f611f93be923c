//! 2-D convolution, channels-last, as im2col and a matrix product, with its gradients; of 3 x 3 also by Winograd's algorithm,
//! see `winograd`.
//!
//! A chunk of output positions at a time is unfolded into rows of `kh * kw * I` values, so the unfolded copy stays in the
//! cache and memory does not grow with the picture. With channels last, each of the `kh * kw` parts of a row is one copy.

mod forward;
pub(super) mod rounded;
mod sizes;
mod winograd;

use super::gemm::{Matrix, Onto, product};
use super::linear::column_sums;
use super::native::{gradient, output, values, with_values};
use super::packed::Isa;
use super::stored::{Weights, check_trainable, widened};
use super::threads::{self, Scratch};
use super::{Padding, Products};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
pub(super) use forward::Forward;
pub(super) use sizes::{Sizes, nearest};

/// Arguments: x (B, H, W, I), w (O, kh, kw, I), b (O).
#[derive(Clone, Copy)]
pub(super) struct Conv2d {
    pub(super) stride: usize,
    pub(super) padding: Padding,
    /// In what it is computed, and its gradients.
    pub(super) products: Products,
}

impl Conv2d {
    /// For an input (B, H, W, I), first enlarged to `enlarged` where that is given.
    pub(super) fn forward<'a>(
        &self,
        x: &Shape,
        enlarged: Option<(usize, usize)>,
        (w, lw): (&'a CpuStorage, &Layout),
        b: &'a [f32],
    ) -> Result<Forward<'a>> {
        let sizes = Sizes::new(x, lw.shape(), enlarged, self.stride, self.padding)?;
        if b.len() != sizes.outputs {
            candle_core::bail!("conv2d: {} biases do not fit weights {:?}", b.len(), lw.shape());
        }
        Ok(Forward::new(sizes, Weights::of(w, lw)?, b))
    }
}

/// Gradients of x, and of w where `trained`. On one thread: the trainer spreads samples over the cores instead.
fn backward(sizes: &Sizes, x: &[f32], w: &[f32], dy: &[f32], trained: bool) -> (Vec<f32>, Vec<f32>) {
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; if trained { w.len() } else { 0 }]);
    let (patch, chunk) = (sizes.patch(), sizes.gradient_chunk());
    let weights = Matrix::dense(w, sizes.outputs, patch);
    threads::with_scratch(Scratch::Activations, chunk * patch, |rows| {
        for (i, dy) in dy.chunks(chunk * sizes.outputs).enumerate() {
            let count = dy.len() / sizes.outputs;
            let (rows, dy) = (&mut rows[..count * patch], Matrix::dense(dy, count, sizes.outputs));
            if trained {
                sizes.unfold(x, 0, i * chunk, rows);
                product(&mut dw, patch, Onto::Sum, 1.0, dy.transposed(), Matrix::dense(rows, count, patch));
            }
            product(rows, patch, Onto::Nothing, 1.0, dy, weights);
            sizes.fold_add(rows, i * chunk, &mut dx);
        }
    });
    (dx, dw)
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
        let (x, b) = (values(x, lx)?, values(b, lb)?);
        if self.products == Products::Brain {
            let sizes = Sizes::new(lx.shape(), lw.shape(), None, self.stride, self.padding)?;
            let y = rounded::forward(Isa::best(), &sizes, x, values(w, lw)?, b)?;
            return output(y, sizes.result());
        }
        let forward = self.forward(lx.shape(), None, (w, lw), b)?;
        let mut y = threads::zeros(forward.shape().elem_count());
        forward.run(x, &mut y);
        output(y, forward.shape())
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let trained = w.track_op() || b.track_op();
        if trained {
            check_trainable("conv2d", w.dtype())?;
        }
        let sizes = Sizes::new(x.shape(), w.shape(), None, self.stride, self.padding)?;
        let grad = grad.contiguous()?;
        let (dx, dw) = with_values([x, &widened(w)?, &grad], |[input, w, dy]| match self.products {
            Products::Full => Ok(backward(&sizes, input, w, dy, trained)),
            Products::Brain => rounded::backward(Isa::best(), &sizes, [input, w, dy], (x.track_op(), trained)),
        })??;
        let dx = if x.track_op() { gradient(dx, x)? } else { None };
        if !trained {
            return Ok((dx, None, None));
        }
        let db = with_values([&grad], |[dy]| column_sums(dy, sizes.outputs))?;
        Ok((dx, gradient(dw, w)?, gradient(db, b)?))
    }
}
