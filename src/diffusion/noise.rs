//! Seeded Gaussian noise: where every random number of a picture comes from.
//!
//! Picture `k` of a request has a stream of its own, seeded with `seed + k`. Its n-th draw depends only on that seed,
//! on n and on the picture's size: not on its neighbours in the batch, the device, or the number of threads. Draw 0 is
//! the starting noise; samplers then draw at most once per step, in step order, and which steps draw depends on the
//! ladder and the sampler's settings alone. (candle's own CPU generator cannot be seeded.)

mod philox;
mod torch_cpu;

pub use philox::Philox;
pub use torch_cpu::TorchCpu;

use crate::Result;
use candle_core::{DType, Device, Shape, Tensor};
use serde::{Deserialize, Serialize};

/// Something that gives standard normal noise for a batch.
pub trait NoiseSource {
    /// The next draw for a whole batch. `shape` is (B, ..): dimension 0 counts the pictures.
    fn normal(&mut self, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor>;
}

/// Which generator makes the noise, named by where a person has met its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseKind {
    /// Philox4x32-10 as PyTorch on CUDA, A1111's `NV` and stable-diffusion.cpp make it.
    #[default]
    Philox,
    /// Mersenne Twister with Box-Muller, as `torch.randn` on the CPU in float32.
    TorchCpu,
}

impl NoiseKind {
    /// The name used in JSON, in the form and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Philox => "philox",
            Self::TorchCpu => "torch-cpu",
        }
    }

    /// What the first draw is multiplied with where a picture begins with nothing else, at noise level `sigma`. Noised
    /// latents of unit variance have the deviation sqrt(sigma^2 + 1), and ComfyUI and diffusers begin with that; A1111
    /// and stable-diffusion.cpp begin with sigma, as k-diffusion does. (diffusers' Euler and Heun also take sigma,
    /// except where their times are spaced `leading`.)
    pub fn first_scale(self, sigma: f64) -> f64 {
        match self {
            Self::Philox => sigma,
            Self::TorchCpu => sigma.hypot(1.0),
        }
    }
}

/// Independent streams, one per picture of a batch.
#[derive(Debug, Clone)]
pub struct SeededNoise(Streams);

#[derive(Debug, Clone)]
enum Streams {
    /// Philox needs no state but the number of the next draw.
    Philox {
        generators: Vec<Philox>,
        draw: u32,
    },
    TorchCpu(Vec<TorchCpu>),
}

impl SeededNoise {
    /// One stream per seed, in the order of the batch.
    pub fn new(kind: NoiseKind, seeds: &[u64]) -> Self {
        Self(match kind {
            NoiseKind::Philox => {
                Streams::Philox { generators: seeds.iter().copied().map(Philox::new).collect(), draw: 0 }
            }
            NoiseKind::TorchCpu => Streams::TorchCpu(seeds.iter().copied().map(TorchCpu::new).collect()),
        })
    }

    fn pictures(&self) -> usize {
        match &self.0 {
            Streams::Philox { generators, .. } => generators.len(),
            Streams::TorchCpu(generators) => generators.len(),
        }
    }

    fn next(&mut self, per_picture: usize) -> Vec<f32> {
        match &mut self.0 {
            Streams::Philox { generators, draw } => {
                let values = generators.iter().flat_map(|g| g.normals(*draw, per_picture)).collect();
                *draw = draw.wrapping_add(1);
                values
            }
            Streams::TorchCpu(generators) => generators.iter_mut().flat_map(|g| g.normals(per_picture)).collect(),
        }
    }
}

impl NoiseSource for SeededNoise {
    /// Drawn in f32 on the host, then cast and moved, so that the numbers are the same for every dtype and device.
    fn normal(&mut self, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        let pictures = shape.dims().first().copied().unwrap_or(0);
        if pictures != self.pictures() {
            let message = format!("noise for {pictures} pictures was asked of {} streams", self.pictures());
            return Err(candle_core::Error::Msg(message).into());
        }
        let values = self.next(shape.elem_count() / pictures.max(1));
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(kind: NoiseKind, seeds: &[u64], (c, h, w): (usize, usize, usize)) -> Vec<Vec<Vec<f32>>> {
        let mut noise = SeededNoise::new(kind, seeds);
        let shape = Shape::from((seeds.len(), c, h, w));
        let draw = |_| {
            let x = noise.normal(&shape, DType::F32, &Device::Cpu).unwrap();
            x.reshape((seeds.len(), c * h * w)).unwrap().to_vec2().unwrap()
        };
        (0..3).map(draw).collect()
    }

    #[test]
    fn a_picture_gets_the_same_noise_alone_and_in_any_batch() {
        for kind in [NoiseKind::Philox, NoiseKind::TorchCpu] {
            // (1, 2, 3) takes the Mersenne Twister's path for fewer than 16 values, with its cached second value.
            for size in [(4, 5, 7), (1, 2, 3), (1, 1, 1)] {
                let batch = draws(kind, &[7, 8, 9], size);
                for (k, seed) in [7, 8, 9].into_iter().enumerate() {
                    let alone = draws(kind, &[seed], size);
                    assert!((0..3).all(|n| batch[n][k] == alone[n][0]), "{kind:?} {size:?} picture {k}");
                }
            }
        }
    }

    #[test]
    fn successive_draws_differ_and_the_dtype_does_not_change_the_numbers() {
        let [first, second, _] = &draws(NoiseKind::Philox, &[0], (1, 4, 4))[..] else { panic!("three draws") };
        assert_ne!(first, second);
        let mut noise = SeededNoise::new(NoiseKind::Philox, &[0]);
        let wide = noise.normal(&Shape::from((1, 16)), DType::F64, &Device::Cpu).unwrap();
        let wide = wide.to_vec2::<f64>().unwrap();
        assert!(first[0].iter().zip(&wide[0]).all(|(a, b)| f64::from(*a) == *b));
    }

    #[test]
    fn a_batch_of_another_size_is_refused() {
        let mut noise = SeededNoise::new(NoiseKind::Philox, &[0, 1]);
        assert!(noise.normal(&Shape::from((3, 4)), DType::F32, &Device::Cpu).is_err());
    }
}
