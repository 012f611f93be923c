//! What is little work but much memory, on all cores: candle's own operations stay on one, and the others wait.

use super::native::with_values;
use super::threads::{self, TASK};
use super::{is_native, profile};
use crate::Result;
use candle_core::{D, Tensor};

fn served(x: &Tensor, y: &Tensor) -> bool {
    [x, y].into_iter().all(|tensor| is_native(tensor) && tensor.is_contiguous() && !tensor.track_op())
}

/// `x + y`, of the same shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let _span = profile::kernel(|| (format!("sum {:?}", x.dims()), x.elem_count() as f64));
    if x.shape() != y.shape() || !served(x, y) {
        return Ok((x + y)?);
    }
    let sum = with_values([x, y], |[x, y]| {
        threads::written(x.len(), TASK, |i, to| {
            let numbers = x[i * TASK..].iter().zip(&y[i * TASK..]);
            to.iter_mut().zip(numbers).for_each(|(to, (x, y))| *to = x + y);
        })
    })?;
    Ok(Tensor::from_vec(sum, x.shape(), x.device())?)
}

/// The channels of `x`, (.., C), and then those of `y`, (.., D), of each position.
pub fn beside(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let _span = profile::kernel(|| (format!("channels {:?} and {:?}", x.dims(), y.dims()), 0.0));
    let (mut shape, [c, d]) = (x.dims().to_vec(), [x.dim(D::Minus1)?, y.dim(D::Minus1)?]);
    let fit = x.dims()[..x.rank() - 1] == y.dims()[..y.rank() - 1];
    if !fit || c + d == 0 || !served(x, y) {
        return Ok(Tensor::cat(&[x, y], D::Minus1)?);
    }
    if let Some(last) = shape.last_mut() {
        *last = c + d;
    }
    let positions = (TASK / (c + d)).max(1);
    let both = with_values([x, y], |[x, y]| {
        threads::written(x.len() + y.len(), positions * (c + d), |i, to| {
            for (j, to) in to.chunks_exact_mut(c + d).enumerate() {
                let position = i * positions + j;
                to[..c].copy_from_slice(&x[position * c..(position + 1) * c]);
                to[c..].copy_from_slice(&y[position * d..(position + 1) * d]);
            }
        })
    })?;
    Ok(Tensor::from_vec(both, shape, x.device())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    fn numbers(dims: &[usize], first: f32) -> Tensor {
        let count = dims.iter().product::<usize>();
        Tensor::from_vec((0..count).map(|i| first + i as f32 * 0.37).collect(), dims, &Device::Cpu).unwrap()
    }

    fn same(a: &Tensor, b: &Tensor) -> bool {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        a.dims() == b.dims() && values(a) == values(b)
    }

    #[test]
    fn they_are_candles_own_whatever_the_sizes() {
        for (c, d, rows) in [(1, 3, 1), (320, 640, 70), (40_000, 7, 2), (0, 4, 3)] {
            let (x, y, z) = (numbers(&[2, rows, c], 0.1), numbers(&[2, rows, d], -9.0), numbers(&[2, rows, c], 5.0));
            assert!(same(&add(&x, &z).unwrap(), &(&x + &z).unwrap()), "{c} x {rows}");
            assert!(same(&beside(&x, &y).unwrap(), &Tensor::cat(&[&x, &y], 2).unwrap()), "{c} and {d} x {rows}");
        }
    }

    #[test]
    fn other_types_strides_and_shapes_are_left_to_candle() {
        let x = numbers(&[3, 4], 0.5);
        let turned = numbers(&[4, 3], 0.5).t().unwrap();
        assert!(same(&add(&x, &turned).unwrap(), &(&x + &turned).unwrap()));
        assert!(same(&beside(&x, &turned).unwrap(), &Tensor::cat(&[&x, &turned], 1).unwrap()));
        let wide = x.to_dtype(DType::F64).unwrap();
        assert_eq!(add(&wide, &wide).unwrap().dtype(), DType::F64);
        assert!(add(&x, &numbers(&[3, 5], 0.0)).is_err());
        assert!(beside(&x, &numbers(&[2, 4], 0.0)).is_err());
    }

    #[test]
    fn they_have_gradients() {
        let (x, y) =
            (Var::from_tensor(&numbers(&[3, 4], 0.5)).unwrap(), Var::from_tensor(&numbers(&[3, 4], 2.0)).unwrap());
        for made in [add(&x, &y).unwrap(), beside(&x, &y).unwrap()] {
            let gradients = made.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            for var in [&x, &y] {
                let gradient = gradients.get(var).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(gradient > 0.0, "{gradient}");
            }
        }
    }
}
