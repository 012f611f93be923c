//! How likely a picture is: by the flow, by the evidence lower bound, and through a decoder.

use super::side_by_side::side_by_side;
use super::subject::{Subject, WAY, tell};
use super::{Outcome, Pipeline, Progress, Report};
use crate::Result;
use crate::diffusion::elbo::{Chain, Elbo, RateDistortion, ReverseVariance, Values, elbo, nats_of_bytes, numbers};
use crate::diffusion::flow::Effort;
use crate::diffusion::likelihood::{Trace, bits_per_dim, dequantised, log_density};
use crate::diffusion::noise::{NoiseSource, SeededNoise};
use crate::model::autoencoder::Moments;
use crate::request::{Likelihood, Plan};
use candle_core::{DType, Tensor};
use serde::Serialize;
use std::f64::consts::{E, LN_2, TAU};

/// Standard deviations of the decoder's observation model, in distances of bytes, each sqrt(2) times the one before.
const DEVIATIONS: usize = 12;
/// The seed of the bound's noise lies so far from those of the draws.
const BOUND_SEED: u64 = 1 << 32;

/// What a likelihood is.
#[derive(Debug, Clone, Serialize)]
pub struct LikelihoodReport {
    /// In words: of what this is the density.
    pub of: String,
    /// `pixels` or `latents`.
    pub space: &'static str,
    /// How many numbers the space has for this picture.
    pub dimensions: usize,
    /// `-log2 p` per dimension: of pixels the probability of their bytes, of latents a density, which may be negative.
    pub bits_per_dim: f64,
    /// The standard error of that, over the draws or else the probes; none of one estimate.
    pub standard_error: Option<f64>,
    /// `ln p` of the whole, the mean over the draws, in nats; of pixels the density of dequantised ones.
    pub log_density: f64,
    /// Each draw's bits per dimension.
    pub draws: Vec<f64>,
    /// Evaluations of the network, each with a pass back for each probe, and steps of the solver, over all draws.
    #[serde(flatten)]
    pub effort: Effort,
    /// What the solver could err by in a step.
    pub tolerance: f64,
    /// The noise level at which the model ends, and down to which this is its density.
    pub sigma_min: f64,
    /// The noise level from which the flow begins.
    pub sigma_max: f64,
    /// The evidence lower bound, where it was asked for.
    pub elbo: Option<ElboReport>,
    /// A bound on the pixels' bits, of models of latents whose encoder gives a distribution.
    pub pixel_bound: Option<PixelBound>,
}

/// An upper bound on `-log2 p`, in the same space.
#[derive(Debug, Clone, Serialize)]
pub struct ElboReport {
    /// All of it, in bits per dimension.
    pub bits_per_dim: f64,
    /// What the last noise costs, `L_T`.
    pub prior: f64,
    /// What all steps cost, `L_1` to `L_(T-1)`.
    pub steps: f64,
    /// What the end costs, `L_0`.
    pub reconstruction: f64,
    /// Noise levels of the chain that this bounds; fewer are a worse model.
    pub levels: usize,
    /// Bits that are sent down to each noise level, and how far the picture is then.
    pub rate_distortion: Vec<RateDistortion>,
}

/// `-log2 p(x) <= E_q[-log2 p(x | z) - log2 p(z)] - H(q(z | x))`, in bits per dimension of the pixels.
#[derive(Debug, Clone, Serialize)]
pub struct PixelBound {
    /// All of it.
    pub bits_per_dim: f64,
    /// The standard error over the draws of z; none of one.
    pub standard_error: Option<f64>,
    /// `E[-log2 p(z)]`, by the flow.
    pub latents: f64,
    /// `E[-log2 p(x | z)]`.
    pub reconstruction: f64,
    /// `H(q(z | x))`, the encoder's.
    pub entropy: f64,
    /// What `p(x | z)` is.
    pub observation: &'static str,
}

const OBSERVATION: &str = "each byte by a Gaussian around the decoder's answer, integrated over the byte; one deviation for \
                           the picture, an even mixture of 12 from 1/2 to 23 bytes";

/// One estimate.
struct Draw {
    /// `ln p` of the state, by each probe.
    estimates: Vec<f64>,
    /// `ln p(x | z)`, where z is drawn from the encoder's distribution.
    reconstruction: Option<f64>,
    effort: Effort,
}

impl Pipeline {
    /// How likely the plan's picture is.
    pub(super) fn likelihood(
        &self,
        plan: &Plan,
        asked: Likelihood,
        on_step: &mut dyn FnMut(&Progress<'_>) -> Result<()>,
    ) -> Result<Outcome> {
        self.under(plan, &[&plan.prompt], on_step, |subject, on_step| {
            let question = Question::new(subject, asked)?;
            let steps = asked.draws * WAY + asked.levels;
            let draws = side_by_side(asked.draws, |k, tell| question.draw(k, tell), &mut |sum| {
                tell(on_step, ((sum * WAY as f64) as usize, steps), 0.0)
            })?;
            let bound = question.bound(&mut |done, sigma| tell(on_step, (asked.draws * WAY + done, steps), sigma))?;
            Ok(subject.outcome(Vec::new(), Report::Likelihood(Box::new(question.report(&draws, bound)))))
        })
    }
}

/// A picture in the space of a model, to be asked about.
struct Question<'a> {
    subject: &'a Subject<'a>,
    asked: Likelihood,
    /// (1, 3, H, W).
    pixels: Tensor,
    /// What the network sees, (1, C, h, w).
    state: Tensor,
    /// The encoder's distribution around that.
    latents: Option<Moments>,
    values: Values,
}

impl<'a> Question<'a> {
    fn new(subject: &'a Subject<'a>, asked: Likelihood) -> Result<Self> {
        let (picture, codec) = (subject.picture()?, &subject.model.codec);
        let (pixels, state) = (subject.pixels(picture)?, subject.state(picture)?);
        let values = if codec.is_pixels() { Values::Bytes } else { Values::Real };
        let latents = codec.distribution(&pixels)?;
        Ok(Self { subject, asked, pixels, state, latents, values })
    }

    /// Estimate number `k`: of random numbers that no other has.
    fn draw(&self, k: usize, on_step: &mut dyn FnMut(f64) -> Result<()>) -> Result<Draw> {
        let (plan, course) = (self.subject.plan, self.subject.course(self.asked.tolerance));
        let mut noise = SeededNoise::new(plan.noise, &[plan.seed_of(k)]);
        let state = match (self.values, &self.latents) {
            (Values::Bytes, _) => dequantised(&self.pixels, &mut noise)?,
            (Values::Real, None) => self.state.clone(),
            (Values::Real, Some(moments)) => {
                let fresh = noise.normal(moments.mean.shape(), DType::F32, self.subject.device())?;
                (&moments.mean + ((&moments.log_variance * 0.5)?.exp()? * fresh)?)?
            }
        };
        let trace = if self.asked.probes == 0 { Trace::Exact } else { Trace::Rademacher(self.asked.probes) };
        // The models' chains end in N(0, I), which is this where the signal is not scaled down.
        let prior = 1.0 + course.high * course.high;
        let denoiser = self.subject.denoiser(0)?;
        let density = log_density(&denoiser, &state, course, prior, (trace, &mut noise), on_step)?;
        let reconstruction = self.latents.as_ref().map(|_| self.observed(&state)).transpose()?;
        Ok(Draw { estimates: density.estimates, reconstruction, effort: density.effort })
    }

    /// `ln p(x | z)`: see [`OBSERVATION`].
    fn observed(&self, state: &Tensor) -> Result<f64> {
        let means = numbers(&self.subject.model.codec.decode(state)?)?;
        let clean = numbers(&self.pixels)?;
        let log = |k: usize| {
            let deviation = 2f64.powf(k as f64 / 2.0) / 255.0;
            -nats_of_bytes(&clean, &means, deviation) * clean.len() as f64
        };
        let logs: Vec<f64> = (0..DEVIATIONS).map(log).collect();
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ok(most + (logs.iter().map(|log| (log - most).exp()).sum::<f64>() / DEVIATIONS as f64).ln())
    }

    /// The evidence lower bound, where it is asked for.
    fn bound(&self, on_level: &mut dyn FnMut(usize, f64) -> Result<()>) -> Result<Option<ElboReport>> {
        if self.asked.levels == 0 {
            return Ok(None);
        }
        let chain = Chain::of(&self.subject.model.schedule, self.asked.levels, ReverseVariance::FixedLarge)?;
        let plan = self.subject.plan;
        let mut noise = SeededNoise::new(plan.noise, &[plan.seed.wrapping_add(BOUND_SEED)]);
        let denoiser = self.subject.denoiser(0)?;
        Ok(Some(ElboReport::new(&elbo(&denoiser, &chain, &self.state, self.values, &mut noise, on_level)?)))
    }

    fn report(&self, draws: &[Draw], elbo: Option<ElboReport>) -> LikelihoodReport {
        let course = self.subject.course(self.asked.tolerance);
        let dimensions = self.state.elem_count();
        let bits = |log_density: f64| bits_per_dim(log_density, dimensions, self.values);
        let each: Vec<f64> = draws.iter().map(|draw| mean(&draw.estimates)).collect();
        let in_bits: Vec<f64> = each.iter().map(|log_density| bits(*log_density)).collect();
        let probes: Vec<f64> = draws.iter().flat_map(|draw| &draw.estimates).map(|e| bits(*e)).collect();
        let mut effort = Effort::default();
        draws.iter().for_each(|draw| effort += draw.effort);
        LikelihoodReport {
            of: self.in_words(),
            space: if self.values == Values::Bytes { "pixels" } else { "latents" },
            dimensions,
            bits_per_dim: mean(&in_bits),
            standard_error: standard_error(if draws.len() > 1 { &in_bits } else { &probes }),
            log_density: mean(&each),
            draws: in_bits,
            effort,
            tolerance: course.tolerance,
            sigma_min: course.low,
            sigma_max: course.high,
            elbo,
            pixel_bound: self.pixel_bound(draws, &each),
        }
    }

    fn in_words(&self) -> String {
        let plan = self.subject.plan;
        let space = if self.values == Values::Bytes { "the picture's bytes" } else { "the picture's latents" };
        let given = if plan.prompt.is_empty() { String::new() } else { format!(" given \"{}\"", plan.prompt) };
        match plan.guidance {
            1.0 if self.values == Values::Bytes => format!("the probability of {space}{given}"),
            1.0 => format!("the density of {space}{given}"),
            scale => format!("the density of the guided flow (scale {scale}) at {space}{given}: no likelihood"),
        }
    }

    fn pixel_bound(&self, draws: &[Draw], log_densities: &[f64]) -> Option<PixelBound> {
        let moments = self.latents.as_ref().filter(|_| self.subject.plan.guidance == 1.0)?;
        let log_variances = numbers(&moments.log_variance).ok()?;
        let entropy = log_variances.iter().map(|log| 0.5 * ((TAU * E).ln() + log)).sum::<f64>();
        let bits = |nats: f64| nats / (self.pixels.elem_count() as f64 * LN_2);
        let observed: Vec<f64> = draws.iter().map(|draw| draw.reconstruction).collect::<Option<_>>()?;
        let all: Vec<f64> = log_densities.iter().zip(&observed).map(|(z, x)| bits(-z - x - entropy)).collect();
        Some(PixelBound {
            bits_per_dim: mean(&all),
            standard_error: standard_error(&all),
            latents: bits(-mean(log_densities)),
            reconstruction: bits(-mean(&observed)),
            entropy: bits(entropy),
            observation: OBSERVATION,
        })
    }
}

impl ElboReport {
    fn new(elbo: &Elbo) -> Self {
        let (last, before) = match elbo.terms.split_last() {
            Some((last, before)) => (last.bits_per_dim, before),
            None => (0.0, &[][..]),
        };
        Self {
            bits_per_dim: elbo.total(),
            prior: elbo.prior,
            steps: before.iter().map(|term| term.bits_per_dim).sum(),
            reconstruction: last,
            levels: elbo.terms.len(),
            rate_distortion: elbo.rate_distortion(),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Of the mean of independent values; none of fewer than two.
fn standard_error(values: &[f64]) -> Option<f64> {
    let (n, mean) = (values.len() as f64, mean(values));
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt())
}
