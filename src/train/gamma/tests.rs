//! A learned schedule where its truth is known.

use super::super::data::Dice;
use super::super::optimizer::{AdamW, Constants, cosine_rate};
use super::super::parameters::Parameters;
use super::*;
use crate::diffusion::noise::Philox;
use crate::diffusion::schedule::Betas;
use crate::diffusion::test_support::assert_close;
use std::collections::HashMap;

const STEPS: usize = 1000;

/// gamma from -13.3 to 5, evenly.
fn even() -> NoiseSchedule {
    NoiseSchedule::new(Betas::LogLinear { low: (-6.65f64).exp(), high: 2.5f64.exp() }, STEPS, false).unwrap()
}

fn gamma(parameters: &Parameters) -> Gamma {
    Gamma::new(&parameters.builder(), &even()).unwrap()
}

/// Parameters with all values moved by noise of this deviation.
fn moved(deviation: f64) -> Parameters {
    let parameters = Parameters::new(3, &Device::Cpu);
    gamma(&parameters);
    let noise = |(i, (name, var)): (usize, (String, candle_core::Var))| {
        let values = Tensor::from_vec(Philox::new(i as u64).normals(0, var.elem_count()), var.shape(), &Device::Cpu);
        (name, ((values.unwrap() * deviation).unwrap() + var.as_tensor()).unwrap())
    };
    parameters.assign(&parameters.named().into_iter().enumerate().map(noise).collect::<HashMap<_, _>>()).unwrap();
    parameters
}

fn curve(gamma: &Gamma, times: &[f64]) -> [Vec<f64>; 3] {
    let Curve { value, slope, bend } = gamma.at(&Tensor::new(times, &Device::Cpu).unwrap()).unwrap();
    [value, slope, bend].map(|of| of.to_vec1().unwrap())
}

#[test]
fn it_begins_near_the_even_schedule() {
    let begun = gamma(&Parameters::new(1, &Device::Cpu)).schedule(STEPS).unwrap();
    assert_close(&[begun.sigma_min() / even().sigma_min(), begun.sigma_max() / even().sigma_max()], &[1.0; 2], 1e-9);
    let furthest = (0..STEPS).map(|t| (begun.sigma(t as f64) / even().sigma(t as f64)).ln().abs()).fold(0.0, f64::max);
    assert!(furthest < 0.3, "{furthest} of a range of 9.15");
}

/// By construction; `schedule` fails unless its sigmas rise in f64, too. Weights are up to e^20 apart here.
#[test]
fn it_rises_between_its_ends_with_any_parameters() {
    for deviation in [0.0, 0.02, 0.05, 0.1] {
        let gamma = gamma(&moved(deviation));
        let schedule = gamma.schedule(STEPS).unwrap();
        assert_close(&[schedule.sigma_min().ln(), schedule.sigma_max().ln()], &[-6.65, 2.5], 1e-9);
        assert!(curve(&gamma, &[0.0, 0.3, 1.0])[1].iter().all(|slope| *slope > 0.0));
    }
}

#[test]
fn its_derivatives_are_those_of_finite_differences() {
    let (gamma, h) = (gamma(&moved(0.02)), 1e-5);
    for t in [0.1, 0.5, 0.93] {
        let [values, slopes, bends] = curve(&gamma, &[t - h, t, t + h]);
        assert_close(&[(values[2] - values[0]) / (2.0 * h) / slopes[1]], &[1.0], 1e-7);
        assert_close(&[(slopes[2] - slopes[0]) / (2.0 * h)], &[bends[1]], 1e-5 * (1.0 + bends[1].abs()));
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    let parameters = Parameters::new(1, &Device::Cpu);
    let objective = gamma(&parameters).objective(&[0.1, 0.4, 0.6, 0.9], &[1.0, 0.3, 0.2, 0.1]).unwrap();
    let gradients = objective.backward().unwrap();
    for (name, var) in parameters.named() {
        let values: Vec<f32> = gradients.get(&var).unwrap_or_else(|| panic!("{name}")).to_vec1().unwrap();
        assert!(values.iter().all(|v| v.is_finite()) && values.iter().any(|v| v.abs() > 1e-9), "{name}: {values:?}");
    }
}

/// Data N(0, 1/4): the best network's squared error in the noise, per element, is c / (c + sigma^2).
fn error(gamma: f64) -> f64 {
    0.25 / (0.25 + gamma.exp())
}

/// `integral of error`, from -13.3: gamma - ln(c + e^gamma) and a constant.
fn integral(gamma: f64) -> f64 {
    let rising = |gamma: f64| gamma - (0.25 + gamma.exp()).ln();
    rising(gamma) - rising(-13.3)
}

/// Estimates of one sample each: its error is the mean of 30 squares, as that of a small picture.
fn estimates(gamma: &Gamma, times: &[f64], stream: u64) -> Vec<f64> {
    let [values, slopes, _] = curve(gamma, times);
    let normals = Philox::new(stream).normals(0, 30 * times.len());
    let squares = normals.chunks(30).map(|chunk| chunk.iter().map(|z| f64::from(z * z)).sum::<f64>() / 30.0);
    let each = values.iter().zip(&slopes).zip(squares);
    each.map(|((value, slope), square)| 0.5 * slope * error(*value) * square).collect()
}

/// The gradient of the objective is that of the second moment, by finite differences in one parameter over a fine grid.
#[test]
fn the_objective_has_the_gradient_of_the_second_moment() {
    let parameters = moved(0.01);
    let times: Vec<f64> = (0..2000).map(|i| (f64::from(i) + 0.5) / 2000.0).collect();
    let plain = |gamma: &Gamma| -> Vec<f64> {
        let [values, slopes, _] = curve(gamma, &times);
        values.iter().zip(&slopes).map(|(value, slope)| 0.5 * slope * error(*value)).collect()
    };
    let second = || (plain(&gamma(&parameters)).iter().map(|l| l * l).sum::<f64>() / 2000.0).ln();
    let gradients = {
        let gamma = gamma(&parameters);
        gamma.objective(&times, &plain(&gamma)).unwrap().backward().unwrap()
    };
    for (name, var) in parameters.named().into_iter().filter(|(name, _)| name.ends_with("weight")) {
        // All of a layer's weights by the same step.
        let found = gradients.get(&var).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        let (start, h) = (var.as_tensor().copy().unwrap(), 2e-4);
        let [above, below] = [h, -h].map(|h| {
            var.set(&(&start + h).unwrap()).unwrap();
            second()
        });
        var.set(&start).unwrap();
        let expected = SHARE * (above - below) / (2.0 * h);
        assert!((f64::from(found) / expected - 1.0).abs() < 0.01, "{name}: {found} and {expected}");
    }
}

fn learned() -> Gamma {
    let parameters = Parameters::new(1, &Device::Cpu);
    gamma(&parameters);
    let mut optimizer = AdamW::new(&parameters, Constants::default()).unwrap();
    for step in 0..600 {
        let gamma = gamma(&parameters);
        let offset = Dice::new(step as u64).uniform();
        let times: Vec<f64> = (0..32).map(|i| (offset + f64::from(i)) / 32.0).collect();
        let objective = gamma.objective(&times, &estimates(&gamma, &times, step as u64)).unwrap();
        let gradients = objective.backward().unwrap();
        let gradient = |var: &candle_core::Var| gradients.get(var).unwrap().to_vec1().unwrap();
        let flat: Vec<Vec<f32>> = optimizer.variables().iter().map(gradient).collect();
        optimizer.step(&flat, cosine_rate(8e-4, step, 30, 600)).unwrap();
    }
    parameters.assign(&optimizer.average().unwrap()).unwrap();
    gamma(&parameters)
}

#[test]
fn it_learns_the_schedule_whose_estimates_are_equal() {
    let (start, learned) = (gamma(&Parameters::new(1, &Device::Cpu)), learned());
    let times: Vec<f64> = (0..2000).map(|i| (f64::from(i) + 0.5) / 2000.0).collect();
    // Mean and standard error of the mean (independent samples, which evenly spaced times are not), and the spread.
    let figures = |gamma: &Gamma, stream| {
        let estimates = estimates(gamma, &times, stream);
        let mean = estimates.iter().sum::<f64>() / estimates.len() as f64;
        (mean, mean * spread(&estimates) / (estimates.len() as f64).sqrt(), spread(&estimates))
    };
    let (before, after) = (figures(&start, 1), figures(&learned, 2));
    let truth = 0.5 * integral(5.0);
    assert!(
        (before.0 - truth).abs() < 3.0 * before.1 && (after.0 - truth).abs() < 3.0 * after.1,
        "{before:?} {after:?}"
    );
    // 30 squares scatter by sqrt(2 / 30) = .26 at best.
    assert!(before.2 > 0.65 && after.2 < 0.37, "{before:?} {after:?}");
    let level = |gamma: &Gamma, stream| -> Vec<f64> {
        estimates(gamma, &times, stream).chunks(200).map(|part| part.iter().sum::<f64>() / 200.0 / truth).collect()
    };
    assert!(level(&start, 1)[9] < 0.1, "{:?}", level(&start, 1));
    // The last tenth, in which the best schedule goes two fifths of the way, takes longest.
    let after = level(&learned, 2);
    assert!(after[..9].iter().all(|part| (part - 1.0).abs() < 0.2) && after[9] > 0.45, "{after:?}");
    // t of the best schedule is the integral of its density.
    for t in [0.1, 0.3, 0.5, 0.7, 0.9] {
        let [value, ..] = curve(&learned, &[t]);
        let best = integral(value[0]) / integral(5.0);
        assert!((best - t).abs() < 0.05, "time {t} should be {best}");
    }
}

#[test]
fn the_table_has_its_sigmas_again() {
    let gamma = gamma(&moved(0.02));
    let schedule = gamma.schedule(STEPS).unwrap();
    let told = NoiseSchedule::from_rates(&schedule.rates(), false).unwrap();
    for t in [0u32, 1, 500, 998, 999] {
        let value = curve(&gamma, &[f64::from(t) / 999.0])[0][0];
        assert_close(&[told.sigma(f64::from(t)) / (value / 2.0).exp()], &[1.0], 1e-9);
    }
}
