//! Times to vectors: sinusoids (Vaswani et al. 2017, section 3.5), then two linear layers (Ho et al. 2020, appendix B).

use super::config::UNetConfig;
use crate::Result;
use crate::kernels;
use crate::model::layers::Linear;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

/// What residual blocks see of the time.
#[derive(Debug)]
pub(super) struct TimeEmbedding {
    sinusoids: Sinusoids,
    linear_1: Linear,
    linear_2: Linear,
}

impl TimeEmbedding {
    pub(super) fn new(c: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        let (width, channels) = (c.block_out_channels[0], c.time_channels());
        Ok(Self {
            sinusoids: Sinusoids { width, cosines_first: c.flip_sin_to_cos, freq_shift: c.freq_shift },
            linear_1: Linear::new(width, channels, &vb.pp("linear_1"))?,
            linear_2: Linear::new(channels, channels, &vb.pp("linear_2"))?,
        })
    }

    /// Times (B,) to (B, E) in `dtype`.
    pub(super) fn forward(&self, t: &Tensor, dtype: DType) -> Result<Tensor> {
        let sinusoids = self.sinusoids.forward(t)?.to_dtype(dtype)?;
        let hidden = kernels::silu(&self.linear_1.forward(&sinusoids)?)?;
        self.linear_2.forward(&hidden)
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
