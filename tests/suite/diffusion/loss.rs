//! The denoising-score-matching loss at its known optimum.

use super::assert_close;
use candle_core::{Device, Tensor, Var};
use limner::Result;
use limner::diffusion::denoiser::{Loss, Network, Preconditioned, Prediction, Weighting};
use limner::diffusion::schedule::{Betas, NoiseSchedule};

const MEAN: f64 = 0.7;
const VARIANCE: f64 = 0.25;
const ALL: [Prediction; 4] =
    [Prediction::Epsilon, Prediction::Velocity, Prediction::Clean, Prediction::Edm { sigma_data: 0.5 }];

fn schedule() -> NoiseSchedule {
    NoiseSchedule::new(Betas::STABLE_DIFFUSION, 1000, false).unwrap()
}

/// The optimal network for N(mean, variance), elementwise, times a weight that training could move.
struct Optimal {
    prediction: Prediction,
    variance: f64,
    weight: Tensor,
}

impl Optimal {
    fn new(prediction: Prediction, variance: f64) -> Self {
        Self { prediction, variance, weight: Tensor::new(1f64, &Device::Cpu).unwrap() }
    }

    /// The answer is affine in the input: `gain * input + offset`.
    fn affine(&self, t: f64) -> (f64, f64) {
        let data = if let Prediction::Edm { sigma_data } = self.prediction { sigma_data } else { 1.0 };
        let sigma = if data == 1.0 { schedule().sigma(t) } else { (4.0 * t).exp() };
        let (spread, total) = (sigma.hypot(data), self.variance + sigma * sigma);
        let (gain, offset) = (self.variance * spread / total, sigma * sigma * MEAN / total); // of D in the input
        let (a, s) = (1.0 / spread, sigma / spread);
        match self.prediction {
            Prediction::Clean => (gain, offset),
            Prediction::Epsilon => ((1.0 - a * gain) / s, -a * offset / s),
            Prediction::Velocity => ((a - gain) / s, -offset / s),
            Prediction::Edm { sigma_data: d } => {
                let out = sigma * d / spread;
                ((gain - d * d / spread) / out, offset / out)
            }
        }
    }
}

impl Network for Optimal {
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        let rows = t.to_vec1::<f32>()?.into_iter().enumerate().map(|(i, t)| {
            let (gain, offset) = self.affine(f64::from(t));
            x.narrow(0, i, 1)?.affine(gain, offset)
        });
        let output = Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        Ok(output.broadcast_mul(&self.weight)?)
    }
}

/// Data and noise at plus and minus one deviation, all four combinations: their second moments are those of the
/// Gaussians, and the error of an affine network has no others. One such picture per noise level.
fn loss(network: &impl Network, prediction: Prediction, variance: f64, sigmas: &[f64], weighting: Weighting) -> Loss {
    let d = f64::sqrt(variance);
    let batch =
        |row: [f64; 4]| Tensor::from_vec(row.repeat(sigmas.len()), (sigmas.len(), 1, 2, 2), &Device::Cpu).unwrap();
    let clean = batch([MEAN + d, MEAN + d, MEAN - d, MEAN - d]);
    let noise = batch([1.0, -1.0, 1.0, -1.0]);
    Preconditioned::new(network, prediction, schedule()).loss(&clean, &noise, sigmas, weighting).unwrap()
}

/// `E|e - e^|^2 / d = a^2 c / (a^2 c + s^2)` (methods.md 2.8), and zero for data that is a point.
#[test]
fn the_loss_of_the_optimal_network() {
    for prediction in ALL {
        for t in [3.0, 250.0, 999.0] {
            let sigma = schedule().sigma(t);
            // The error of the clean picture is c s^2 / (c + s^2); the target's is that over out^2.
            let clean = VARIANCE * sigma * sigma / (VARIANCE + sigma * sigma);
            let out = match prediction {
                Prediction::Epsilon => sigma,
                Prediction::Velocity => sigma / sigma.hypot(1.0),
                Prediction::Clean => 1.0,
                Prediction::Edm { sigma_data } => sigma * sigma_data / sigma.hypot(sigma_data),
            };
            let network = Optimal::new(prediction, VARIANCE);
            let found = loss(&network, prediction, VARIANCE, &[sigma], Weighting::Simple).simple;
            assert_close(&[found / (clean / out / out)], &[1.0], 1e-5);
            let point = loss(&Optimal::new(prediction, 0.0), prediction, 0.0, &[sigma], Weighting::Simple).simple;
            assert_close(&[point], &[0.0], 1e-8);
        }
    }
}

/// min-SNR on the noise `min(5, SNR) / SNR`, on velocity `min(5, SNR) / (SNR + 1)`, on the picture `min(5, SNR)`.
#[test]
fn the_weights_are_the_published_ones() {
    for sigma in [0.1, 0.4, 1.0, 5.0] {
        let snr = 1.0 / (sigma * sigma);
        let least = f64::min(5.0, snr);
        let published = [
            (Prediction::Epsilon, least / snr),
            (Prediction::Velocity, least / (snr + 1.0)),
            (Prediction::Clean, least),
        ];
        for (prediction, weight) in published {
            let network = Optimal::new(prediction, VARIANCE);
            let ratio = |weighting| {
                let loss = loss(&network, prediction, VARIANCE, &[sigma], weighting);
                loss.objective.to_scalar::<f64>().unwrap() / loss.simple
            };
            let balanced = weight * (least + 1.0) / least;
            assert_close(&[ratio(Weighting::MinSnr { gamma: 5.0 })], &[weight], 1e-12 * weight.max(1.0));
            assert_close(&[ratio(Weighting::Balanced { gamma: 5.0 })], &[balanced], 1e-12 * balanced.max(1.0));
        }
    }
}

/// The ELBO's diffusion term of the optimal network is the mutual information between the data and its noisiest form,
/// less than that with its cleanest: `1/2 log2 (1 + c SNR)` between the ends (I-MMSE), whatever is predicted.
#[test]
fn the_elbo_of_the_optimal_network_is_the_information_lost() {
    let sigmas: Vec<f64> = (0..1000).map(|t| schedule().sigma(f64::from(t))).collect();
    let information = |sigma: f64| (VARIANCE / (sigma * sigma)).ln_1p() / 2.0 / std::f64::consts::LN_2;
    let exact = information(schedule().sigma_min()) - information(schedule().sigma_max());
    for prediction in ALL {
        let network = Optimal::new(prediction, VARIANCE);
        let found = loss(&network, prediction, VARIANCE, &sigmas, Weighting::Elbo);
        assert_close(&[found.elbo / exact], &[1.0], 2e-3);
        let nats = found.objective.to_scalar::<f64>().unwrap();
        assert_close(&[nats / std::f64::consts::LN_2], &[found.elbo], 1e-9);
    }
}

#[test]
fn each_sample_has_its_own_noise_level() {
    let network = Optimal::new(Prediction::Epsilon, VARIANCE);
    let at = |sigmas: &[f64]| loss(&network, Prediction::Epsilon, VARIANCE, sigmas, Weighting::Simple).simple;
    let (low, high) = (schedule().sigma(100.0), schedule().sigma(900.0));
    assert_close(&[at(&[low, high])], &[(at(&[low]) + at(&[high])) / 2.0], 1e-12);
}

/// The optimum is where the gradient vanishes, and moving away from it raises the loss.
#[test]
fn the_gradient_vanishes_at_the_optimum_and_only_there() {
    let sigma = schedule().sigma(400.0);
    for prediction in ALL {
        let gradient = |weight: f64| {
            let var = Var::new(weight, &Device::Cpu).unwrap();
            let network = Optimal { weight: var.as_tensor().clone(), ..Optimal::new(prediction, VARIANCE) };
            let objective = loss(&network, prediction, VARIANCE, &[sigma], Weighting::MinSnr { gamma: 5.0 }).objective;
            objective.backward().unwrap().get(&var).unwrap().to_scalar::<f64>().unwrap()
        };
        assert_close(&[gradient(1.0)], &[0.0], 1e-5);
        assert!(gradient(1.1) > 1e-3 && gradient(0.9) < -1e-3, "{prediction:?}");
    }
}
