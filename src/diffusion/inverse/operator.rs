//! Linear operators A with everything that guidance by a measurement `y = A x` asks of one.

use crate::Result;
use crate::error::{Error, FieldError};
use candle_core::{D, Tensor};
use std::f64::consts::PI;

/// A linear map of pictures (B, C, H, W) to measurements. What is measured keeps the four dimensions.
pub trait LinearOperator {
    /// `A x`.
    fn apply(&self, x: &Tensor) -> Result<Tensor>;

    /// `A^T y`: `A x . y = x . A^T y` for all x and y.
    fn adjoint(&self, y: &Tensor) -> Result<Tensor>;

    /// `A^+ y`: of the pictures whose measurement comes nearest to y, the smallest.
    fn pseudo_inverse(&self, y: &Tensor) -> Result<Tensor>;

    /// `(spread A A^T + noise I)^-1 y`: a measurement weighted by the inverse of its covariance, where the picture's
    /// elements have variance `spread` and the measurement's error `noise`, not both of them zero.
    fn weigh(&self, y: &Tensor, spread: f64, noise: f64) -> Result<Tensor>;
}

impl<A: LinearOperator + ?Sized> LinearOperator for &A {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        (**self).apply(x)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        (**self).adjoint(y)
    }

    fn pseudo_inverse(&self, y: &Tensor) -> Result<Tensor> {
        (**self).pseudo_inverse(y)
    }

    fn weigh(&self, y: &Tensor, spread: f64, noise: f64) -> Result<Tensor> {
        (**self).weigh(y, spread, noise)
    }
}

/// Known elements: inpainting. `A x` has zeros where nothing is known.
#[derive(Debug, Clone)]
pub struct Masked {
    known: Tensor,
}

impl Masked {
    /// `repaint` is (B or 1, 1, H, W), 1 where nothing is known and 0 elsewhere, as [`crate::diffusion::inpaint::Inpaint`]
    /// takes it.
    pub fn new(repaint: &Tensor) -> Result<Self> {
        Ok(Self { known: repaint.affine(-1.0, 1.0)? })
    }
}

impl LinearOperator for Masked {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.broadcast_mul(&self.known)?)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.apply(y)
    }

    fn pseudo_inverse(&self, y: &Tensor) -> Result<Tensor> {
        self.apply(y)
    }

    fn weigh(&self, y: &Tensor, spread: f64, noise: f64) -> Result<Tensor> {
        Ok((self.apply(y)? / (spread + noise))?)
    }
}

/// Brightness alone: colourising. `A x` is (B, 1, H, W), the sum of the channels over the root of their number, so that
/// the operator's row has length 1 and white noise stays white (Song et al., arXiv:2011.13456, appendix I.3).
#[derive(Debug, Clone, Copy)]
pub struct Grey {
    channels: usize,
}

impl Grey {
    /// Of pictures with so many channels.
    pub fn new(channels: usize) -> Self {
        Self { channels }
    }
}

impl LinearOperator for Grey {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok((x.sum_keepdim(1)? / (self.channels as f64).sqrt())?)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        let (batch, _, height, width) = y.dims4()?;
        let spread = (y / (self.channels as f64).sqrt())?;
        Ok(spread.broadcast_as((batch, self.channels, height, width))?.contiguous()?)
    }

    fn pseudo_inverse(&self, y: &Tensor) -> Result<Tensor> {
        self.adjoint(y)
    }

    fn weigh(&self, y: &Tensor, spread: f64, noise: f64) -> Result<Tensor> {
        Ok((y / (spread + noise))?)
    }
}

/// The mean of every square of `factor` x `factor` elements: super-resolution.
#[derive(Debug, Clone, Copy)]
pub struct Shrink {
    factor: usize,
}

impl Shrink {
    /// Height and width of the pictures have to be multiples of `factor`.
    pub fn new(factor: usize) -> Self {
        Self { factor: factor.max(1) }
    }

    fn area(self) -> f64 {
        (self.factor * self.factor) as f64
    }
}

impl LinearOperator for Shrink {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let f = self.factor;
        if !height.is_multiple_of(f) || !width.is_multiple_of(f) {
            let message = format!("{width}x{height} is not a multiple of {f}");
            return Err(Error::invalid(FieldError::new("size", "size_mismatch", message)));
        }
        let squares = x.reshape(&[batch, channels, height / f, f, width / f, f][..])?;
        Ok((squares.sum(5)?.sum(3)? / self.area())?)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        Ok((self.pseudo_inverse(y)? / self.area())?)
    }

    fn pseudo_inverse(&self, y: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = y.dims4()?;
        let f = self.factor;
        let squares = y.reshape(&[batch, channels, height, 1, width, 1][..])?;
        let squares = squares.broadcast_as(&[batch, channels, height, f, width, f][..])?;
        Ok(squares.reshape((batch, channels, height * f, width * f))?)
    }

    fn weigh(&self, y: &Tensor, spread: f64, noise: f64) -> Result<Tensor> {
        Ok((y / (spread / self.area() + noise))?)
    }
}

/// A Gaussian blur, the picture mirrored at its borders: deblurring. Such a blur only scales the coefficients of the
/// cosine transform (DCT-II), so that its inverse and its covariance are exact.
#[derive(Debug, Clone)]
pub struct Blur {
    /// Columns' and rows' transforms, (H, H) and (W, W): each row one cosine.
    transforms: [Tensor; 2],
    /// What remains of each coefficient, (1, 1, H, W).
    gains: Tensor,
}

/// Coefficients of which less than this remains are given up by the pseudo-inverse: in f32 there is nothing left of them.
const LOST: f64 = 1e-4;

impl Blur {
    /// Of pictures shaped and typed as `like`, (B, C, H, W), by a kernel with this standard deviation in elements.
    pub fn new(deviation: f64, like: &Tensor) -> Result<Self> {
        let (_, _, height, width) = like.dims4()?;
        let tensor = |values: Vec<f64>, shape: &[usize]| -> Result<Tensor> {
            Ok(Tensor::from_vec(values, shape, &candle_core::Device::Cpu)?
                .to_dtype(like.dtype())?
                .to_device(like.device())?)
        };
        let (rows, columns) = (gains(height, deviation), gains(width, deviation));
        let gains = rows.iter().flat_map(|row| columns.iter().map(move |column| row * column)).collect();
        Ok(Self {
            transforms: [tensor(cosines(height), &[height, height])?, tensor(cosines(width), &[width, width])?],
            gains: tensor(gains, &[1, 1, height, width])?,
        })
    }

    /// `f` of the gains, times the coefficients of `x`.
    fn scaled(&self, x: &Tensor, gains: &Tensor) -> Result<Tensor> {
        let [columns, rows] = &self.transforms;
        let coefficients = columns.broadcast_matmul(&x.broadcast_matmul(&rows.t()?)?)?.broadcast_mul(gains)?;
        Ok(columns.t()?.broadcast_matmul(&coefficients.broadcast_matmul(rows)?)?)
    }
}

impl LinearOperator for Blur {
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.scaled(x, &self.gains)
    }

    fn adjoint(&self, y: &Tensor) -> Result<Tensor> {
        self.apply(y)
    }

    fn pseudo_inverse(&self, y: &Tensor) -> Result<Tensor> {
        let kept = self.gains.ge(LOST)?.to_dtype(self.gains.dtype())?;
        self.scaled(y, &(kept / self.gains.maximum(LOST)?)?)
    }

    fn weigh(&self, y: &Tensor, spread: f64, noise: f64) -> Result<Tensor> {
        self.scaled(y, &self.gains.sqr()?.affine(spread, noise)?.recip()?)
    }
}

/// The orthonormal cosines of the DCT-II over `n` elements, one after another.
fn cosines(n: usize) -> Vec<f64> {
    let cosine = |k: usize, i: usize| {
        let scale = if k == 0 { 1.0 } else { 2.0 };
        (scale / n as f64).sqrt() * (PI * k as f64 * (i as f64 + 0.5) / n as f64).cos()
    };
    (0..n).flat_map(|k| (0..n).map(move |i| cosine(k, i))).collect()
}

/// What a sampled Gaussian kernel, cut off at four deviations and summing to 1, leaves of each cosine.
fn gains(n: usize, deviation: f64) -> Vec<f64> {
    let reach = (4.0 * deviation).ceil() as i64;
    let weight = |i: i64| if deviation > 0.0 { (-0.5 * (i as f64 / deviation).powi(2)).exp() } else { 1.0 };
    let total: f64 = (-reach..=reach).map(weight).sum();
    let gain = |k: usize| {
        (-reach..=reach).map(|i| weight(i) / total * (PI * k as f64 * i as f64 / n as f64).cos()).sum::<f64>()
    };
    (0..n).map(gain).collect()
}

/// Each picture's sum of squares, (B, 1, 1, 1).
pub(super) fn square_norm(y: &Tensor) -> Result<Tensor> {
    dot(y, y)
}

/// `a / b` of numbers at or above 0, where `b` may be 0 and then stands for very little: a number in f32.
pub(super) fn quotient(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((a / (b + 1e-36)?)?)
}

/// Each picture's inner product, (B, 1, 1, 1).
pub(super) fn dot(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok((a * b)?.sum_keepdim(D::Minus1)?.sum_keepdim(2)?.sum_keepdim(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::noise::Philox;
    use candle_core::{DType, Device};

    fn numbers(seed: u64, shape: (usize, usize, usize, usize)) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        Tensor::from_vec(Philox::new(seed).normals(0, count), shape, &Device::Cpu)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap()
    }

    fn product(a: &Tensor, b: &Tensor) -> f64 {
        (a * b).unwrap().sum_all().unwrap().to_scalar().unwrap()
    }

    fn apart(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    fn operators() -> Vec<(&'static str, Box<dyn LinearOperator>)> {
        let x = numbers(1, (2, 3, 6, 8));
        let mask = numbers(2, (1, 1, 6, 8)).ge(0.0).unwrap().to_dtype(DType::F64).unwrap();
        vec![
            ("masked", Box::new(Masked::new(&mask).unwrap())),
            ("grey", Box::new(Grey::new(3))),
            ("shrink", Box::new(Shrink::new(2))),
            ("blur", Box::new(Blur::new(0.7, &x).unwrap())),
        ]
    }

    #[test]
    fn the_adjoint_is_that_of_the_operator() {
        for (name, a) in operators() {
            let x = numbers(3, (2, 3, 6, 8));
            let forward = a.apply(&x).unwrap();
            let y = numbers(4, forward.dims4().unwrap());
            let (left, right) = (product(&forward, &y), product(&x, &a.adjoint(&y).unwrap()));
            assert!((left - right).abs() < 1e-10 * left.abs().max(1.0), "{name}: {left} {right}");
        }
    }

    /// Penrose's first two conditions, and the symmetry that makes the solution the smallest.
    #[test]
    fn the_pseudo_inverse_is_moores_and_penroses() {
        for (name, a) in operators() {
            let (x, z) = (numbers(5, (2, 3, 6, 8)), numbers(6, (2, 3, 6, 8)));
            let y = a.apply(&x).unwrap();
            let back = a.pseudo_inverse(&y).unwrap();
            assert!(apart(&a.apply(&back).unwrap(), &y) < 1e-9, "{name}");
            assert!(apart(&a.pseudo_inverse(&a.apply(&back).unwrap()).unwrap(), &back) < 1e-9, "{name}");
            let project = |x: &Tensor| a.pseudo_inverse(&a.apply(x).unwrap()).unwrap();
            assert!((product(&project(&x), &z) - product(&x, &project(&z))).abs() < 1e-8, "{name}");
        }
    }

    #[test]
    fn weighing_inverts_the_covariance() {
        for (name, a) in operators() {
            // Of what can be measured at all.
            let y = a.apply(&numbers(7, (2, 3, 6, 8))).unwrap();
            for (spread, noise) in [(0.3, 0.2), (2.0, 0.01), (0.0, 0.5)] {
                let weighed = a.weigh(&y, spread, noise).unwrap();
                let outer = a.apply(&a.adjoint(&weighed).unwrap()).unwrap();
                let again = ((outer * spread).unwrap() + (weighed * noise).unwrap()).unwrap();
                assert!(apart(&again, &y) < 1e-10, "{name}, {spread}, {noise}");
            }
        }
    }

    // import numpy as np
    // x = np.array([0, 0, 1, 0, 0, 0, 0, 2.]); k = np.exp(-.5 * (np.arange(-4, 5) / .8) ** 2); k /= k.sum()
    // np.convolve(np.pad(x, 4, mode="symmetric"), k, "valid")
    #[test]
    fn the_blur_is_a_convolution_with_mirrored_borders() {
        let x = Tensor::new(&[0f64, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0], &Device::Cpu).unwrap();
        let x = x.reshape((1, 1, 1, 8)).unwrap();
        let found: Vec<f64> = Blur::new(0.8, &x).unwrap().apply(&x).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let expected = [
            0.022_350_974_464_455_352,
            0.228_311_726_266_279_69,
            0.498_674_598_538_529_8,
            0.228_313_584_653_554_17,
            0.022_795_432_967_792_937,
            0.045_142_690_657_699_33,
            0.500_442_059_616_618_4,
            1.453_968_932_835_07,
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn a_picture_that_cannot_be_shrunk_is_refused() {
        let message = Shrink::new(4).apply(&numbers(1, (1, 3, 6, 8))).unwrap_err().to_string();
        assert!(message.contains("8x6 is not a multiple of 4"), "{message}");
    }
}
