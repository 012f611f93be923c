//! A denoiser for each step: which one hears which noise level.

use super::{analytic::Gaussian, geometric, row, values};
use limner::diffusion::denoiser::Denoiser;
use limner::diffusion::sampler::{Churn, Sampler};
use limner::diffusion::scheduled::Scheduled;
use std::cell::RefCell;

#[test]
fn a_noise_level_belongs_to_the_step_that_begins_at_or_above_it() {
    // D is the step's number, whatever x is.
    let number = |step: usize| Ok(Gaussian { mean: step as f64, variance: 0.0 });
    let denoiser = Scheduled::new(&[8.0, 4.0, 2.0, 0.0], number);
    for (sigma, step) in [(9.0, 0.0), (8.0, 0.0), (4.1, 0.0), (4.0, 1.0), (3.0, 1.0), (2.0, 2.0), (0.1, 2.0)] {
        assert_eq!(values(&denoiser.denoise(&row(&[0.5]), sigma).unwrap()), [step], "{sigma}");
    }
}

#[test]
fn every_walk_along_the_flow_asks_each_step_in_its_turn() {
    for sampler in super::analytic::deterministic() {
        let asked = RefCell::new(Vec::new());
        let mut sigmas = geometric(80.0, 0.1, 4);
        sigmas.push(0.0);
        let denoiser = Scheduled::new(&sigmas, |step| {
            asked.borrow_mut().push(step);
            Ok(Gaussian { mean: 0.0, variance: 1.0 })
        });
        super::analytic::run_ode(sampler, &denoiser, row(&[1.0]), &sigmas);
        let expected = match sampler {
            // The second call is at the end of the step, where the next one begins.
            Sampler::Heun { churn: Churn::NONE } => vec![0, 1, 1, 2, 2, 3, 3, 4, 4],
            // In the middle of it.
            Sampler::Dpmpp2s { .. } | Sampler::Dpm2 { .. } => vec![0, 0, 1, 1, 2, 2, 3, 3, 4],
            Sampler::Pndm => vec![0, 1, 1, 2, 3, 4],
            _ => vec![0, 1, 2, 3, 4],
        };
        assert_eq!(*asked.borrow(), expected, "{sampler}");
    }
}
