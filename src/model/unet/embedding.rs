//! Numbers to vectors: sinusoids (Vaswani et al. 2017, section 3.5), then two linear layers (Ho et al. 2020, appendix B).
//! Times are such numbers, and in SDXL the sizes of the picture.

use super::Added;
use super::config::{SIZES, UNetConfig};
use crate::Result;
use crate::kernels;
use crate::model::layers::Linear;
use candle_core::{D, DType, Device, Error, Tensor};
use candle_nn::VarBuilder;

/// What residual blocks see of the time.
#[derive(Debug)]
pub(super) struct TimeEmbedding {
    sinusoids: Sinusoids,
    /// In models that were distilled to know the guidance scale.
    guidance: Option<GuidanceEmbedding>,
    layers: TwoLayers,
}

impl TimeEmbedding {
    pub(super) fn new(c: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        let width = c.block_out_channels[0];
        let guidance = |channels| GuidanceEmbedding::new(channels, width, vb);
        Ok(Self {
            sinusoids: Sinusoids { width, cosines_first: c.flip_sin_to_cos, freq_shift: c.freq_shift },
            guidance: c.time_cond_proj_dim.map(guidance).transpose()?,
            layers: TwoLayers::new(width, c.time_channels(), vb)?,
        })
    }

    /// Times (B,) and, where the model knows it, a guidance scale to (B, E) in `dtype`.
    pub(super) fn forward(&self, t: &Tensor, guidance: Option<f64>, dtype: DType) -> Result<Tensor> {
        let mut sinusoids = self.sinusoids.forward(t)?.to_dtype(dtype)?;
        if let Some((embedding, scale)) = self.guidance.as_ref().zip(guidance) {
            sinusoids = sinusoids.broadcast_add(&embedding.forward(scale, t, dtype)?)?;
        }
        self.layers.forward(&sinusoids)
    }
}

/// The guidance scale as a shift of the time's sinusoids (Meng et al., arXiv:2210.03142), in the form of latent
/// consistency models (Luo et al., arXiv:2310.04378): sinusoids of `1000 (scale - 1)` through a linear layer.
#[derive(Debug)]
struct GuidanceEmbedding {
    sinusoids: Sinusoids,
    cond_proj: Linear,
}

impl GuidanceEmbedding {
    fn new(channels: usize, width: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            sinusoids: Sinusoids { width: channels, cosines_first: false, freq_shift: 1.0 },
            cond_proj: Linear::without_bias(channels, width, &vb.pp("cond_proj"))?,
        })
    }

    /// (1, width) in `dtype`, on the device of `like`.
    fn forward(&self, scale: f64, like: &Tensor, dtype: DType) -> Result<Tensor> {
        let number = Tensor::new(&[(1000.0 * (scale - 1.0)) as f32], like.device())?;
        self.cond_proj.forward(&self.sinusoids.forward(&number)?.to_dtype(dtype)?)
    }
}

/// SDXL's addition to the time embedding: the pooled text and the sinusoids of six sizes (Podell et al.,
/// arXiv:2307.01952, section 2.2).
#[derive(Debug)]
pub(super) struct TextTimeEmbedding {
    sinusoids: Sinusoids,
    pooled: usize,
    layers: TwoLayers,
}

impl TextTimeEmbedding {
    pub(super) fn new(c: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        let (pooled, width) = c.added_channels().map_err(candle_core::Error::Msg)?;
        let sinusoids = Sinusoids { width, cosines_first: c.flip_sin_to_cos, freq_shift: c.freq_shift };
        let layers = TwoLayers::new(pooled + SIZES * width, c.time_channels(), vb)?;
        Ok(Self { sinusoids, pooled, layers })
    }

    /// To (B, E), to be added to the time embedding.
    pub(super) fn forward(&self, added: &Added, dtype: DType) -> Result<Tensor> {
        let ((batch, pooled), (rows, sizes)) = (added.pooled.dims2()?, added.sizes.dims2()?);
        if pooled != self.pooled || rows != batch || sizes != SIZES {
            let (found, shape) = (added.pooled.shape(), added.sizes.shape());
            let expected = self.pooled;
            return Err(Error::Msg(format!(
                "U-Net: pooled text {found:?} and sizes {shape:?} do not fit {expected} channels and {SIZES} sizes"
            ))
            .into());
        }
        let sizes = self.sinusoids.forward(&added.sizes.flatten_all()?)?.reshape((batch, ()))?;
        let both = Tensor::cat(&[&added.pooled.to_dtype(dtype)?, &sizes.to_dtype(dtype)?], D::Minus1)?;
        self.layers.forward(&both)
    }
}

/// linear_2(silu(linear_1(x))).
#[derive(Debug)]
struct TwoLayers {
    linear_1: Linear,
    linear_2: Linear,
}

impl TwoLayers {
    fn new(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            linear_1: Linear::new(inputs, outputs, &vb.pp("linear_1"))?,
            linear_2: Linear::new(outputs, outputs, &vb.pp("linear_2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.linear_2.forward(&kernels::silu(&self.linear_1.forward(x)?)?)
    }
}

/// diffusers' `get_timestep_embedding`.
#[derive(Debug, Clone, Copy)]
struct Sinusoids {
    width: usize,
    cosines_first: bool,
    freq_shift: f64,
}

impl Sinusoids {
    /// Sines and cosines of (B,) times at geometrically spaced frequencies from 1 to about 1/10000: (B, width), f32,
    /// computed in f64 on the host. An odd width ends with a zero.
    fn forward(self, t: &Tensor) -> Result<Tensor> {
        let times = t.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let values: Vec<f32> = times.iter().flat_map(|&time| self.row(time)).collect();
        Ok(Tensor::from_vec(values, (times.len(), self.width), t.device())?)
    }

    fn row(self, time: f64) -> Vec<f32> {
        let half = self.width / 2;
        let decay = -(10_000f64.ln()) / (half as f64 - self.freq_shift);
        let angles = (0..half).map(|i| time * (decay * i as f64).exp());
        let (sines, cosines): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.sin() as f32, a.cos() as f32)).unzip();
        let mut row = if self.cosines_first { [cosines, sines] } else { [sines, cosines] }.concat();
        row.resize(self.width, 0.0);
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embed(sinusoids: Sinusoids, times: &[f32]) -> Vec<Vec<f32>> {
        let t = Tensor::new(times, &Device::Cpu).unwrap();
        sinusoids.forward(&t).unwrap().to_vec2().unwrap()
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-6), "{found:?} is not {expected:?}");
    }

    #[test]
    fn angle_zero_gives_cosine_one_and_sine_zero() {
        let sinusoids = Sinusoids { width: 4, cosines_first: true, freq_shift: 0.0 };
        assert_eq!(embed(sinusoids, &[0.0]), [[1.0, 1.0, 0.0, 0.0]]);
    }

    /// ```text
    /// from diffusers.models.embeddings import get_timestep_embedding as g   # 0.42.1
    /// g(torch.tensor([7.25]), 5, flip_sin_to_cos=False, downscale_freq_shift=1.0)
    /// g(torch.tensor([0.5, 7.25]), 4, flip_sin_to_cos=True, downscale_freq_shift=0)
    /// ```
    #[test]
    fn sinusoids_are_those_of_diffusers() {
        let odd = Sinusoids { width: 5, cosines_first: false, freq_shift: 1.0 };
        assert_close(&embed(odd, &[7.25])[0], &[0.8230809, 0.000725, 0.5679242, 0.9999998, 0.0]);
        let rows = embed(Sinusoids { width: 4, cosines_first: true, freq_shift: 0.0 }, &[0.5, 7.25]);
        assert_close(&rows[0], &[0.8775826, 0.9999875, 0.47942555, 0.00499998]);
        assert_close(&rows[1], &[0.5679242, 0.99737304, 0.8230809, 0.0724365]);
    }
}
