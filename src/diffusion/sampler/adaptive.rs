//! The probability-flow ODE by an adaptive solver: quality as a tolerance instead of a number of steps.

use super::Step;
use super::walk::Walk;
use crate::Result;
use crate::diffusion::denoiser::Denoiser;
use crate::diffusion::flow::{Course, Effort, Flow};
use candle_core::Tensor;
use std::cell::RefCell;

/// Nobody knows how many steps there will be, so what is reported are hundredths of the way.
const HUNDREDTHS: usize = 100;

/// Remembers the last clean estimate, to be shown.
struct Listening<'a> {
    inner: &'a dyn Denoiser,
    latest: RefCell<Tensor>,
}

impl Denoiser for Listening<'_> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let denoised = self.inner.denoise(x, sigma)?;
        *self.latest.borrow_mut() = denoised.clone();
        Ok(denoised)
    }
}

/// Follows the flow from the ladder's first level to its last above 0 by Dormand and Prince's method, whose steps are chosen
/// so that each errs by no more than `tolerance` (Song et al., arXiv:2011.13456, section 4.3), then takes the clean estimate
/// where the ladder ends at 0. The levels between are not looked at. Each picture of a batch has steps of its own, one
/// picture after the other.
pub(super) fn run(walk: &mut Walk<'_>, x: &Tensor, tolerance: f64) -> Result<Tensor> {
    let (high, low, to_zero) = walk.ends();
    let pictures = x.dim(0)?;
    let (mut ends, mut effort, mut told) = (Vec::new(), Effort::default(), None);
    for picture in 0..pictures {
        let one = x.narrow(0, picture, 1)?;
        let listening = Listening { inner: walk.denoiser, latest: RefCell::new(one.clone()) };
        let mut on_step = |share: f64| {
            let way = (picture as f64 + share) / pictures as f64;
            let index = ((way * HUNDREDTHS as f64) as usize).min(HUNDREDTHS - 1);
            // The last is told below, and no hundredth twice.
            if index == HUNDREDTHS - 1 || told >= Some(index) {
                return Ok(());
            }
            told = Some(index);
            let sigma = high * (low / high).powf(share);
            let denoised = listening.latest.borrow().clone();
            walk.tell(Step { index, total: HUNDREDTHS, sigma, denoised: &denoised, effort: None })
        };
        let (end, taken) = Flow::new(&listening, Course { low, high, tolerance }).decode(&one, &mut on_step)?;
        effort += taken;
        ends.push(match to_zero {
            false => end,
            true => {
                effort.evaluations += 1;
                listening.denoise(&end, low)?
            }
        });
    }
    let end = Tensor::cat(&ends, 0)?;
    let (index, effort) = (HUNDREDTHS - 1, Some(effort));
    walk.tell(Step { index, total: HUNDREDTHS, sigma: low, denoised: &end, effort })?;
    Ok(end)
}
