//! The probability-flow ODE as a map between pictures and noise, in both directions.
//!
//! `dx / d ln sigma = x - D(x, sigma)` (Song et al., arXiv:2011.13456, eq. 13, in Karras et al.'s coordinates,
//! arXiv:2206.00364, eq. 1). It is solved for `y = x / sqrt(1 + sigma^2)`, which keeps unit scale and comes to rest at
//! both ends: `dy / d ln sigma = a^2 y - a D` with `a = 1 / sqrt(1 + sigma^2)`. The end of the way is where noise is
//! lowest, at `low` and not at 0: there a network's clean estimate is all that is known.

mod solve;

use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::jacobian::Linearised;
use crate::diffusion::schedule::NoiseSchedule;
use candle_core::{DType, Device, Tensor};
use solve::solve;

/// Between which noise levels the flow runs, and how exactly it is followed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Course {
    /// The noise level of pictures.
    pub low: f64,
    /// The noise level of noise.
    pub high: f64,
    /// What the solver may err by in a step, relative to the state and absolutely (both, in `y`'s units).
    pub tolerance: f64,
}

impl Course {
    /// All of a schedule.
    pub fn of(schedule: &NoiseSchedule, tolerance: f64) -> Self {
        Self { low: schedule.sigma_min(), high: schedule.sigma_max(), tolerance }
    }
}

/// What following the flow took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Effort {
    /// Evaluations of the network.
    pub evaluations: usize,
    /// Steps that were taken.
    pub accepted: usize,
    /// Steps that erred by too much and were taken anew, shorter.
    pub rejected: usize,
}

impl std::ops::AddAssign for Effort {
    fn add_assign(&mut self, other: Self) {
        self.evaluations += other.evaluations;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
    }
}

/// One picture's way along the flow of a denoiser.
pub struct Flow<'a> {
    denoiser: &'a dyn Denoiser,
    course: Course,
}

impl<'a> Flow<'a> {
    /// `course.low` must be above 0 and below `course.high`.
    pub fn new(denoiser: &'a dyn Denoiser, course: Course) -> Self {
        Self { denoiser, course }
    }

    /// A picture, (1, C, H, W), to its noise at `course.high`, in sigma-space. `on_step` hears which share of the way is
    /// done, and ends it by returning an error.
    pub fn encode(&self, x: &Tensor, on_step: &mut dyn FnMut(f64) -> Result<()>) -> Result<(Tensor, Effort)> {
        self.follow(x, self.course.low, self.course.high, on_step)
    }

    /// The inverse of [`Flow::encode`].
    pub fn decode(&self, noise: &Tensor, on_step: &mut dyn FnMut(f64) -> Result<()>) -> Result<(Tensor, Effort)> {
        self.follow(noise, self.course.high, self.course.low, on_step)
    }

    fn follow(
        &self,
        x: &Tensor,
        from: f64,
        to: f64,
        on_step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<(Tensor, Effort)> {
        let slope = |y: &Tensor, sigma: f64| {
            let a = shrinkage(sigma);
            let denoised = self.denoiser.denoise(&(y / a)?, sigma)?;
            Ok(((y * (a * a))? - (denoised * a)?)?)
        };
        let begin = (x * shrinkage(from))?;
        let (y, effort) = solve(slope, begin, (from, to), self.course.tolerance, on_step)?;
        Ok(((y / shrinkage(to))?, effort))
    }

    /// The picture's noise and, for each of the `probes`, the estimate that it gives of the integral of `tr(dD/dx)` over
    /// `ln sigma`; without probes the integral itself. All are integrated as one state, and the solver's tolerance
    /// holds for the integrals divided by the number of elements.
    pub(super) fn encode_with_traces(
        &self,
        x: &Tensor,
        probes: &[Tensor],
        on_step: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<(Tensor, Vec<f64>, Effort)> {
        let (elements, Course { low, high, tolerance }) = (x.elem_count(), self.course);
        let slope = |state: &Tensor, sigma: f64| {
            let (a, y) = (shrinkage(sigma), state.narrow(0, 0, elements)?.reshape(x.shape())?);
            let at = Linearised::at(self.denoiser, &(&y / a)?, sigma)?;
            let traces: Result<Vec<f64>> = match probes {
                [] => at.trace(),
                probes => probes.iter().map(|v| Ok(at.quadratic(v)?[0])).collect(),
            };
            joined(&((y * (a * a))? - (at.denoised() * a)?)?, &traces?)
        };
        let begin = joined(&(x * shrinkage(low))?, &vec![0.0; probes.len().max(1)])?;
        let (state, effort) = solve(slope, begin, (low, high), tolerance, on_step)?;
        let noise = (state.narrow(0, 0, elements)?.reshape(x.shape())? / shrinkage(high))?;
        let traces = state.narrow(0, elements, probes.len().max(1))?.to_device(&Device::Cpu)?;
        let traces = traces.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        Ok((noise, traces.into_iter().map(|trace| trace * elements as f64).collect(), effort))
    }
}

/// `1 / sqrt(1 + sigma^2)`.
fn shrinkage(sigma: f64) -> f64 {
    1.0 / sigma.hypot(1.0)
}

/// The elements of `y` and, divided by their number, the traces: the state of the solver.
fn joined(y: &Tensor, traces: &[f64]) -> Result<Tensor> {
    let elements = y.elem_count() as f64;
    let traces: Vec<f64> = traces.iter().map(|trace| trace / elements).collect();
    let traces = Tensor::new(traces, &Device::Cpu)?;
    Ok(Tensor::cat(&[y.flatten_all()?, traces.to_dtype(y.dtype())?.to_device(y.device())?], 0)?)
}
