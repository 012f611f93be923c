//! Ladders: which sigmas a sampler visits, from the first down to zero.

use super::{NoiseSchedule, beta_quantile, linspace};
use crate::error::{Error, FieldError, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The curvature of Karras' ladder (arXiv:2206.00364, eq. 5).
const RHO: f64 = 7.0;

/// The ten-step ladder that "Align Your Steps" (arXiv:2404.14507) found best for Stable Diffusion 1.
const ALIGNED: [f64; 11] = [
    14.614_641_229_3,
    6.474_576_095_6,
    3.863_674_598_5,
    2.694_615_152_0,
    1.884_192_117_7,
    1.394_380_509_2,
    0.964_258_390_4,
    0.652_368_601_6,
    0.397_745_627_2,
    0.151_523_266_2,
    0.029_167_158_2,
];

/// How the sigmas of a ladder are spread between the schedule's highest and zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Spacing {
    /// Whole times, evenly down from the last (arXiv:2305.08891, table 2): the best plain choice for few steps, and
    /// for zero terminal SNR.
    #[default]
    Trailing,
    /// Whole times, evenly up from 1: what Stable Diffusion 1 ships with. Never reaches the last time (except that a
    /// single step starts there: a ladder of one low rung could draw nothing).
    Leading,
    /// Whole times, both ends included (DDPM's and DDIM's `linspace`).
    Linspace,
    /// Evenly spaced in `sigma^(1/7)`.
    Karras,
    /// Evenly spaced in ln sigma.
    Exponential,
    /// Fractional times, evenly down from the last to just above the first.
    SgmUniform,
    /// Every (T/N)-th entry of the table, from its end.
    Simple,
    /// Fractional times, both ends included.
    Normal,
    /// Times at the quantiles of Beta(0.6, 0.6): dense at both ends ("Beta sampling is all you need",
    /// arXiv:2407.12173).
    Beta,
    /// Stable Diffusion 1's optimised ladder, interpolated in ln sigma for other step counts, and stretched to the
    /// ends of schedules that are not Stable Diffusion's.
    AlignYourSteps,
    /// The times that latent consistency models were distilled at (Luo et al., arXiv:2310.04378): of fifty, evenly down
    /// from the last.
    Lcm,
}

impl Spacing {
    /// All of them, in the order in which a form lists them.
    pub const ALL: [Self; 11] = [
        Self::Trailing,
        Self::Leading,
        Self::Linspace,
        Self::Karras,
        Self::Exponential,
        Self::SgmUniform,
        Self::Simple,
        Self::Normal,
        Self::Beta,
        Self::AlignYourSteps,
        Self::Lcm,
    ];

    /// The name used in JSON, in the form and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trailing => "trailing",
            Self::Leading => "leading",
            Self::Linspace => "linspace",
            Self::Karras => "karras",
            Self::Exponential => "exponential",
            Self::SgmUniform => "sgm_uniform",
            Self::Simple => "simple",
            Self::Normal => "normal",
            Self::Beta => "beta",
            Self::AlignYourSteps => "align_your_steps",
            Self::Lcm => "lcm",
        }
    }

    /// The names of all spacings.
    pub fn names() -> Vec<&'static str> {
        Self::ALL.map(Self::name).to_vec()
    }

    /// The ladder for `steps` steps: `steps + 1` falling sigmas, the last of them 0. `steps` has to lie between 1 and
    /// the schedule's own number of times, beyond which whole times would repeat.
    pub fn sigmas(self, schedule: &NoiseSchedule, steps: usize) -> Result<Vec<f64>> {
        let most = schedule.steps();
        if !(1..=most).contains(&steps) {
            let message = format!("must be between 1 and {most}, got {steps}");
            return Err(Error::invalid(FieldError::new("steps", "out_of_range", message).range(1.0, most as f64)));
        }
        let mut sigmas = self.rungs(schedule, steps);
        sigmas.push(0.0);
        Ok(sigmas)
    }

    /// The ladder without its final zero.
    fn rungs(self, schedule: &NoiseSchedule, n: usize) -> Vec<f64> {
        let total = schedule.steps();
        let last = (total - 1) as f64;
        let (low, high) = (schedule.sigma_min(), schedule.sigma_max());
        let at = |times: Vec<f64>| times.into_iter().map(|t| schedule.sigma(t)).collect();
        let stride = total as f64 / n as f64;
        match self {
            Self::Trailing => at((0..n).map(|i| (total as f64 - i as f64 * stride).round_ties_even() - 1.0).collect()),
            Self::Leading => at(leading(total, n)),
            Self::Linspace => at(linspace(last, 0.0, n).map(f64::round_ties_even).collect()),
            Self::Karras => {
                linspace(high.powf(RHO.recip()), low.powf(RHO.recip()), n).map(|root| root.powf(RHO)).collect()
            }
            Self::Exponential => linspace(high.ln(), low.ln(), n).map(f64::exp).collect(),
            Self::SgmUniform => at(linspace(last, 0.0, n + 1).take(n).collect()),
            Self::Simple => at((0..n).map(|i| last - (i as f64 * stride).floor()).collect()),
            Self::Normal => at(linspace(last, 0.0, n).collect()),
            Self::Beta => at(beta(last, n)),
            Self::AlignYourSteps => align_your_steps(low, high, n),
            Self::Lcm => at(lcm(total, n)),
        }
    }
}

/// `i * (T / N) + 1`, falling; the offset of 1 goes where it would leave the table (T steps of T).
fn leading(total: usize, n: usize) -> Vec<f64> {
    if n == 1 {
        return vec![(total - 1) as f64];
    }
    let stride = total / n;
    let offset = usize::from(stride * (n - 1) + 1 < total);
    (0..n).rev().map(|i| (i * stride + offset) as f64).collect()
}

/// Of `max(50, n)` whole times, evenly spaced and ending with the last, every so-many-th from the end (diffusers'
/// `LCMScheduler`, which knows only 50).
fn lcm(total: usize, n: usize) -> Vec<f64> {
    let all = n.max(50).min(total);
    (0..n).map(|i| ((all - i * all / n) * total / all) as f64 - 1.0).collect()
}

/// Rounded to whole times as its authors do, unless two steps would become one.
fn beta(last: f64, n: usize) -> Vec<f64> {
    let exact: Vec<f64> = (0..n).map(|i| last * beta_quantile::quantile(1.0 - i as f64 / n as f64)).collect();
    let whole: Vec<f64> = exact.iter().map(|t| t.round_ties_even()).collect();
    if whole.windows(2).all(|pair| pair[0] > pair[1]) { whole } else { exact }
}

/// `n + 1` points along the published ladder, of which the last is left to be zero.
fn align_your_steps(low: f64, high: f64, n: usize) -> Vec<f64> {
    let [first, .., end] = ALIGNED.map(f64::ln);
    let stretch = (high.ln() - low.ln()) / (first - end);
    let segments = ALIGNED.len() - 1;
    let point = |i: usize| {
        let place = i as f64 / n as f64 * segments as f64;
        let above = (place as usize).min(segments - 1);
        let (a, b) = (ALIGNED[above].ln(), ALIGNED[above + 1].ln());
        let log_sigma = a + (b - a) * (place - above as f64);
        (high.ln() + (log_sigma - first) * stretch).exp()
    };
    (0..n).map(point).collect()
}

impl fmt::Display for Spacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Spacing {
    type Err = Error;

    /// Dashes count as underscores: command lines are typed with either.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.replace('-', "_");
        Self::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
            let message = format!("unknown schedule \"{text}\"; known: {}", Self::names().join(", "));
            Error::invalid(FieldError::new("schedule", "unknown_value", message))
        })
    }
}

impl TryFrom<String> for Spacing {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Spacing> for String {
    fn from(spacing: Spacing) -> Self {
        spacing.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Betas;
    use super::*;
    use crate::diffusion::test_support::assert_close;

    fn stable_diffusion() -> NoiseSchedule {
        NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, false).unwrap()
    }

    /// Ten steps of Stable Diffusion's table as k-diffusion and ComfyUI make them (methods.md 1.2).
    #[test]
    fn ten_steps_of_each_published_ladder() {
        let published: [(Spacing, [f64; 10]); 6] = [
            (Spacing::Normal, [14.6146, 7.8399, 4.6092, 2.9183, 1.9502, 1.3449, 0.9324, 0.6250, 0.3687, 0.0292]),
            (Spacing::SgmUniform, [14.6146, 8.3072, 5.0924, 3.3251, 2.2797, 1.6156, 1.1629, 0.8319, 0.5712, 0.3437]),
            (Spacing::Simple, [14.6146, 8.3028, 5.0878, 3.3211, 2.2765, 1.6129, 1.1606, 0.8299, 0.5693, 0.3417]),
            (Spacing::Karras, [14.6146, 9.1029, 5.4784, 3.1686, 1.7494, 0.9141, 0.4469, 0.2014, 0.0819, 0.0292]),
            (Spacing::Beta, [14.6146, 11.5428, 7.3718, 4.3728, 2.6152, 1.6183, 1.0273, 0.6549, 0.3955, 0.1991]),
            (
                Spacing::AlignYourSteps,
                [14.6146, 6.4746, 3.8637, 2.6946, 1.8842, 1.3944, 0.9643, 0.6524, 0.3977, 0.1515],
            ),
        ];
        for (spacing, rungs) in published {
            let sigmas = spacing.sigmas(&stable_diffusion(), 10).unwrap();
            assert_close(&sigmas[..10], &rungs, 5.1e-5);
            assert_eq!(sigmas[10], 0.0);
        }
    }

    fn times(spacing: Spacing, steps: usize) -> Vec<f64> {
        let schedule = stable_diffusion();
        let sigmas = spacing.sigmas(&schedule, steps).unwrap();
        sigmas[..steps].iter().map(|s| schedule.t(*s)).collect()
    }

    /// diffusers 0.42.1: `DDIMScheduler(timestep_spacing=..., steps_offset=1 for leading).set_timesteps(n).timesteps`
    #[test]
    fn whole_times_as_diffusers_counts_them() {
        let trailing: [f64; 7] = [999.0, 856.0, 713.0, 570.0, 428.0, 285.0, 142.0];
        assert_close(&times(Spacing::Trailing, 7), &trailing, 1e-7);
        assert_close(&times(Spacing::Leading, 7), &[853.0, 711.0, 569.0, 427.0, 285.0, 143.0, 1.0], 1e-7);
        assert_close(&times(Spacing::Linspace, 7), &[999.0, 832.0, 666.0, 500.0, 333.0, 166.0, 0.0], 1e-7);
        assert_close(&times(Spacing::Beta, 10)[1..5], &[959.0, 876.0, 765.0, 637.0], 1e-7);
        assert_close(&stable_diffusion_leading_10(), &[8.3907, 0.0413], 5.1e-5);
    }

    fn stable_diffusion_leading_10() -> Vec<f64> {
        let sigmas = Spacing::Leading.sigmas(&stable_diffusion(), 10).unwrap();
        vec![sigmas[0], sigmas[9]]
    }

    #[test]
    fn every_ladder_falls_strictly_to_zero_at_every_step_count() {
        let schedules = [
            stable_diffusion(),
            NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, true).unwrap(),
            NoiseSchedule::new(Betas::Cosine, 1000, false).unwrap(),
            NoiseSchedule::new(Betas::Linear { start: 1e-3, end: 0.2 }, 100, false).unwrap(),
        ];
        for (schedule, spacing) in schedules.iter().flat_map(|s| Spacing::ALL.map(|spacing| (s, spacing))) {
            for steps in [1, 2, 3, 7, 15, 16, 20, 37, 64, 99, 100, 333, 750, 999, 1000] {
                if steps > schedule.steps() {
                    continue;
                }
                let sigmas = spacing.sigmas(schedule, steps).unwrap();
                assert_eq!(sigmas.len(), steps + 1, "{spacing} {steps}");
                assert!(sigmas.windows(2).all(|pair| pair[0] > pair[1]), "{spacing} {steps}");
                assert_eq!(sigmas[steps], 0.0);
                let start = sigmas[0] / schedule.sigma_max();
                assert!(start < 1.0 + 1e-9 && (spacing == Spacing::Leading || start > 1.0 - 1e-9), "{spacing} {steps}");
            }
        }
    }

    #[test]
    fn one_step_starts_at_the_top() {
        let schedule = stable_diffusion();
        for spacing in Spacing::ALL {
            assert_close(&spacing.sigmas(&schedule, 1).unwrap(), &[schedule.sigma_max(), 0.0], 1e-9);
        }
    }

    #[test]
    fn step_counts_outside_the_table_are_refused_with_the_range() {
        for steps in [0, 1001] {
            let Err(Error::Invalid(errors)) = Spacing::Karras.sigmas(&stable_diffusion(), steps) else {
                panic!("{steps} steps accepted")
            };
            assert_eq!((errors[0].field.as_str(), errors[0].maximum), ("steps", Some(1000.0)));
        }
    }

    #[test]
    fn names_round_trip_and_unknown_ones_list_the_known() {
        for spacing in Spacing::ALL {
            let json = serde_json::to_string(&spacing).unwrap();
            assert_eq!(serde_json::from_str::<Spacing>(&json).unwrap(), spacing);
        }
        assert_eq!("align-your-steps".parse::<Spacing>().unwrap(), Spacing::AlignYourSteps);
        let message = "krras".parse::<Spacing>().unwrap_err().to_string();
        assert!(message.contains("krras") && message.contains("karras, exponential"), "{message}");
    }
}
