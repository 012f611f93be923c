//! Samplers and predictions that are the same thing by different names.

use super::analytic::{Gaussian, Mixture, run_ode};
use super::{assert_close, row, values};
use candle_core::{DType, Device, Tensor};
use limner::Result;
use limner::diffusion::denoiser::{Denoiser, Network, Preconditioned, Prediction};
use limner::diffusion::noise::{NoiseKind, SeededNoise};
use limner::diffusion::sampler::{Churn, Predictor, PredictorCorrector, Sampler, Variance};
use limner::diffusion::schedule::{Betas, NoiseSchedule, Spacing};

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, false).unwrap()
}

fn start() -> Tensor {
    row(&[-30.0, -14.0, -3.0, 0.5, 8.0, 14.6, 22.0])
}

fn walk(sampler: Sampler, sigmas: &[f64]) -> Vec<f64> {
    let mut noise = SeededNoise::new(NoiseKind::Philox, &[5]);
    values(&sampler.run(&Mixture, start(), sigmas, &mut noise, &mut |_| Ok(())).unwrap())
}

#[test]
fn euler_a_is_ddpm_with_small_variance_and_ddim_with_eta_1_path_by_path() {
    for steps in [1, 3, 20] {
        let sigmas = Spacing::Trailing.sigmas(&schedule(), steps).unwrap();
        let ddpm = walk(Sampler::Ddpm { variance: Variance::FixedSmall }, &sigmas);
        assert_close(&walk(Sampler::EulerA { eta: 1.0 }, &sigmas), &ddpm, 1e-12);
        assert_close(&walk(Sampler::Ddim { eta: 1.0 }, &sigmas), &ddpm, 1e-12);
    }
}

/// The reverse SDE of VE by its ancestral predictor, and of VP by the reverse diffusion that DDPM's larger variance is.
#[test]
fn ancestral_sampling_of_ve_is_euler_a_path_by_path() {
    for steps in [1, 3, 20] {
        let sigmas = Spacing::Karras.sigmas(&schedule(), steps).unwrap();
        let method = PredictorCorrector { predictor: Predictor::Ancestral, ..PredictorCorrector::PREDICTOR };
        let ancestral = walk(Sampler::PredictorCorrector { method }, &sigmas);
        assert_close(&walk(Sampler::EulerA { eta: 1.0 }, &sigmas), &ancestral, 1e-12);
    }
}

#[test]
fn euler_is_ddim_with_eta_0_and_euler_a_without_noise() {
    for steps in [1, 3, 20] {
        let sigmas = Spacing::Karras.sigmas(&schedule(), steps).unwrap();
        let euler = walk(Sampler::Euler { churn: Churn::NONE }, &sigmas);
        assert_close(&walk(Sampler::Ddim { eta: 0.0 }, &sigmas), &euler, 1e-12);
        assert_close(&walk(Sampler::EulerA { eta: 0.0 }, &sigmas), &euler, 1e-12);
    }
}

#[test]
fn one_step_gives_the_clean_estimate_for_every_sampler() {
    let denoised = values(&Mixture.denoise(&start(), 14.6).unwrap());
    // Langevin steps move before they denoise.
    let moves = |sampler: &Sampler| matches!(sampler, Sampler::Langevin { .. } | Sampler::PredictorCorrector { .. });
    for sampler in Sampler::ALL.into_iter().filter(|sampler| !moves(sampler)) {
        assert_close(&walk(sampler, &[14.6, 0.0]), &denoised, 1e-12);
    }
}

/// What a perfect network of each kind would answer for the mixture: `F = (D - skip x) / out`, from its definition.
struct Perfect(Prediction);

impl Network for Perfect {
    fn predict(&self, input: &Tensor, t: &Tensor) -> Result<Tensor> {
        let t = f64::from(t.to_vec1::<f32>()?[0]);
        let answer = |x: f64| match self.0 {
            Prediction::Edm { sigma_data } => {
                let sigma = (4.0 * t).exp();
                let noisy = x * sigma.hypot(sigma_data);
                let skip = sigma_data.powi(2) / (sigma * sigma + sigma_data * sigma_data);
                (Mixture::denoised(noisy, sigma) - skip * noisy) * sigma.hypot(sigma_data) / (sigma * sigma_data)
            }
            vp => {
                let sigma = schedule().sigma(t);
                let (a, s) = (1.0 / sigma.hypot(1.0), sigma / sigma.hypot(1.0));
                let clean = Mixture::denoised(x / a, sigma);
                let noise = (x - a * clean) / s;
                match vp {
                    Prediction::Epsilon => noise,
                    Prediction::Velocity => a * noise - s * clean,
                    _ => clean,
                }
            }
        };
        Ok(Tensor::from_vec(values(input).into_iter().map(answer).collect::<Vec<_>>(), input.shape(), input.device())?)
    }
}

#[test]
fn noise_velocity_clean_and_edm_predictions_denoise_alike() {
    let edm = Prediction::Edm { sigma_data: 0.5 };
    for prediction in [Prediction::Epsilon, Prediction::Velocity, Prediction::Clean, edm] {
        let network = Preconditioned::new(Perfect(prediction), prediction, schedule());
        // Whole times, which f32 carries exactly; EDM's ln(sigma)/4 it does not.
        let tolerance = if prediction == edm { 1e-5 } else { 1e-9 };
        for t in [0.0, 40.0, 500.0, 999.0] {
            let sigma = schedule().sigma(t);
            let found = values(&network.denoise(&start(), sigma).unwrap());
            assert_close(&found, &values(&Mixture.denoise(&start(), sigma).unwrap()), tolerance);
        }
    }
}

#[test]
fn velocity_and_noise_predictions_walk_the_same_path() {
    let sigmas = Spacing::Trailing.sigmas(&schedule(), 20).unwrap();
    let walk = |prediction| {
        let denoiser = Preconditioned::new(Perfect(prediction), prediction, schedule());
        values(&run_ode(Sampler::Dpmpp2m, &denoiser, start(), &sigmas))
    };
    assert_close(&walk(Prediction::Velocity), &walk(Prediction::Epsilon), 1e-9);
}

/// At the top the estimate is the data's mean: "the network outputs the average training image".
#[test]
fn pure_noise_denoises_to_the_mean() {
    let data = Gaussian { mean: 0.7, variance: 0.25 };
    assert_close(&values(&data.denoise(&start(), 4096.0).unwrap()), &[0.7; 7], 1e-6);
}

/// f32 walks follow f64 ones, from a first sigma of 4096 (zero terminal SNR) too.
#[test]
fn single_precision_follows_double() {
    let zero_snr = NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, true).unwrap();
    let data = Gaussian { mean: 0.7, variance: 0.25 };
    let schedules = [schedule(), zero_snr];
    for (schedule, sampler) in schedules.iter().flat_map(|s| Sampler::ALL.map(|sampler| (s, sampler))) {
        let sigmas = Spacing::Trailing.sigmas(schedule, 20).unwrap();
        let unit = Tensor::from_slice(&[-1.3, 0.2, 0.9], (1, 1, 1, 3), &Device::Cpu).unwrap();
        let walk = |dtype: DType| {
            let mut noise = SeededNoise::new(NoiseKind::Philox, &[5]);
            let x = (&unit * sigmas[0]).unwrap().to_dtype(dtype).unwrap();
            let end = sampler.run(&data, x, &sigmas, &mut noise, &mut |_| Ok(())).unwrap();
            assert_eq!(end.dtype(), dtype);
            values(&end.to_dtype(DType::F64).unwrap())
        };
        let (single, double) = (walk(DType::F32), walk(DType::F64));
        let scale = double.iter().fold(1.0f64, |most, x| most.max(x.abs()));
        assert_close(&single, &double, 2e-5 * scale);
    }
}
