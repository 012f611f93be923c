//! The probability of a byte under a Gaussian: pictures are not densities.

use std::f64::consts::{FRAC_1_SQRT_2, TAU};

/// The distance of two bytes, when 0 to 255 are -1 to 1.
pub(crate) const BIN: f64 = 2.0 / 255.0;
const HALF_BIN: f64 = BIN / 2.0;

/// From here on, counted in standard deviations, tails are computed in logarithms.
const FAR: f64 = 20.0;

/// `-ln P`, where P is the mass that `N(mean, deviation^2)` has within half a bin of `value`, in [-1, 1]. Below black and
/// above white all mass counts as theirs (Ho et al., arXiv:2006.11239, eq. 13, with the exact error function).
pub fn nats_of_byte(value: f64, mean: f64, deviation: f64) -> f64 {
    let edge = |offset: f64| (value + offset - mean) / deviation;
    let low = if value < -0.999 { f64::NEG_INFINITY } else { edge(-HALF_BIN) };
    let high = if value > 0.999 { f64::INFINITY } else { edge(HALF_BIN) };
    // By symmetry to the right side, where a small mass is a difference of small numbers.
    let (low, high) = if low + high >= 0.0 { (low, high) } else { (-high, -low) };
    -log_mass(low, high)
}

/// `ln (Q(low) - Q(high))` for an interval whose middle is not below 0.
fn log_mass(low: f64, high: f64) -> f64 {
    if low < FAR {
        return (survival(low) - survival(high)).ln();
    }
    // Q(z) is about phi(z) / z (1 - 1/z^2), and Q(high) / Q(low) about exp(-(high^2 - low^2) / 2).
    let tail = -0.5 * low * low - (low * TAU.sqrt()).ln() - low.powi(-2);
    let rest = if high.is_finite() { (-0.5 * (high - low) * (high + low)).exp() } else { 0.0 };
    tail + (-rest).ln_1p()
}

/// The mass of N(0, 1) above z.
fn survival(z: f64) -> f64 {
    0.5 * libm::erfc(z * FRAC_1_SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::test_support::assert_close;

    fn byte(n: u32) -> f64 {
        f64::from(n) / 127.5 - 1.0
    }

    #[test]
    fn the_bytes_share_all_mass() {
        for (mean, deviation) in [(0.0, 0.3), (0.99, 0.01), (-1.3, 0.05), (0.1, 0.002)] {
            let total: f64 = (0..256).map(|n| (-nats_of_byte(byte(n), mean, deviation)).exp()).sum();
            assert_close(&[total], &[1.0], 1e-12);
        }
    }

    /// With mpmath at 2000 digits, `q = lambda z: erfc(z / sqrt(2)) / 2`, v = 200/127.5 - 1 and m = -.4:
    /// `-log(q((v - 1/255 - m) / d) - q((v + 1/255 - m) / d))`; for white, `-log(q((2 - 1/255) / .001))`.
    #[test]
    fn far_tails_are_those_of_mpmath() {
        let found = [0.1, 0.03, 0.01].map(|deviation| nats_of_byte(byte(200), -0.4, deviation));
        assert_close(&found, &[50.352754343807895, 521.4226540336898, 4658.775481363874], 1e-6);
        assert_close(&[nats_of_byte(1.0, -1.0, 1e-3)], &[1992173.0699738825], 1e-9);
    }
}
