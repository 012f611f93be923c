//! A denoiser that is drawn towards something by gradients.

use crate::Result;
use crate::diffusion::denoiser::{Denoiser, Estimate};
use crate::diffusion::jacobian::Linearised;
use candle_core::Tensor;

/// What a picture is drawn towards.
pub trait Pull {
    /// `sigma^2 grad log w(x)`, shaped as `x`: what to add to the denoiser's answer, so that pictures come not from `p(x)`
    /// but from `p(x) w(x)`, as far as `w` is known at that noise level.
    fn pull(&self, at: &Linearised, sigma: f64) -> Result<Tensor>;
}

/// How pictures (B, 3, H, W) in [-1, 1] are seen in what a model draws: the decoder of a latent model.
pub type View<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// A denoiser around a denoiser: what it is sure of, moved by gradients.
///
/// `D' = D + sigma^2 grad log w(x)` is the denoiser of `p(x) w(x)` (Tweedie's formula), so any sampler draws from that with
/// it. All pulls share the pass forward through the network; each costs a pass back.
pub struct Towards<'a, D> {
    inner: D,
    pulls: Vec<Box<dyn Pull + 'a>>,
}

impl<'a, D: Denoiser> Towards<'a, D> {
    /// Drawn towards all of `pulls`.
    pub fn new(inner: D, pulls: Vec<Box<dyn Pull + 'a>>) -> Self {
        Self { inner, pulls }
    }

    /// Drawn towards one thing.
    pub fn one(inner: D, pull: impl Pull + 'a) -> Self {
        Self::new(inner, vec![Box::new(pull)])
    }
}

impl<D: Denoiser> Denoiser for Towards<'_, D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.denoised)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let at = Linearised::at(&self.inner, x, sigma)?;
        let denoised = self
            .pulls
            .iter()
            .try_fold(at.denoised(), |d, pull| -> Result<Tensor> { Ok((d + pull.pull(&at, sigma)?)?) });
        Ok(Estimate { denoised: denoised?, variance: None, squared_error: None, guidance: at.guidance() })
    }
}
