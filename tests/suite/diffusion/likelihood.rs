//! Likelihood by the flow, where the truth is known, with its three errors told apart: methods.md 2.7 and 2.8.

use super::analytic::{DEVIATIONS, Gaussian, MEANS, WEIGHTS};
use super::{assert_close, row, values};
use candle_core::{D, DType, Device, Shape, Tensor};
use limner::Result;
use limner::diffusion::denoiser::Denoiser;
use limner::diffusion::elbo::{Values, nats_of_byte};
use limner::diffusion::flow::Course;
use limner::diffusion::guidance::{Guidance, Guided};
use limner::diffusion::jacobian::Linearised;
use limner::diffusion::likelihood::{Density, Trace, bits_per_dim, dequantised, log_density, signs};
use limner::diffusion::noise::{NoiseKind, NoiseSource, SeededNoise};
use std::f64::consts::{LN_2, TAU};

/// The variances along the axes of a Gaussian in four dimensions, and its mean there.
const VARIANCES: [f64; 4] = [0.04, 0.3, 1.0, 2.5];
const CENTRE: [f64; 4] = [0.3, -0.6, 0.2, 0.1];

/// N(m, U diag(c) U^T) with a rotation U that mixes all four: `D = m + U c / (c + s^2) U^T (x - m)`.
struct Rotated {
    rotation: Tensor,
}

impl Rotated {
    /// A product of rotations in the planes of neighbouring axes.
    fn new() -> Self {
        let mut u = [[0.0; 4]; 4];
        (0..4).for_each(|i| u[i][i] = 1.0);
        for (i, angle) in [(0, 0.7f64), (1, -1.1), (2, 0.5), (0, 1.9), (1, 0.4)] {
            for row in &mut u {
                let (a, b) = (row[i], row[i + 1]);
                (row[i], row[i + 1]) = (angle.cos() * a - angle.sin() * b, angle.sin() * a + angle.cos() * b);
            }
        }
        Self { rotation: Tensor::new(&u, &Device::Cpu).unwrap() }
    }

    fn centre(&self) -> Tensor {
        row(&CENTRE)
    }

    /// Coordinates of `x - m` along the axes.
    fn along_axes(&self, x: &Tensor) -> Vec<f64> {
        let x = (x - self.centre()).unwrap().reshape((1, 4)).unwrap();
        values(&x.matmul(&self.rotation).unwrap())
    }

    /// `ln N(x; m, C + s^2)`.
    fn log_density(&self, x: &Tensor, sigma: f64) -> f64 {
        let terms = self.along_axes(x).into_iter().zip(VARIANCES).map(|(z, c)| {
            let variance = c + sigma * sigma;
            -0.5 * ((TAU * variance).ln() + z * z / variance)
        });
        terms.sum()
    }

    /// The density of what the exact flow makes of `N(0, prior)` at `course.high`: every axis is stretched by
    /// `sqrt((c + high^2) / (c + low^2))`.
    fn flow_density(&self, x: &Tensor, course: Course, prior: f64) -> f64 {
        let stretch = VARIANCES.map(|c| ((c + course.high.powi(2)) / (c + course.low.powi(2))).sqrt());
        let far: Vec<f64> = self.along_axes(x).iter().zip(stretch).map(|(z, s)| z * s).collect();
        let far = Tensor::from_vec(far, (1, 4), &Device::Cpu).unwrap().matmul(&self.rotation.t().unwrap()).unwrap();
        let noise = values(&(far.reshape((1, 1, 1, 4)).unwrap() + self.centre()).unwrap());
        let squares: f64 = noise.iter().map(|x| x * x).sum();
        -0.5 * (4.0 * (TAU * prior).ln() + squares / prior) + stretch.iter().map(|s| s.ln()).sum::<f64>()
    }
}

impl Denoiser for Rotated {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let shares = Tensor::new(&[VARIANCES.map(|c| c / (c + sigma * sigma))], &Device::Cpu)?;
        let centred = x.broadcast_sub(&self.centre())?.reshape(((), 4))?;
        let shrunk = centred.matmul(&self.rotation)?.broadcast_mul(&shares)?.matmul(&self.rotation.t()?)?;
        Ok(shrunk.reshape(x.shape())?.broadcast_add(&self.centre())?)
    }
}

fn noise(seed: u64) -> SeededNoise {
    SeededNoise::new(NoiseKind::Philox, &[seed])
}

fn density(denoiser: &dyn Denoiser, x: &Tensor, course: Course, prior: f64, trace: Trace) -> Density {
    log_density(denoiser, x, course, prior, (trace, &mut noise(1)), &mut |_| Ok(())).unwrap()
}

const COURSE: Course = Course { low: 0.01, high: 20.0, tolerance: 1e-8 };

fn points() -> [Tensor; 3] {
    [[0.1, 0.2, -0.3, 0.4], [1.0, -1.0, 0.5, 0.0], [-2.0, 0.3, 0.7, 1.4]].map(|x| row(&x))
}

/// The first error is the solver's, and falls with its tolerance; 1e-5 takes a few dozen evaluations.
#[test]
fn the_solver_errs_by_its_tolerance() {
    let denoiser = Rotated::new();
    let prior = COURSE.high.powi(2);
    for x in points() {
        let exact = denoiser.flow_density(&x, COURSE, prior);
        let off = |tolerance: f64| {
            let found = density(&denoiser, &x, Course { tolerance, ..COURSE }, prior, Trace::Exact);
            ((found.log_density() - exact).abs(), found.effort.evaluations)
        };
        let (rough, fine) = (off(1e-5), off(1e-8));
        assert!(rough.0 < 5e-4 && (30..150).contains(&rough.1), "{rough:?}");
        assert!(fine.0 < 1e-6 && fine.1 > rough.1, "{fine:?}");
    }
}

/// The second is the prior's: noise has the mean and the variance of the data in it. The third is that the model stops at
/// `low`, where it is a little blurred. Neither is the solver's, and no tolerance mends them.
#[test]
fn prior_and_blur_are_errors_of_their_own() {
    let denoiser = Rotated::new();
    for x in &points() {
        let found = density(&denoiser, x, COURSE, COURSE.high.powi(2), Trace::Exact).log_density();
        let (blurred, sharp) = (denoiser.log_density(x, COURSE.low), denoiser.log_density(x, 0.0));
        let prior = denoiser.flow_density(x, COURSE, COURSE.high.powi(2)) - blurred;
        assert_close(&[found - blurred, found - sharp], &[prior, prior + blurred - sharp], 1e-6);
        // Not next to nothing, and as theory has them to leading order.
        let leading = leading_prior_error(&denoiser, x);
        assert!(prior.abs() > 1e-4 && (prior - leading).abs() < 0.05 * leading.abs() + 1e-4, "{prior} {leading}");
    }
    // A flow that ends further out has less of the second, one that begins further down less of the third.
    let x = &points()[1];
    let far = Course { low: 1e-4, high: 1e6, tolerance: 1e-8 };
    let found = density(&denoiser, x, far, far.high.powi(2), Trace::Exact).log_density();
    assert_close(&[found], &[denoiser.log_density(x, 0.0)], 1e-5);
}

/// `ln N(x_T; 0, V) - ln N(x_T; m, C + V)` for V much larger than C and m: with z the normalised noise,
/// `sum of (c (1 - z^2) - 2 m z sqrt(V) - m^2) / 2V`.
fn leading_prior_error(denoiser: &Rotated, x: &Tensor) -> f64 {
    let v = COURSE.high.powi(2);
    let along = denoiser.along_axes(&denoiser.centre().zeros_like().unwrap());
    let terms = denoiser.along_axes(x).into_iter().zip(VARIANCES).zip(along).map(|((z, c), minus_m)| {
        let (z, m) = (z / (c + COURSE.low.powi(2)).sqrt(), -minus_m);
        (c * (1.0 - z * z) - 2.0 * m * z * v.sqrt() - m * m) / (2.0 * v)
    });
    terms.sum()
}

/// The mixture of the reference trajectories, in operations that can be differentiated.
struct SmoothMixture;

impl Denoiser for SmoothMixture {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let (mut logs, mut means) = (Vec::new(), Vec::new());
        for k in 0..3 {
            let variance = DEVIATIONS[k].powi(2) + sigma * sigma;
            let centred = (x - MEANS[k])?;
            logs.push((centred.sqr()? * (-0.5 / variance))?.affine(1.0, WEIGHTS[k].ln() - 0.5 * variance.ln())?);
            means.push(centred.affine(DEVIATIONS[k].powi(2) / variance, MEANS[k])?);
        }
        let weights = candle_nn::ops::softmax(&Tensor::stack(&logs, D::Minus1)?, D::Minus1)?;
        Ok((weights * Tensor::stack(&means, D::Minus1)?)?.sum(D::Minus1)?)
    }
}

#[test]
fn a_mixtures_density_is_its_formula() {
    let course = Course { low: 1e-3, high: 500.0, tolerance: 1e-7 };
    for x in [-2.0, -1.0, 0.0, 0.7, 1.9] {
        let pdf = |k: usize| {
            let deviation = DEVIATIONS[k].hypot(course.low);
            WEIGHTS[k] * (-0.5 * ((x - MEANS[k]) / deviation).powi(2)).exp() / (deviation * TAU.sqrt())
        };
        let expected = (0..3).map(pdf).sum::<f64>().ln();
        // One dimension: each probe is exact.
        for trace in [Trace::Exact, Trace::Rademacher(2)] {
            let found = density(&SmoothMixture, &row(&[x]), course, course.high.powi(2), trace);
            assert!(found.estimates.iter().all(|estimate| (estimate - expected).abs() < 5e-3), "{found:?} {expected}");
        }
    }
}

/// `D = A x`, at every noise level.
struct Linear(Tensor);

impl Denoiser for Linear {
    fn denoise(&self, x: &Tensor, _: f64) -> Result<Tensor> {
        Ok(x.reshape(((), 4))?.matmul(&self.0.t()?)?.reshape(x.shape())?)
    }
}

const A: [[f64; 4]; 4] = [[0.9, 0.2, -0.4, 0.1], [0.3, 0.5, 0.2, 0.0], [-0.1, 0.7, 0.3, 0.6], [0.2, -0.3, 0.1, 0.8]];

/// The sum over i != j of (A_ij + A_ji)^2 / 2.
fn off_diagonal() -> f64 {
    let pairs = (0..4).flat_map(|i| (0..4).filter(move |j| *j != i).map(move |j| (i, j)));
    pairs.map(|(i, j)| (A[i][j] + A[j][i]).powi(2) / 2.0).sum()
}

/// All sixteen probes: mean and variance without any sampling.
#[test]
fn probes_of_signs_have_hutchinsons_mean_and_variance() {
    let at = Linearised::at(&Linear(Tensor::new(&A, &Device::Cpu).unwrap()), &row(&[0.1, 0.2, 0.3, 0.4]), 1.0).unwrap();
    let probe = |n: usize| row(&[0, 1, 2, 3].map(|i| if n >> i & 1 == 1 { 1.0 } else { -1.0 }));
    let found: Vec<f64> = (0..16).map(|n| at.quadratic(&probe(n)).unwrap()[0]).collect();
    let mean = found.iter().sum::<f64>() / 16.0;
    let variance = found.iter().map(|f| (f - mean).powi(2)).sum::<f64>() / 16.0;
    assert_close(&[mean, variance], &[2.5, off_diagonal()], 1e-12);
    assert_close(&at.trace().unwrap(), &[2.5], 1e-12);
}

/// Gaussian probes add `2 sum of A_ii^2`: here that is more than twice as much.
#[test]
fn gaussian_probes_vary_more() {
    let at = Linearised::at(&Linear(Tensor::new(&A, &Device::Cpu).unwrap()), &row(&[0.0; 4]), 1.0).unwrap();
    let (mut source, n) = (noise(5), 4000);
    let draws: Vec<f64> = (0..n)
        .map(|_| {
            at.quadratic(&source.normal(&Shape::from((1, 1, 1, 4)), DType::F64, &Device::Cpu).unwrap()).unwrap()[0]
        })
        .collect();
    let mean = draws.iter().sum::<f64>() / f64::from(n);
    let variance = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / f64::from(n - 1);
    let expected = off_diagonal() + 2.0 * (0..4).map(|i| A[i][i].powi(2)).sum::<f64>();
    assert!((mean - 2.5).abs() < 4.5 * (expected / f64::from(n)).sqrt(), "{mean}");
    // Products of normals have heavier tails than a normal: twice the usual band.
    assert!((variance / expected - 1.0).abs() < 9.0 * (2.0 / f64::from(n)).sqrt(), "{variance} {expected}");
}

#[test]
fn signs_are_exact_for_diagonal_jacobians_and_unbiased_else() {
    let x = row(&[0.5, -0.2, 0.9, 0.1]);
    let course = Course { low: 0.05, high: 50.0, tolerance: 1e-7 };
    let isotropic = Gaussian { mean: 0.2, variance: 0.3 };
    let found = density(&isotropic, &x, course, 2500.0, Trace::Rademacher(8));
    let exact = density(&isotropic, &x, course, 2500.0, Trace::Exact).log_density();
    assert!(found.estimates.iter().all(|estimate| (estimate - exact).abs() < 1e-5), "{:?} {exact}", found.estimates);

    let rotated = Rotated::new();
    let found = density(&rotated, &x, course, 2500.0, Trace::Rademacher(64));
    let exact = density(&rotated, &x, course, 2500.0, Trace::Exact).log_density();
    let n = found.estimates.len() as f64;
    let spread = found.estimates.iter().map(|e| (e - found.log_density()).powi(2)).sum::<f64>() / (n - 1.0);
    assert!(spread.sqrt() > 0.3, "probes agree where they must not: {spread}");
    assert!((found.log_density() - exact).abs() < 4.5 * (spread / n).sqrt(), "{} {exact}", found.log_density());
}

/// The guided flow of two Gaussians is that of another one, of variance `s^(2w) S^(2(1-w))`.
#[test]
fn the_guided_flow_has_a_density_of_its_own() {
    struct Pair;
    impl Denoiser for Pair {
        fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
            let half = x.dim(0)? / 2;
            let of = |gaussian: Gaussian, first| gaussian.denoise(&x.narrow(0, first, half)?, sigma);
            let (null, prompt) =
                (of(Gaussian { mean: 0.0, variance: 1.0 }, 0)?, of(Gaussian { mean: 1.0, variance: 0.25 }, half)?);
            Ok(Tensor::cat(&[null, prompt], 0)?)
        }
    }
    let course = Course { low: 1e-3, high: 5000.0, tolerance: 1e-7 };
    for (scale, mean) in [(2.0, 1.3802), (3.0, 1.5)] {
        let guidance = Guidance { scale, ..Guidance::default() };
        let denoiser = Guided::new(Gaussian { mean: 1.0, variance: 0.25 }, Pair, guidance);
        let variance = 0.25f64.powf(scale);
        for x in [mean - variance.sqrt(), mean, mean + 2.0 * variance.sqrt()] {
            let found = density(&denoiser, &row(&[x]), course, course.high.powi(2), Trace::Exact).log_density();
            let expected = -0.5 * ((TAU * variance).ln() + (x - mean).powi(2) / variance);
            assert_close(&[found], &[expected], 4e-3);
        }
    }
}

#[test]
fn bytes_are_spread_evenly_within_their_bins() {
    let bytes =
        Tensor::from_vec((0..4096).map(|i| f64::from(i % 256) / 127.5 - 1.0).collect(), (1, 1, 64, 64), &Device::Cpu);
    let bytes: Tensor = bytes.unwrap();
    let spread = values(&(dequantised(&bytes, &mut noise(3)).unwrap() - &bytes).unwrap());
    let mut shares: Vec<f64> = spread.iter().map(|offset| offset * 127.5 + 0.5).collect();
    shares.sort_by(f64::total_cmp);
    let (n, mut furthest) = (shares.len() as f64, 0f64);
    for (i, share) in shares.iter().enumerate() {
        furthest = furthest.max((share - i as f64 / n).abs());
    }
    assert!(shares[0] >= 0.0 && shares[4095] <= 1.0 && furthest < 1.95 / n.sqrt(), "{furthest}");
    // A density that is even over all 256 bins gives every byte 8 bits.
    let even = -(256.0f64 * 2.0 / 255.0).ln();
    assert_close(
        &[bits_per_dim(even * 30.0, 30, Values::Bytes), bits_per_dim(-LN_2, 1, Values::Real)],
        &[8.0, 1.0],
        1e-12,
    );
}

/// The mean of the density's bits is at least those of the bytes' probability, and next to them where the density is flat
/// within a bin.
#[test]
fn bits_of_a_dequantised_picture_bound_those_of_its_bytes() {
    let (deviation, course) = (0.4f64, Course { low: 1e-3, high: 300.0, tolerance: 1e-6 });
    let denoiser = Gaussian { mean: 0.0, variance: deviation.powi(2) };
    let bytes: Vec<f64> = [3.0, 100.0, 128.0, 200.0].map(|byte: f64| byte / 127.5 - 1.0).to_vec();
    let truth = bytes.iter().map(|byte| nats_of_byte(*byte, 0.0, deviation)).sum::<f64>() / (4.0 * LN_2);
    let found: Vec<f64> = (0..24)
        .map(|seed| {
            let x = dequantised(&row(&bytes), &mut noise(seed)).unwrap();
            let density = density(&denoiser, &x, course, course.high.powi(2), Trace::Rademacher(1));
            bits_per_dim(density.log_density(), 4, Values::Bytes)
        })
        .collect();
    let mean = found.iter().sum::<f64>() / found.len() as f64;
    assert!(mean > truth - 2e-3 && (mean - truth).abs() < 1e-2, "{mean} {truth}");
}

#[test]
fn probes_are_signs_of_both_kinds() {
    let found = values(&signs(&row(&[0.0; 400]), &mut noise(9)).unwrap());
    assert!(found.iter().all(|sign| sign.abs() == 1.0));
    assert!(found.iter().sum::<f64>().abs() < 4.5 * 20.0);
}
