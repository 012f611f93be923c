//! How much the model errs at each noise level, measured on a picture.

use super::Pipeline;
use crate::Result;
use crate::diffusion::elbo::{Chain, ReverseVariance, Term, Values, elbo};
use crate::diffusion::errors::LevelError;
use crate::diffusion::noise::SeededNoise;
use crate::image::{self, RgbImage};
use crate::request::{GenerateRequest, Plan};

impl Pipeline {
    /// `|x0 - D|^2` per element of a picture, fitted to the model's size, under a prompt at `levels` noise levels, with one
    /// draw of noise for each, highest level first. The errors of many pictures make
    /// [`crate::diffusion::errors::SquaredErrors`].
    pub fn squared_errors(
        &self,
        picture: &RgbImage,
        prompt: &str,
        seed: u64,
        levels: usize,
    ) -> Result<Vec<LevelError>> {
        let (prompt, guidance) = (Some(prompt.to_owned()), Some("1".into()));
        let request = GenerateRequest { prompt, guidance, seed: Some(seed.to_string()), ..GenerateRequest::default() };
        let plan = Plan::new(&request, &self.facts())?;
        let picture = image::fit(picture.clone(), plan.width as u32, plan.height as u32);
        self.under(&plan, &[&plan.prompt], &mut |_| Ok(()), |subject, _| {
            let chain = Chain::of(&subject.model.schedule, levels, ReverseVariance::FixedLarge)?;
            let (state, denoiser) = (subject.state(&picture)?, subject.denoiser(0)?);
            let mut noise = SeededNoise::new(plan.noise, &[plan.seed]);
            let found = elbo(&denoiser, &chain, &state, Values::Real, &mut noise, &mut |_, _| Ok(()))?;
            let level = |term: &Term| LevelError { sigma: term.sigma, squared_error: term.squared_error };
            Ok(found.terms.iter().map(level).collect())
        })
    }
}
