//! What steps did, in figures, where each figure is known otherwise.

use super::analytic::Gaussian;
use super::guidance::{CONDITIONAL, UNCONDITIONAL, guided};
use super::{assert_close, geometric, row, values};
use candle_core::Tensor;
use limner::Result;
use limner::diffusion::denoiser::Denoiser;
use limner::diffusion::diagnostics::{Recorder, StepFigures};
use limner::diffusion::guidance::Guidance;
use limner::diffusion::noise::{NoiseKind, SeededNoise};
use limner::diffusion::sampler::{Restart, Sampler};
use std::cell::Cell;

const SIGMAS: [f64; 6] = [10.0, 3.0, 1.0, 0.3, 0.09, 0.0];
const DATA: Gaussian = Gaussian { mean: 0.5, variance: 0.25 };

fn noise() -> SeededNoise {
    SeededNoise::new(NoiseKind::Philox, &[0])
}

/// The end of a walk, and its steps.
fn walked(sampler: Sampler, denoiser: &dyn Denoiser, x: Tensor, sigmas: &[f64]) -> (Tensor, Vec<StepFigures>) {
    let recorder = Recorder::new(denoiser, sigmas);
    let end = sampler.run(&recorder, x, sigmas, &mut noise(), &mut |step| recorder.note(&step, None)).unwrap();
    (end, recorder.finish(0.25))
}

fn local_errors(steps: &[StepFigures]) -> Vec<f64> {
    steps[1..].iter().map(|step| step.local_error.unwrap()).collect()
}

#[test]
fn every_walk_is_what_it_is_without_and_every_report_is_a_row() {
    struct Counted(Cell<usize>);
    impl Denoiser for Counted {
        fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
            self.0.set(self.0.get() + 1);
            DATA.denoise(x, sigma)
        }
    }
    for sampler in Sampler::ALL {
        let (x, mut reports) = (row(&[4.0, -7.0, 12.0]), vec![]);
        let mut listen = |step: limner::diffusion::sampler::Step<'_>| {
            reports.push((step.index + 1, step.sigma));
            Ok(())
        };
        let plain = sampler.run(&DATA, x.clone(), &SIGMAS, &mut noise(), &mut listen).unwrap();
        let counted = Counted(Cell::new(0));
        let (end, steps) = walked(sampler, &counted, x, &SIGMAS);
        assert_eq!(values(&end), values(&plain), "{sampler}");
        assert_eq!(steps.iter().map(|step| (step.step, step.sigma)).collect::<Vec<_>>(), reports, "{sampler}");
        assert_eq!(steps.iter().map(|step| step.evaluations).sum::<usize>(), counted.0.get(), "{sampler}");
        let figures = steps.iter().flat_map(|step| [Some(step.score_norm), step.drift, step.local_error]);
        assert!(figures.flatten().all(f64::is_finite), "{sampler}: {steps:?}");
        assert!(steps.iter().all(|step| step.guidance_norm.is_none() && step.guidance_angle.is_none()));
        assert_eq!(steps.last().unwrap().clipped, Some(0.25));
    }
}

/// With data N(.5, .25) at sigma 10, `(x - D)/sigma = sigma (x - .5)/(.25 + sigma^2)`.
#[test]
fn the_score_is_that_of_the_call_that_is_reported() {
    for sampler in [Sampler::EULER, Sampler::HEUN, Sampler::Dpmpp2s { eta: 0.0 }, Sampler::Dpmpp2m] {
        let (_, steps) = walked(sampler, &DATA, row(&[4.0, -7.0]), &SIGMAS);
        let expected = 10.0 * ((3.5f64.powi(2) + 7.5f64.powi(2)) / 2.0).sqrt() / 100.25;
        assert_close(&[steps[0].score_norm], &[expected], 1e-12);
    }
}

#[test]
fn guidance_is_measured_against_the_prompts_estimate() {
    let calls = Cell::new(0);
    let at = |data: &Gaussian, x: f64| values(&data.denoise(&row(&[x]), 10.0).unwrap())[0];
    let x = [4.0, -7.0];
    let (c, u) = (x.map(|x| at(&CONDITIONAL, x)), x.map(|x| at(&UNCONDITIONAL, x)));
    let (apart, down) = ([c[0] - u[0], c[1] - u[1]], [c[0] - x[0], c[1] - x[1]]);
    let norm = |v: [f64; 2]| v[0].hypot(v[1]);
    let cosine = (apart[0] * down[0] + apart[1] * down[1]) / (norm(apart) * norm(down));
    for scale in [0.0, 3.0] {
        let denoiser = guided(Guidance { scale, ..Guidance::default() }, &calls);
        let (_, steps) = walked(Sampler::HEUN, &denoiser, row(&x), &SIGMAS);
        assert_close(&[steps[0].guidance_norm.unwrap()], &[norm(apart) / norm(c)], 1e-12);
        assert_close(&[steps[0].guidance_angle.unwrap()], &[cosine.acos().to_degrees()], 1e-9);
    }
    // Below the interval nothing is compared.
    let guidance = Guidance { scale: 3.0, interval: Some((0.5, 99.0)), ..Guidance::default() };
    let (_, steps) = walked(Sampler::EULER, &guided(guidance, &calls), row(&x), &SIGMAS);
    let known: Vec<bool> = steps.iter().map(|step| step.guidance_norm.is_some()).collect();
    assert_eq!(known, [true, true, true, false, false]);
}

#[test]
fn what_is_known_at_once_does_not_drift() {
    let certain = Gaussian { mean: 0.5, variance: 0.0 };
    let (_, steps) = walked(Sampler::EULER, &certain, row(&[4.0, -7.0]), &SIGMAS);
    assert_eq!(steps[0].drift, None);
    assert!(steps[1..].iter().all(|step| step.drift == Some(0.0) && step.local_error == Some(0.0)), "{steps:?}");
    // The flow itself: x - .5 shrinks with the deviation, and D - .5 is v / (v + s^2) of it.
    let (_, steps) = walked(Sampler::EULER, &DATA, row(&[4.0]), &SIGMAS);
    let ahead = values(&DATA.denoise(&row(&[4.0]), 10.0).unwrap())[0];
    let x = ahead + 0.3 * (4.0 - ahead);
    let next = values(&DATA.denoise(&row(&[x]), 3.0).unwrap())[0];
    assert_close(&[steps[1].drift.unwrap()], &[(next - ahead).abs()], 1e-12);
}

/// Steps half as long err by a quarter, and by what they truly err: the flow of N(m, v) is `x - m` times
/// `sqrt((v + s'^2) / (v + s^2))`.
#[test]
fn the_local_error_is_eulers_and_of_second_order() {
    let of = |steps: usize| {
        let sigmas = geometric(20.0, 0.02, steps);
        let (_, figures) = walked(Sampler::EULER, &DATA, row(&[30.0]), &sigmas);
        (sigmas, local_errors(&figures))
    };
    let ((sigmas, coarse), (_, fine)) = (of(200), of(400));
    let mut x = 30.0;
    for (i, pair) in sigmas.windows(2).enumerate() {
        let [from, to] = [pair[0], pair[1]];
        let stepped = {
            let denoised = values(&DATA.denoise(&row(&[x]), from).unwrap())[0];
            denoised + to / from * (x - denoised)
        };
        let exact = 0.5 + (x - 0.5) * ((0.25 + to * to) / (0.25 + from * from)).sqrt();
        let error = (stepped - exact).abs() / to.hypot(1.0);
        if i > 0 {
            let found = coarse[i - 1];
            assert!((found / error - 1.0).abs() < 0.12, "step {i}: {found} of {error}");
            // Where a coarse step begins, a fine one does: index 2 i of the ladder, 2 i - 1 of the errors.
            let ratio = found / fine[2 * i - 1];
            assert!((ratio - 4.0).abs() < 0.4, "step {i}: {ratio}");
        }
        x = stepped;
    }
}

/// A last step to 0 has no logarithm: D goes on in a line, `sigma (D - D_before) / (sigma_before - sigma)` further.
#[test]
fn the_last_step_has_an_error_too() {
    let (_, steps) = walked(Sampler::EULER, &DATA, row(&[4.0]), &SIGMAS);
    let last = steps.last().unwrap();
    assert_close(&[last.local_error.unwrap()], &[last.drift.unwrap() * 0.09 / (0.3 - 0.09)], 1e-15);
}

/// From 3 down to .3, and once more: after the way back up the line through the step before says nothing.
#[test]
fn going_back_up_has_no_local_error() {
    let restart = Restart { low: 0.3, high: 3.0, times: 1 };
    let (_, steps) = walked(Sampler::Restart { restart }, &DATA, row(&[4.0]), &SIGMAS);
    let sigmas: Vec<f64> = steps.iter().map(|step| step.sigma).collect();
    assert_eq!(sigmas, [10.0, 3.0, 1.0, 3.0, 1.0, 0.3, 0.09]);
    let known: Vec<bool> = steps.iter().map(|step| step.local_error.is_some()).collect();
    assert_eq!(known, [false, true, true, false, true, true, true]);
    assert!(steps[3].drift.is_some());
}
