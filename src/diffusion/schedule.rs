//! The forward process: how much noise at which time, and the ladder of sigmas a sampler walks down.
//!
//! beta, alpha-bar and t live here and in the adapter around a network; everything else speaks sigma. All tables are
//! f64: in f32 alpha-bar is off by 9e-7.

mod beta_quantile;
mod spacing;

pub use spacing::Spacing;

use crate::error::{Error, FieldError, Result};
use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

/// Where a zero-terminal-SNR table stops short of zero, so that its last sigma is 4096 and not infinite (as diffusers'
/// sigma schedulers do).
const SMALLEST_ALPHA_BAR: f64 = 1.0 / 16_777_216.0;

/// The shape of a table of noise rates `beta_t`, t = 0 .. T - 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Betas {
    /// Evenly spaced (DDPM, arXiv:2006.11239).
    Linear {
        /// The first rate; 1e-4 in the paper.
        start: f64,
        /// The last rate; 0.02 in the paper.
        end: f64,
    },
    /// Evenly spaced in the square root (latent diffusion; every Stable Diffusion up to XL).
    ScaledLinear {
        /// The first rate; 0.00085 in Stable Diffusion.
        start: f64,
        /// The last rate; 0.012 in Stable Diffusion.
        end: f64,
    },
    /// `alpha_bar(u) = cos^2((u + 0.008) / 1.008 * pi / 2)`, rates capped at 0.999 (Nichol and Dhariwal,
    /// arXiv:2102.09672, eq. 17).
    Cosine,
    /// Sigma evenly spaced in its logarithm: the linear gamma of variational diffusion models (Kingma et al.,
    /// arXiv:2107.00630), under which the simple loss is the evidence lower bound.
    LogLinear {
        /// Sigma at t = 0.
        low: f64,
        /// Sigma at t = T - 1.
        high: f64,
    },
}

impl Betas {
    /// What Stable Diffusion 1, 2 and XL were trained with (1000 steps).
    pub const STABLE_DIFFUSION: Self = Self::ScaledLinear { start: 0.000_85, end: 0.012 };

    /// The rates for `steps` times.
    fn rates(self, steps: usize) -> Vec<f64> {
        match self {
            Self::Linear { start, end } => linspace(start, end, steps).collect(),
            Self::ScaledLinear { start, end } => {
                linspace(start.sqrt(), end.sqrt(), steps).map(|root| root * root).collect()
            }
            Self::Cosine => {
                let alpha_bar = |i: usize| ((i as f64 / steps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                (0..steps).map(|i| (1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(0.999)).collect()
            }
            Self::LogLinear { low, high } => {
                let variances = linspace(low.ln(), high.ln(), steps).map(|log_sigma| (2.0 * log_sigma).exp());
                rates_between(variances)
            }
        }
    }
}

/// `beta_t = 1 - alpha_bar_t / alpha_bar_(t-1)`, written in squares of sigma, where nothing cancels.
fn rates_between(variances: impl Iterator<Item = f64>) -> Vec<f64> {
    let rate =
        |before: &mut f64, variance: f64| Some((variance - std::mem::replace(before, variance)) / (1.0 + variance));
    variances.scan(0.0, rate).collect()
}

/// `n` evenly spaced numbers with both ends; the first alone when n is 1.
fn linspace(first: f64, last: f64, n: usize) -> impl Iterator<Item = f64> {
    let gaps = n.saturating_sub(1).max(1) as f64;
    (0..n).map(move |i| first + (last - first) * (i as f64 / gaps))
}

/// Shifts and scales `sqrt(alpha_bar)` so that the last is zero and the first is kept (Lin et al., arXiv:2305.08891,
/// algorithm 1).
fn rescale_to_zero_terminal_snr(alpha_bars: &mut [f64]) {
    let (Some(first), Some(last)) = (alpha_bars.first(), alpha_bars.last()) else { return };
    let (first, last) = (first.sqrt(), last.sqrt());
    for alpha_bar in alpha_bars {
        let root = (alpha_bar.sqrt() - last) * first / (first - last);
        *alpha_bar = root.powi(2).max(SMALLEST_ALPHA_BAR);
    }
}

/// A variance-preserving forward process at T discrete times, continued between them. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    /// ln sigma at t = 0 .. T - 1, strictly rising.
    log_sigmas: Arc<[f64]>,
}

impl NoiseSchedule {
    /// The schedule of `betas` at `steps` times, optionally rescaled to zero terminal SNR (for models that predict
    /// velocity or the clean picture). Fails when a rate leaves (0, 1) or there are fewer than two times.
    pub fn new(betas: Betas, steps: usize, zero_terminal_snr: bool) -> Result<Self> {
        Self::from_rates(&betas.rates(steps), zero_terminal_snr)
    }

    /// The same for a given table of rates `beta_t`.
    pub fn from_rates(rates: &[f64], zero_terminal_snr: bool) -> Result<Self> {
        let kept = |alpha_bar: &mut f64, beta: &f64| {
            *alpha_bar *= 1.0 - beta;
            Some(*alpha_bar)
        };
        let mut alpha_bars: Vec<f64> = rates.iter().scan(1.0, kept).collect();
        if zero_terminal_snr {
            rescale_to_zero_terminal_snr(&mut alpha_bars);
        }
        Self::from_alpha_bars(&alpha_bars)
    }

    /// The schedule of a given table of `alpha_bar_t`, which has to fall strictly and stay inside (0, 1).
    pub fn from_alpha_bars(alpha_bars: &[f64]) -> Result<Self> {
        Self::from_log_sigmas(alpha_bars.iter().map(|a| ((1.0 - a) / a).ln() / 2.0).collect())
    }

    /// The schedule of a given table of `ln sigma_t`, which has to rise strictly.
    pub fn from_log_sigmas(log_sigmas: Vec<f64>) -> Result<Self> {
        let rising = log_sigmas.windows(2).all(|pair| pair[0] < pair[1]);
        if log_sigmas.len() < 2 || !rising || !log_sigmas.iter().all(|s| s.is_finite()) {
            let message = "the noise rates must lie between 0 and 1, for at least 2 times".to_owned();
            return Err(Error::invalid(FieldError::new("betas", "out_of_range", message)));
        }
        Ok(Self { log_sigmas: log_sigmas.into() })
    }

    /// The same way up to a noise level, at as many times.
    pub fn up_to(&self, sigma: f64) -> Result<Self> {
        let gap = self.t(sigma) / self.last();
        Self::from_log_sigmas((0..self.steps()).map(|i| self.log_sigma(gap * i as f64)).collect())
    }

    /// The table of rates `beta_t`, t = 0 .. T - 1, that gives this schedule.
    pub fn rates(&self) -> Vec<f64> {
        rates_between(self.log_sigmas.iter().map(|log_sigma| (2.0 * log_sigma).exp()))
    }

    /// T, the number of times the schedule was made for.
    pub fn steps(&self) -> usize {
        self.log_sigmas.len()
    }

    /// The largest time, T - 1.
    fn last(&self) -> f64 {
        (self.steps() - 1) as f64
    }

    /// ln sigma at time `t`: linear between the table's times (as k-diffusion), and held at its ends.
    fn log_sigma(&self, t: f64) -> f64 {
        let t = t.clamp(0.0, self.last());
        let below = (t as usize).min(self.steps() - 2);
        let (low, high) = (self.log_sigmas[below], self.log_sigmas[below + 1]);
        low + (high - low) * (t - below as f64)
    }

    /// The noise level at time `t`, which need not be whole; times outside [0, T - 1] count as the nearer end.
    pub fn sigma(&self, t: f64) -> f64 {
        self.log_sigma(t).exp()
    }

    /// The time at noise level `sigma`: the inverse of [`Self::sigma`], so it is fractional in general.
    pub fn t(&self, sigma: f64) -> f64 {
        let log_sigma = sigma.ln();
        let above = self.log_sigmas.partition_point(|s| *s < log_sigma).clamp(1, self.steps() - 1);
        let (low, high) = (self.log_sigmas[above - 1], self.log_sigmas[above]);
        (above as f64 - (high - log_sigma) / (high - low)).clamp(0.0, self.last())
    }

    /// The share of the signal's variance that is left at time `t`: `1 / (1 + sigma^2)`.
    pub fn alpha_bar(&self, t: f64) -> f64 {
        1.0 / (1.0 + self.sigma(t).powi(2))
    }

    /// The lowest noise level, at t = 0.
    pub fn sigma_min(&self) -> f64 {
        self.sigma(0.0)
    }

    /// The highest noise level, at t = T - 1.
    pub fn sigma_max(&self) -> f64 {
        self.sigma(self.last())
    }

    /// How far ln sigma moves in the unit of time around `t`. Over t = 0 .. T - 1 these add up to
    /// `ln(sigma_max / sigma_min)`, which makes a mean over whole times the trapezoid rule for an integral in ln sigma.
    pub fn log_sigma_gap(&self, t: f64) -> f64 {
        self.log_sigma(t + 0.5) - self.log_sigma(t - 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::test_support::assert_close;

    fn stable_diffusion() -> NoiseSchedule {
        NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, false).unwrap()
    }

    /// methods.md 1.1: sigma 14.6146 to .02917, alpha-bar .00466 at the end (so its SNR is not zero).
    #[test]
    fn stable_diffusions_ends() {
        let schedule = stable_diffusion();
        assert_close(&[schedule.sigma_max()], &[14.614_641_229], 1e-8);
        assert_close(&[schedule.sigma_min()], &[0.029_167_158], 1e-8);
        assert_close(&[schedule.alpha_bar(999.0).sqrt()], &[0.068_265], 1e-6);
    }

    /// candle's `betas_for_alpha_bar` divides integers, so that all its rates but the last are zero. The product of the
    /// rates telescopes to the formula until the cap at .999 acts, on the last.
    #[test]
    fn cosine_is_not_all_zeros_as_in_candle() {
        let schedule = NoiseSchedule::new(Betas::Cosine, 1000, false).unwrap();
        let found = [0.0, 500.0, 998.0].map(|t| schedule.alpha_bar(t));
        let truth = |i: f64| {
            ((i / 1000.0 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2) / (0.008f64 / 1.008 * FRAC_PI_2).cos().powi(2)
        };
        assert_close(&found, &[truth(1.0), truth(501.0), truth(999.0)], 1e-12);
        assert_close(&[schedule.alpha_bar(999.0) / schedule.alpha_bar(998.0)], &[0.001], 1e-12);
    }

    /// gamma from -13.3 to 5, as VDM's configuration for CIFAR-10 begins.
    #[test]
    fn log_linear_sigmas_have_their_ends_and_one_ratio() {
        let (low, high) = ((-13.3f64 / 2.0).exp(), 2.5f64.exp());
        let schedule = NoiseSchedule::new(Betas::LogLinear { low, high }, 1000, false).unwrap();
        assert_close(&[schedule.sigma_min() / low, schedule.sigma_max() / high], &[1.0, 1.0], 1e-9);
        let gap = (high / low).ln() / 999.0;
        assert_close(&[1.0, 400.0, 900.0].map(|t| schedule.log_sigma_gap(t)), &[gap; 3], 1e-9);
    }

    #[test]
    fn a_part_of_a_schedule_is_the_same_way() {
        let (whole, part) = (stable_diffusion(), stable_diffusion().up_to(2.0).unwrap());
        let middle = whole.sigma(whole.t(2.0) / 2.0);
        assert_close(&[part.sigma_min(), part.sigma_max()], &[whole.sigma_min(), 2.0], 1e-12);
        assert_close(&[part.sigma(499.5)], &[middle], 1e-4);
        assert_eq!(whole.up_to(1e9).unwrap(), whole);
    }

    #[test]
    fn rates_give_the_schedule_again() {
        for schedule in [stable_diffusion(), NoiseSchedule::new(Betas::Cosine, 100, false).unwrap()] {
            let again = NoiseSchedule::from_rates(&schedule.rates(), false).unwrap();
            for t in [0.0, 50.0, 99.0] {
                assert_close(&[again.sigma(t) / schedule.sigma(t)], &[1.0], 1e-10);
            }
        }
        assert!(NoiseSchedule::from_rates(&[0.1, -0.1], false).is_err());
    }

    #[test]
    fn zero_terminal_snr_keeps_the_first_and_ends_at_4096() {
        let rescaled = NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, true).unwrap();
        assert_close(&[rescaled.sigma_min()], &[stable_diffusion().sigma_min()], 1e-12);
        assert_close(&[rescaled.sigma_max()], &[4096.0], 1e-3);
        // Between the ends sqrt(alpha_bar) is an affine map of the old one.
        let root = |schedule: &NoiseSchedule, t| schedule.alpha_bar(t).sqrt();
        let old = stable_diffusion();
        let (r0, rt) = (root(&old, 0.0), root(&old, 999.0));
        let expected = (root(&old, 500.0) - rt) * r0 / (r0 - rt);
        assert_close(&[root(&rescaled, 500.0)], &[expected], 1e-12);
    }

    #[test]
    fn t_and_sigma_are_inverse_between_the_times_too() {
        for (betas, zero) in [(Betas::STABLE_DIFFUSION, false), (Betas::STABLE_DIFFUSION, true), (Betas::Cosine, false)]
        {
            let schedule = NoiseSchedule::new(betas, 1000, zero).unwrap();
            for t in [0.0, 0.25, 1.0, 17.5, 500.0, 998.0, 998.75, 999.0] {
                assert_close(&[schedule.t(schedule.sigma(t))], &[t], 1e-8);
            }
            assert_eq!(schedule.t(1e9), 999.0);
            assert_eq!(schedule.t(1e-9), 0.0);
        }
    }

    /// The forward chain q(x_t | x_{t-1}) composed step by step is the jump q(x_t | x_0): methods.md 2.8.
    #[test]
    fn the_chain_of_steps_is_the_closed_form() {
        let schedule = NoiseSchedule::new(Betas::Linear { start: 1e-4, end: 0.02 }, 1000, false).unwrap();
        let (mut scale, mut variance) = (1.0, 0.0);
        for (t, beta) in linspace(1e-4, 0.02, 1000).enumerate() {
            (scale, variance) = (scale * (1.0 - beta).sqrt(), variance * (1.0 - beta) + beta);
            let alpha_bar = schedule.alpha_bar(t as f64);
            assert_close(&[scale, variance], &[alpha_bar.sqrt(), 1.0 - alpha_bar], 1e-12);
        }
    }

    #[test]
    fn the_gaps_add_up_to_the_whole_range() {
        let schedule = stable_diffusion();
        let sum: f64 = (0..1000).map(|t| schedule.log_sigma_gap(f64::from(t))).sum();
        assert_close(&[sum], &[(schedule.sigma_max() / schedule.sigma_min()).ln()], 1e-12);
    }

    #[test]
    fn impossible_rates_are_refused() {
        assert!(NoiseSchedule::new(Betas::Linear { start: 0.1, end: 1.0 }, 10, false).is_err());
        assert!(NoiseSchedule::new(Betas::Linear { start: 0.0, end: 0.0 }, 10, false).is_err());
        assert!(NoiseSchedule::new(Betas::Cosine, 0, false).is_err());
        assert!(NoiseSchedule::from_alpha_bars(&[0.9, f64::NAN]).is_err());
    }
}
