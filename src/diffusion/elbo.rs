//! The evidence lower bound of a diffusion model, term by term: how many bits each noise level costs, and how good the
//! picture is that these bits give.
//!
//! A diffusion model is a hierarchical variational autoencoder whose encoder is fixed: noise. `-ln p(x0)` is at most
//! `L_T + sum of L_(t-1) + L_0` (Ho et al., arXiv:2006.11239, eq. 5), in expectation over the noise.

mod bins;
mod chain;
mod continuous;

pub(crate) use bins::BIN;
pub use bins::nats_of_byte;
pub use chain::{Chain, ReverseVariance, levels};
pub use continuous::diffusion_term;

use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::noise::NoiseSource;
use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use std::f64::consts::LN_2;

/// What the elements of a picture are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Bytes, 0 to 255 as -1 to 1: the last step has to give the right one.
    Bytes,
    /// Real numbers, latents: the bound is one of a density.
    Real,
}

/// One noise level's part of the bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Term {
    /// The noise level from which the step goes down.
    pub sigma: f64,
    /// What it costs, in bits per dimension.
    pub bits_per_dim: f64,
    /// The mean of `|x0 - D|^2` per element at this level, in units of the model's space.
    pub squared_error: f64,
}

/// The bound on `-log2 p(x0)` of one picture, in bits per dimension of the space that the model works in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Elbo {
    /// `L_T`.
    pub prior: f64,
    /// `L_(t-1)` from the highest noise level down; the last, at the lowest level, is `L_0`.
    pub terms: Vec<Term>,
}

/// A point of the rate-distortion curve: a picture that is sent down to this noise level costs so many bits, and looks
/// like the clean estimate there (Ho et al., section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RateDistortion {
    /// The noise level.
    pub sigma: f64,
    /// Bits per dimension up to here.
    pub rate: f64,
    /// Root of the mean squared error of the clean estimate, in units of the model's space.
    pub distortion: f64,
}

impl Elbo {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.prior + self.terms.iter().map(|term| term.bits_per_dim).sum::<f64>()
    }

    /// From nothing sent to everything but the last step.
    pub fn rate_distortion(&self) -> Vec<RateDistortion> {
        let sent = self.terms.iter().scan(self.prior, |rate, term| {
            let point = RateDistortion { sigma: term.sigma, rate: *rate, distortion: term.squared_error.sqrt() };
            *rate += term.bits_per_dim;
            Some(point)
        });
        sent.collect()
    }
}

/// The bound of one picture, (1, C, H, W), with one draw of noise for each level of `chain`, from the highest down.
/// `on_level` hears of each level how many are done, and ends the work by returning an error.
pub fn elbo(
    denoiser: &dyn Denoiser,
    chain: &Chain,
    picture: &Tensor,
    values: Values,
    noise: &mut dyn NoiseSource,
    on_level: &mut dyn FnMut(usize, f64) -> Result<()>,
) -> Result<Elbo> {
    let clean = numbers(picture)?;
    let mean_square = clean.iter().map(|x| x * x).sum::<f64>() / clean.len() as f64;
    let mut terms = Vec::with_capacity(chain.sigmas().len());
    for (t, &sigma) in chain.sigmas().iter().enumerate().rev() {
        let fresh = noise.normal(picture.shape(), picture.dtype(), picture.device())?;
        let denoised = numbers(&denoiser.denoise(&(picture + (fresh * sigma)?)?, sigma)?)?;
        let squared_error = mean_squared_error(&clean, &denoised);
        let nats = match (t, values) {
            (0, Values::Real) => chain.reconstruction(squared_error),
            (0, Values::Bytes) => nats_of_bytes(&clean, &denoised, chain.decoder_deviation()),
            _ => chain.step(t, squared_error),
        };
        terms.push(Term { sigma, bits_per_dim: nats / LN_2, squared_error });
        on_level(terms.len(), sigma)?;
    }
    Ok(Elbo { prior: chain.prior(mean_square) / LN_2, terms })
}

/// The mean of [`nats_of_byte`] over all elements.
pub fn nats_of_bytes(clean: &[f64], means: &[f64], deviation: f64) -> f64 {
    let nats = clean.iter().zip(means).map(|(value, mean)| nats_of_byte(*value, *mean, deviation));
    nats.sum::<f64>() / clean.len() as f64
}

fn mean_squared_error(clean: &[f64], denoised: &[f64]) -> f64 {
    clean.iter().zip(denoised).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / clean.len() as f64
}

/// All elements, in f64.
pub(crate) fn numbers(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?)
}
