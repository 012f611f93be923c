//! Solver error against evaluations.

use super::data::Mixture;
use super::walk::Experiment;
use crate::Result;
use crate::diffusion::sampler::Sampler;
use serde::Serialize;

/// Numbers of steps that are tried.
const STEPS: [usize; 6] = [4, 8, 16, 32, 64, 128];
/// Points that are followed.
const POINTS: usize = 24;
/// Of the solver that stands for the truth.
const EXACT: f64 = 1e-7;

/// How exact one sampler is.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    /// Its name.
    pub sampler: String,
    /// Evaluations and the largest distance to the exact end.
    pub points: Vec<(usize, f64)>,
}

/// Every deterministic sampler on the same points, each at several numbers of steps; the exact ends are those of an adaptive
/// solver at tolerance 1e-7.
pub fn curves(mixture: &Mixture, seed: u64) -> Result<Vec<Curve>> {
    let run = |sampler: Sampler, steps| {
        let experiment = Experiment { mixture: mixture.clone(), sampler, steps, points: POINTS, seed };
        experiment.walk()
    };
    let last = |states: Vec<Vec<Vec<f64>>>| states.into_iter().last().unwrap_or_default();
    let exact = last(run(Sampler::Dopri5 { tolerance: EXACT }, 2)?.states);
    let distance = |end: &[Vec<f64>]| {
        let apart = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        end.iter().zip(&exact).map(apart).fold(0.0, f64::max)
    };
    let steps = |sampler: &Sampler| !sampler.is_stochastic() && !matches!(sampler, Sampler::Dopri5 { .. });
    let curve = |sampler: Sampler| {
        let point = |steps| {
            let walked = run(sampler, steps)?;
            Ok((walked.evaluations, distance(&last(walked.states))))
        };
        let points = STEPS.into_iter().map(point).collect::<Result<_>>()?;
        Ok(Curve { sampler: sampler.to_string(), points })
    };
    Sampler::ALL.into_iter().filter(steps).map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_evaluations_come_closer_and_better_methods_sooner() {
        let curves = curves(&Mixture::named("three").unwrap(), 1).unwrap();
        let error = |name: &str, i: usize| curves.iter().find(|curve| curve.sampler == name).unwrap().points[i].1;
        assert!(curves.iter().all(|curve| curve.points[5].1 < curve.points[1].1), "{curves:?}");
        assert!(error("dpmpp_2m", 4) < error("euler", 4) / 5.0 && error("unipc", 4) < error("dpmpp_2m", 4));
    }
}
