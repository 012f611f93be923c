//! A product of low rank, added to weights in the type in which they are stored: some rows at a time, so that nothing but
//! the result is written to memory.

use super::gemm::{Matrix, Onto, product};
use super::native::values;
use super::threads::{self, Scratch};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, bail};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Numbers of the result for one task: widened, they stay in a core's cache.
const BLOCK: usize = 1 << 17;

/// Arguments: w (O, I) in F32, F16 or BF16, a (O, R) and b (R, I) in F32.
pub(super) struct AddProduct;

impl CustomOp3 for AddProduct {
    fn name(&self) -> &'static str {
        "add-product"
    }

    fn cpu_fwd(
        &self,
        w: &CpuStorage,
        lw: &Layout,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((outputs, inputs), (rows, rank)) = (lw.shape().dims2()?, la.shape().dims2()?);
        if rows != outputs || lb.dims() != [rank, inputs] {
            bail!("add-product: {:?} and {:?} do not fit {:?}", la.shape(), lb.shape(), lw.shape());
        }
        let Some((start, end)) = lw.contiguous_offsets() else { bail!("add-product: weights are not contiguous") };
        let factors = Factors { a: values(a, la)?, b: values(b, lb)?, rank, inputs };
        let sum = match w {
            CpuStorage::F32(w) => CpuStorage::F32(factors.added_to(&w[start..end])),
            CpuStorage::F16(w) => CpuStorage::F16(factors.added_to(&w[start..end])),
            CpuStorage::BF16(w) => CpuStorage::BF16(factors.added_to(&w[start..end])),
            _ => bail!("add-product: weights are neither F32 nor F16 nor BF16"),
        };
        Ok((sum, lw.shape().clone()))
    }
}

struct Factors<'a> {
    a: &'a [f32],
    b: &'a [f32],
    rank: usize,
    inputs: usize,
}

impl Factors<'_> {
    fn added_to<T: Stored>(&self, w: &[T]) -> Vec<T> {
        let mut sum = vec![T::default(); w.len()];
        let rows = (BLOCK / self.inputs.max(1)).max(1);
        let (block, factor) = ((rows * self.inputs).max(1), (rows * self.rank).max(1));
        let tasks = sum.chunks_mut(block).zip(w.chunks(block)).zip(self.a.chunks(factor)).collect();
        threads::for_each(tasks, |((sum, w), a)| {
            T::with_widened(sum, w, |wide| {
                let (a, b) = (Matrix::dense(a, a.len() / self.rank, self.rank), self.b);
                product(wide, self.inputs, Onto::Sum, 1.0, a, Matrix::dense(b, self.rank, self.inputs));
            });
        });
        sum
    }
}

/// A type in which weights are stored.
trait Stored: Copy + Default + Send + Sync {
    /// Has `f` change the numbers of `from` in f32, and rounds what comes of them into `to`.
    fn with_widened(to: &mut [Self], from: &[Self], f: impl FnOnce(&mut [f32]));
}

impl Stored for f32 {
    fn with_widened(to: &mut [Self], from: &[Self], f: impl FnOnce(&mut [Self])) {
        to.copy_from_slice(from);
        f(to);
    }
}

impl Stored for f16 {
    fn with_widened(to: &mut [Self], from: &[Self], f: impl FnOnce(&mut [f32])) {
        half_widened(to, from, f);
    }
}

impl Stored for bf16 {
    fn with_widened(to: &mut [Self], from: &[Self], f: impl FnOnce(&mut [f32])) {
        half_widened(to, from, f);
    }
}

fn half_widened<T>(to: &mut [T], from: &[T], f: impl FnOnce(&mut [f32]))
where
    [T]: HalfFloatSliceExt,
{
    threads::with_scratch(Scratch::Weights, from.len(), |wide| {
        from.convert_to_f32_slice(wide);
        f(wide);
        to.convert_from_f32_slice(wide);
    });
}

#[cfg(test)]
mod tests {
    use crate::kernels::add_product;
    use candle_core::{DType, Device, Tensor};

    fn numbers(shape: (usize, usize), scale: f32) -> Tensor {
        let count = shape.0 * shape.1;
        let values: Vec<f32> = (0..count).map(|i| ((i * 7919 % 1009) as f32 / 504.5 - 1.0) * scale).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    /// By candle's operations, and in several blocks of rows, the last of them smaller.
    #[test]
    fn the_sum_is_taken_in_f32_and_rounded_once() {
        for (outputs, inputs, rank) in [(1, 1, 1), (5, 7, 3), (700, 401, 16), (3, 140_000, 2), (0, 4, 1)] {
            let (a, b) = (numbers((outputs, rank), 0.5), numbers((rank, inputs), 0.25));
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let w = numbers((outputs, inputs), 1.0).to_dtype(dtype).unwrap();
                let found = add_product(&w, &a, &b).unwrap();
                let exact = (w.to_dtype(DType::F32).unwrap() + a.matmul(&b).unwrap()).unwrap();
                assert_eq!((found.dtype(), found.dims()), (dtype, w.dims()));
                let wide =
                    |x: &Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                // Half of the last place, and what the order of the sum can change.
                let place = match dtype {
                    DType::F16 => 2f32.powi(-11),
                    DType::BF16 => 2f32.powi(-8),
                    _ => 0.0,
                };
                for (found, exact) in wide(&found).iter().zip(wide(&exact)) {
                    assert!((found - exact).abs() <= place * exact.abs() + 2e-6, "{found} {exact} {dtype:?}");
                }
            }
        }
        assert!(add_product(&numbers((4, 3), 1.0), &numbers((4, 2), 1.0), &numbers((3, 3), 1.0)).is_err());
    }
}
