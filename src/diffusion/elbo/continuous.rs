//! The bound in continuous time: its diffusion term as an integral over noise levels, and estimates of it.

use super::{mean_squared_error, numbers};
use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::noise::NoiseSource;
use crate::diffusion::schedule::NoiseSchedule;
use candle_core::Tensor;
use std::f64::consts::LN_2;

/// An estimate of the diffusion term of a picture, (1, C, H, W), in bits per dimension, from one noise level: that at `time`,
/// from 0 to 1. `1/2 dgamma/dt |x0 - D|^2 / sigma^2` (Kingma et al., arXiv:2107.00630, eq. 14); its mean over uniform times
/// is `integral of |x0 - D|^2 / sigma^2 d ln sigma` from one end of `schedule` to the other, whatever lies between.
pub fn diffusion_term(
    denoiser: &dyn Denoiser,
    schedule: &NoiseSchedule,
    picture: &Tensor,
    time: f64,
    noise: &mut dyn NoiseSource,
) -> Result<f64> {
    let last = (schedule.steps() - 1) as f64;
    let sigma = schedule.sigma(last * time);
    let fresh = noise.normal(picture.shape(), picture.dtype(), picture.device())?;
    let denoised = denoiser.denoise(&(picture + (fresh * sigma)?)?, sigma)?;
    let error = mean_squared_error(&numbers(picture)?, &numbers(&denoised)?);
    // ln sigma is linear between the table's times: this is its slope there, from the middle of the two.
    let middle = (last * time).floor().min(last - 1.0) + 0.5;
    Ok(last * schedule.log_sigma_gap(middle) * error / (sigma * sigma) / LN_2)
}
