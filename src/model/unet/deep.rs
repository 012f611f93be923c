//! What deeper levels found in one call, used in later ones: DeepCache (Ma et al., arXiv:2312.00858). From one step to the
//! next the coarse features change little, and they are what takes the time.

use super::{Conditioning, Residuals, UNet2DConditionModel, UNetConfig};
use crate::Result;
use candle_core::Tensor;

/// What an earlier call left.
#[derive(Debug, Clone)]
pub struct Deep {
    /// What comes into the residual block of the finest level from which on everything is computed anew, (B, H, W, C).
    features: Tensor,
    /// How many skip connections are computed anew, and so how many residual blocks of the way up.
    depth: usize,
    /// What ControlNets added then.
    residuals: Option<Residuals>,
}

impl UNetConfig {
    /// How many skip connections the finest level has.
    pub fn cache_depth(&self) -> usize {
        self.layers_per_block + 1
    }
}

impl UNet2DConditionModel {
    /// [`Self::forward`], and with it what later calls can begin with that compute `depth` skip connections of the finest level
    /// anew: from 1, the first convolution alone, to [`UNetConfig::cache_depth`].
    pub fn forward_keeping(
        &self,
        x: &Tensor,
        t: &Tensor,
        given: &Conditioning,
        depth: usize,
    ) -> Result<(Tensor, Deep)> {
        let block = self.last();
        let depth = depth.clamp(1, block.len());
        let (x, given) = (&x.to_dtype(self.dtype())?, &given.to_dtype(self.dtype())?);
        let time = self.time(x, t, given)?;
        let blocks = given.conditions(&time);
        let (x, mut skips) = self.coarse(x, given, blocks)?;
        let first = block.len() - depth;
        let features = block.stages(x, 0..first, blocks, &mut skips)?;
        let x = self.finest(features.clone(), first, &mut skips, blocks)?;
        Ok((self.leave(&x)?, Deep { features, depth, residuals: given.residuals.clone() }))
    }

    /// [`Self::forward`] with what deeper levels found in the call that left `deep`, for as many samples; what ControlNets add
    /// is also what it was then.
    pub fn forward_reusing(&self, x: &Tensor, t: &Tensor, given: &Conditioning, deep: &Deep) -> Result<Tensor> {
        let (x, given) = (&x.to_dtype(self.dtype())?, &given.to_dtype(self.dtype())?);
        let time = self.time(x, t, given)?;
        let blocks = given.conditions(&time);
        let mut skips = self.trunk.first_skips(x, deep.depth, blocks)?;
        if let Some(residuals) = &deep.residuals {
            residuals.add_to_first(&mut skips)?;
        }
        let first = self.last().len() - deep.depth;
        self.leave(&self.finest(deep.features.clone(), first, &mut skips, blocks)?)
    }
}
