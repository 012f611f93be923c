//! What every step of a walk did, in figures: a denoiser that looks on, and what it made of what it saw.
//!
//! A [`Recorder`] stands between a sampler and its denoiser and changes nothing. All is computed in f64 on the host, of
//! one picture's state: a few passes over numbers that the network took millions of operations for.

use super::denoiser::{Contrast, Denoiser, Estimate};
use super::elbo::numbers;
use super::sampler::Step;
use crate::Result;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

/// What a step of a sampler did. All norms are root mean squares over the numbers of the state (pixels or latents, which
/// have about unit variance), of the call of the denoiser that the step reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StepFigures {
    /// Counts from 1, over all steps that were walked.
    pub step: usize,
    /// The noise level that it came from.
    pub sigma: f64,
    /// Calls of the denoiser; with guidance each is one of a batch of two.
    pub evaluations: usize,
    /// The score's norm times sigma, `|D - x| / sigma`: that of the noise which the network finds, 1 when it finds all.
    pub score_norm: f64,
    /// `|D_c - D_u| / |D_c|`: what the prompt changes in the predicted picture. None without guidance.
    pub guidance_norm: Option<f64>,
    /// Between `D_c - D_u` and the prompt's own way down, `D_c - x`, in degrees. None without guidance.
    pub guidance_angle: Option<f64>,
    /// How far the predicted picture moved since the step before, `|D - D_before|`. None for the first.
    pub drift: Option<f64>,
    /// By how much a first-order step from here errs, to leading order, over `sqrt(1 + sigma_next^2)`, as the tolerance of
    /// `dopri5` is measured: the distance between Euler's step, for which D stays as it is, and the second-order one for
    /// which it goes on changing with sigma as over the step before,
    /// `|D - D_before| (s - s' - s' ln(s / s')) / (s_before - s)`. Where a sampler adds noise, that noise is in it. None for
    /// the first step, where noise was raised before it, and for steps that are not the ladder's.
    pub local_error: Option<f64>,
    /// The share of the decoded picture's numbers that lie outside of what a pixel can hold. Where that takes a decoder,
    /// it is known of the finished picture alone, and stands with the last step.
    pub clipped: Option<f64>,
}

/// One call of the denoiser.
#[derive(Debug, Clone)]
struct Call {
    x: Tensor,
    sigma: f64,
    denoised: Tensor,
    guidance: Option<Contrast>,
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Seen {
    /// Since the last report.
    evaluations: usize,
    /// The first call since then.
    first: Option<Call>,
    /// The last call of all.
    last: Option<Call>,
    /// Noise level and estimate of the step before.
    before: Option<(f64, Vec<f64>)>,
    figures: Vec<StepFigures>,
}

/// A denoiser that remembers what it is asked, for a walk down `ladder` of one picture alone.
pub struct Recorder<'a> {
    inner: &'a dyn Denoiser,
    ladder: &'a [f64],
    seen: RefCell<Seen>,
}

impl<'a> Recorder<'a> {
    /// `ladder` is what the sampler walks down.
    pub fn new(inner: &'a dyn Denoiser, ladder: &'a [f64]) -> Self {
        Self { inner, ladder, seen: RefCell::default() }
    }

    /// Hears of a step that is done, and which share of its picture is clipped where that is known. To be told of every
    /// one.
    pub fn note(&self, step: &Step<'_>, clipped: Option<f64>) -> Result<()> {
        let mut seen = self.seen.borrow_mut();
        let Some(call) = seen.reported(step.denoised) else { return Ok(()) };
        let (x, denoised) = (numbers(&call.x)?, numbers(&call.denoised)?);
        let before = seen.before.take();
        let drift = before.as_ref().map(|(_, before)| distance(&denoised, before));
        let share = before.as_ref().and_then(|(before, _)| self.error_share(*before, call.sigma, step.sigma));
        let (guidance_norm, guidance_angle) = match &call.guidance {
            Some(contrast) => guidance(contrast)?,
            None => (None, None),
        };
        let figures = StepFigures {
            step: step.index + 1,
            sigma: step.sigma,
            evaluations: std::mem::take(&mut seen.evaluations),
            score_norm: distance(&denoised, &x) / call.sigma,
            guidance_norm,
            guidance_angle,
            drift,
            local_error: drift.zip(share).map(|(drift, share)| drift * share),
            clipped,
        };
        seen.figures.push(figures);
        seen.before = Some((call.sigma, denoised));
        Ok(())
    }

    /// All steps; `clipped` is the finished picture's share.
    pub fn finish(self, clipped: f64) -> Vec<StepFigures> {
        let mut figures = self.seen.into_inner().figures;
        if let Some(last) = figures.last_mut() {
            last.clipped = Some(clipped);
        }
        figures
    }

    /// The local error over the drift, for a step that began at `rung`, with or without noise on top, at `sigma`.
    ///
    /// The exact step is `x' = (s'/s) x + s' * integral of D(t) / t^2 dt from s' to s`. What a D that is linear in t adds to
    /// one that is constant is in closed form, and finite for s' = 0.
    fn error_share(&self, before: f64, sigma: f64, rung: f64) -> Option<f64> {
        let next = self.ladder.windows(2).find(|pair| pair[0] == rung)?[1];
        let added = if next > 0.0 { sigma - next - next * (sigma / next).ln() } else { sigma };
        (before > sigma).then(|| added / (before - sigma) / next.hypot(1.0))
    }
}

impl Seen {
    fn hear(&mut self, call: Call) {
        self.evaluations += 1;
        if self.first.is_none() {
            self.first = Some(call.clone());
        }
        self.last = Some(call);
    }

    /// The call that a step reports, `denoised` being what was answered: samplers that look ahead report their first, those
    /// that correct their last.
    fn reported(&mut self, denoised: &Tensor) -> Option<Call> {
        let first = self.first.take().filter(|first| first.denoised.id() == denoised.id());
        first.or_else(|| self.last.clone())
    }
}

impl Denoiser for Recorder<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.denoised)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let estimate = self.inner.estimate(x, sigma)?;
        let (denoised, guidance) = (estimate.denoised.clone(), estimate.guidance.clone());
        self.seen.borrow_mut().hear(Call { x: x.clone(), sigma, denoised, guidance });
        Ok(estimate)
    }
}

/// Norm and angle; none where they are not numbers, because something is zero.
fn guidance(Contrast { x, unconditional, conditional }: &Contrast) -> Result<(Option<f64>, Option<f64>)> {
    let (x, u, c) = (numbers(x)?, numbers(unconditional)?, numbers(conditional)?);
    let zero = vec![0.0; c.len()];
    let (apart, down) = (distance(&c, &u), distance(&c, &x));
    let product = c.iter().zip(&u).zip(&x).map(|((c, u), x)| (c - u) * (c - x)).sum::<f64>() / c.len() as f64;
    let angle = (product / (apart * down)).clamp(-1.0, 1.0).acos().to_degrees();
    let known = |value: f64| value.is_finite().then_some(value);
    Ok((known(apart / distance(&c, &zero)), known(angle)))
}

/// The root mean square of the difference.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    (a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.len() as f64).sqrt()
}
