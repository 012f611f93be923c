//! The exact likelihood of a picture under a diffusion model: its noise's, and how much the flow stretched space on the way
//! there.
//!
//! `ln p(x) = ln N(x_T; 0, V) + d ln(sigma_T / sigma_0) - integral of tr(dD/dx) d ln sigma` along the probability-flow ODE
//! (Song et al., arXiv:2011.13456, section 4.3 and appendix D.2; in these coordinates as k-diffusion's
//! `log_likelihood`). `p` is the density of the model that stops at `sigma_0`. Three things can be wrong with it, and are
//! told apart in tests: what the solver errs by, that noise does not quite have the prior's law, and that the model is a
//! little blurred.

use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::elbo::{BIN, Values, numbers};
use crate::diffusion::flow::{Course, Effort, Flow};
use crate::diffusion::noise::NoiseSource;
use candle_core::{DType, Device, Tensor};
use std::f64::consts::{FRAC_1_SQRT_2, LN_2, TAU};

/// How the trace of the denoiser's Jacobian is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Element by element: as many passes back through the network as a picture has elements.
    Exact,
    /// Skilling's and Hutchinson's estimate with so many probes of random signs, each the same all the way. Unbiased,
    /// and without any error for a diagonal Jacobian; its variance is `sum over i != j of (J_ij + J_ji)^2 / 2` for each.
    Rademacher(usize),
}

/// `ln p` of one picture, in nats, and what it is made of.
#[derive(Debug, Clone)]
pub struct Density {
    /// By each probe; one alone where the trace is exact.
    pub estimates: Vec<f64>,
    /// `ln N(x_T; 0, V)`.
    pub prior: f64,
    /// The picture's noise, at `course.high`.
    pub noise: Tensor,
    /// What it took.
    pub effort: Effort,
}

impl Density {
    /// The mean of all estimates.
    pub fn log_density(&self) -> f64 {
        self.estimates.iter().sum::<f64>() / self.estimates.len() as f64
    }
}

/// The density of a picture, (1, C, H, W), with `prior` for the variance V of noise at `course.high`: for models whose
/// walk begins with `N(0, sigma^2)`, as ours, that is `course.high^2`. Probes are drawn from `noise`.
pub fn log_density(
    denoiser: &dyn Denoiser,
    picture: &Tensor,
    course: Course,
    prior: f64,
    (trace, noise): (Trace, &mut dyn NoiseSource),
    on_step: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<Density> {
    let probes = match trace {
        Trace::Exact => Vec::new(),
        Trace::Rademacher(probes) => (0..probes.max(1)).map(|_| signs(picture, noise)).collect::<Result<_>>()?,
    };
    let (noise, traces, effort) = Flow::new(denoiser, course).encode_with_traces(picture, &probes, on_step)?;
    let elements = picture.elem_count() as f64;
    let squares: f64 = numbers(&noise)?.iter().map(|x| x * x).sum();
    let prior = -0.5 * (elements * (TAU * prior).ln() + squares / prior);
    let stretched = elements * (course.high / course.low).ln();
    let estimates = traces.into_iter().map(|trace| prior + stretched - trace).collect();
    Ok(Density { estimates, prior, noise, effort })
}

/// A vector of random signs, shaped like `x`.
pub fn signs(x: &Tensor, noise: &mut dyn NoiseSource) -> Result<Tensor> {
    let positive = noise.normal(x.shape(), x.dtype(), x.device())?.ge(0.0)?;
    Ok(positive.to_dtype(x.dtype())?.affine(2.0, -1.0)?)
}

/// A picture of bytes, (1, C, H, W) in [-1, 1], spread evenly within its bins (Uria et al., arXiv:1306.0186; Theis et
/// al., arXiv:1511.01844): a density of the result bounds the probability of the bytes, in expectation.
pub fn dequantised(bytes: &Tensor, noise: &mut dyn NoiseSource) -> Result<Tensor> {
    let normal = noise.normal(bytes.shape(), DType::F64, &Device::Cpu)?.flatten_all()?.to_vec1::<f64>()?;
    let uniform = normal.into_iter().map(|z| BIN * (0.5 * libm::erfc(-z * FRAC_1_SQRT_2) - 0.5));
    let offsets = Tensor::from_vec(uniform.collect(), bytes.shape(), &Device::Cpu)?;
    Ok((bytes + offsets.to_dtype(bytes.dtype())?.to_device(bytes.device())?)?)
}

/// `-log2 p` per element: of bytes, whose bins are 2/255 wide, their probability's.
pub fn bits_per_dim(log_density: f64, elements: usize, values: Values) -> f64 {
    let bin = match values {
        Values::Bytes => BIN.log2(),
        Values::Real => 0.0,
    };
    -log_density / (elements as f64 * LN_2) - bin
}
