//! Which caption fits a picture best.

use super::subject::tell;
use super::{Outcome, Pipeline, Progress, Report};
use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::noise::SeededNoise;
use crate::diffusion::rank::{Levels, rank};
use crate::request::Plan;
use serde::Serialize;

/// Captions in the order of how well they fit.
#[derive(Debug, Clone, Serialize)]
pub struct CaptionReport {
    /// The best first.
    pub captions: Vec<CaptionFit>,
    /// Noise levels at which they were compared, with one draw of noise each, the same for all.
    pub levels: usize,
    /// Evaluations of the network.
    pub evaluations: usize,
}

/// How well a caption fits.
#[derive(Debug, Clone, Serialize)]
pub struct CaptionFit {
    /// The caption.
    pub caption: String,
    /// The diffusion term of the evidence lower bound, in nats: less is better.
    pub nats: f64,
    /// What that is more than the best one's.
    pub behind: f64,
    /// The standard error of this difference.
    pub standard_error: f64,
    /// What one would believe of it, had each been as likely before and were there no error.
    pub probability: f64,
}

impl Pipeline {
    /// Ranks captions for the plan's picture.
    pub(super) fn rank(
        &self,
        plan: &Plan,
        captions: &[String],
        count: usize,
        on_step: &mut dyn FnMut(&Progress<'_>) -> Result<()>,
    ) -> Result<Outcome> {
        let prompts: Vec<&str> = captions.iter().map(String::as_str).collect();
        self.under(plan, &prompts, on_step, |subject, on_step| {
            let state = subject.state(subject.picture()?)?;
            let denoiser = |i| Ok(Box::new(subject.denoiser(i)?) as Box<dyn Denoiser>);
            let denoisers = (0..captions.len()).map(denoiser).collect::<Result<Vec<_>>>()?;
            let denoisers: Vec<&dyn Denoiser> = denoisers.iter().map(|denoiser| &**denoiser).collect();
            let schedule = &subject.model.schedule;
            let levels = Levels { low: schedule.sigma_min(), high: schedule.sigma_max(), count };
            let mut noise = SeededNoise::new(plan.noise, &[plan.seed]);
            let fits =
                rank(&denoisers, &state, levels, &mut noise, &mut |done, sigma| tell(on_step, (done, count), sigma))?;
            let named = fits.into_iter().map(|fit| CaptionFit {
                caption: captions[fit.index].clone(),
                nats: fit.nats,
                behind: fit.behind,
                standard_error: fit.standard_error,
                probability: fit.probability,
            });
            let captions_ranked = named.collect();
            let report =
                CaptionReport { captions: captions_ranked, levels: count, evaluations: count * captions.len() };
            Ok(subject.outcome(Vec::new(), Report::Rank(report)))
        })
    }
}
