//! What every walk promises: counts, reports, cancelling, faults with a name, and the same noise in any batch.

use super::analytic::{Gaussian, Mixture, Rows};
use super::{row, values};
use candle_core::{DType, Device, Shape, Tensor};
use limner::diffusion::denoiser::Denoiser;
use limner::diffusion::noise::{NoiseKind, NoiseSource, SeededNoise};
use limner::diffusion::sampler::{Churn, Sampler};
use limner::{Error, Result};
use std::cell::Cell;

const SIGMAS: [f64; 5] = [10.0, 3.0, 1.0, 0.3, 0.0];

/// Counts its evaluations, and answers NaN from a given one on.
struct Counting {
    calls: Cell<usize>,
    broken_from: usize,
}

impl Counting {
    fn new(broken_from: usize) -> Self {
        Self { calls: Cell::new(0), broken_from }
    }
}

impl Denoiser for Counting {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.calls.set(self.calls.get() + 1);
        let denoised = Gaussian { mean: 0.0, variance: 1.0 }.denoise(x, sigma)?;
        Ok(if self.calls.get() >= self.broken_from { (denoised * f64::NAN)? } else { denoised })
    }
}

fn noise() -> SeededNoise {
    SeededNoise::new(NoiseKind::Philox, &[0])
}

#[test]
fn one_evaluation_a_step_and_for_heun_two_but_one_on_the_last() {
    for sampler in Sampler::ALL {
        let denoiser = Counting::new(usize::MAX);
        sampler.run(&denoiser, row(&[1.0]), &SIGMAS, &mut noise(), &mut |_| Ok(())).unwrap();
        let expected = if matches!(sampler, Sampler::Heun { .. }) { 7 } else { 4 };
        assert_eq!(denoiser.calls.get(), expected, "{sampler}");
    }
}

#[test]
fn every_step_is_reported_in_order() {
    for sampler in Sampler::ALL {
        let mut heard = vec![];
        let mut listen = |step: limner::diffusion::sampler::Step<'_>| {
            assert_eq!(step.denoised.dims(), [1, 1, 1, 2]);
            heard.push((step.index, step.total, step.sigma));
            Ok(())
        };
        sampler.run(&Mixture, row(&[1.0, 2.0]), &SIGMAS, &mut noise(), &mut listen).unwrap();
        assert_eq!(heard, [(0, 4, 10.0), (1, 4, 3.0), (2, 4, 1.0), (3, 4, 0.3)], "{sampler}");
    }
}

#[test]
fn cancelling_stops_after_the_step_it_was_heard_in() {
    for sampler in Sampler::ALL {
        let denoiser = Counting::new(usize::MAX);
        let mut cancel = |step: limner::diffusion::sampler::Step<'_>| {
            if step.index == 1 { Err(Error::Cancelled) } else { Ok(()) }
        };
        let result = sampler.run(&denoiser, row(&[1.0]), &SIGMAS, &mut noise(), &mut cancel);
        assert!(matches!(result, Err(Error::Cancelled)), "{sampler}");
        assert!(denoiser.calls.get() <= 4, "{sampler}");
    }
}

#[test]
fn a_value_that_is_not_finite_names_its_step() {
    for sampler in Sampler::ALL {
        // Heun's second step starts at its third evaluation.
        let broken_from = if matches!(sampler, Sampler::Heun { .. }) { 3 } else { 2 };
        let denoiser = Counting::new(broken_from);
        let error = sampler.run(&denoiser, row(&[1.0]), &SIGMAS, &mut noise(), &mut |_| Ok(())).unwrap_err();
        let Error::NonFinite(message) = error else { panic!("{sampler}: {error}") };
        assert!(message.starts_with("step 2 of 4"), "{sampler}: {message}");
    }
}

#[test]
fn ladders_that_do_not_fall_are_refused() {
    let nan = f64::NAN;
    for sigmas in
        [&[][..], &[1.0], &[1.0, 1.0], &[1.0, 2.0], &[1.0, nan], &[nan, 0.0], &[1.0, -1.0], &[f64::INFINITY, 0.0]]
    {
        let result = Sampler::Dpmpp2m.run(&Mixture, row(&[1.0]), sigmas, &mut noise(), &mut |_| Ok(()));
        assert!(matches!(result, Err(Error::Invalid(_))), "{sigmas:?}");
    }
}

#[test]
fn deterministic_walks_draw_nothing() {
    let ode = [Sampler::Dpmpp2m, Sampler::Euler { churn: Churn::NONE }, Sampler::Ddim { eta: 0.0 }];
    for sampler in ode {
        sampler.run(&Mixture, row(&[1.0]), &SIGMAS, &mut Rows::new(vec![]), &mut |_| Ok(())).unwrap();
    }
}

#[test]
fn a_picture_is_the_same_alone_and_in_a_batch_for_every_sampler() {
    let churn = Churn { amount: 2.0, ..Churn::NONE };
    let mut samplers = Sampler::ALL.to_vec();
    samplers.extend([Sampler::Euler { churn }, Sampler::Heun { churn }, Sampler::Ddim { eta: 0.5 }]);
    for kind in [NoiseKind::Philox, NoiseKind::TorchCpu] {
        let draw = |sampler: &Sampler, seeds: &[u64]| {
            let mut noise = SeededNoise::new(kind, seeds);
            let start = noise.normal(&Shape::from((seeds.len(), 2, 3, 3)), DType::F64, &Device::Cpu).unwrap();
            let start = (start * SIGMAS[0]).unwrap();
            let end = sampler.run(&Mixture, start, &SIGMAS, &mut noise, &mut |_| Ok(())).unwrap();
            (0..seeds.len()).map(|k| values(&end.get(k).unwrap())).collect::<Vec<_>>()
        };
        for sampler in &samplers {
            let batch = draw(sampler, &[40, 41, 42]);
            for (k, seed) in [40, 41, 42].into_iter().enumerate() {
                assert_eq!(batch[k], draw(sampler, &[seed])[0], "{sampler} {kind:?} picture {k}");
            }
        }
    }
}
