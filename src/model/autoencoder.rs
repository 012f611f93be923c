//! The bundled model's autoencoder: small pictures to latents and back, with every convolution at a quarter of the
//! picture's resolution or less.
//!
//! A picture is cut into patches (space to depth), so the first convolution already sees 4x4 pixels per position; one
//! stride-2 step later the latents are 1/8 of the picture's size, as Stable Diffusion's are. The encoder gives the mean
//! and log-variance of a Gaussian, trained as a variational autoencoder (Kingma and Welling 2013).

use super::layers::{Conv2d, GroupNorm, residual_block, to_channels_first, to_channels_last};
use crate::Result;
use crate::kernels::Padding;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

/// The mean and log-variance of an encoded picture, each (B, C, H/8, W/8).
#[derive(Debug, Clone)]
pub struct Moments {
    /// Mean of the latents.
    pub mean: Tensor,
    /// Logarithm of their variance.
    pub log_variance: Tensor,
}

/// The contents of `vae/config.json` for a [`PatchAutoencoder`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PatchAutoencoderConfig {
    /// Always `PatchAutoencoder`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Side of the square patches that become channels.
    pub patch_size: usize,
    /// Channels at 1/patch and at 1/(2 patch) of the picture's resolution.
    pub block_out_channels: [usize; 2],
    /// Residual blocks of the encoder at these two resolutions.
    pub encoder_blocks: [usize; 2],
    /// Residual blocks of the decoder at these two resolutions.
    pub decoder_blocks: [usize; 2],
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group normalisation.
    pub norm_num_groups: usize,
    /// Mean of each latent channel over the training pictures.
    pub latents_mean: Vec<f64>,
    /// Standard deviation of each latent channel over the training pictures.
    pub latents_std: Vec<f64>,
}

impl PatchAutoencoderConfig {
    /// The bundled model's sizes; latent statistics of 0 and 1 until they are measured.
    pub fn small() -> Self {
        Self {
            class_name: "PatchAutoencoder".into(),
            patch_size: 4,
            block_out_channels: [64, 160],
            encoder_blocks: [1, 2],
            decoder_blocks: [4, 3],
            latent_channels: 12,
            norm_num_groups: 16,
            latents_mean: vec![0.0; 12],
            latents_std: vec![1.0; 12],
        }
    }

    /// What is wrong with these sizes, if anything.
    pub fn check(&self) -> std::result::Result<(), String> {
        let counts = [self.patch_size, self.latent_channels, self.norm_num_groups];
        let [fine, coarse] = self.block_out_channels;
        if counts.iter().chain([&fine, &coarse]).any(|&n| n == 0 || n > 1 << 16) {
            return Err("a size is 0 or beyond reason".into());
        }
        if fine % self.norm_num_groups != 0 || coarse % self.norm_num_groups != 0 {
            return Err(format!("{} groups do not divide {fine} and {coarse} channels", self.norm_num_groups));
        }
        if self.latents_mean.len() != self.latent_channels || self.latents_std.len() != self.latent_channels {
            return Err(format!("latents_mean and latents_std need {} values each", self.latent_channels));
        }
        if !self.latents_std.iter().all(|std| *std > 0.0) {
            return Err("every value of latents_std must be above 0".into());
        }
        Ok(())
    }

    /// Picture pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        2 * self.patch_size
    }
}

/// Encoder and decoder.
#[derive(Debug)]
pub struct PatchAutoencoder {
    config: PatchAutoencoderConfig,
    encoder: Encoder,
    decoder: Decoder,
}

impl PatchAutoencoder {
    /// Reads the parameters `encoder.*` and `decoder.*`.
    pub fn new(config: &PatchAutoencoderConfig, vb: &VarBuilder) -> Result<Self> {
        let encoder = Encoder::new(config, &vb.pp("encoder"))?;
        let decoder = Decoder::new(config, &vb.pp("decoder"))?;
        Ok(Self { config: config.clone(), encoder, decoder })
    }

    /// The sizes this was built with.
    pub fn config(&self) -> &PatchAutoencoderConfig {
        &self.config
    }

    /// The type that it computes in: that of pictures and latents, in and out.
    pub fn dtype(&self) -> DType {
        self.decoder.norm_out.dtype()
    }

    /// Pictures (B, 3, H, W) in [-1, 1], with sides divisible by [`PatchAutoencoderConfig::factor`], to latents.
    pub fn encode(&self, pictures: &Tensor) -> Result<Moments> {
        let x = space_to_depth(&to_channels_last(pictures)?, self.config.patch_size)?;
        let moments = to_channels_first(&self.encoder.forward(&x)?)?.chunk(2, 1)?;
        // Bounded, so that a bad step in training cannot overflow the exponential.
        Ok(Moments { mean: moments[0].clone(), log_variance: moments[1].clamp(-20f32, 10f32)? })
    }

    /// Latents (B, C, H/8, W/8) to pictures (B, 3, H, W), about [-1, 1] but not clipped.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let x = self.decoder.forward(&to_channels_last(latents)?)?;
        to_channels_first(&depth_to_space(&x, self.config.patch_size)?)
    }

    /// Latents to mean 0 and deviation 1 in every channel, as measured over the training pictures.
    pub fn normalise(&self, latents: &Tensor) -> Result<Tensor> {
        let (mean, std) = self.statistics(latents)?;
        Ok(latents.broadcast_sub(&mean)?.broadcast_div(&std)?)
    }

    /// The inverse of [`PatchAutoencoder::normalise`].
    pub fn denormalise(&self, latents: &Tensor) -> Result<Tensor> {
        let (mean, std) = self.statistics(latents)?;
        Ok(latents.broadcast_mul(&std)?.broadcast_add(&mean)?)
    }

    fn statistics(&self, like: &Tensor) -> Result<(Tensor, Tensor)> {
        let per_channel = |values: &[f64]| -> Result<Tensor> {
            let column = Tensor::new(values, &Device::Cpu)?.reshape((1, values.len(), 1, 1))?;
            Ok(column.to_dtype(like.dtype())?.to_device(like.device())?)
        };
        Ok((per_channel(&self.config.latents_mean)?, per_channel(&self.config.latents_std)?))
    }
}

#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    fine: Vec<ResidualBlock>,
    down: Conv2d,
    coarse: Vec<ResidualBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(c: &PatchAutoencoderConfig, vb: &VarBuilder) -> Result<Self> {
        let [fine, coarse] = c.block_out_channels;
        Ok(Self {
            conv_in: Conv2d::same3x3(3 * c.patch_size * c.patch_size, fine, &vb.pp("conv_in"))?,
            fine: ResidualBlock::several(c.encoder_blocks[0], fine, c, &vb.pp("fine"))?,
            down: Conv2d::new(fine, coarse, 3, 2, Padding::same(1), &vb.pp("down"))?,
            coarse: ResidualBlock::several(c.encoder_blocks[1], coarse, c, &vb.pp("coarse"))?,
            norm_out: GroupNorm::new(c.norm_num_groups, coarse, 1e-5, &vb.pp("norm_out"))?,
            conv_out: Conv2d::same3x3(coarse, 2 * c.latent_channels, &vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = ResidualBlock::run(&self.fine, self.conv_in.forward(x)?)?;
        let x = ResidualBlock::run(&self.coarse, self.down.forward(&x)?)?;
        self.conv_out.forward_normed(&self.norm_out, &x)
    }
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    coarse: Vec<ResidualBlock>,
    up: Conv2d,
    fine: Vec<ResidualBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(c: &PatchAutoencoderConfig, vb: &VarBuilder) -> Result<Self> {
        let [fine, coarse] = c.block_out_channels;
        Ok(Self {
            conv_in: Conv2d::same3x3(c.latent_channels, coarse, &vb.pp("conv_in"))?,
            coarse: ResidualBlock::several(c.decoder_blocks[1], coarse, c, &vb.pp("coarse"))?,
            up: Conv2d::pointwise(coarse, 4 * fine, &vb.pp("up"))?,
            fine: ResidualBlock::several(c.decoder_blocks[0], fine, c, &vb.pp("fine"))?,
            norm_out: GroupNorm::new(c.norm_num_groups, fine, 1e-5, &vb.pp("norm_out"))?,
            conv_out: Conv2d::same3x3(fine, 3 * c.patch_size * c.patch_size, &vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = ResidualBlock::run(&self.coarse, self.conv_in.forward(x)?)?;
        let x = ResidualBlock::run(&self.fine, depth_to_space(&self.up.forward(&x)?, 2)?)?;
        self.conv_out.forward_normed(&self.norm_out, &x)
    }
}

/// x + conv(silu(norm(conv(silu(norm(x)))))).
#[derive(Debug)]
struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
}

impl ResidualBlock {
    fn several(count: usize, channels: usize, c: &PatchAutoencoderConfig, vb: &VarBuilder) -> Result<Vec<Self>> {
        (0..count).map(|i| Self::new(channels, c.norm_num_groups, &vb.pp(i))).collect()
    }

    fn new(channels: usize, groups: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            norm1: GroupNorm::new(groups, channels, 1e-5, &vb.pp("norm1"))?,
            conv1: Conv2d::same3x3(channels, channels, &vb.pp("conv1"))?,
            norm2: GroupNorm::new(groups, channels, 1e-5, &vb.pp("norm2"))?,
            conv2: Conv2d::same3x3(channels, channels, &vb.pp("conv2"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        residual_block(x, (&self.norm1, &self.conv1), None, (&self.norm2, &self.conv2), None)
    }

    fn run(blocks: &[Self], x: Tensor) -> Result<Tensor> {
        blocks.iter().try_fold(x, |x, block| block.forward(&x))
    }
}

/// (B, H, W, C) -> (B, H/n, W/n, n n C).
fn space_to_depth(x: &Tensor, n: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let x = x.reshape((b, h / n, n, w / n, n * c))?.transpose(2, 3)?.contiguous()?;
    Ok(x.reshape((b, h / n, w / n, n * n * c))?)
}

/// The inverse of [`space_to_depth`].
fn depth_to_space(x: &Tensor, n: usize) -> Result<Tensor> {
    let (b, h, w, _) = x.dims4()?;
    let c = x.dim(D::Minus1)? / (n * n);
    let x = x.reshape((b, h, w, n, n * c))?.transpose(2, 3)?.contiguous()?;
    Ok(x.reshape((b, h * n, w * n, c))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_to_space_undoes_space_to_depth() {
        let x = Tensor::arange(0f32, 2.0 * 8.0 * 12.0 * 3.0, &Device::Cpu).unwrap().reshape((2, 8, 12, 3)).unwrap();
        let deep = space_to_depth(&x, 4).unwrap();
        assert_eq!(deep.dims(), [2, 2, 3, 48]);
        // The second position along the width starts with pixel (row 0, column 4).
        let first = deep.narrow(0, 0, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()[48];
        assert_eq!(first, 12.0);
        let back = depth_to_space(&deep, 4).unwrap();
        assert_eq!(
            back.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        );
    }
}
