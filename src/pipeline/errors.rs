//! How much the model errs at each noise level, measured on a picture.

use super::Pipeline;
use crate::Result;
use crate::diffusion::elbo::{Chain, ReverseVariance, Values, elbo};
use crate::diffusion::errors::LevelError;
use crate::diffusion::noise::SeededNoise;
use crate::request::Plan;

impl Pipeline {
    /// `|x0 - D|^2` per element of the plan's picture under its prompt at `levels` noise levels, with one draw of noise for
    /// each, highest level first. The errors of many pictures make [`crate::diffusion::errors::SquaredErrors`].
    pub fn squared_errors(&self, plan: &Plan, levels: usize) -> Result<Vec<LevelError>> {
        self.under(plan, &[&plan.prompt], |subject| {
            let chain = Chain::of(&subject.model.schedule, levels, ReverseVariance::FixedLarge)?;
            let (state, denoiser) = (subject.state(subject.picture()?)?, subject.denoiser(0)?);
            let mut noise = SeededNoise::new(plan.noise, &[plan.seed]);
            let found = elbo(&denoiser, &chain, &state, Values::Real, &mut noise, &mut |_, _| Ok(()))?;
            let level = |term: &crate::diffusion::elbo::Term| LevelError {
                sigma: term.sigma,
                squared_error: term.squared_error,
            };
            Ok(found.terms.iter().map(level).collect())
        })
    }
}
