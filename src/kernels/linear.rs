//! `x w^T + b` with its gradients.

use super::Products;
use super::gemm::{Matrix, Onto, product};
use super::math::vectorised;
use super::native::{gradient, output, values, with_values};
use super::packed::{self, Isa, Packed, linear::Added};
use super::stored::{Weights, check_trainable, widened};
use super::threads;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Arguments: x (.., I), w (O, I), b (O).
pub(super) struct Linear {
    /// In what it is computed, and its gradients.
    pub(super) products: Products,
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (outputs, inputs) = lw.shape().dims2()?;
        if lx.dims().last() != Some(&inputs) {
            candle_core::bail!("linear: input {:?} does not fit weights {:?}", lx.shape(), lw.shape());
        }
        let (x, b) = (values(x, lx)?, values(b, lb)?);
        let y = match self.products {
            Products::Full => {
                // Each row starts as the bias, the product is added to it.
                let mut y = threads::repeated(b, x.len() / inputs);
                Weights::of(w, lw)?.add_product_spread(&mut y, x);
                y
            }
            Products::Brain => {
                let added = Added { bias: Some(b), ..Added::default() };
                packed::linear::linear(Isa::best(), &Packed::of(values(w, lw)?, lw.dims())?, x, added)?
            }
        };
        let mut shape = lx.dims().to_vec();
        *shape.last_mut().expect("x has a last dimension") = outputs;
        output(y, shape)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let sizes = w.dims2()?;
        let (wide, grad) = (widened(w)?, grad.contiguous()?);
        let dx = x.track_op().then(|| with_values([&wide, &grad], |[w, dy]| self.towards_input(w, dy, sizes))?);
        let dx = dx.transpose()?.map(|dx| gradient(dx, x)).transpose()?.flatten();
        if !w.track_op() && !b.track_op() {
            return Ok((dx, None, None));
        }
        check_trainable("linear", w.dtype())?;
        let (dw, db) =
            with_values([x, &grad], |[x, dy]| (self.towards_weights(x, dy, sizes), column_sums(dy, sizes.0)))?;
        Ok((dx, gradient(dw, w)?, gradient(db, b)?))
    }
}

impl Linear {
    /// `dy w`.
    fn towards_input(&self, w: &[f32], dy: &[f32], (outputs, inputs): (usize, usize)) -> Result<Vec<f32>> {
        if self.products == Products::Brain {
            let weights = Packed::reversed(w, &[outputs, inputs])?;
            return packed::linear::linear(Isa::best(), &weights, dy, Added::default());
        }
        let rows = dy.len() / outputs.max(1);
        let mut dx = vec![0.0; rows * inputs];
        let (dy, w) = (Matrix::dense(dy, rows, outputs), Matrix::dense(w, outputs, inputs));
        product(&mut dx, inputs, Onto::Nothing, 1.0, dy, w);
        Ok(dx)
    }

    /// `dy^T x`.
    fn towards_weights(&self, x: &[f32], dy: &[f32], (outputs, inputs): (usize, usize)) -> Vec<f32> {
        if self.products == Products::Brain {
            return packed::gradient::of_linear(Isa::best(), x, dy, (outputs, inputs));
        }
        let rows = x.len() / inputs;
        let mut dw = vec![0.0; outputs * inputs];
        let (dy, x) = (Matrix::dense(dy, rows, outputs), Matrix::dense(x, rows, inputs));
        product(&mut dw, inputs, Onto::Nothing, 1.0, dy.transposed(), x);
        dw
    }
}

/// The sum of the rows of `x`, each `columns` long.
pub(super) fn column_sums(x: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0; columns];
    vectorised!(|| {
        for row in x.chunks_exact(columns) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
        }
    });
    sums
}
