//! What a noise schedule costs: the evidence lower bound of one network under several, in continuous time and as chains
//! of few levels.

use super::Pipeline;
use super::side_by_side::side_by_side;
use super::subject::Subject;
use crate::diffusion::elbo::{Chain, ReverseVariance, Values, diffusion_term, elbo};
use crate::diffusion::noise::{NoiseKind, SeededNoise};
use crate::diffusion::schedule::NoiseSchedule;
use crate::image::RgbImage;
use crate::request::{GenerateRequest, Plan};
use crate::{Error, Result};
use candle_core::Tensor;
use serde::Serialize;

/// How schedules are compared.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The schedules.
    pub schedules: Vec<NoiseSchedule>,
    /// Noise levels of the chains.
    pub levels: Vec<usize>,
    /// Estimates of the bound in continuous time, of one noise level each.
    pub draws: usize,
    /// Where random numbers start: every schedule gets the same.
    pub seed: u64,
}

/// The bound of one picture under one schedule, in bits per dimension.
#[derive(Debug, Clone, Serialize)]
pub struct Bound {
    /// What both ends of the schedule cost, `L_T` and `L_0`, by the chain with most levels.
    pub ends: f64,
    /// Estimates of the diffusion term in continuous time.
    pub draws: Vec<f64>,
    /// All of the bound of chains of so many levels.
    pub chains: Vec<f64>,
}

impl Pipeline {
    /// The bound of each picture under each schedule, for the network told nothing. The network is told the noise level in
    /// the way that it was trained to be told, so all schedules are of the same clean estimates; a schedule that goes
    /// further is cut at the highest level that the network knows. `on_progress` hears the share that is done, and ends the
    /// work by returning an error.
    pub fn bounds(
        &self,
        pictures: &[RgbImage],
        asked: &Comparison,
        on_progress: &mut dyn FnMut(f64) -> Result<()>,
    ) -> Result<Vec<Vec<Bound>>> {
        let (prompt, guidance) = (Some(String::new()), Some("1".into()));
        let request = GenerateRequest { prompt, guidance, ..GenerateRequest::default() };
        let plan = Plan::new(&request, &self.facts())?;
        let (count, highest) = (asked.schedules.len(), self.model.schedule.sigma_max());
        let schedules: Vec<_> =
            asked.schedules.iter().map(|schedule| schedule.up_to(highest)).collect::<Result<_>>()?;
        self.under(&plan, &[""], &mut |_| Ok(()), |subject, _| {
            let bounds = |k: usize, tell: &mut dyn FnMut(f64) -> Result<()>| {
                let state = subject.state(&pictures[k])?;
                let bound = |(i, schedule)| {
                    tell(i as f64 / count as f64)?;
                    asked.bound(subject, &state, schedule, asked.seed.wrapping_add(k as u64))
                };
                schedules.iter().enumerate().map(bound).collect::<Result<Vec<_>>>()
            };
            side_by_side(pictures.len(), bounds, &mut |sum| on_progress(sum / pictures.len() as f64))
        })
    }
}

impl Comparison {
    fn bound(&self, subject: &Subject<'_>, state: &Tensor, schedule: &NoiseSchedule, seed: u64) -> Result<Bound> {
        let denoiser = subject.denoiser(0)?;
        let values = if subject.model.codec.is_pixels() { Values::Bytes } else { Values::Real };
        let mut noise = SeededNoise::new(NoiseKind::Philox, &[seed]);
        // Evenly spread, so that their mean errs less than that of independent ones; each alone is uniform.
        let time = |i: usize| (i as f64 + offset(seed)) / self.draws as f64;
        let draws = (0..self.draws).map(|i| diffusion_term(&denoiser, schedule, state, time(i), &mut noise));
        let draws = draws.collect::<Result<_>>()?;
        let walk = |levels: &usize| {
            let chain = Chain::of(schedule, *levels, ReverseVariance::FixedSmall)?;
            elbo(&denoiser, &chain, state, values, &mut noise, &mut |_, _| Ok(()))
        };
        let walked = self.levels.iter().map(walk).collect::<Result<Vec<_>>>()?;
        let finest =
            walked.iter().max_by_key(|elbo| elbo.terms.len()).and_then(|elbo| Some((elbo, elbo.terms.last()?)));
        let (finest, last) = finest.ok_or_else(|| Error::Training("a comparison needs at least one chain".into()))?;
        let ends = finest.prior + last.bits_per_dim;
        Ok(Bound { ends, draws, chains: walked.iter().map(|elbo| elbo.total()).collect() })
    }
}

/// A number in [0, 1) for each seed: steps of the golden ratio.
fn offset(seed: u64) -> f64 {
    (seed as f64 * 0.618_033_988_749_895).fract()
}
