//! Exact output mean and variance, without Monte Carlo: the impulse test (methods.md 2.3).
//!
//! For Gaussian data a walk is affine in its start and in each draw, so a row of elements, each with one of them set
//! to 1, reads off all coefficients in one run: `mean = b + a m` and `variance = a^2 v + sum g_i^2`.

use super::analytic::{Gaussian, Rows};
use super::{assert_close, geometric, row, values};
use candle_core::Tensor;
use limner::Result;
use limner::diffusion::denoiser::{Denoiser, Estimate};
use limner::diffusion::noise::{NoiseKind, SeededNoise};
use limner::diffusion::sampler::{
    Annealed, Churn, Predictor, PredictorCorrector, Process, Sampler, SecondOrder, Variance,
};
use limner::diffusion::schedule::{Betas, NoiseSchedule, Spacing};

const DATA: Gaussian = Gaussian { mean: 0.7, variance: 0.25 };

/// Mean and variance at the end of a walk that starts from N(mean, variance).
fn moments(sampler: Sampler, denoiser: &dyn Denoiser, sigmas: &[f64], start: (f64, f64)) -> (f64, f64) {
    // Some draw more often than they step.
    let draws = 6 * (sigmas.len() - 1);
    let impulse = |at: usize| (0..draws + 2).map(|i| f64::from(i == at)).collect::<Vec<_>>();
    let mut noise = Rows::new((0..draws).map(|i| impulse(i + 2)).collect());
    let end = sampler.run(denoiser, row(&impulse(1)), sigmas, &mut noise, &mut |_| Ok(())).unwrap();
    let end = values(&end);
    let gain = |i: usize| end[i] - end[0];
    let noise: f64 = (2..draws + 2).map(|i| gain(i).powi(2)).sum();
    (end[0] + gain(1) * start.0, gain(1).powi(2) * start.1 + noise)
}

/// From unit variance at the top of DDPM's linear table, `linspace` spacing.
fn table_moments(sampler: Sampler, denoiser: &dyn Denoiser, steps: usize) -> (f64, f64) {
    let schedule = NoiseSchedule::new(Betas::Linear { start: 1e-4, end: 0.02 }, 1000, false).unwrap();
    let sigmas = Spacing::Linspace.sigmas(&schedule, steps).unwrap();
    let start = (0.0, 1.0 + sigmas[0] * sigmas[0]);
    moments(sampler, denoiser, &sigmas, start)
}

/// Knows its own posterior variance, and says so in the way of a network that has learned it.
struct Learned;

impl Denoiser for Learned {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        DATA.denoise(x, sigma)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let schedule = NoiseSchedule::new(Betas::Linear { start: 1e-4, end: 0.02 }, 1000, false).unwrap();
        let sigmas = Spacing::Linspace.sigmas(&schedule, 10).unwrap();
        let next = sigmas[1 + sigmas.iter().position(|s| *s == sigma).expect("a rung")];
        let variance = optimal_fraction(sigma, next, DATA.variance).map(|f| x.affine(0.0, f)).transpose()?;
        let squared_error = Some(DATA.variance * sigma * sigma / (DATA.variance + sigma * sigma));
        Ok(Estimate { denoised: DATA.denoise(x, sigma)?, variance, squared_error, guidance: None })
    }
}

/// Where the optimal variance (Analytic-DPM, arXiv:2201.06503) lies between small (0) and large (1), in log space.
fn optimal_fraction(sigma: f64, next: f64, data: f64) -> Option<f64> {
    let (ratio, drop) = ((next / sigma).powi(2), sigma * sigma - next * next);
    let (small, large) = (drop * ratio, drop * (1.0 + next * next) / (1.0 + sigma * sigma));
    let posterior = data * sigma * sigma / (data + sigma * sigma);
    let optimal = small + (1.0 - ratio).powi(2) * posterior;
    (next > 0.0).then(|| (optimal / small).ln() / (large / small).ln())
}

/// Golden numbers from an independent float64 recursion (methods.md 2.5 has them to four digits):
/// ```python
/// def var(s, kind, c=.25):  # s: sigmas of linspace spacing over linspace(1e-4, .02, 1000), then 0
///     v = 1 + s[0]**2
///     for a, b in zip(s[:-1], s[1:]):
///         k, r, d = c / (c + a*a), (b / a)**2, a*a - b*b
///         if kind == "ddim": r, n = b / a, 0
///         else: n = {"small": d * r, "large": d * (1 + b*b) / (1 + a*a)}[kind] if b > 0 else 0
///         v = (k + r * (1 - k))**2 * v + n
///     return v
/// ```
#[test]
fn variances_on_ddpms_table() {
    let golden: [(Sampler, [f64; 3]); 3] = [
        (Sampler::Ddpm { variance: Variance::FixedSmall }, [0.104_222_489_6, 0.196_420_239_6, 0.236_015_510_4]),
        (Sampler::Ddpm { variance: Variance::FixedLarge }, [0.358_521_217_3, 0.267_882_870_6, 0.253_345_595_4]),
        (Sampler::Ddim { eta: 0.0 }, [0.130_763_038_0, 0.222_703_868_8, 0.244_303_762_1]),
    ];
    for (sampler, variances) in golden {
        for (steps, expected) in [10, 50, 250].into_iter().zip(variances) {
            let (mean, variance) = table_moments(sampler, &DATA, steps);
            assert_close(&[variance], &[expected], 1e-9);
            if matches!(sampler, Sampler::Ddpm { .. }) {
                assert_close(&[mean], &[0.7], 1e-4); // What is left of the data at the top is not 0, but 4e-5.
            }
        }
    }
}

/// With the optimal variance between small and large, ten steps give the data's own variance but for the last step's
/// shrinking: .2499 (methods.md 2.5).
#[test]
fn a_learned_variance_lies_between_small_and_large() {
    let (_, variance) = table_moments(Sampler::Ddpm { variance: Variance::LearnedRange }, &Learned, 10);
    assert_close(&[variance], &[0.249_900_030_1], 1e-9);
}

/// The same variance, from how much the model errs at a level instead of from what it learned about the step.
#[test]
fn a_measured_error_gives_the_optimal_variance() {
    let (_, variance) = table_moments(Sampler::Ddpm { variance: Variance::Optimal }, &Learned, 10);
    assert_close(&[variance], &[0.249_900_030_1], 1e-9);
}

#[test]
fn a_model_without_learned_or_measured_variance_says_so() {
    for variance in [Variance::LearnedRange, Variance::Optimal] {
        let sampler = Sampler::Ddpm { variance };
        let error = sampler.run(&DATA, row(&[1.0]), &[2.0, 1.0], &mut Rows::new(vec![]), &mut |_| Ok(()));
        assert!(error.unwrap_err().to_string().contains("fixed_small"));
    }
}

/// The variance of ancestral sampling from the exact marginal at 20 down to 0.05 is too small by these shares.
#[test]
fn ancestral_variance_converges_with_order_one() {
    for (steps, expected) in [(16, -0.293_866_78), (64, -0.087_217_99), (512, -0.011_497_23)] {
        let start = (DATA.mean, DATA.variance + 400.0);
        let (mean, variance) = moments(Sampler::EulerA { eta: 1.0 }, &DATA, &geometric(20.0, 0.05, steps), start);
        assert_close(&[mean, variance / (DATA.variance + 0.0025) - 1.0], &[0.7, expected], 1e-8);
    }
}

/// Relative errors of the variance of SDE-DPM-Solver++ from the exact marginal at 20 down to 0.05, N = 16 and 512 (methods.md
/// 2.5); of first order it is ancestral sampling. Second order in the weak sense, and the mean exact.
#[test]
fn sde_dpm_solvers_are_of_second_weak_order() {
    let error = |sampler, steps| {
        let start = (DATA.mean, DATA.variance + 400.0);
        let (mean, variance) = moments(sampler, &DATA, &geometric(20.0, 0.05, steps), start);
        assert_close(&[mean], &[DATA.mean], 1e-12);
        (variance / (DATA.variance + 0.0025) - 1.0).abs()
    };
    for (kind, listed) in [(SecondOrder::Midpoint, [3.4e-2, 4.2e-5]), (SecondOrder::Heun, [9.5e-2, 8.8e-5])] {
        let sampler = Sampler::Dpmpp2mSde { eta: 1.0, kind };
        for (steps, listed) in [16, 512].into_iter().zip(listed) {
            let ratio = error(sampler, steps) / listed;
            assert!((0.98..1.02).contains(&ratio), "{kind:?}, {steps} steps: {ratio} of the listed error");
        }
        let slope = (error(sampler, 128) / error(sampler, 512)).log2() / 2.0;
        assert!((1.85..2.25).contains(&slope), "{kind:?}: order {slope}");
    }
    assert!(
        error(Sampler::Dpmpp3mSde { eta: 1.0 }, 128)
            < error(Sampler::Dpmpp2mSde { eta: 1.0, kind: SecondOrder::Heun }, 128)
    );
}

fn reverse(process: Process, predictor: Predictor) -> Sampler {
    let method = PredictorCorrector { process, predictor, ..PredictorCorrector::PREDICTOR };
    Sampler::PredictorCorrector { method }
}

/// Relative errors of the variance from the exact marginal at 20 down to 0.05, N = 16 and 512 (methods.md 2.5).
#[test]
fn reverse_sdes_of_ve_err_as_listed() {
    for (predictor, listed) in [
        (Predictor::ReverseDiffusion, [4.9e-1, 1.2e-2]),
        (Predictor::Ancestral, [2.9e-1, 1.15e-2]),
        (Predictor::EulerMaruyama, [5e-2, 1.6e-4]),
    ] {
        for (steps, listed) in [16, 512].into_iter().zip(listed) {
            let start = (DATA.mean, DATA.variance + 400.0);
            let ladder = geometric(20.0, 0.05, steps);
            let (mean, variance) = moments(reverse(Process::Ve, predictor), &DATA, &ladder, start);
            let error = (variance / (DATA.variance + 0.0025) - 1.0).abs();
            assert_close(&[mean], &[DATA.mean], 1e-12);
            assert!((error / listed - 1.0).abs() < 0.04, "{predictor:?}, {steps} steps: {error}");
        }
    }
}

/// All three processes have the same marginals in sigma-space, and their discretisations come to them with order one.
#[test]
fn all_reverse_processes_come_to_the_same_end() {
    let error = |sampler, steps: usize| {
        let start = (DATA.mean, DATA.variance + 400.0);
        let (mean, variance) = moments(sampler, &DATA, &geometric(20.0, 0.05, steps), start);
        (mean - DATA.mean).abs() + (variance / (DATA.variance + 0.0025) - 1.0).abs()
    };
    for process in [Process::Ve, Process::Vp, Process::SubVp] {
        for predictor in [Predictor::ReverseDiffusion, Predictor::EulerMaruyama, Predictor::Ancestral, Predictor::Flow]
        {
            if (process, predictor) == (Process::SubVp, Predictor::Ancestral) {
                continue;
            }
            let (coarse, fine) = (error(reverse(process, predictor), 250), error(reverse(process, predictor), 1000));
            let slope = (coarse / fine).log2() / 2.0;
            assert!(fine < 0.04 && (0.8..2.1).contains(&slope), "{process:?}, {predictor:?}: {coarse} to {fine}");
        }
    }
    let undefined = reverse(Process::SubVp, Predictor::Ancestral).validate().unwrap_err();
    assert!(undefined.to_string().contains("not defined for sub_vp"));
}

/// The corrector alone at one level, long enough: the variance v of the noisy data is too large by `1 / (1 - snr^2)`
/// (methods.md 1.10). In 4096 dimensions norms are nearly what they are on average.
#[test]
fn the_correctors_bias_is_the_listed_one() {
    let (snr, sigma, dimensions) = (0.16f64, 2.0f64, 4096);
    let ladder: Vec<f64> = (0..120).map(|i| sigma * (1.0 - 1e-9 * f64::from(i))).collect();
    let method = PredictorCorrector { predictor: Predictor::Nothing, snr, ..PredictorCorrector::USUAL };
    let mut noise = SeededNoise::new(NoiseKind::Philox, &[3]);
    let start = Tensor::from_vec(vec![0f64; dimensions], (1, 1, 1, dimensions), &candle_core::Device::Cpu).unwrap();
    let end = Sampler::PredictorCorrector { method }.run(&DATA, start, &ladder, &mut noise, &mut |_| Ok(())).unwrap();
    let end = values(&end);
    let mean = end.iter().sum::<f64>() / dimensions as f64;
    let variance = end.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / dimensions as f64;
    let expected = (DATA.variance + sigma * sigma) / (1.0 - snr * snr);
    // 4.5 standard errors, as all estimates here.
    let (off_mean, off_variance) = ((expected / dimensions as f64).sqrt(), expected * (2.0 / dimensions as f64).sqrt());
    assert!((mean - DATA.mean).abs() < 4.5 * off_mean, "{mean}");
    assert!((variance - expected).abs() < 4.5 * off_variance, "{variance} and {expected}");
}

/// Annealed Langevin dynamics with the paper's 232 levels from 50 to .01 ends at the data's mean, with a variance that is
/// somewhat too large: its steps have a length, and at low levels they are too short to take back what came before.
/// ```python
/// v = 2500                      # c = .25, e = .062
/// for s in np.geomspace(50, .01, 232):
///     k = c / (c + s*s)
///     for _ in range(5): v = (k + (1 - e) * (1 - k))**2 * v + 2 * e * s*s
/// v *= k**2
/// ```
#[test]
fn annealed_langevin_dynamics_find_the_data() {
    let mut ladder = geometric(50.0, 0.01, 231);
    ladder.push(0.0);
    let (mean, variance) = moments(Sampler::Langevin { annealed: Annealed::USUAL }, &DATA, &ladder, (0.0, 2500.0));
    assert_close(&[mean, variance], &[DATA.mean, 0.284555197], 1e-7);
}

/// The ODE's exact end: `(x - mu)` shrinks by `sqrt((c + s'^2) / (c + s^2))` (methods.md 2.1).
#[test]
fn the_ode_solvers_end_where_the_exact_flow_does() {
    let exact = (DATA.variance + 0.0025f64).sqrt() / (DATA.variance + 400.0f64).sqrt();
    let first_order = |sampler: &Sampler| matches!(sampler, Sampler::Euler { .. } | Sampler::Ddim { .. });
    let exactly = |sampler| match sampler {
        Sampler::Dopri5 { .. } => Sampler::Dopri5 { tolerance: 1e-7 },
        sampler => sampler,
    };
    for sampler in super::analytic::deterministic().into_iter().filter(|s| !first_order(s)).map(exactly) {
        let (mean, variance) = moments(sampler, &DATA, &geometric(20.0, 0.05, 1000), (0.0, 400.25));
        let expected = (DATA.mean * (1.0 - exact), exact * exact * 400.25);
        assert_close(&[mean, variance], &[expected.0, expected.1], 1e-5);
    }
}

/// A single point as data is found exactly by every sampler in any number of steps.
#[test]
fn a_single_point_is_found_exactly() {
    let point = Gaussian { mean: 0.7, variance: 0.0 };
    for sampler in Sampler::ALL {
        for steps in [1, 2, 5, 20] {
            let mut sigmas = geometric(14.6, 0.03, steps);
            sigmas[steps] = 0.0;
            let (mean, variance) = moments(sampler, &point, &sigmas, (0.0, 14.6 * 14.6));
            assert_close(&[mean, variance], &[0.7, 0.0], 1e-12);
        }
    }
}

/// For data of unit variance the large variance is exact: N(0, 1) stays N(0, 1) on every rung.
#[test]
fn fixed_large_keeps_unit_variance() {
    let data = Gaussian { mean: 0.0, variance: 1.0 };
    let sigmas = geometric(100.0, 0.1, 25);
    let sampler = Sampler::Ddpm { variance: Variance::FixedLarge };
    let (_, variance) = moments(sampler, &data, &sigmas, (0.0, 1.0 + 1e4));
    assert_close(&[variance / (1.0 + 0.01)], &[1.0], 1e-12);
}

/// Churn raises sigma and adds just the noise that belongs to it, so it repairs what the ODE's error took away.
#[test]
fn churn_adds_the_noise_it_accounts_for() {
    let churn = Churn { amount: 4.0, sigma_min: 0.5, sigma_max: 10.0, noise: 1.0 };
    let start = (DATA.mean, DATA.variance + 400.0);
    for sampler in [Sampler::Euler { churn }, Sampler::Heun { churn }] {
        let end = |steps| moments(sampler, &DATA, &geometric(20.0, 0.05, steps), start);
        let (mean, variance) = end(1000);
        let error = variance / (DATA.variance + 0.0025) - 1.0;
        assert_close(&[mean], &[DATA.mean], 1e-9);
        assert!(error.abs() < 0.01, "{sampler}: {error}");
    }
}
