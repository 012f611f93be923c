//! The evidence lower bound where everything about it is known: methods.md 2.8.

use super::analytic::Gaussian;
use super::{assert_close, row};
use candle_core::{Device, Tensor};
use limner::diffusion::denoiser::Denoiser;
use limner::diffusion::elbo::{Chain, ReverseVariance, Values, diffusion_term, elbo};
use limner::diffusion::noise::{NoiseKind, SeededNoise};
use limner::diffusion::schedule::{Betas, NoiseSchedule};
use limner::{Error, Result};
use std::f64::consts::{E, LN_2, TAU};

/// DDPM's linear rates for T times.
fn linear(steps: usize) -> NoiseSchedule {
    let scale = 1000.0 / steps as f64;
    NoiseSchedule::new(Betas::Linear { start: 1e-4 * scale, end: 0.02 * scale }, steps, false).unwrap()
}

/// What the best denoiser of data of this variance errs by, at each level.
fn errors(schedule: &NoiseSchedule, variance: f64) -> Vec<f64> {
    let squares = (0..schedule.steps()).map(|t| schedule.sigma(t as f64).powi(2));
    squares.map(|s2| variance * s2 / (variance + s2)).collect()
}

/// The expected bound on N(0, variance) with the best denoiser, less the entropy, in bits per dimension.
fn gap(steps: usize, variance: f64, reverse: fn(&[f64]) -> ReverseVariance<'_>) -> f64 {
    let schedule = linear(steps);
    let errors = errors(&schedule, variance);
    let chain = Chain::of(&schedule, steps, reverse(&errors)).unwrap();
    let walked: f64 = (1..steps).map(|t| chain.step(t, errors[t])).sum();
    // Drawn with the best variance in the end, whatever the steps have: the gap is that of the steps.
    let reconstruction = 0.5 * (TAU * E * errors[0]).ln();
    let entropy = 0.5 * (TAU * E * variance).ln();
    (chain.prior(variance) + walked + reconstruction - entropy) / LN_2
}

#[test]
fn with_the_best_variance_the_bound_is_the_entropy_at_every_length() {
    for variance in [0.25, 1.0, 3.0] {
        for steps in [2, 10, 50, 200, 1000, 4000] {
            // At 2 and 10 steps the rates of methods.md leave (0, 1): fewer steps of the 50's range.
            let schedule = linear(steps.max(50));
            let picked = Chain::of(&schedule, steps, ReverseVariance::FixedSmall).unwrap().sigmas().to_vec();
            let errors: Vec<f64> = picked.iter().map(|s| variance * s * s / (variance + s * s)).collect();
            let chain = Chain::new(picked, ReverseVariance::Optimal(&errors)).unwrap();
            let walked: f64 = (1..errors.len()).map(|t| chain.step(t, errors[t])).sum();
            let total = chain.prior(variance) + walked + chain.reconstruction(errors[0]);
            // What is left is L_T's part that no variance mends: the prior is not quite the marginal.
            assert_close(&[total], &[0.5 * (TAU * E * variance).ln()], 3e-9);
        }
    }
}

/// methods.md 2.8: .0318, .0079, .0016 and .0004 bits per dimension at 50, 200, 1000 and 4000 steps for a variance of
/// .25, nothing for 1; the posterior's variance costs .66 at 1000.
#[test]
fn fixed_variances_cost_what_they_cost() {
    let large = [50, 200, 1000, 4000].map(|steps| gap(steps, 0.25, |_| ReverseVariance::FixedLarge));
    assert_close(&large, &[0.031783, 0.007889, 0.001576, 0.000394], 1e-6);
    assert_close(&[50, 1000].map(|steps| gap(steps, 1.0, |_| ReverseVariance::FixedLarge)), &[0.0, 0.0], 1e-12);
    assert_close(&[gap(1000, 0.25, |_| ReverseVariance::FixedSmall)], &[0.658372], 1e-6);
    assert_close(&[gap(1000, 0.25, |errors| ReverseVariance::Optimal(errors))], &[0.0], 1e-9);
}

#[test]
fn the_prior_term_is_the_divergence_of_two_gaussians() {
    let schedule = linear(1000);
    let part = Chain::new(vec![0.1, schedule.sigma(400.0)], ReverseVariance::FixedSmall).unwrap();
    let alpha_bar = schedule.alpha_bar(400.0);
    // KL(N(m, v) | N(0, 1)) = (m^2 + v - 1 - ln v) / 2, here of x0 = 1.7.
    let expected = 0.5 * (alpha_bar * 1.7 * 1.7 + (1.0 - alpha_bar) - 1.0 - (1.0 - alpha_bar).ln());
    assert_close(&[part.prior(1.7 * 1.7)], &[expected], 1e-12);
}

/// -ln N(x; 0, v), in bits, the mean over elements.
fn surprise(x: &[f64], variance: f64) -> f64 {
    let nats = x.iter().map(|x| 0.5 * ((TAU * variance).ln() + x * x / variance)).sum::<f64>();
    nats / LN_2 / x.len() as f64
}

#[test]
fn the_bound_is_never_below_the_truth() -> Result<()> {
    let schedule = linear(100);
    let errors = errors(&schedule, 0.25);
    let picture: Vec<f64> = (0..400).map(|i| 0.5 * ((i as f64) * 0.7).sin() + 0.3).collect();
    let truth = surprise(&picture, 0.25);
    let denoiser = Gaussian { mean: 0.0, variance: 0.25 };
    for variance in [ReverseVariance::FixedSmall, ReverseVariance::FixedLarge, ReverseVariance::Optimal(&errors)] {
        let chain = Chain::of(&schedule, 100, variance)?;
        let bounds = (0..40u64).map(|seed| {
            let mut noise = SeededNoise::new(NoiseKind::Philox, &[seed]);
            Ok(elbo(&denoiser, &chain, &row(&picture), Values::Real, &mut noise, &mut |_, _| Ok(()))?.total())
        });
        let bounds = bounds.collect::<Result<Vec<f64>>>()?;
        let (mean, error) = moments(&bounds);
        assert!(mean > truth - 4.0 * error, "{variance:?}: {mean} +- {error} below {truth}");
        // With the best variance it is the truth, for each picture, up to the noise of the estimate.
        if matches!(variance, ReverseVariance::Optimal(_)) {
            assert!((mean - truth).abs() < 4.5 * error, "{mean} +- {error} for {truth}");
        }
    }
    Ok(())
}

fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt())
}

#[test]
fn rate_and_distortion_are_the_bound_read_from_above() -> Result<()> {
    let chain = Chain::of(&linear(1000), 40, ReverseVariance::FixedLarge)?;
    let mut noise = SeededNoise::new(NoiseKind::Philox, &[1]);
    let picture =
        Tensor::from_vec((0..256).map(|i| f64::from(i) / 127.5 - 1.0).collect(), (1, 1, 16, 16), &Device::Cpu)?;
    let mut heard = Vec::new();
    let found =
        elbo(&Gaussian { mean: 0.0, variance: 0.3 }, &chain, &picture, Values::Bytes, &mut noise, &mut |n, _| {
            heard.push(n);
            Ok(())
        })?;
    let curve = found.rate_distortion();
    assert_eq!((curve.len(), heard), (40, (1..=40).collect::<Vec<_>>()));
    assert!(curve.windows(2).all(|p| p[0].sigma > p[1].sigma && p[0].rate <= p[1].rate), "{curve:?}");
    assert!(curve[0].rate == found.prior && curve[0].distortion > 0.5 && curve[39].distortion < 0.02);
    let last = found.terms[39].bits_per_dim;
    assert_close(&[curve[39].rate + last], &[found.total()], 1e-12);
    // Noise of deviation .01 has log2(.01 sqrt(2 pi e) / (2/255)) = 2.4 bits when it is told to the byte.
    assert!((2.2..2.8).contains(&last), "{last}");
    Ok(())
}

#[test]
fn it_stops_when_told_to() {
    let chain = Chain::of(&linear(1000), 40, ReverseVariance::FixedLarge).unwrap();
    let mut noise = SeededNoise::new(NoiseKind::Philox, &[1]);
    let denoiser: &dyn Denoiser = &Gaussian { mean: 0.0, variance: 0.3 };
    let stopped = elbo(denoiser, &chain, &row(&[0.1]), Values::Real, &mut noise, &mut |n, _| {
        if n < 3 { Ok(()) } else { Err(Error::Cancelled) }
    });
    assert!(matches!(stopped, Err(Error::Cancelled)));
}

#[test]
fn chains_that_are_none_are_refused() {
    for (sigmas, variance) in [
        (vec![], ReverseVariance::FixedSmall),
        (vec![0.0, 1.0], ReverseVariance::FixedSmall),
        (vec![1.0, 0.5], ReverseVariance::FixedLarge),
        (vec![0.5, f64::INFINITY], ReverseVariance::FixedLarge),
        (vec![0.5, 1.0], ReverseVariance::Optimal(&[0.1])),
        (vec![0.5, 1.0], ReverseVariance::Optimal(&[0.1, f64::NAN])),
    ] {
        assert!(matches!(Chain::new(sigmas, variance), Err(Error::Invalid(_))));
    }
}

/// In continuous time only the ends of a schedule count. Of N(0, c) the diffusion term is half the integral of
/// `c / (c + e^gamma)` over gamma, which is `gamma - ln(c + e^gamma)`.
#[test]
fn the_diffusion_term_depends_on_the_ends_alone() -> Result<()> {
    let (variance, draws) = (0.25, 20_000);
    let picture = row(&(0..64).map(|i| if i % 2 == 0 { 0.5 } else { -0.5 }).collect::<Vec<_>>());
    let denoiser = Gaussian { mean: 0.0, variance };
    let cosine = NoiseSchedule::new(Betas::Cosine, 100, false)?;
    let (low, high) = (cosine.sigma_min(), cosine.sigma_max());
    let even = NoiseSchedule::new(Betas::LogLinear { low, high }, 100, false)?;
    let rising = |sigma: f64| 2.0 * sigma.ln() - (variance + sigma * sigma).ln();
    let truth = 0.5 * (rising(high) - rising(low)) / LN_2;
    for schedule in [cosine, even] {
        let mut noise = SeededNoise::new(NoiseKind::Philox, &[3]);
        let draw =
            |i| diffusion_term(&denoiser, &schedule, &picture, (f64::from(i) + 0.5) / f64::from(draws), &mut noise);
        let terms = (0..draws).map(draw).collect::<Result<Vec<_>>>()?;
        let mean = terms.iter().sum::<f64>() / terms.len() as f64;
        assert!((mean / truth - 1.0).abs() < 0.02, "{mean} and {truth}");
    }
    Ok(())
}
