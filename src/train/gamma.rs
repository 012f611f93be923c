//! A forward process that is learned: gamma(t) = ln sigma^2, the logarithm of noise over signal, as a monotone network.
//!
//! `gamma~(t) = l1(t) + l3(sigmoid(l2(l1(t))))`, three linear layers whose weights are positive, shifted and scaled to fixed
//! ends (Kingma et al., arXiv:2107.00630, appendix H). The ends stay those of the schedule that it replaces, so that
//! bounds can be compared: what they cost, `L_T` and `L_0`, does not change.
//!
//! **What it is trained for.** In continuous time the bound's diffusion term is an integral over gamma, of half the
//! network's squared error, and the way between the ends does not change it. It changes how far its estimate at one
//! uniform t scatters, `L = 1/2 gamma'(t) |n - n^|^2` (appendix I.2). With `p = dt/dgamma`, the density of drawn gammas,
//!
//! ```text
//! E[L]   = 1/2 integral of E|n - n^|^2 dgamma
//! E[L^2] = 1/4 integral of E|n - n^|^4 / p dgamma,   so   d E[L^2] = -E[L^2 d ln p(gamma)]
//! ```
//!
//! with the derivative of p taken at a gamma that stays where it was drawn. The paper lets t stay, and needs the derivative
//! of the network's error for that; both are the same integral by parts, and here nothing is neglected and the error is a
//! plain number. Divided by E[L^2], this is maximum likelihood for the drawn levels, each with the weight `L^2 / sum L^2`.
//! From that 1/n is taken, since `E[d ln p] = 0`: where all estimates are equal, nothing pulls. (A batch's own sum in the
//! place of E[L^2] tilts the gradient by a share that falls as 1/n.) The least E[L^2] has `p ~ sqrt(E|n - n^|^4)`: then
//! L's root mean square is the same at all times.

use crate::Result;
use crate::diffusion::schedule::NoiseSchedule;
use candle_core::{DType, Device, Tensor};
use candle_nn::ops::sigmoid;
use candle_nn::{Init, VarBuilder};

/// Units of the hidden layer: the paper's.
const UNITS: usize = 1024;
/// How sharp their sigmoids are at first, on the way from t = 0 to 1; there are some for every place on it.
const SHARPNESS: f64 = 10.0;
/// Parameters are kept in units of this many. An update of Adam is as large as the learning rate, whatever the gradient; one
/// that suits a U-Net would leave this network where it is.
const UNIT: f64 = 30.0;
/// Scale of the objective. Adam does not feel it, and it keeps this gradient out of the norm that the U-Net's is clipped to.
const SHARE: f64 = 1e-3;

/// gamma(t) for t from 0 to 1. All tensors are f64.
#[derive(Debug)]
pub struct Gamma {
    /// Weight and bias of l1, (1,).
    first: (Tensor, Tensor),
    /// Weights and biases of l2, (units,).
    second: (Tensor, Tensor),
    /// Weights of l3, (units,); its bias would change nothing.
    third: Tensor,
    /// gamma(0) and gamma(1).
    ends: (f64, f64),
}

/// A function of time and its first two derivatives, each (N,).
#[derive(Debug)]
pub struct Curve {
    /// gamma.
    pub value: Tensor,
    /// gamma', above 0.
    pub slope: Tensor,
    /// gamma''.
    pub bend: Tensor,
}

impl Gamma {
    /// The network with the variables of `vb` and the ends of `schedule`. It begins near a straight line.
    pub fn new(vb: &VarBuilder<'_>, schedule: &NoiseSchedule) -> Result<Self> {
        let variable = |name: &str, n: usize, first: Init| -> Result<Tensor> {
            Ok((vb.get_with_hints(n, name, first)?.to_dtype(DType::F64)? * UNIT)?)
        };
        // Kept as logarithms: positive, and moved by shares of themselves.
        let weights = |name: &str, n: usize, first: f64| -> Result<Tensor> {
            Ok(variable(name, n, Init::Const(first.ln() / UNIT))?.exp()?)
        };
        // Where each sigmoid is a half: evenly from a fifth before the way to a fifth behind it.
        let places = Init::Uniform { lo: -1.2 * SHARPNESS / UNIT, up: 0.2 * SHARPNESS / UNIT };
        Ok(Self {
            first: (weights("l1.weight", 1, 1.0)?, variable("l1.bias", 1, Init::Const(0.0))?),
            second: (weights("l2.weight", UNITS, SHARPNESS)?, variable("l2.bias", UNITS, places)?),
            third: weights("l3.weight", UNITS, 1.0 / UNITS as f64)?,
            ends: (2.0 * schedule.sigma_min().ln(), 2.0 * schedule.sigma_max().ln()),
        })
    }

    /// gamma~ and its derivatives, in closed form.
    fn unscaled(&self, times: &Tensor) -> Result<Curve> {
        let ((w1, b1), (w2, b2)) = (&self.first, &self.second);
        let sum = |each: &Tensor, weights: &Tensor| each.matmul(&weights.unsqueeze(1)?)?.squeeze(1);
        let line = times.broadcast_mul(w1)?.broadcast_add(b1)?;
        let each = sigmoid(&line.unsqueeze(1)?.broadcast_mul(w2)?.broadcast_add(b2)?)?; // (N, units)
        let rising = (&each * each.affine(-1.0, 1.0)?)?;
        let bending = (&rising * each.affine(-2.0, 1.0)?)?;
        let (by_slope, by_bend) = ((&self.third * w2)?, (&self.third * w2.sqr()?)?);
        Ok(Curve {
            value: (line + sum(&each, &self.third)?)?,
            slope: (sum(&rising, &by_slope)? + 1.0)?.broadcast_mul(w1)?,
            bend: sum(&bending, &by_bend)?.broadcast_mul(&w1.sqr()?)?,
        })
    }

    /// gamma and its derivatives at `times`, (N,) in f64.
    pub fn at(&self, times: &Tensor) -> Result<Curve> {
        let ends = self.unscaled(&Tensor::new(&[0f64, 1.0], times.device())?)?.value;
        let (start, end) = (ends.narrow(0, 0, 1)?, ends.narrow(0, 1, 1)?);
        let scale = (end - &start)?.recip()?.affine(self.ends.1 - self.ends.0, 0.0)?;
        let Curve { value, slope, bend } = self.unscaled(times)?;
        Ok(Curve {
            value: (value.broadcast_sub(&start)?.broadcast_mul(&scale)? + self.ends.0)?,
            slope: slope.broadcast_mul(&scale)?,
            bend: bend.broadcast_mul(&scale)?,
        })
    }

    /// The table of this process at `steps` evenly spaced times.
    pub fn schedule(&self, steps: usize) -> Result<NoiseSchedule> {
        let times: Vec<f64> = (0..steps).map(|i| i as f64 / (steps - 1) as f64).collect();
        let gammas = self.at(&Tensor::from_vec(times, steps, &Device::Cpu)?)?.value.to_vec1::<f64>()?;
        NoiseSchedule::from_log_sigmas(gammas.iter().map(|gamma| gamma / 2.0).collect())
    }

    /// A differentiable scalar, f32, whose gradient is that of ln E[L^2], scaled: from each sample's time, 0 to 1, and its
    /// estimate L. Its value means nothing.
    pub fn objective(&self, times: &[f64], estimates: &[f64]) -> Result<Tensor> {
        let n = times.len();
        let squares: f64 = estimates.iter().map(|estimate| estimate * estimate).sum();
        let weights = estimates.iter().map(|estimate| estimate * estimate / squares - 1.0 / n as f64).collect();
        let Curve { value, slope, bend } = self.at(&Tensor::from_slice(times, n, &Device::Cpu)?)?;
        // -ln p(gamma) = ln gamma'(t). Where gamma stays, t moves by -d gamma / gamma', and ln gamma' by gamma'' / gamma' of
        // that besides.
        let moving = (bend / slope.sqr()?)?.detach();
        let surprise = (slope.log()? - (moving * value)?)?;
        let sum = (surprise * Tensor::from_vec(weights, n, &Device::Cpu)?)?.sum_all()?;
        Ok((sum * SHARE)?.to_dtype(DType::F32)?)
    }
}

/// How far estimates scatter: their standard deviation, relative to their mean.
pub fn spread(estimates: &[f64]) -> f64 {
    let mean = |of: &dyn Fn(f64) -> f64| estimates.iter().map(|e| of(*e)).sum::<f64>() / estimates.len() as f64;
    (mean(&|e| e * e) / mean(&|e| e).powi(2) - 1.0).max(0.0).sqrt()
}

#[cfg(test)]
mod tests;
