//! The order of wrapping around a model that is told its texts: what it draws is pulled towards what is wanted, and held to
//! what is known of the picture.

use super::{KNOWN, Pipeline};
use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::inpaint::{Inpaint, Strengths};
use crate::diffusion::inverse::{LinearOperator, Masked, Measured, Pull, Rule, Towards};
use crate::diffusion::noise::SeededNoise;
use crate::model::unet::Beside;
use crate::request::{Inpainting, Plan};
use candle_core::Tensor;

/// A picture of a plan: the plan, which of its pictures, and the noise levels that are walked down.
pub(super) type One<'p> = (&'p Plan, usize, &'p [f64]);

impl Pipeline {
    /// The network with what it is told, made a denoiser, guided, anew for the text of each step (all that is `drawn`),
    /// pulled, and held to the known picture; a network made for inpainting sees that by itself.
    pub(super) fn held<'a>(
        &self,
        drawn: impl Denoiser + 'a,
        pulls: Vec<Box<dyn Pull + 'a>>,
        known: Option<&super::Known<'_>>,
        fresh: &Tensor,
        one: One<'_>,
    ) -> Result<Box<dyn Denoiser + 'a>> {
        let held = known.and_then(|known| known.latents.as_ref().zip(known.canvas.as_ref()));
        match held.filter(|_| self.beside() == Beside::Nothing) {
            None => Ok(pulled(drawn, pulls)),
            Some((latents, canvas)) => {
                let mask = canvas.mask().to_latents(self.model.codec.factor(), &self.device)?;
                by_rule(drawn, pulls, (latents, &mask), fresh, one)
            }
        }
    }
}

/// As it is, where nothing pulls: gradients cost time.
fn pulled<'a>(drawn: impl Denoiser + 'a, pulls: Vec<Box<dyn Pull + 'a>>) -> Box<dyn Denoiser + 'a> {
    if pulls.is_empty() { Box::new(drawn) } else { Box::new(Towards::new(drawn, pulls)) }
}

/// Held to the known picture by the plan's rule.
fn by_rule<'a>(
    drawn: impl Denoiser + 'a,
    mut pulls: Vec<Box<dyn Pull + 'a>>,
    (latents, mask): (&Tensor, &Tensor),
    fresh: &Tensor,
    (plan, k, sigmas): One<'_>,
) -> Result<Box<dyn Denoiser + 'a>> {
    let measured = |noise, rule| -> Result<Box<dyn Pull + 'a>> {
        let operator = Masked::new(mask)?;
        let known = operator.apply(latents)?;
        Ok(Box::new(Measured::new(operator, known, noise, rule)))
    };
    Ok(match plan.inpainting {
        Inpainting::Blend => Box::new(Inpaint::new(pulled(drawn, pulls), latents, mask, fresh)),
        Inpainting::Differential => {
            let strengths = Strengths::new(mask, sigmas);
            Box::new(Inpaint::soft(pulled(drawn, pulls), latents, strengths, fresh))
        }
        Inpainting::Replacement | Inpainting::Repaint(_) => {
            let noise = SeededNoise::new(plan.noise, &[plan.seed_of(k) ^ KNOWN]);
            Box::new(Inpaint::replacing(pulled(drawn, pulls), latents, mask, Box::new(noise)))
        }
        Inpainting::PseudoInverse { noise } => {
            pulls.push(measured(noise, Rule::PseudoInverse { data_variance: 1.0 })?);
            pulled(drawn, pulls)
        }
        Inpainting::Posterior { scale } => {
            pulls.push(measured(0.0, Rule::Posterior { scale, ladder: sigmas.to_vec() })?);
            pulled(drawn, pulls)
        }
    })
}
