//! DPM-Solver++ as a multistep method: second and third order at one evaluation a step, with or without noise.

use super::walk::{Walk, shrink};
use crate::Result;
use candle_core::Tensor;

/// A walk shorter than this ends on steps of lower order, which are more stable (diffusers' `lower_order_final`).
pub(super) const FEW_STEPS: usize = 15;

/// Which of the family.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Multistep {
    /// 1, 2 or 3.
    pub(super) order: usize,
    /// The share of fresh noise, 0 to 1.
    pub(super) eta: f64,
    /// How the second order is made.
    pub(super) kind: SecondOrder,
}

/// Two ways to use the slope of D over ln sigma; both are of second order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecondOrder {
    /// D in the middle of the step.
    #[default]
    Midpoint,
    /// The exact integral of a straight line.
    Heun,
}

/// What is remembered of an earlier step: D, and how far ln sigma fell from it to the next.
struct Earlier {
    denoised: Tensor,
    h: f64,
}

/// With `h = ln(s/s')`, `q = (1 + eta) h`: `x' = e^-q x + (1 - e^-q) D + corrections + s' sqrt(1 - e^(-2 eta h)) z`.
///
/// Lu et al., arXiv:2211.01095, algorithm 2 and equations 9 to 14 (eta 1: SDE-DPM-Solver++); between them as in k-diffusion's
/// `sample_dpmpp_2m_sde`. The corrections are differences of D over ln sigma. First order on the first step and on a last
/// step to 0 (where h is infinite); the order grows with what is known, and of few steps the last are of lower order.
pub(super) fn run(walk: &mut Walk<'_>, mut x: Tensor, method: Multistep) -> Result<Tensor> {
    let mut earlier: Vec<Earlier> = Vec::new();
    for index in 0..walk.total() {
        let (sigma, next) = walk.pair(index);
        let (h, ratio) = ((sigma / next).ln(), next / sigma);
        let denoised = walk.denoiser.denoise(&x, sigma)?;
        let order = order(method.order.min(earlier.len() + 1), walk.total() - index, walk.total(), next);
        let decay = ratio.powf(1.0 + method.eta);
        x = match (order, method.kind) {
            (1, _) => shrink(&x, &denoised, decay)?,
            (2, SecondOrder::Midpoint) => {
                let previous = &earlier[0];
                let middle = shrink(&denoised, &previous.denoised, 1.0 + h / (2.0 * previous.h))?;
                shrink(&x, &middle, decay)?
            }
            _ => (shrink(&x, &denoised, decay)? + correction(&denoised, &earlier[..order - 1], h, method.eta)?)?,
        };
        x = walk.perturb(x, next * (1.0 - ratio.powf(2.0 * method.eta)).sqrt())?;
        x = walk.close(index, &denoised, x)?;
        earlier.insert(0, Earlier { denoised, h });
        earlier.truncate(2);
    }
    Ok(x)
}

/// What is possible, with `left` steps to go, this one included.
fn order(possible: usize, left: usize, total: usize, next: f64) -> usize {
    match left {
        1 if next == 0.0 || total < FEW_STEPS => 1,
        2 if total < FEW_STEPS => possible.min(2),
        _ => possible,
    }
}

/// The exact integrals of D's slope and curvature over the step: `phi_2 D' - phi_3 D''`.
fn correction(denoised: &Tensor, earlier: &[Earlier], h: f64, eta: f64) -> Result<Tensor> {
    let q = (1.0 + eta) * h;
    let phi_2 = (-q).exp_m1() / q + 1.0;
    let phi_3 = phi_2 / q - 0.5;
    let slope = ((denoised - &earlier[0].denoised)? * (h / earlier[0].h))?;
    let Some(before) = earlier.get(1) else { return Ok((slope * phi_2)?) };
    let slope_before = ((&earlier[0].denoised - &before.denoised)? * (h / before.h))?;
    let (r0, r1) = (earlier[0].h / h, before.h / h);
    let bend = (&slope - slope_before)?;
    let slope = (slope + (&bend * (r0 / (r0 + r1)))?)?;
    Ok(((slope * phi_2)? - (bend * (phi_3 / (r0 + r1)))?)?)
}
