//! `x w^T + b` with its gradients.

use super::gemm::{Matrix, Onto, product};
use super::math::vectorised;
use super::native::{gradient, output, values, with_values};
use super::stored::{Weights, check_trainable, widened};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Arguments: x (.., I), w (O, I), b (O).
pub(super) struct Linear;

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
        // Each row starts as the bias, the product is added to it.
        let mut y = values(b, lb)?.repeat(lx.shape().elem_count() / inputs);
        Weights::of(w, lw)?.add_product_spread(&mut y, values(x, lx)?);
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
        let (outputs, inputs) = w.dims2()?;
        let rows = x.elem_count() / inputs;
        let (wide, grad) = (widened(w)?, grad.contiguous()?);
        let dx = x.track_op().then(|| with_values([&wide, &grad], |[w, dy]| towards_input(w, dy, rows, outputs)));
        let dx = dx.transpose()?.map(|dx| gradient(dx, x)).transpose()?.flatten();
        if !w.track_op() && !b.track_op() {
            return Ok((dx, None, None));
        }
        check_trainable("linear", w.dtype())?;
        let (dw, db) = with_values([x, &grad], |[x, dy]| {
            let mut dw = vec![0.0; outputs * inputs];
            let dy_matrix = Matrix::dense(dy, rows, outputs);
            product(&mut dw, inputs, Onto::Nothing, 1.0, dy_matrix.transposed(), Matrix::dense(x, rows, inputs));
            (dw, column_sums(dy, outputs))
        })?;
        Ok((dx, gradient(dw, w)?, gradient(db, b)?))
    }
}

/// `dy w`, for `rows` rows.
fn towards_input(w: &[f32], dy: &[f32], rows: usize, outputs: usize) -> Vec<f32> {
    let inputs = w.len() / outputs.max(1);
    let mut dx = vec![0.0; rows * inputs];
    product(&mut dx, inputs, Onto::Nothing, 1.0, Matrix::dense(dy, rows, outputs), Matrix::dense(w, outputs, inputs));
    dx
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
