//! The whole text as one vector beside the time: what residual blocks see of it. diffusers' `TextTimeEmbedding`, first
//! used by DeepFloyd IF. A small network learns from it what a prompt asks for long before cross-attention finds its words.

use super::config::UNetConfig;
use crate::Result;
use crate::kernels;
use crate::model::layers::{LayerNorm, Linear};
use candle_core::{D, Tensor};
use candle_nn::{Init, VarBuilder};

const EPS: f64 = 1e-5;

/// norm, attention pooling, linear, norm.
#[derive(Debug)]
pub(super) struct TextEmbedding {
    norm1: LayerNorm,
    pool: AttentionPool,
    proj: Linear,
    norm2: LayerNorm,
}

impl TextEmbedding {
    pub(super) fn new(c: &UNetConfig, vb: &VarBuilder) -> Result<Self> {
        let (width, channels) = (c.cross_attention_dim, c.time_channels());
        Ok(Self {
            norm1: LayerNorm::new(width, EPS, &vb.pp("norm1"))?,
            pool: AttentionPool::new(width, c.addition_embed_type_num_heads, &vb.pp("pool"))?,
            proj: Linear::new(width, channels, &vb.pp("proj"))?,
            norm2: LayerNorm::new(channels, EPS, &vb.pp("norm2"))?,
        })
    }

    /// Text states (B, S, D) to (B, E), to be added to the time embedding.
    pub(super) fn forward(&self, context: &Tensor) -> Result<Tensor> {
        let pooled = self.pool.forward(&self.norm1.forward(context)?)?;
        self.norm2.forward(&self.proj.forward(&pooled)?)
    }
}

/// Attention with a single query, made from the mean of all states.
#[derive(Debug)]
struct AttentionPool {
    positional_embedding: Tensor,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    heads: usize,
}

impl AttentionPool {
    fn new(width: usize, heads: usize, vb: &VarBuilder) -> Result<Self> {
        let init = Init::Randn { mean: 0.0, stdev: (width as f64).sqrt().recip() };
        let projection = |name: &str| Linear::new(width, width, &vb.pp(name));
        Ok(Self {
            positional_embedding: vb.get_with_hints((1, width), "positional_embedding", init)?.to_dtype(vb.dtype())?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            heads,
        })
    }

    /// (B, S, D) to (B, D). The query is itself one of the keys.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let query = x.mean_keepdim(1)?.broadcast_add(&self.positional_embedding)?;
        let x = Tensor::cat(&[&query, x], 1)?;
        let (q, k, v) = (self.q_proj.forward(&query)?, self.k_proj.forward(&x)?, self.v_proj.forward(&x)?);
        let pooled = kernels::attention(&q, &k, &v, self.heads, false, self.q_proj.products())?;
        Ok(pooled.reshape((x.dim(0)?, x.dim(D::Minus1)?))?)
    }
}
