//! Many states of an image encoder to a few: learned queries that attend to them (Jaegle et al., arXiv:2103.03206;
//! Alayrac et al., arXiv:2204.14198, section 3.1), with the key names of IP-Adapter's own files.

use crate::Result;
use crate::kernels;
use crate::model::layers::{LayerNorm, Linear};
use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

/// Channels of an attention head.
const HEAD: usize = 64;
const EPS: f64 = 1e-5;

/// Sizes of a resampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResamplerSizes {
    /// Channels of the encoder's states.
    pub embed: usize,
    /// Channels inside.
    pub width: usize,
    /// How many queries, which is how many states come out.
    pub queries: usize,
    /// Attention heads of 64 channels each.
    pub heads: usize,
    /// Layers.
    pub depth: usize,
    /// Channels inside the feed-forward blocks.
    pub inner: usize,
}

/// norm_out(proj_out(layers(latents, proj_in(x)))).
#[derive(Debug)]
pub(super) struct Resampler {
    latents: Tensor,
    proj_in: Linear,
    layers: Vec<Layer>,
    proj_out: Linear,
    norm_out: LayerNorm,
}

impl Resampler {
    pub(super) fn new(s: &ResamplerSizes, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let layers = vb.pp("layers");
        Ok(Self {
            latents: vb.get_with_hints((1, s.queries, s.width), "latents", Init::Const(0.0))?,
            proj_in: Linear::new(s.embed, s.width, &vb.pp("proj_in"))?,
            layers: (0..s.depth).map(|i| Layer::new(s, &layers.pp(i))).collect::<Result<_>>()?,
            proj_out: Linear::new(s.width, outputs, &vb.pp("proj_out"))?,
            norm_out: LayerNorm::new(outputs, EPS, &vb.pp("norm_out"))?,
        })
    }

    /// (B, S, C) to (B, T, D).
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.proj_in.forward(x)?;
        let latents = self.latents.repeat((x.dim(0)?, 1, 1))?;
        let latents = self.layers.iter().try_fold(latents, |latents, layer| layer.forward(&x, &latents))?;
        self.norm_out.forward(&self.proj_out.forward(&latents)?)
    }
}

/// latents + attention(norm2(latents) to norm1(x) and itself), then latents + feed_forward(latents).
#[derive(Debug)]
struct Layer {
    norm1: LayerNorm,
    norm2: LayerNorm,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    heads: usize,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl Layer {
    fn new(s: &ResamplerSizes, vb: &VarBuilder) -> Result<Self> {
        let (attention, feed_forward, heads) = (vb.pp(0), vb.pp(1), s.heads * HEAD);
        Ok(Self {
            norm1: LayerNorm::new(s.width, EPS, &attention.pp("norm1"))?,
            norm2: LayerNorm::new(s.width, EPS, &attention.pp("norm2"))?,
            to_q: Linear::without_bias(s.width, heads, &attention.pp("to_q"))?,
            to_kv: Linear::without_bias(s.width, 2 * heads, &attention.pp("to_kv"))?,
            to_out: Linear::without_bias(heads, s.width, &attention.pp("to_out"))?,
            heads: s.heads,
            norm3: LayerNorm::new(s.width, EPS, &feed_forward.pp(0))?,
            ff_in: Linear::without_bias(s.width, s.inner, &feed_forward.pp(1))?,
            ff_out: Linear::without_bias(s.inner, s.width, &feed_forward.pp(3))?,
        })
    }

    fn forward(&self, x: &Tensor, latents: &Tensor) -> Result<Tensor> {
        let queries = self.norm2.forward(latents)?;
        let seen = Tensor::cat(&[&self.norm1.forward(x)?, &queries], 1)?;
        let both = self.to_kv.forward(&seen)?.chunk(2, 2)?;
        let products = self.to_q.products();
        let queries = self.to_q.forward(&queries)?;
        let attended = kernels::attention(&queries, &both[0], &both[1], self.heads, false, products)?;
        let latents = (latents + self.to_out.forward(&attended)?)?;
        let h = self.ff_in.forward(&self.norm3.forward(&latents)?)?.gelu_erf()?;
        Ok((&latents + self.ff_out.forward(&h)?)?)
    }
}
