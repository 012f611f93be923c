//! Masked reverse diffusion: exact numbers on a correlated Gaussian, and a kept part that is kept exactly.

use super::analytic::{Mixture, Rows, run_ode};
use super::{assert_close, values};
use candle_core::{Device, Tensor};
use limner::Result;
use limner::diffusion::denoiser::{Denoiser, Estimate};
use limner::diffusion::inpaint::resampling::Resampling;
use limner::diffusion::inpaint::{Inpaint, Strengths};
use limner::diffusion::noise::{NoiseKind, SeededNoise};
use limner::diffusion::sampler::{Sampler, Variance};
use limner::diffusion::schedule::{Betas, NoiseSchedule, Spacing};

/// Two pixels of unit variance with correlation .9, and their reverse steps' optimal variance.
pub(super) struct Correlated {
    pub(super) sigmas: Vec<f64>,
}

const RHO: f64 = 0.9;

impl Correlated {
    /// The gain `C (C + s^2)^-1`: what a pixel's estimate takes from itself and from the other.
    pub(super) fn gain(sigma: f64) -> (f64, f64) {
        let share = |eigenvalue: f64| eigenvalue / (eigenvalue + sigma * sigma);
        let (sum, difference) = (share(1.0 + RHO), share(1.0 - RHO));
        ((sum + difference) / 2.0, (sum - difference) / 2.0)
    }

    /// Where `small + (1 - r)^2 E[Var] / d` lies between small and large (arXiv:2201.06503), in log space.
    fn fraction(&self, sigma: f64) -> f64 {
        let next = self.sigmas[1 + self.sigmas.iter().position(|s| *s == sigma).expect("a rung")];
        let (ratio, drop) = ((next / sigma).powi(2), sigma * sigma - next * next);
        let (small, large) = (drop * ratio, drop * (1.0 + next * next) / (1.0 + sigma * sigma));
        let posterior = sigma * sigma * Self::gain(sigma).0;
        if next == 0.0 { 0.0 } else { (1.0 + (1.0 - ratio).powi(2) * posterior / small).ln() / (large / small).ln() }
    }
}

impl Denoiser for Correlated {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let (own, other) = Self::gain(sigma);
        Ok(((x * own)? + (x.flip(&[3])? * other)?)?)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let variance = Some(x.affine(0.0, self.fraction(sigma))?);
        Ok(Estimate { denoised: self.denoise(x, sigma)?, variance, squared_error: None, guidance: None })
    }
}

pub(super) fn pixels(rows: &[[f64; 2]]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), 1, 1, 2), &Device::Cpu).unwrap()
}

/// The first pixel is known to be 1.5; the second's truth is mean 1.35, variance .19. Replacement with one fixed noise
/// gives these instead (methods.md 2.6; digits from an independent float64 recursion in numpy). Read off by impulses:
/// batch entry 0 is the base, 1 the start of pixel two, 2 the fixed noise of pixel one, 3.. each draw.
#[test]
fn replacement_with_fixed_noise_has_the_listed_bias() {
    let schedule = NoiseSchedule::new(Betas::Linear { start: 1e-4, end: 0.02 }, 1000, false).unwrap();
    for (steps, mean, variance) in [(50, 0.903_503_94, 0.430_192_26), (250, 0.933_076_37, 0.408_158_24)] {
        let sigmas = Spacing::Linspace.sigmas(&schedule, steps).unwrap();
        let entries = steps + 2;
        let impulse = |at: usize, pixel: usize| {
            let mut rows = vec![[0.0; 2]; entries];
            rows[at][pixel] = 1.0;
            rows
        };
        let mut known = vec![[0.0; 2]; entries];
        known[0] = [1.5, 0.0];
        let mask = Tensor::from_slice(&[0.0, 1.0], (1, 1, 1, 2), &Device::Cpu).unwrap();
        let model = Correlated { sigmas: sigmas.clone() };
        let inpaint = Inpaint::new(model, &pixels(&known), &mask, &pixels(&impulse(2, 0)));

        let mut draws = Rows::new((0..steps - 1).map(|i| impulse(i + 3, 1).concat()).collect());
        let sampler = Sampler::Ddpm { variance: Variance::LearnedRange };
        let end = sampler.run(&inpaint, pixels(&impulse(1, 1)), &sigmas, &mut draws, &mut |_| Ok(())).unwrap();
        let second: Vec<f64> = values(&end).chunks(2).map(|pixels| pixels[1]).collect();
        let start = second[1].powi(2) * (1.0 + sigmas[0].powi(2));
        let spread: f64 = second[2..].iter().map(|g| g * g).sum();
        assert_close(&[second[0], start + spread], &[mean, variance], 1e-7);
    }
}

#[test]
fn the_kept_part_is_kept_exactly_and_a_full_mask_changes_nothing() {
    let sigmas = [10.0, 3.0, 1.0, 0.3, 0.0];
    let known = Tensor::from_slice(&[0.3, -1.5, 2.0, 0.1], (1, 1, 2, 2), &Device::Cpu).unwrap();
    let noise = Tensor::from_slice(&[0.7, -0.2, 1.1, -2.0], (1, 1, 2, 2), &Device::Cpu).unwrap();
    let start = Tensor::from_slice(&[4.0, -9.0, 2.0, 11.0], (1, 1, 2, 2), &Device::Cpu).unwrap();
    for sampler in Sampler::ALL {
        let walk = |denoiser: &dyn Denoiser| {
            let mut noise = SeededNoise::new(NoiseKind::Philox, &[1]);
            values(&sampler.run(denoiser, start.clone(), &sigmas, &mut noise, &mut |_| Ok(())).unwrap())
        };
        let masked = |mask: [f64; 4]| {
            let mask = Tensor::from_slice(&mask, (1, 1, 2, 2), &Device::Cpu).unwrap();
            walk(&Inpaint::new(&Mixture, &known, &mask, &noise))
        };
        let half = masked([0.0, 1.0, 0.0, 1.0]);
        // Multistep methods come there by rounding.
        assert_close(&[half[0], half[2]], &[0.3, 2.0], 1e-12);
        assert_eq!(masked([1.0; 4]), walk(&Mixture), "{sampler}");
    }
}

/// Elements of the mixture are independent, so a mask over some must not move the others at all.
#[test]
fn independent_pixels_do_not_feel_the_mask() {
    let sigmas = [10.0, 3.0, 1.0, 0.3, 0.0];
    let x = Tensor::from_slice(&[4.0, -9.0], (1, 1, 1, 2), &Device::Cpu).unwrap();
    let mask = Tensor::from_slice(&[0.0, 1.0], (1, 1, 1, 2), &Device::Cpu).unwrap();
    let inpaint = Inpaint::new(&Mixture, &x.zeros_like().unwrap(), &mask, &x);
    let plain = values(&run_ode(Sampler::Dpmpp2m, &Mixture, x.clone(), &sigmas));
    assert_eq!(values(&run_ode(Sampler::Dpmpp2m, &inpaint, x, &sigmas))[1], plain[1]);
}

/// Mean and variance of the second pixel by replacement with fresh noise, walked down as `resampling` says. Impulses: entry
/// 0 of the batch is the base, 1 the start, then each draw of pixel two, then each of pixel one in the known picture.
fn second_pixel_by_replacement(steps: usize, resampling: Resampling) -> [f64; 2] {
    let schedule = NoiseSchedule::new(Betas::Linear { start: 1e-4, end: 0.02 }, 1000, false).unwrap();
    let sigmas = Spacing::Linspace.sigmas(&schedule, steps).unwrap();
    let calls = resampling.steps(steps);
    // More than are drawn: the last step of every walk to zero draws nothing.
    let entries = 2 + 2 * calls + steps;
    let row = |at: usize, pixel: usize| {
        let mut rows = vec![0.0; 2 * entries];
        rows[2 * at + pixel] = 1.0;
        rows
    };
    let mut known = vec![[0.0; 2]; entries];
    known[0] = [1.5, 0.0];
    let mask = Tensor::from_slice(&[0.0, 1.0], (1, 1, 1, 2), &Device::Cpu).unwrap();
    let fresh = Rows::new((0..calls).map(|i| row(2 + i, 0)).collect());
    let model = Correlated { sigmas: sigmas.clone() };
    let inpaint = Inpaint::replacing(model, &pixels(&known), &mask, Box::new(fresh));
    let mut draws = Rows::new((0..calls + steps).map(|i| row(2 + calls + i, 1)).collect());
    let start = Tensor::from_vec(row(1, 1), (entries, 1, 1, 2), &Device::Cpu).unwrap();
    let sampler = Sampler::Ddpm { variance: Variance::LearnedRange };
    let end = resampling.run(&sampler, &inpaint, start, &sigmas, &mut draws, &mut |_| Ok(())).unwrap();
    let second: Vec<f64> = values(&end).chunks(2).map(|pixels| pixels[1]).collect();
    let start = second[1].powi(2) * (1.0 + sigmas[0].powi(2));
    [second[0], start + second[2..].iter().map(|g| g * g).sum::<f64>()]
}

/// methods.md 2.6: fresh noise has the same bias of the mean as one noise for all levels, and less variance; going back
/// brings both towards the truth, mean 1.35 and variance .19.
#[test]
fn resampling_takes_the_bias_from_replacement() {
    for (steps, jump, times, mean, variance) in
        [(50, 10, 1, 0.904, 0.335), (250, 10, 1, 0.933, 0.315), (250, 10, 2, 1.141, 0.247), (250, 10, 5, 1.276, 0.212)]
    {
        assert_close(&second_pixel_by_replacement(steps, Resampling { jump, times }), &[mean, variance], 1e-3);
    }
}

/// A pixel of strength .5 is held for the first half of the steps, one of 1 never, one of 0 always.
#[test]
fn every_pixel_is_redrawn_for_its_own_share_of_the_steps() {
    let ladder = [8.0, 4.0, 2.0, 1.0, 0.0];
    let strengths = Tensor::from_slice(&[0.0, 0.25, 0.5, 1.0], (1, 1, 1, 4), &Device::Cpu).unwrap();
    let known = Tensor::from_slice(&[9.0; 4], (1, 1, 1, 4), &Device::Cpu).unwrap();
    let zeros = known.zeros_like().unwrap();
    let gaussian = super::analytic::Gaussian { mean: 0.0, variance: 0.0 };
    let soft = Inpaint::soft(gaussian, &known, Strengths::new(&strengths, &ladder), &zeros);
    let seen = ladder.map(|sigma| values(&soft.denoise(&zeros, sigma.max(0.5)).unwrap()));
    let expected = [[9.0, 9.0, 9.0, 0.0], [9.0, 9.0, 9.0, 0.0], [9.0, 9.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]];
    for (found, expected) in seen.iter().zip(expected) {
        assert_eq!(found, &expected);
    }
}
