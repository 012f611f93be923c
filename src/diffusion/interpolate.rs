//! Between two noises: along the sphere, where noise is.

use crate::Result;
use crate::diffusion::elbo::numbers;
use candle_core::Tensor;

/// Where two vectors point the same way, the sphere is flat.
const PARALLEL: f64 = 1e-6;

/// The point at `share` of the great circle's arc from `a` to `b`, both of one shape: 0 gives `a` and 1 gives `b`
/// (Shoemake 1985). Its length goes from that of one to that of the other in proportion. A straight line would pass
/// through vectors that are too short to be noise.
pub fn slerp(a: &Tensor, b: &Tensor, share: f64) -> Result<Tensor> {
    let (along_a, along_b) = (numbers(a)?, numbers(b)?);
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let (length_a, length_b) = (dot(&along_a, &along_a).sqrt(), dot(&along_b, &along_b).sqrt());
    let angle = (dot(&along_a, &along_b) / (length_a * length_b)).clamp(-1.0, 1.0).acos();
    if length_a == 0.0 || length_b == 0.0 || angle < PARALLEL {
        return Ok(((a * (1.0 - share))? + (b * share)?)?);
    }
    let length = length_a + (length_b - length_a) * share;
    let weight = |part: f64, own: f64| length * (part * angle).sin() / (angle.sin() * own);
    Ok(((a * weight(1.0 - share, length_a))? + (b * weight(share, length_b))?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::test_support::assert_close;
    use candle_core::Device;

    fn at(share: f64) -> Vec<f64> {
        let [a, b] = [[3.0, 0.0, 0.0], [0.0, 0.0, 5.0]].map(|v| Tensor::new(&v, &Device::Cpu).unwrap());
        slerp(&a, &b, share).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn it_goes_from_end_to_end_at_even_speed_around_the_middle() {
        assert_close(&at(0.0), &[3.0, 0.0, 0.0], 1e-12);
        assert_close(&at(1.0), &[0.0, 0.0, 5.0], 1e-12);
        let half = 4.0 * 0.5f64.sqrt();
        assert_close(&at(0.5), &[half, 0.0, half], 1e-12);
        let third = std::f64::consts::FRAC_PI_6;
        let length = 3.0 + 2.0 / 3.0;
        assert_close(&at(1.0 / 3.0), &[length * third.cos(), 0.0, length * third.sin()], 1e-12);
    }

    #[test]
    fn parallel_noise_and_none_are_mixed_in_a_straight_line() {
        let a = Tensor::new(&[1.0, 2.0], &Device::Cpu).unwrap();
        for b in [a.clone(), (&a * 2.0).unwrap(), a.zeros_like().unwrap()] {
            let found = slerp(&a, &b, 0.25).unwrap().to_vec1::<f64>().unwrap();
            let expected = ((&a * 0.75).unwrap() + (b * 0.25).unwrap()).unwrap().to_vec1::<f64>().unwrap();
            assert_close(&found, &expected, 1e-12);
        }
    }
}
