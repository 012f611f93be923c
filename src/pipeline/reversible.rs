//! What the flow makes of pictures: their noise, what comes back of that, edits, and what lies between two.

use super::side_by_side::side_by_side;
use super::subject::{OnStep, Subject, WAY, tell};
use super::{Outcome, Picture, Pipeline, Report};
use crate::diffusion::elbo::numbers;
use crate::diffusion::flow::{Course, Effort, Flow};
use crate::diffusion::interpolate::slerp;
use crate::error::{Error, FieldError, Result};
use crate::image::{self, Encoded, RgbImage};
use crate::request::{Plan, Start};
use candle_core::Tensor;
use serde::Serialize;

/// What a way along the flow took, and what was lost on it.
#[derive(Debug, Clone, Serialize)]
pub struct FlowReport {
    /// Evaluations of the network, steps taken and steps taken anew, over all ways.
    #[serde(flatten)]
    pub effort: Effort,
    /// What the solver could err by in a step.
    pub tolerance: f64,
    /// The noise level of pictures.
    pub sigma_min: f64,
    /// The noise level of noise.
    pub sigma_max: f64,
    /// There and back again: the root mean square of the difference over that of where it began. Of noise that is
    /// relative to its sigma, by which the way up magnifies every error.
    pub round_trip: Option<f64>,
    /// Of a picture, the largest difference of a byte after it, and what the autoencoder alone loses, if there is one.
    pub round_trip_bytes: Option<u8>,
    /// See `round_trip_bytes`.
    pub autoencoder_bytes: Option<u8>,
}

impl FlowReport {
    fn new(course: Course, effort: Effort) -> Self {
        Self {
            effort,
            tolerance: course.tolerance,
            sigma_min: course.low,
            sigma_max: course.high,
            round_trip: None,
            round_trip_bytes: None,
            autoencoder_bytes: None,
        }
    }
}

/// Tells of ways, of which `ways` are done.
fn along(on_step: OnStep<'_>, ways: usize, of: usize) -> impl FnMut(f64) -> Result<()> {
    move |share| tell(on_step, (((ways as f64 + share) * WAY as f64) as usize, of * WAY), 0.0)
}

impl Pipeline {
    /// A picture to its noise, which is looked at by going back.
    pub(super) fn encode(&self, plan: &Plan, tolerance: f64, on_step: OnStep<'_>) -> Result<Outcome> {
        self.under(plan, &[&plan.prompt], on_step, |subject, on_step| {
            let (course, denoiser) = (subject.course(tolerance), subject.denoiser(0)?);
            let (flow, state) = (Flow::new(&denoiser, course), subject.state(subject.picture()?)?);
            let (noise, up) = flow.encode(&state, &mut along(on_step, 0, 2))?;
            let (back, mut effort) = flow.decode(&noise, &mut along(on_step, 1, 2))?;
            effort += up;
            let (before, alone) = (subject.picture()?, subject.shown(&state)?);
            let report = FlowReport {
                round_trip: Some(relative(&back, &state)?),
                round_trip_bytes: Some(furthest(&subject.shown(&back)?, &alone)),
                autoencoder_bytes: (!subject.model.codec.is_pixels()).then(|| furthest(&alone, before)),
                ..FlowReport::new(course, effort)
            };
            let noise = Encoded::new(&subject.model.name, &noise, course.high)?;
            let pixels = noise.picture(plan.width as u32, plan.height as u32);
            let picture = Picture { noise: Some(noise), ..Picture::still(pixels, subject.receipt.clone()) };
            Ok(Outcome { pictures: vec![picture], report: Some(Report::Flow(report)) })
        })
    }

    /// Noise to its picture, which is looked at by going back.
    pub(super) fn decode(&self, plan: &Plan, tolerance: f64, from: &Encoded, on_step: OnStep<'_>) -> Result<Outcome> {
        self.under(plan, &[&plan.prompt], on_step, |subject, on_step| {
            check_noise(subject, from)?;
            let course = Course { high: from.sigma, ..subject.course(tolerance) };
            let denoiser = subject.denoiser(0)?;
            let (flow, noise) = (Flow::new(&denoiser, course), from.tensor(subject.device())?);
            let (state, down) = flow.decode(&noise, &mut along(on_step, 0, 2))?;
            let (back, mut effort) = flow.encode(&state, &mut along(on_step, 1, 2))?;
            effort += down;
            let round_trip = Some(relative(&back, &noise)?);
            let report = Report::Flow(FlowReport { round_trip, ..FlowReport::new(course, effort) });
            Ok(subject.outcome(vec![subject.shown(&state)?], report))
        })
    }

    /// A picture apart under what it shows, and together under what it is to show (as DDIM inversion: Song et al.,
    /// arXiv:2010.02502, section 5.4), up to a noise level that grows with the strength. The way up has no guidance.
    pub(super) fn edit(&self, plan: &Plan, tolerance: f64, source: &str, on_step: OnStep<'_>) -> Result<Outcome> {
        let strength = match &plan.start {
            Start::Picture { strength, .. } => *strength,
            Start::Noise => 1.0,
        };
        let apart = Plan { guidance: 1.0, negative_prompt: String::new(), ..plan.clone() };
        let (noise, course, up) = self.under(&apart, &[source], on_step, |subject, on_step| {
            let schedule = &subject.model.schedule;
            let high = schedule.sigma(strength * (schedule.steps() - 1) as f64);
            let course = Course { high, ..subject.course(tolerance) };
            let (denoiser, state) = (subject.denoiser(0)?, subject.state(subject.picture()?)?);
            let (noise, effort) = Flow::new(&denoiser, course).encode(&state, &mut along(on_step, 0, 2))?;
            Ok((noise, course, effort))
        })?;
        self.under(plan, &[&plan.prompt], on_step, |subject, on_step| {
            let denoiser = subject.denoiser(0)?;
            let (state, mut effort) = Flow::new(&denoiser, course).decode(&noise, &mut along(on_step, 1, 2))?;
            effort += up;
            Ok(subject.outcome(vec![subject.shown(&state)?], Report::Flow(FlowReport::new(course, effort))))
        })
    }

    /// From the plan's picture to another: an animation, and a strip of its frames.
    pub(super) fn interpolate(
        &self,
        plan: &Plan,
        tolerance: f64,
        other: &RgbImage,
        on_step: OnStep<'_>,
    ) -> Result<Outcome> {
        self.under(plan, &[&plan.prompt], on_step, |subject, on_step| {
            let (course, ways) = (subject.course(tolerance), plan.count + 2);
            let mut effort = Effort::default();
            let mut told = |sum: f64| tell(on_step, ((sum * WAY as f64) as usize, ways * WAY), 0.0);
            let ends = [subject.state(subject.picture()?)?, subject.state(other)?];
            let noises =
                side_by_side(2, |k, tell| Flow::new(&subject.denoiser(0)?, course).encode(&ends[k], tell), &mut told)?;
            let frame = |k: usize, tell: &mut dyn FnMut(f64) -> Result<()>| {
                let between = slerp(&noises[0].0, &noises[1].0, share(k, plan.count))?;
                let (state, effort) = Flow::new(&subject.denoiser(0)?, course).decode(&between, tell)?;
                Ok((subject.shown(&state)?, effort))
            };
            let frames = side_by_side(plan.count, frame, &mut |sum| told(2.0 + sum))?;
            noises.iter().map(|(_, up)| *up).chain(frames.iter().map(|(_, down)| *down)).for_each(|e| effort += e);
            let frames: Vec<RgbImage> = frames.into_iter().map(|(frame, _)| frame).collect();
            let strip = image::grid(&frames, frames.len());
            let report = Report::Flow(FlowReport::new(course, effort));
            let mut outcome = subject.outcome(vec![frames[0].clone(), strip], report);
            outcome.pictures[0].more_frames = frames[1..].to_vec();
            Ok(outcome)
        })
    }
}

/// Where frame `k` of so many lies: the first and the last are the ends, one alone the middle.
fn share(k: usize, frames: usize) -> f64 {
    if frames > 1 { k as f64 / (frames - 1) as f64 } else { 0.5 }
}

/// Noise of another model, or from beyond this one's.
fn check_noise(subject: &Subject<'_>, noise: &Encoded) -> Result<()> {
    let (channels, schedule) = (subject.model.codec.latent_channels(), &subject.model.schedule);
    let message = if noise.shape[0] != channels {
        format!("holds noise of {} channels, but {} has {channels}", noise.shape[0], subject.model.name)
    } else if noise.sigma <= schedule.sigma_min() || noise.sigma > schedule.sigma_max() * 1.001 {
        format!("holds noise of level {}, which {} does not know", noise.sigma, subject.model.name)
    } else {
        return Ok(());
    };
    Err(Error::invalid(FieldError::new("image", "other_noise", message)))
}

/// `|a - b| / |b|`.
fn relative(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (numbers(a)?, numbers(b)?);
    let off: f64 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
    Ok((off / b.iter().map(|b| b * b).sum::<f64>()).sqrt())
}

/// The largest difference of a byte.
fn furthest(a: &RgbImage, b: &RgbImage) -> u8 {
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or_default()
}
