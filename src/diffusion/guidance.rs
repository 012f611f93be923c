//! Classifier-free guidance and its relatives, as a denoiser around denoisers.

use crate::Result;
use crate::diffusion::denoiser::{Contrast, Denoiser, Estimate};
use candle_core::{DType, Device, Tensor};

/// How strongly, and where, to steer by the prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// `D = D_u + scale * (D_c - D_u)`: 1 is the plain conditional model, 0 the unconditional one (Ho and Salimans,
    /// arXiv:2207.12598, whose w is this minus 1).
    pub scale: f64,
    /// How much of the conditional estimate's per-picture deviation to restore, 0 to 1; 0.7 in the paper, which acts on
    /// the clean picture as here (Lin et al., arXiv:2305.08891, eq. 14 to 16; diffusers acts on the noise).
    pub rescale: f64,
    /// Guide only where `low < sigma <= high`; the conditional model alone elsewhere, at half the cost (Kynkaanniemi et
    /// al., arXiv:2404.07724).
    pub interval: Option<(f64, f64)>,
    /// For models of pixels in [-1, 1] only: the quantile of `|D|` to clamp at and scale down to 1, 0.995 in the paper
    /// (Saharia et al., arXiv:2205.11487, section 2.3).
    pub threshold: Option<f64>,
}

impl Default for Guidance {
    /// No guidance: the conditional model as it is.
    fn default() -> Self {
        Self { scale: 1.0, rescale: 0.0, interval: None, threshold: None }
    }
}

impl Guidance {
    /// Whether the picture is steered at this noise level.
    pub fn active(&self, sigma: f64) -> bool {
        let inside = self.interval.is_none_or(|(low, high)| low < sigma && sigma <= high);
        self.scale != 1.0 && inside
    }

    fn combine(&self, unconditional: &Tensor, conditional: &Tensor) -> Result<Tensor> {
        let guided = (unconditional + ((conditional - unconditional)? * self.scale)?)?;
        if self.rescale == 0.0 { Ok(guided) } else { self.restore_deviation(&guided, conditional) }
    }

    fn restore_deviation(&self, guided: &Tensor, conditional: &Tensor) -> Result<Tensor> {
        let ratio = (deviation(conditional)? / deviation(guided)?)?;
        let factor = ratio.affine(self.rescale, 1.0 - self.rescale)?;
        Ok(guided.broadcast_mul(&factor)?)
    }
}

/// The standard deviation of each picture, (B, 1, 1, 1); a flat picture counts as very slightly uneven.
fn deviation(x: &Tensor) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim((1, 2, 3))?)?;
    Ok((centred.sqr()?.mean_keepdim((1, 2, 3))? + 1e-20)?.sqrt()?)
}

/// A guided denoiser: one pass where guidance is off, else one pass over a batch of two halves. With more prompts than
/// one, both halves always, and one pass more for each further prompt.
#[derive(Debug, Clone)]
pub struct Guided<C, P> {
    conditionals: Vec<(f64, C)>,
    pair: P,
    guidance: Guidance,
}

impl<C: Denoiser, P: Denoiser> Guided<C, P> {
    /// `conditional` is fed x, (B, C, H, W). `pair` is fed `[x; x]`, (2B, C, H, W), whose first half it conditions on
    /// the negative prompt (the empty one for none) and whose second half on the prompt.
    pub fn new(conditional: C, pair: P, guidance: Guidance) -> Self {
        Self::composed(vec![(1.0, conditional)], pair, guidance)
    }

    /// Several prompts with their weights, of which the first is the one that `pair` knows; at least one. What one
    /// prompt's estimate is elsewhere, is here `D_c = D_u + sum_k w_k (D_k - D_u)` (composable diffusion: Liu et al.,
    /// arXiv:2206.01714, conjunction), so that a negative weight steers away.
    pub fn composed(conditionals: Vec<(f64, C)>, pair: P, guidance: Guidance) -> Self {
        Self { conditionals, pair, guidance }
    }

    /// The prompt, where it is one alone.
    fn single(&self) -> Option<&C> {
        match &self.conditionals[..] {
            [(1.0, conditional)] => Some(conditional),
            _ => None,
        }
    }

    fn guided(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let both = self.pair.estimate(&Tensor::cat(&[x, x], 0)?, sigma)?;
        let half = x.dim(0)?;
        let second = |t: &Tensor| t.narrow(0, half, half);
        let unconditional = both.denoised.narrow(0, 0, half)?;
        let conditional = self.compose(&unconditional, second(&both.denoised)?, x, sigma)?;
        let scale = if self.guidance.active(sigma) { self.guidance.scale } else { 1.0 };
        let denoised = Guidance { scale, ..self.guidance }.combine(&unconditional, &conditional)?;
        let variance = both.variance.as_ref().map(second).transpose()?;
        let guidance = Some(Contrast { x: x.clone(), unconditional, conditional });
        Ok(Estimate { denoised, variance, squared_error: both.squared_error, guidance })
    }

    /// D_c of all prompts, given D_u and that of the first.
    fn compose(&self, unconditional: &Tensor, first: Tensor, x: &Tensor, sigma: f64) -> Result<Tensor> {
        if self.single().is_some() {
            return Ok(first);
        }
        let mut composed = unconditional.clone();
        for (k, (weight, conditional)) in self.conditionals.iter().enumerate() {
            let estimate = if k == 0 { first.clone() } else { conditional.denoise(x, sigma)? };
            composed = (composed + ((estimate - unconditional)? * *weight)?)?;
        }
        Ok(composed)
    }
}

impl<C: Denoiser, P: Denoiser> Denoiser for Guided<C, P> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.denoised)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let mut estimate = match self.single() {
            Some(conditional) if !self.guidance.active(sigma) => conditional.estimate(x, sigma)?,
            _ => self.guided(x, sigma)?,
        };
        if let Some(quantile) = self.guidance.threshold {
            estimate.denoised = threshold(&estimate.denoised, quantile)?;
        }
        Ok(estimate)
    }
}

/// Each picture clamped to its own quantile of `|D|` and divided by it, where that exceeds 1.
fn threshold(denoised: &Tensor, quantile: f64) -> Result<Tensor> {
    let pictures = denoised.dim(0)?;
    let rows = denoised.abs()?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_from(1)?.to_vec2::<f64>()?;
    let limits: Vec<f64> = rows.into_iter().map(|row| quantile_of(row, quantile).max(1.0)).collect();
    let limits = Tensor::from_vec(limits, (pictures, 1, 1, 1), &Device::Cpu)?
        .to_dtype(denoised.dtype())?
        .to_device(denoised.device())?;
    let scaled = denoised.broadcast_div(&limits)?;
    Ok(scaled.clamp(-1.0, 1.0)?)
}

/// Between the two nearest ranks, as `torch.quantile`.
fn quantile_of(mut values: Vec<f64>, quantile: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let rank = quantile.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (values[rank as usize], values[(rank as usize + 1).min(last)]);
    low + (high - low) * rank.fract()
}
