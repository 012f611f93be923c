//! The autoencoder of Stable Diffusion, as diffusers' `AutoencoderKL` stores it (Rombach et al., arXiv:2112.10752).
//!
//! The encoder halves the picture at every level but the last and gives mean and log-variance of a Gaussian; the decoder
//! is its mirror. Both have one attention layer, at the coarsest level.

mod bands;
mod blocks;
mod config;

pub use config::VaeConfig;

use super::autoencoder::Moments;
use super::layers::{Conv2d, GroupNorm, to_channels_first, to_channels_last};
use crate::{Error, Result};
use bands::{Bands, Seen, Source, bands_of};
use blocks::{DownBlock, EPSILON, MidBlock, UpBlock};
use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;

/// What a picture of 1024 x 1024 pixels takes to be decoded whole by Stable Diffusion's: 2 GiB.
const MOST_BYTES: usize = 1 << 31;

/// Encoder and decoder, with the 1x1 convolutions between them and the latents.
#[derive(Debug)]
pub struct AutoencoderKl {
    config: VaeConfig,
    encoder: Encoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    decoder: Decoder,
}

impl AutoencoderKl {
    /// Reads the parameters `encoder.*`, `decoder.*` and, where the configuration has them, `quant_conv` and
    /// `post_quant_conv`. `config` must have passed [`VaeConfig::check`].
    pub fn new(config: &VaeConfig, vb: &VarBuilder) -> Result<Self> {
        let latent = config.latent_channels;
        let pointwise = |channels, name: &str| Conv2d::pointwise(channels, channels, &vb.pp(name));
        Ok(Self {
            config: config.clone(),
            encoder: Encoder::new(config, &vb.pp("encoder"))?,
            quant_conv: config.use_quant_conv.then(|| pointwise(2 * latent, "quant_conv")).transpose()?,
            post_quant_conv: config.use_post_quant_conv.then(|| pointwise(latent, "post_quant_conv")).transpose()?,
            decoder: Decoder::new(config, &vb.pp("decoder"))?,
        })
    }

    /// The sizes this was built with.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The type that it computes in: that of pictures and latents, in and out.
    pub fn dtype(&self) -> DType {
        self.decoder.conv_norm_out.dtype()
    }

    /// Pictures (B, 3, H, W) in [-1, 1] to latents, each moment (B, C, H/f, W/f). Fails unless f, [`VaeConfig::factor`],
    /// divides the sides.
    pub fn encode(&self, pictures: &Tensor) -> Result<Moments> {
        self.encode_within(pictures, MOST_BYTES)
    }

    /// The same within about `most` bytes: see [`AutoencoderKl::decode_within`].
    pub fn encode_within(&self, pictures: &Tensor, most: usize) -> Result<Moments> {
        let (_, _, h, w) = pictures.dims4()?;
        let factor = self.config.factor();
        if h % factor != 0 || w % factor != 0 {
            return Err(Error::Tensor(candle_core::Error::Msg(format!("{factor} does not divide {w} x {h} pixels"))));
        }
        let (encoder, one) = (&self.encoder, self.config.encoding(h, w) * pictures.dtype().size_in_bytes());
        let most = if encoder.conv_norm_out.is_trained() { usize::MAX } else { most };
        let forward = |x: &Tensor| encoder.forward(x);
        let mut x = within(&to_channels_last(pictures)?, one, most, forward, |x| encoder.forward_bands(x))?;
        if let Some(conv) = &self.quant_conv {
            x = conv.forward(&x)?;
        }
        let moments = to_channels_first(&x)?.chunk(2, 1)?;
        // The bounds of diffusers' DiagonalGaussianDistribution.
        Ok(Moments { mean: moments[0].clone(), log_variance: moments[1].clamp(-30f32, 20f32)? })
    }

    /// Latents (B, C, H/f, W/f), without the pipeline's scaling, to pictures (B, 3, H, W), about [-1, 1], not clipped.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_within(latents, MOST_BYTES)
    }

    /// The same, one picture after the other and in bands of rows, where all at once would take more than `most` bytes: then
    /// it takes about a quarter of that. Where a gradient is wanted it is all at once in any case.
    pub fn decode_within(&self, latents: &Tensor, most: usize) -> Result<Tensor> {
        let (_, _, h, w) = latents.dims4()?;
        let (decoder, one) = (&self.decoder, self.config.decoding(h, w) * latents.dtype().size_in_bytes());
        let most = if decoder.conv_norm_out.is_trained() { usize::MAX } else { most };
        let mut x = to_channels_last(latents)?;
        if let Some(conv) = &self.post_quant_conv {
            x = conv.forward(&x)?;
        }
        let forward = |x: &Tensor| decoder.forward(x);
        to_channels_first(&within(&x, one, most, forward, |x| decoder.forward_bands(x))?)
    }
}

/// What is made of `x`, (B, H, W, C), of which each sample takes `one` bytes: of all at once, of one after the other, or of
/// one after the other in bands, whichever takes no more than `most` bytes first.
fn within(
    x: &Tensor,
    one: usize,
    most: usize,
    whole: impl Fn(&Tensor) -> Result<Tensor>,
    in_bands: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let batch = x.dim(0)?;
    if batch.saturating_mul(one) <= most || x.track_op() {
        return whole(x);
    }
    let each = |i| {
        let x = x.narrow(0, i, 1)?;
        if one <= most { whole(&x) } else { in_bands(&x) }
    };
    Ok(Tensor::cat(&(0..batch).map(each).collect::<Result<Vec<_>>>()?, 0)?)
}

#[derive(Debug)]
struct Encoder {
    /// Channels of the finest level.
    finest: usize,
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(c: &VaeConfig, vb: &VarBuilder) -> Result<Self> {
        let (finest, coarsest) = (c.channels(0), c.channels(c.levels() - 1));
        let block = |level| DownBlock::new(c, level, &vb.pp("down_blocks").pp(level));
        Ok(Self {
            finest,
            conv_in: Conv2d::same3x3(c.in_channels, finest, &vb.pp("conv_in"))?,
            down_blocks: (0..c.levels()).map(block).collect::<Result<_>>()?,
            mid_block: MidBlock::new(c, &vb.pp("mid_block"))?,
            conv_norm_out: GroupNorm::new(c.norm_num_groups, coarsest, EPSILON, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::same3x3(coarsest, 2 * c.latent_channels, &vb.pp("conv_out"))?,
        })
    }

    /// (B, H, W, 3) -> (B, H/f, W/f, 2 C).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.down_blocks.iter().try_fold(self.conv_in.forward(x)?, |x, block| block.forward(x))?;
        let x = self.mid_block.forward(&x)?;
        self.conv_out.forward_normed(&self.conv_norm_out, &x)
    }

    /// The same of a single picture, in bands. Of no resolution is more kept than the finest picture takes.
    fn forward_bands(&self, picture: &Tensor) -> Result<Tensor> {
        let (_, height, width, _) = picture.dims4()?;
        let mut x = Bands::default();
        for band in bands_of(height) {
            let seen = Seen::new(&band, 1, height);
            let rows = picture.narrow(1, seen.rows().start, seen.rows().len())?;
            x.push(seen.own(&self.conv_in.forward(&rows)?)?);
        }
        let most = height * width * self.finest;
        let x = self.down_blocks.iter().try_fold(Source::Kept(x), |x, block| block.forward_bands(x, most))?;
        let x = self.mid_block.forward(&x.rows(&(0..x.dims()?[0]))?)?;
        self.conv_out.forward_normed(&self.conv_norm_out, &x)
    }
}

#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(c: &VaeConfig, vb: &VarBuilder) -> Result<Self> {
        let (finest, coarsest) = (c.channels(0), c.channels(c.levels() - 1));
        let block = |i| UpBlock::new(c, i, &vb.pp("up_blocks").pp(i));
        Ok(Self {
            conv_in: Conv2d::same3x3(c.latent_channels, coarsest, &vb.pp("conv_in"))?,
            mid_block: MidBlock::new(c, &vb.pp("mid_block"))?,
            up_blocks: (0..c.levels()).map(block).collect::<Result<_>>()?,
            conv_norm_out: GroupNorm::new(c.norm_num_groups, finest, EPSILON, &vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::same3x3(finest, c.out_channels, &vb.pp("conv_out"))?,
        })
    }

    /// (B, H/f, W/f, C) -> (B, H, W, 3).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.mid_block.forward(&self.conv_in.forward(x)?)?;
        let x = self.up_blocks.iter().try_fold(x, |x, block| block.forward(x))?;
        self.conv_out.forward_normed(&self.conv_norm_out, &x)
    }

    /// The same of a single picture, in bands. Of no resolution is more kept than the finest picture takes.
    fn forward_bands(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.mid_block.forward(&self.conv_in.forward(x)?)?;
        let scale = 1 << (self.up_blocks.len() - 1);
        let (height, width) = (scale * x.dim(1)?, scale * x.dim(2)?);
        let most = height * width * self.conv_norm_out.channels();
        let x = Source::Kept(Bands::of(&x)?);
        let x = self.up_blocks.iter().try_fold(x, |x, block| block.forward_bands(x, most))?;
        let moments = self.conv_norm_out.moments(&x.moments()?);
        let norm = self.conv_norm_out.knowing(&moments);
        let mut picture = Bands::default();
        for band in bands_of(height) {
            let seen = Seen::new(&band, 1, height);
            picture.push(seen.own(&self.conv_out.forward_normed(norm, &x.rows(seen.rows())?)?)?);
        }
        picture.whole()
    }
}
