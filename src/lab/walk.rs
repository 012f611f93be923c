//! A sampler's way through a mixture, recorded.

use super::SIGMAS;
use super::data::Mixture;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::flow::Effort;
use crate::diffusion::noise::{NoiseKind, NoiseSource, SeededNoise};
use crate::diffusion::sampler::Sampler;
use crate::error::{Error, FieldError, Result};
use candle_core::{DType, Device, Shape, Tensor};
use serde::Serialize;
use std::cell::{Cell, RefCell};

/// What a visitor may cost with one walk: steps,
pub const MOST_STEPS: usize = 200;
/// points,
pub const MOST_POINTS: usize = 500;
/// and evaluations, each of all points.
pub const MOST_EVALUATIONS: usize = 5_000;

/// What is told of a walk: so many states on the way at most, evenly taken from all of them.
pub const MOST_STATES: usize = 400;

/// What to walk, with what, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// The data.
    pub mixture: Mixture,
    /// The sampler.
    pub sampler: Sampler,
    /// Steps of the ladder, even in ln sigma.
    pub steps: usize,
    /// How many points walk.
    pub points: usize,
    /// Where they start, and what noise they meet.
    pub seed: u64,
}

/// A walk, recorded.
#[derive(Debug, Clone, Serialize)]
pub struct Walked {
    /// The noise levels at which states were recorded, falling; the last is that of the end.
    pub sigmas: Vec<f64>,
    /// At each, all points, each of one or two numbers: `x = x0 + sigma * noise`.
    pub states: Vec<Vec<Vec<f64>>>,
    /// Evaluations of the clean estimate, for all points at once.
    pub evaluations: usize,
    /// What an adaptive sampler took, for all points together.
    pub effort: Option<Effort>,
    /// Mean and variance of each coordinate at the end.
    pub end: Vec<Moments>,
    /// The data's.
    pub truth: Vec<Moments>,
}

/// Of one coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Moments {
    /// The mean.
    pub mean: f64,
    /// The variance.
    pub variance: f64,
}

/// Records where it is asked; when a sampler asks twice at a level (as correctors do), the later answer counts.
struct Recorder<'a> {
    mixture: &'a Mixture,
    seen: RefCell<Vec<(f64, Tensor)>>,
    evaluations: Cell<usize>,
    /// Points side by side of all that there are.
    side_by_side: usize,
}

impl Denoiser for Recorder<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        self.evaluations.set(self.evaluations.get() + 1);
        if self.evaluations.get() > MOST_EVALUATIONS * self.side_by_side {
            let message = format!("this walk takes more than {MOST_EVALUATIONS} evaluations: take fewer steps");
            return Err(Error::invalid(FieldError::new("sampler", "too_many", message)));
        }
        let mut seen = self.seen.borrow_mut();
        seen.push((sigma, x.clone()));
        self.mixture.denoise(x, sigma)
    }
}

impl Experiment {
    /// What is wrong with the numbers, by their fields' names.
    pub fn check(&self) -> Result<()> {
        let within = |field: &str, value: usize, most: usize| match (1..=most).contains(&value) {
            true => None,
            false => {
                let message = format!("must be between 1 and {most}, was {value}");
                Some(FieldError::new(field, "out_of_range", message).range(1.0, most as f64))
            }
        };
        let wrong = [within("steps", self.steps, MOST_STEPS), within("points", self.points, MOST_POINTS)];
        let wrong: Vec<_> = wrong.into_iter().flatten().collect();
        if wrong.is_empty() { self.sampler.validate() } else { Err(Error::Invalid(wrong)) }
    }

    /// The ladder: even in ln sigma, and then 0.
    pub fn ladder(&self) -> Vec<f64> {
        let (high, low) = SIGMAS;
        let rung = |i: usize| high * (low / high).powf(i as f64 / (self.steps - 1).max(1) as f64);
        (0..self.steps).map(rung).chain([0.0]).collect()
    }

    /// Walks, and records every evaluation, or as many as are told; of an adaptive sampler, which goes point by point, only starts and ends.
    pub fn walk(&self) -> Result<Walked> {
        self.check()?;
        let (ladder, dimensions) = (self.ladder(), self.mixture.dimensions);
        let shape = Shape::from((self.points, 1, 1, dimensions));
        let seeds: Vec<u64> = (0..self.points).map(|point| self.seed.wrapping_add(point as u64)).collect();
        let mut noise = SeededNoise::new(NoiseKind::Philox, &seeds);
        let start = (noise.normal(&shape, DType::F64, &Device::Cpu)? * ladder[0])?;
        let adaptive = matches!(self.sampler, Sampler::Dopri5 { .. });
        let recorder = Recorder {
            mixture: &self.mixture,
            seen: RefCell::default(),
            evaluations: Cell::new(0),
            side_by_side: if adaptive { self.points } else { 1 },
        };
        let mut effort = None;
        let end = self.sampler.run(&recorder, start.clone(), &ladder, &mut noise, &mut |step| {
            effort = step.effort;
            Ok(())
        })?;
        let seen = if adaptive { vec![(ladder[0], start)] } else { recorder.seen.into_inner() };
        let (mut sigmas, mut states) = (Vec::new(), Vec::new());
        let every = seen.len().div_ceil(MOST_STATES).max(1);
        for (sigma, x) in seen.into_iter().step_by(every).chain([(0.0, end)]) {
            sigmas.push(sigma);
            states.push(points(&x)?);
        }
        let (end, truth) = (moments(&states[states.len() - 1]), self.mixture.moments());
        let truth = truth.into_iter().take(dimensions).map(|(mean, variance)| Moments { mean, variance }).collect();
        Ok(Walked { sigmas, states, evaluations: recorder.evaluations.get(), effort, end, truth })
    }
}

fn points(x: &Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(x.flatten_from(1)?.to_vec2::<f64>()?)
}

fn moments(points: &[Vec<f64>]) -> Vec<Moments> {
    let (count, dimensions) = (points.len() as f64, points.first().map_or(0, Vec::len));
    let of = |i: usize| {
        let mean = points.iter().map(|point| point[i]).sum::<f64>() / count;
        let variance = points.iter().map(|point| (point[i] - mean).powi(2)).sum::<f64>() / count;
        Moments { mean, variance }
    };
    (0..dimensions).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experiment(sampler: &str, data: &str) -> Experiment {
        let mixture = Mixture::named(data).unwrap();
        Experiment { mixture, sampler: sampler.parse().unwrap(), steps: 60, points: 400, seed: 1 }
    }

    /// By 4.5 standard errors for those that are exact enough, in one dimension and in two.
    #[test]
    fn walks_end_with_the_datas_moments() {
        for data in ["two", "uneven"] {
            for sampler in ["dpmpp_2m", "dopri5", "dpmpp_2m_sde", "unipc"] {
                let walked = experiment(sampler, data).walk().unwrap();
                for (end, truth) in walked.end.iter().zip(&walked.truth) {
                    let error = 4.5 * (truth.variance / 400.0).sqrt();
                    assert!((end.mean - truth.mean).abs() < error, "{data} {sampler}: {end:?} {truth:?}");
                    assert!((end.variance / truth.variance - 1.0).abs() < 0.35, "{data} {sampler}: {end:?} {truth:?}");
                }
            }
        }
    }

    #[test]
    fn the_same_point_walks_the_same_way_alone() {
        let many = experiment("pc", "ring");
        let few = Experiment { points: 3, ..many.clone() };
        let (many, few) = (many.walk().unwrap(), few.walk().unwrap());
        assert_eq!(many.sigmas, few.sigmas);
        let ends = |walked: &Walked| walked.states.last().unwrap()[..3].to_vec();
        assert_eq!(ends(&many), ends(&few));
    }

    #[test]
    fn a_long_walk_is_told_in_short() {
        let walked = Experiment { points: 2, ..experiment("pc(corrector_steps=40)", "two") }.walk().unwrap();
        assert!(walked.evaluations > 2000 && walked.states.len() <= MOST_STATES + 1, "{}", walked.states.len());
        assert_eq!((walked.sigmas.len(), walked.sigmas.last()), (walked.states.len(), Some(&0.0)));
    }

    #[test]
    fn what_would_take_too_long_is_refused() {
        let long = Experiment { steps: 200, ..experiment("langevin(repeats=1000)", "two") };
        assert!(long.walk().unwrap_err().to_string().contains("fewer steps"));
        let many = Experiment { points: 501, steps: 0, ..experiment("euler", "two") };
        let Err(Error::Invalid(errors)) = many.walk() else { panic!("it walked") };
        assert_eq!(errors.len(), 2);
    }
}
