//! Classifier-free guidance: the laws of methods.md 2.7, and what it costs.

use super::analytic::{Gaussian, Rows, run_ode};
use super::{assert_close, geometric, row, values};
use candle_core::{Device, Tensor};
use limner::Result;
use limner::diffusion::denoiser::Denoiser;
use limner::diffusion::guidance::{Guidance, Guided};
use limner::diffusion::sampler::{Churn, Sampler};
use std::cell::Cell;

pub(super) const CONDITIONAL: Gaussian = Gaussian { mean: 1.0, variance: 0.25 };
pub(super) const UNCONDITIONAL: Gaussian = Gaussian { mean: 0.0, variance: 1.0 };

/// Unconditional first, conditional second, as a pair network would.
pub(super) struct Pair<'a> {
    calls: &'a Cell<usize>,
}

impl Denoiser for Pair<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.calls.set(self.calls.get() + 1);
        let half = x.dim(0)? / 2;
        let first = UNCONDITIONAL.denoise(&x.narrow(0, 0, half)?, sigma)?;
        let second = CONDITIONAL.denoise(&x.narrow(0, half, half)?, sigma)?;
        Ok(Tensor::cat(&[first, second], 0)?)
    }
}

pub(super) fn guided(guidance: Guidance, calls: &Cell<usize>) -> Guided<Gaussian, Pair<'_>> {
    Guided::new(CONDITIONAL, Pair { calls }, guidance)
}

/// `D_u + w (D_c - D_u)` for one element.
fn formula(x: f64, sigma: f64, scale: f64) -> f64 {
    let s2 = sigma * sigma;
    let (c, u) = ((0.25 * x + s2) / (0.25 + s2), x / (1.0 + s2));
    u + scale * (c - u)
}

#[test]
fn guidance_is_its_formula_in_one_pass_over_both_halves() {
    let calls = Cell::new(0);
    for scale in [0.0, 0.5, 2.0, 7.5] {
        let denoiser = guided(Guidance { scale, ..Guidance::default() }, &calls);
        let found = values(&denoiser.denoise(&row(&[-1.0, 0.3, 4.0]), 1.7).unwrap());
        assert_close(&found, &[-1.0, 0.3, 4.0].map(|x| formula(x, 1.7, scale)), 1e-14);
    }
    assert_eq!(calls.get(), 4);
}

#[test]
fn the_pair_is_not_asked_at_scale_1_or_outside_the_interval() {
    let calls = Cell::new(0);
    let x = row(&[-1.0, 0.3, 4.0]);
    let plain = values(&CONDITIONAL.denoise(&x, 1.7).unwrap());
    let interval = |low, high| Guidance { scale: 3.0, interval: Some((low, high)), ..Guidance::default() };
    for guidance in [Guidance::default(), interval(1.7, 9.0), interval(0.1, 1.6)] {
        assert_eq!(values(&guided(guidance, &calls).denoise(&x, 1.7).unwrap()), plain);
    }
    assert_eq!(calls.get(), 0);
    guided(interval(0.1, 1.7), &calls).denoise(&x, 1.7).unwrap();
    assert_eq!(calls.get(), 1, "the upper end belongs to the interval");
}

/// `D_u + w * sum_k w_k (D_k - D_u)`, at scale 1 and outside of the interval as well, where w is 1.
#[test]
fn several_prompts_are_their_weighted_sum() {
    let calls = Cell::new(0);
    let other = Gaussian { mean: -2.0, variance: 0.5 };
    let at = |x: f64| values(&other.denoise(&row(&[x]), 1.7).unwrap())[0];
    for (scale, interval, applied) in [(1.0, None, 1.0), (3.0, None, 3.0), (3.0, Some((2.0, 9.0)), 1.0)] {
        let guidance = Guidance { scale, interval, ..Guidance::default() };
        let conditionals = vec![(0.7, CONDITIONAL), (-0.2, Gaussian { ..other })];
        let found =
            Guided::composed(conditionals, Pair { calls: &calls }, guidance).denoise(&row(&[0.3]), 1.7).unwrap();
        let (u, c) = (formula(0.3, 1.7, 0.0), formula(0.3, 1.7, 1.0));
        assert_close(&values(&found), &[u + applied * (0.7 * (c - u) - 0.2 * (at(0.3) - u))], 1e-14);
    }
    assert_eq!(calls.get(), 3);
}

/// The guided flow of two Gaussians ends with variance `s^(2w) S^(2(1-w))`; mean over mu 1.3802 at w = 2, 1.5 at 3.
#[test]
fn the_guided_ode_has_its_exact_law() {
    let calls = Cell::new(0);
    let mut sigmas = geometric(2000.0, 1e-3, 800);
    sigmas.push(0.0);
    for (scale, mean) in [(2.0, 1.3802), (3.0, 1.5)] {
        let denoiser = guided(Guidance { scale, ..Guidance::default() }, &calls);
        let end = values(&run_ode(Sampler::Heun { churn: Churn::NONE }, &denoiser, row(&[0.0, 2000.0]), &sigmas));
        let variance = (end[1] - end[0]).powi(2);
        assert_close(&[end[0]], &[mean], 1e-3);
        assert_close(&[variance / 0.25f64.powf(scale)], &[1.0], 2e-3);
    }
}

/// The ancestral walk has another law: variance .1094 and mean 1.25 at w = 2 (arXiv:2408.09000). First order, so the
/// two coarser walks extrapolate to it.
#[test]
fn the_guided_ancestral_walk_has_another_law() {
    let calls = Cell::new(0);
    let denoiser = guided(Guidance { scale: 2.0, ..Guidance::default() }, &calls);
    let moments = |steps: usize| {
        let mut sigmas = geometric(300.0, 1e-2, steps);
        sigmas.push(0.0);
        let impulse = |at: usize| (0..steps + 2).map(|i| f64::from(i == at)).collect::<Vec<_>>();
        let mut noise = Rows::new((0..steps).map(|i| impulse(i + 2)).collect());
        let x = row(&impulse(1));
        let end = Sampler::EulerA { eta: 1.0 }.run(&denoiser, x, &sigmas, &mut noise, &mut |_| Ok(())).unwrap();
        let end = values(&end);
        let spread: f64 = end[2..].iter().map(|g| (g - end[0]).powi(2)).sum();
        (end[0], (300.0 * (end[1] - end[0])).powi(2) + spread)
    };
    let (coarse, fine) = (moments(400), moments(800));
    assert_close(&[2.0 * fine.0 - coarse.0, 2.0 * fine.1 - coarse.1], &[1.25, 0.1094], 3e-4);
}

fn deviation(x: &[f64]) -> f64 {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
}

#[test]
fn rescaling_restores_the_conditional_deviation_of_each_picture() {
    let calls = Cell::new(0);
    let x = Tensor::from_slice(&[-1.0, 0.3, 4.0, 10.0, -20.0, 2.5], (2, 1, 1, 3), &Device::Cpu).unwrap();
    let run = |rescale| {
        let guidance = Guidance { scale: 5.0, rescale, ..Guidance::default() };
        values(&guided(guidance, &calls).denoise(&x, 0.8).unwrap())
    };
    let (plain, full, part) = (run(0.0), run(1.0), run(0.7));
    let conditional = values(&CONDITIONAL.denoise(&x, 0.8).unwrap());
    for picture in [0..3, 3..6] {
        let (found, wanted) = (deviation(&full[picture.clone()]), deviation(&conditional[picture]));
        assert_close(&[found], &[wanted], 1e-12);
    }
    let mixed: Vec<f64> = plain.iter().zip(&full).map(|(a, b)| 0.3 * a + 0.7 * b).collect();
    assert_close(&part, &mixed, 1e-12);
}

#[test]
fn a_flat_estimate_rescales_to_something_finite() {
    let calls = Cell::new(0);
    let guidance = Guidance { scale: 5.0, rescale: 0.7, ..Guidance::default() };
    let found = values(&guided(guidance, &calls).denoise(&row(&[1.0; 4]), 0.8).unwrap());
    assert!(found.iter().all(|x| x.is_finite()));
}

/// `torch.quantile(torch.tensor([.5, 1., 2., 4.]), .75) == 2.5`: clamp there, divide by it; below 1, only clamp at 1.
#[test]
fn dynamic_thresholding_acts_on_each_picture_alone() {
    let x = Tensor::from_slice(&[0.5, -1.0, 2.0, -4.0, 0.1, 0.2, 0.3, -0.4], (2, 1, 2, 2), &Device::Cpu).unwrap();
    let calls = Cell::new(0);
    let guidance = Guidance { threshold: Some(0.75), ..Guidance::default() };
    struct Same;
    impl Denoiser for Same {
        fn denoise(&self, x: &Tensor, _: f64) -> Result<Tensor> {
            Ok(x.clone())
        }
    }
    let found = Guided::new(Same, Pair { calls: &calls }, guidance).denoise(&x, 1.0).unwrap();
    assert_close(&values(&found), &[0.2, -0.4, 0.8, -1.0, 0.1, 0.2, 0.3, -0.4], 1e-14);
}
