//! The theory: everything numeric is a function of `(x, sigma)`. Knows tensors and sigma; never the inside of a
//! network, files or HTTP.
//!
//! * [`schedule`]: beta tables, `sigma <-> t`, and the ladders of sigmas a sampler walks down.
//! * [`noise`]: seeded Gaussian sources, one stream per picture.
//! * [`denoiser`]: the one trait, and the adapter that makes a network a denoiser and trains it.
//! * [`guidance`], [`inpaint`] and [`scheduled`]: denoisers around denoisers.
//! * [`inverse`]: pictures drawn towards what was measured of them, or towards a low energy.
//! * [`jacobian`]: products with a denoiser's gradients; [`elbo`] and [`likelihood`]: what a picture costs in bits.
//! * [`errors`]: how much a model errs at each noise level.
//! * [`flow`]: pictures to their noise and back; [`interpolate`]: between two noises; [`rank`]: which denoiser fits.
//! * [`diagnostics`]: what every step of a walk did, in figures.
//! * [`sampler`]: from noise to a picture, one algorithm per file.
//!
//! State is `x = x0 + sigma * noise` throughout (Karras et al., arXiv:2206.00364), so that a step is a short closed
//! form of the clean estimate `D(x, sigma)`.

pub mod denoiser;
pub mod diagnostics;
pub mod elbo;
pub mod errors;
pub mod flow;
pub mod guidance;
pub mod inpaint;
pub mod interpolate;
pub mod inverse;
pub mod jacobian;
pub mod likelihood;
pub mod noise;
pub mod rank;
pub mod sampler;
pub mod schedule;
pub mod scheduled;
pub(crate) mod settings;

#[cfg(test)]
pub(crate) mod test_support;
