//! CLIP's text encoder (Radford et al. 2021), as transformers' `CLIPTextModel` and `CLIPTextModelWithProjection` store
//! it.

use super::layers::{Embedding, LayerNorm, Linear};
use crate::kernels;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

/// The activation between the two layers of a CLIP feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenActivation {
    /// `x * sigmoid(1.702 x)`: OpenAI's CLIP.
    QuickGelu,
    /// The exact GELU: OpenCLIP.
    Gelu,
}

/// The fields of transformers' `config.json` that matter here, with transformers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipTextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Channels of the states.
    pub hidden_size: usize,
    /// Channels inside the feed-forward blocks.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Longest sequence, start and end tokens included.
    pub max_position_embeddings: usize,
    /// Activation of the feed-forward blocks.
    pub hidden_act: HiddenActivation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Channels of the whole text as one vector, in a `CLIPTextModelWithProjection`.
    pub projection_dim: usize,
    /// The class, of which there is one.
    pub architectures: Option<Vec<String>>,
}

impl ClipTextConfig {
    /// The channels of the projection, where the class has one.
    fn projection(&self) -> Option<usize> {
        let projects = self.architectures.iter().flatten().any(|class| class == WITH_PROJECTION);
        projects.then_some(self.projection_dim)
    }

    /// The channels of the whole text as one vector.
    pub fn pooled_size(&self) -> usize {
        self.projection().unwrap_or(self.hidden_size)
    }
}

/// The class of text encoders with a projection.
pub const WITH_PROJECTION: &str = "CLIPTextModelWithProjection";

impl Default for ClipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: HiddenActivation::QuickGelu,
            layer_norm_eps: 1e-5,
            projection_dim: 512,
            architectures: None,
        }
    }
}

/// The text encoder: token ids to one state per position.
#[derive(Debug)]
pub struct ClipTextModel {
    token_embedding: Embedding,
    position_embedding: Embedding,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    /// In encoders that give the whole text as one vector.
    text_projection: Option<Linear>,
}

impl ClipTextModel {
    /// Reads the parameters `text_model.*`, or the same without that prefix where the checkpoint has none, as
    /// transformers 5 writes it, and `text_projection.weight` where `config` has a projection.
    pub fn new(config: &ClipTextConfig, vb: &VarBuilder) -> Result<Self> {
        if !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            let (heads, width) = (config.num_attention_heads, config.hidden_size);
            return Err(fault(&format!("{heads} heads do not divide {width} channels")));
        }
        let width = config.hidden_size;
        let projection = |outputs| Linear::without_bias(width, outputs, &vb.pp("text_projection"));
        let text_projection = config.projection().map(projection).transpose()?;
        let bare = vb.contains_tensor("embeddings.token_embedding.weight");
        let vb = if bare { vb.clone() } else { vb.pp("text_model") };
        let embeddings = vb.pp("embeddings");
        let layers = vb.pp("encoder.layers");
        Ok(Self {
            token_embedding: Embedding::new(config.vocab_size, width, &embeddings.pp("token_embedding"))?,
            position_embedding: Embedding::new(
                config.max_position_embeddings,
                width,
                &embeddings.pp("position_embedding"),
            )?,
            layers: (0..config.num_hidden_layers)
                .map(|i| EncoderLayer::new(config, true, &layers.pp(i)))
                .collect::<Result<_>>()?,
            final_layer_norm: LayerNorm::new(width, config.layer_norm_eps, &vb.pp("final_layer_norm"))?,
            text_projection,
        })
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        self.token_embedding.weight().device()
    }

    /// How many layers there are.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Token ids (B, T), u32, to the last hidden state after the final norm, (B, T, C). More tokens than there are
    /// positions, or an id outside the vocabulary, are an error.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.normed(&self.hidden(ids, 0)?)
    }

    /// Token ids (B, T), u32, to the states before the last `skip` layers, (B, T, C), without the final norm.
    pub fn hidden(&self, ids: &Tensor, skip: usize) -> Result<Tensor> {
        self.hidden_of(&self.token_embedding.forward(ids)?, skip)
    }

    /// Vectors of tokens, (B, T, C), to the same.
    pub fn hidden_of(&self, tokens: &Tensor, skip: usize) -> Result<Tensor> {
        Self::run(&self.layers[..self.depth().saturating_sub(skip)], self.placed(tokens)?)
    }

    /// How many tokens there are.
    pub fn vocabulary_size(&self) -> usize {
        self.token_embedding.weight().dims()[0]
    }

    /// The vectors of tokens, (1, T, C). Ids from [`Self::vocabulary_size`] on are the rows of `added`, (n, C).
    pub fn tokens(&self, ids: &[u32], added: &Tensor) -> Result<Tensor> {
        let known = self.vocabulary_size() as u32;
        let (count, device) = (ids.len(), self.device());
        let own: Vec<u32> = ids.iter().map(|&id| if id < known { id } else { 0 }).collect();
        let own = self.token_embedding.forward(&Tensor::from_vec(own, (1, count), device)?)?.squeeze(0)?;
        let all = Tensor::cat(&[&own, &added.to_dtype(own.dtype())?], 0)?;
        let place = |(i, &id): (usize, &u32)| if id < known { i as u32 } else { count as u32 + id - known };
        let places: Vec<u32> = ids.iter().enumerate().map(place).collect();
        Ok(all.index_select(&Tensor::from_vec(places, count, device)?, 0)?.unsqueeze(0)?)
    }

    /// What the last `skip` layers make of [`Self::hidden`], as one vector per text: the state of the end token, at
    /// position `end` from 0, after the final norm and the projection. (B, T, C) to (B, P).
    pub fn pooled(&self, hidden: &Tensor, skip: usize, end: usize) -> Result<Tensor> {
        let last = Self::run(&self.layers[self.depth().saturating_sub(skip)..], hidden.clone())?;
        let states = self.normed(&last.narrow(1, end, 1)?)?.squeeze(1)?;
        match &self.text_projection {
            Some(projection) => projection.forward(&states),
            None => Ok(states),
        }
    }

    /// The final norm.
    pub fn normed(&self, states: &Tensor) -> Result<Tensor> {
        self.final_layer_norm.forward(states)
    }

    fn run(layers: &[EncoderLayer], x: Tensor) -> Result<Tensor> {
        layers.iter().try_fold(x, |x, layer| layer.forward(&x))
    }

    /// Vectors of tokens with those of their positions.
    fn placed(&self, tokens: &Tensor) -> Result<Tensor> {
        let (most, length) = (self.position_embedding.weight().dim(0)?, tokens.dim(1)?);
        if length > most {
            return Err(fault(&format!("{length} tokens, but only {most} positions")));
        }
        let positions = self.position_embedding.first(length)?;
        Ok(tokens.broadcast_add(&positions)?)
    }
}

fn fault(message: &str) -> Error {
    candle_core::Error::Msg(format!("CLIP: {message}")).into()
}

/// x + attention(norm(x)), then x + feed_forward(norm(x)).
#[derive(Debug)]
pub(super) struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: HiddenActivation,
    causal: bool,
}

impl EncoderLayer {
    /// `causal`: no position sees those after it, as in texts.
    pub(super) fn new(config: &ClipTextConfig, causal: bool, vb: &VarBuilder) -> Result<Self> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let (attention, mlp) = (vb.pp("self_attn"), vb.pp("mlp"));
        let projection = |name: &str| Linear::new(width, width, &attention.pp(name));
        Ok(Self {
            layer_norm1: LayerNorm::new(width, eps, &vb.pp("layer_norm1"))?,
            q_proj: projection("q_proj")?,
            k_proj: projection("k_proj")?,
            v_proj: projection("v_proj")?,
            out_proj: projection("out_proj")?,
            heads: config.num_attention_heads,
            layer_norm2: LayerNorm::new(width, eps, &vb.pp("layer_norm2"))?,
            fc1: Linear::new(width, config.intermediate_size, &mlp.pp("fc1"))?,
            fc2: Linear::new(config.intermediate_size, width, &mlp.pp("fc2"))?,
            activation: config.hidden_act,
            causal,
        })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.layer_norm1.forward(x)?;
        let (q, k, v) = (self.q_proj.forward(&h)?, self.k_proj.forward(&h)?, self.v_proj.forward(&h)?);
        let attended = kernels::attention(&q, &k, &v, self.heads, self.causal, self.q_proj.products())?;
        let x = (x + self.out_proj.forward(&attended)?)?;
        let h = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        let h = match self.activation {
            HiddenActivation::QuickGelu => (kernels::silu(&(h * 1.702)?)? / 1.702)?,
            HiddenActivation::Gelu => h.gelu_erf()?,
        };
        Ok((&x + self.fc2.forward(&h)?)?)
    }
}
