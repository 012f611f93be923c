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

/// Evaluations on the first step and in all on the four of [`SIGMAS`], and steps in all.
fn counts(sampler: Sampler) -> (usize, usize, usize) {
    match sampler {
        // One on the last step.
        Sampler::Heun { .. } | Sampler::Dpmpp2s { .. } | Sampler::Dpm2 { .. } => (2, 7, 4),
        Sampler::Pndm => (2, 5, 4),
        // From 3 to 0.3 twice, with two each.
        Sampler::Restart { .. } => (2, 11, 6),
        _ => (1, 4, 4),
    }
}

#[test]
fn evaluations_are_those_of_the_method() {
    for sampler in Sampler::ALL {
        let denoiser = Counting::new(usize::MAX);
        sampler.run(&denoiser, row(&[1.0]), &SIGMAS, &mut noise(), &mut |_| Ok(())).unwrap();
        assert_eq!(denoiser.calls.get(), counts(sampler).1, "{sampler}");
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
        let sigmas: &[f64] = if counts(sampler).2 == 6 { &[10.0, 3.0, 1.0, 3.0, 1.0, 0.3] } else { &SIGMAS[..4] };
        let expected: Vec<_> = sigmas.iter().enumerate().map(|(i, sigma)| (i, sigmas.len(), *sigma)).collect();
        assert_eq!(heard, expected, "{sampler}");
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
        let (on_the_first, _, steps) = counts(sampler);
        let denoiser = Counting::new(on_the_first + 1);
        let error = sampler.run(&denoiser, row(&[1.0]), &SIGMAS, &mut noise(), &mut |_| Ok(())).unwrap_err();
        let Error::NonFinite(message) = error else { panic!("{sampler}: {error}") };
        assert!(message.starts_with(&format!("step 2 of {steps}")), "{sampler}: {message}");
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
    for sampler in super::analytic::deterministic() {
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
