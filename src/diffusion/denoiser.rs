//! The one trait everything speaks, and the adapter that makes a network speak it.
//!
//! A [`Denoiser`] answers: given `x = x0 + sigma * noise`, what is the clean picture? Samplers, guidance and inpainting
//! know nothing else. [`Preconditioned`] owns both the sampling formula and the training loss of a network, so that
//! they cannot drift apart.

use crate::Result;
use crate::diffusion::errors::SquaredErrors;
use crate::diffusion::schedule::NoiseSchedule;
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// An estimate of the clean picture from a noisy one.
pub trait Denoiser {
    /// `D(x, sigma)`: the expected clean picture, given `x = x0 + sigma * noise`. Shapes: (B, C, H, W) to the same.
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor>;

    /// [`Self::denoise`], and with it how much of the reverse step's variance to use where a model has learned that.
    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        Ok(Estimate { denoised: self.denoise(x, sigma)?, variance: None, squared_error: None, guidance: None })
    }
}

/// What a denoiser knows about the clean picture.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// The expected clean picture, (B, C, H, W).
    pub denoised: Tensor,
    /// Per element: 0 for the smallest sensible variance of a reverse step, 1 for the largest, between them in log
    /// space (Nichol and Dhariwal, arXiv:2102.09672, eq. 15). (B, C, H, W), for models that learned it.
    pub variance: Option<Tensor>,
    /// The mean of `|x0 - D|^2` per element, where it was measured for the model.
    pub squared_error: Option<f64>,
    /// What guidance made `denoised` of, where it asked for both.
    pub guidance: Option<Contrast>,
}

/// Two estimates at one point, (B, C, H, W) all three: what guidance starts from.
#[derive(Debug, Clone)]
pub struct Contrast {
    /// Where they were made.
    pub x: Tensor,
    /// D_u, for the negative prompt or none.
    pub unconditional: Tensor,
    /// D_c, for the prompt, or composed of several.
    pub conditional: Tensor,
}

impl<D: Denoiser + ?Sized> Denoiser for &D {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        (**self).denoise(x, sigma)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        (**self).estimate(x, sigma)
    }
}

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        (**self).denoise(x, sigma)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        (**self).estimate(x, sigma)
    }
}

/// A network with its conditioning already in hand.
pub trait Network {
    /// What the network was trained to predict. `x`: (B, C, H, W), already scaled to unit variance; `t`: (B,) f32, one
    /// time per sample, fractional. Returns (B, C, H, W), or (B, 2C, H, W) where it also predicts a variance.
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor>;
}

impl<N: Network + ?Sized> Network for &N {
    fn predict(&self, x: &Tensor, t: &Tensor) -> Result<Tensor> {
        (**self).predict(x, t)
    }
}

/// What a network predicts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prediction {
    /// The noise (DDPM, arXiv:2006.11239).
    Epsilon,
    /// `a * noise - s * x0` with `a^2 + s^2 = 1` (Salimans and Ho, arXiv:2202.00512).
    Velocity,
    /// The clean picture.
    Clean,
    /// EDM's mixture of picture and noise (Karras et al., arXiv:2206.00364, table 1).
    Edm {
        /// The standard deviation of the data; 0.5 in the paper.
        sigma_data: f64,
    },
}

/// `D = skip * x + out * F(input * x)`, and the target `F* = clean * x0 + noise * n` that follows from it.
#[derive(Debug, Clone, Copy)]
struct Scalings {
    input: f64,
    skip: f64,
    out: f64,
    clean: f64,
    noise: f64,
}

impl Prediction {
    /// Written out in simplified form: `clean = (1 - skip) / out` and `noise = -skip * sigma / out`, without the
    /// differences that cancel at either end of the range of sigma.
    fn scalings(self, sigma: f64) -> Scalings {
        let spread = |data: f64| sigma.hypot(data);
        match self {
            Self::Epsilon => Scalings { input: 1.0 / spread(1.0), skip: 1.0, out: -sigma, clean: 0.0, noise: 1.0 },
            Self::Velocity => {
                let a = 1.0 / spread(1.0);
                Scalings { input: a, skip: a * a, out: -sigma * a, clean: -sigma * a, noise: a }
            }
            Self::Clean => Scalings { input: 1.0 / spread(1.0), skip: 0.0, out: 1.0, clean: 1.0, noise: 0.0 },
            Self::Edm { sigma_data } => {
                let a = 1.0 / spread(sigma_data);
                let (share, ratio) = (sigma_data * a, sigma * a);
                let (skip, out) = (share * share, sigma * share);
                Scalings { input: a, skip, out, clean: ratio / sigma_data, noise: -share }
            }
        }
    }
}

/// A network, what it predicts, and the schedule that it was trained with: a [`Denoiser`] that can be trained.
#[derive(Debug, Clone)]
pub struct Preconditioned<N> {
    network: N,
    prediction: Prediction,
    schedule: NoiseSchedule,
    errors: Option<Arc<SquaredErrors>>,
}

impl<N: Network> Preconditioned<N> {
    /// Joins a network with its conventions. The schedule turns sigma into the network's time (EDM networks take
    /// `ln(sigma) / 4` instead) and gives the ELBO its measure.
    pub fn new(network: N, prediction: Prediction, schedule: NoiseSchedule) -> Self {
        Self { network, prediction, schedule, errors: None }
    }

    /// The same, which knows how much it errs.
    #[must_use]
    pub fn erring(self, errors: Option<Arc<SquaredErrors>>) -> Self {
        Self { errors, ..self }
    }

    /// The network inside.
    pub fn network(&self) -> &N {
        &self.network
    }

    fn time(&self, sigma: f64) -> f32 {
        match self.prediction {
            Prediction::Edm { .. } => (sigma.ln() / 4.0) as f32,
            _ => self.schedule.t(sigma) as f32,
        }
    }

    /// The network's answer in `x`'s dtype. A variance, where there is one, comes apart as the second half.
    fn predict(&self, x: &Tensor, sigmas: &[f64]) -> Result<(Tensor, Option<Tensor>)> {
        let times: Vec<f32> = sigmas.iter().map(|sigma| self.time(*sigma)).collect();
        let t = Tensor::from_vec(times, sigmas.len(), x.device())?;
        let scaled = x.broadcast_mul(&self.column(sigmas, x, |s| s.input)?)?;
        let output = self.network.predict(&scaled, &t)?.to_dtype(x.dtype())?;
        let channels = x.dim(1)?;
        if output.dim(1)? != 2 * channels {
            return Ok((output, None));
        }
        let variance = output.narrow(1, channels, channels)?.affine(0.5, 0.5)?;
        Ok((output.narrow(1, 0, channels)?, Some(variance)))
    }

    /// One coefficient per sample, shaped (B, 1, .., 1) to meet `like`.
    fn column(&self, sigmas: &[f64], like: &Tensor, coefficient: impl Fn(Scalings) -> f64) -> Result<Tensor> {
        let values: Vec<f64> = sigmas.iter().map(|sigma| coefficient(self.prediction.scalings(*sigma))).collect();
        column(values, like)
    }
}

fn column(values: Vec<f64>, like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    shape[0] = values.len();
    Ok(Tensor::from_vec(values, shape, &candle_core::Device::Cpu)?.to_dtype(like.dtype())?.to_device(like.device())?)
}

impl<N: Network> Denoiser for Preconditioned<N> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.denoised)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let (output, variance) = self.predict(x, &vec![sigma; x.dim(0)?])?;
        let Scalings { skip, out, .. } = self.prediction.scalings(sigma);
        let squared_error = self.errors.as_ref().map(|errors| errors.at(sigma));
        Ok(Estimate { denoised: ((x * skip)? + (output * out)?)?, variance, squared_error, guidance: None })
    }
}

/// How the noise levels count against each other in training.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Weighting {
    /// Every noise level alike, in the units of the network's own target: DDPM's `L_simple`, EDM's loss.
    #[default]
    Simple,
    /// As in the evidence lower bound: `L_simple` per unit of ln sigma. Better likelihood, not better pictures.
    Elbo,
    /// `min(SNR, gamma)` on the error of the clean picture (Hang et al., arXiv:2303.09556; gamma 5).
    MinSnr {
        /// Where the weight stops growing with the signal-to-noise ratio.
        gamma: f64,
    },
    /// `min(SNR, gamma) + 1` on the error of the clean picture: min-SNR, and the 1 by which the loss of velocity prediction
    /// exceeds that of noise prediction (Salimans and Ho, arXiv:2202.00512, section 4). Where noise is strong a picture
    /// can be told by its text alone, and with the other weights that counts for next to nothing.
    Balanced {
        /// Where the weight stops growing with the signal-to-noise ratio.
        gamma: f64,
    },
}

/// The denoising-score-matching loss of a batch.
#[derive(Debug, Clone)]
pub struct Loss {
    /// What to differentiate: a scalar, the mean over the batch under the weighting asked for.
    pub objective: Tensor,
    /// The mean squared error of the network's own target, whatever the weighting.
    pub simple: f64,
    /// The diffusion term of the negative evidence lower bound, in bits per dimension of the data: its continuous-time
    /// form `1/2 * integral of |noise - predicted|^2 d(-ln SNR)` (Kingma et al., arXiv:2107.00630). An unbiased
    /// estimate when the sigmas are those of uniformly drawn times; prior and reconstruction terms are not in it.
    pub elbo: f64,
    /// Each sample's own estimate of that, in nats.
    pub nats: Vec<f64>,
}

impl<N: Network> Preconditioned<N> {
    /// The loss on a batch: `clean` and `noise` are (B, C, H, W), `sigmas` holds one noise level per sample.
    pub fn loss(&self, clean: &Tensor, noise: &Tensor, sigmas: &[f64], weighting: Weighting) -> Result<Loss> {
        let noisy = (clean + noise.broadcast_mul(&column(sigmas.to_vec(), noise)?)?)?;
        let target = (clean.broadcast_mul(&self.column(sigmas, clean, |s| s.clean)?)?
            + noise.broadcast_mul(&self.column(sigmas, noise, |s| s.noise)?)?)?;
        let (output, _) = self.predict(&noisy, sigmas)?;
        let errors = (output - target)?.sqr()?.flatten_from(1)?.mean(1)?;

        let weights = sigmas.iter().map(|sigma| self.weight(*sigma, weighting)).collect();
        let objective = (&errors * column(weights, &errors)?)?.mean_all()?;
        let errors = errors.detach().to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let nats = errors.iter().zip(sigmas).map(|(error, sigma)| error * self.weight(*sigma, Weighting::Elbo));
        let nats: Vec<f64> = nats.collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        Ok(Loss { objective, simple: mean(&errors), elbo: mean(&nats) / std::f64::consts::LN_2, nats })
    }

    /// The weight of the error of the network's target. That error is the clean picture's error over `out`, so each
    /// published weight is one on `|x0 - D|^2` times `out^2`.
    fn weight(&self, sigma: f64, weighting: Weighting) -> f64 {
        let snr = sigma.powi(-2);
        let out = self.prediction.scalings(sigma).out;
        match weighting {
            Weighting::Simple => 1.0,
            Weighting::MinSnr { gamma } => snr.min(gamma) * out * out,
            Weighting::Balanced { gamma } => (snr.min(gamma) + 1.0) * out * out,
            Weighting::Elbo => {
                let gap = self.schedule.log_sigma_gap(self.schedule.t(sigma));
                self.schedule.steps() as f64 * gap * snr * out * out
            }
        }
    }
}
