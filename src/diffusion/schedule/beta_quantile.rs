//! The quantile function of the symmetric Beta(0.6, 0.6) distribution, for the `beta` ladder.

/// Both shape parameters.
const A: f64 = 0.6;
/// `Gamma(0.6)^2 / Gamma(1.2)`, the whole integral.
const COMPLETE: f64 = 2.415_344_208_002_472;

/// The x in [0, 1] below which a share `p` of Beta(0.6, 0.6) lies (`scipy.stats.beta.ppf(p, .6, .6)`), to 1e-13.
pub(super) fn quantile(p: f64) -> f64 {
    // The density is symmetric, and the series below is for the lower half. The median has to be exact: times are
    // rounded, and half of 999 lies on the edge.
    if p >= 0.5 {
        return if p == 0.5 { 0.5 } else { 1.0 - quantile(1.0 - p) };
    }
    let (mut low, mut high) = (0.0, 0.5);
    // Each round halves the bracket; 60 exhaust an f64 near 0.5 and leave 1e-18 near 0.
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if cumulative(middle) < p { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The share below `x <= 1/2`: `x^a / B(a, a) * sum_n (1 - a)_n / n! * x^n / (a + n)`, whose terms fall like `2^-n`.
fn cumulative(x: f64) -> f64 {
    let (mut sum, mut factor) = (0.0, 1.0);
    for n in 0..60 {
        let n = f64::from(n);
        sum += factor / (A + n);
        factor *= x * (1.0 - A + n) / (1.0 + n);
    }
    x.powf(A) / COMPLETE * sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::test_support::assert_close;

    /// mpmath at 40 digits, with `p = .001, .1, .3, .5, .77, .999`, as `scipy.stats.beta.ppf(p, .6, .6)`:
    /// `mpmath.betainc(.6, .6, 0, x, regularized=True) == p` solved for x by 90 bisections.
    #[test]
    fn equals_mpmath() {
        let found = [0.001, 0.1, 0.3, 0.5, 0.77, 0.999].map(quantile);
        let exact = [
            1.855_873_851_745_200_4e-5,
            0.039_584_405_588_780_854,
            0.234_017_003_874_923_9,
            0.5,
            0.846_162_414_232_350_1,
            0.999_981_441_261_482_6,
        ];
        assert_close(&found, &exact, 1e-12);
        assert_eq!(quantile(1.0), 1.0 - quantile(0.0));
    }
}
