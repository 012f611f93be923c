//! Element-wise operations that candle runs slowly, or keeps more copies for than they need.

use super::math::{normal, sigmoid, vectorised};
use super::native::{gradient, output, values, with_values};
use super::threads;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

/// `x * sigmoid(x)`.
pub(super) struct Silu;

impl CustomOp1 for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, layout)?;
        output(vectorised!(|| x.iter().map(|&v| v * sigmoid(v)).collect()), layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let dx = with_values([x, &grad.contiguous()?], |[x, dy]| {
            vectorised!(|| {
                let derivative = |v: f32| {
                    let s = sigmoid(v);
                    s * (1.0 + v * (1.0 - s))
                };
                x.iter().zip(dy).map(|(&v, d)| d * derivative(v)).collect()
            })
        })?;
        gradient(dx, x)
    }
}

/// Values times the exact GELU of gates: (.., 2 D) -> (.., D).
pub(super) struct Geglu;

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut shape = layout.dims().to_vec();
        let last = shape.last_mut().expect("x has a last dimension");
        let width = *last / 2;
        *last = width;
        let x = values(x, layout)?;
        let y = threads::map_rows(x, x.len() / (2 * width).max(1), width, |x, y| {
            vectorised!(|| {
                for (row, out) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
                    let (value, gate) = row.split_at(width);
                    for ((o, v), g) in out.iter_mut().zip(value).zip(gate) {
                        *o = v * g * normal(*g).0;
                    }
                }
            });
        });
        output(y, shape)
    }

    fn bwd(&self, x: &Tensor, res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = res.dim(candle_core::D::Minus1)?;
        let dx = with_values([x, &grad.contiguous()?], |[x, dy]| {
            let mut dx = vec![0.0; x.len()];
            vectorised!(|| {
                for ((row, dy), dx) in
                    x.chunks_exact(2 * width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(2 * width))
                {
                    let ((value, gate), (d_value, d_gate)) = (row.split_at(width), dx.split_at_mut(width));
                    let (value, gate, dy) = (&value[..width], &gate[..width], &dy[..width]);
                    let (d_value, d_gate) = (&mut d_value[..width], &mut d_gate[..width]);
                    for i in 0..width {
                        let (cdf, density) = normal(gate[i]);
                        d_value[i] = dy[i] * gate[i] * cdf;
                        d_gate[i] = dy[i] * value[i] * (cdf + gate[i] * density);
                    }
                }
            });
            dx
        })?;
        gradient(dx, x)
    }
}

/// One vector per sample added to all its positions: x (B, .., C), e (B, C).
pub(super) struct AddPerSample;

impl CustomOp2 for AddPerSample {
    fn name(&self) -> &'static str {
        "add-per-sample"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, e: &CpuStorage, le: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = values(x, lx)?.to_vec();
        add_to_samples(&mut y, values(e, le)?, le.shape().dims2()?.1);
        output(y, lx.shape().clone())
    }

    fn bwd(&self, _x: &Tensor, e: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (batch, channels) = e.dims2()?;
        let grad = grad.contiguous()?;
        let de = with_values([&grad], |[dy]| {
            dy.chunks_exact(dy.len() / batch).flat_map(|s| super::linear::column_sums(s, channels)).collect::<Vec<_>>()
        })?;
        Ok((Some(grad), gradient(de, e)?))
    }
}

/// In place: `y` is (B, .., C) and `e` (B, C).
pub(super) fn add_to_samples(y: &mut [f32], e: &[f32], channels: usize) {
    let sample = (y.len() * channels).checked_div(e.len()).unwrap_or_default();
    let samples: Vec<_> = y.chunks_exact_mut(sample.max(1)).zip(e.chunks_exact(channels)).collect();
    threads::for_each(samples, |(y, e)| {
        for row in y.chunks_exact_mut(channels) {
            row.iter_mut().zip(e).for_each(|(v, e)| *v += e);
        }
    });
}
