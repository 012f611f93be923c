//! CLIP's image encoder (Radford et al. 2021), as transformers' `CLIPVisionModelWithProjection` stores it.

use super::clip::{ClipTextConfig, EncoderLayer, HiddenActivation};
use super::layers::{Conv2d, Embedding, LayerNorm, Linear, to_channels_last};
use crate::Result;
use crate::image::{self, RgbImage};
use crate::kernels::Padding;
use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder};
use serde::{Deserialize, Serialize};

/// More than any encoder has of anything.
const LARGEST_COUNT: usize = 1 << 16;
/// Mean and deviation of red, green and blue in the pictures CLIP was trained on.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// The fields of transformers' `config.json` that matter here, with transformers' defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipVisionConfig {
    /// Channels of the states.
    pub hidden_size: usize,
    /// Channels inside the feed-forward blocks.
    pub intermediate_size: usize,
    /// Channels of the vector that stands for the picture.
    pub projection_dim: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads per layer.
    pub num_attention_heads: usize,
    /// Side of the square pictures that are encoded, in pixels.
    pub image_size: usize,
    /// Side of the square patches that become states.
    pub patch_size: usize,
    /// Activation of the feed-forward blocks.
    pub hidden_act: HiddenActivation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
}

impl Default for ClipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            hidden_act: HiddenActivation::QuickGelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl ClipVisionConfig {
    /// What is wrong with these sizes, if anything.
    pub fn check(&self) -> std::result::Result<(), String> {
        let counts = [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("projection_dim", self.projection_dim),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
        ];
        if let Some((name, n)) = counts.into_iter().find(|(_, n)| !(1..=LARGEST_COUNT).contains(n)) {
            return Err(format!("{name} is {n}, outside 1 to {LARGEST_COUNT}"));
        }
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if !width.is_multiple_of(heads) {
            return Err(format!("{heads} heads do not divide {width} channels"));
        }
        match self.image_size / self.patch_size {
            0 => Err(format!("patches of {} do not fit into {} pixels", self.patch_size, self.image_size)),
            _ => Ok(()),
        }
    }

    /// A layer is the text encoder's.
    fn layer(&self) -> ClipTextConfig {
        ClipTextConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
            ..ClipTextConfig::default()
        }
    }
}

/// The image encoder.
#[derive(Debug)]
pub struct ClipVisionModel {
    config: ClipVisionConfig,
    class_embedding: Tensor,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
    pre_norm: LayerNorm,
    layers: Vec<EncoderLayer>,
    post_norm: LayerNorm,
    visual_projection: Linear,
    /// That it computes in.
    dtype: DType,
}

impl ClipVisionModel {
    /// Reads the parameters `vision_model.*` and `visual_projection.weight`. `config` must have passed
    /// [`ClipVisionConfig::check`].
    pub fn new(config: &ClipVisionConfig, vb: &VarBuilder) -> Result<Self> {
        let (width, patch, eps) = (config.hidden_size, config.patch_size, config.layer_norm_eps);
        let (whole, vb) = (vb, vb.pp("vision_model"));
        let embeddings = vb.pp("embeddings");
        let (layers, sizes) = (vb.pp("encoder.layers"), config.layer());
        let side = config.image_size / patch;
        let no_padding = Padding::same(0);
        let patches = &embeddings.pp("patch_embedding");
        Ok(Self {
            class_embedding: embeddings.get_with_hints(width, "class_embedding", Init::Const(0.0))?,
            patch_embedding: Conv2d::without_bias(3, width, patch, patch, no_padding, patches)?,
            position_embedding: Embedding::new(side * side + 1, width, &embeddings.pp("position_embedding"))?,
            // So the checkpoints spell it.
            pre_norm: LayerNorm::new(width, eps, &vb.pp("pre_layrnorm"))?,
            layers: (0..config.num_hidden_layers)
                .map(|i| EncoderLayer::new(&sizes, false, &layers.pp(i)))
                .collect::<Result<_>>()?,
            post_norm: LayerNorm::new(width, eps, &vb.pp("post_layernorm"))?,
            visual_projection: Linear::without_bias(width, config.projection_dim, &whole.pp("visual_projection"))?,
            config: config.clone(),
            dtype: vb.dtype(),
        })
    }

    /// The sizes this was built with.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// A picture, scaled and cropped to a square and normalised as CLIP wants it, (1, 3, S, S).
    pub fn pixels(&self, picture: &RgbImage, device: &Device) -> Result<Tensor> {
        let side = self.config.image_size as u32;
        let x = image::to_tensor(&image::fit(picture.clone(), side, side), device)?.affine(0.5, 0.5)?;
        let column = |values: [f32; 3]| Tensor::new(&values, device)?.reshape((1, 3, 1, 1));
        let x = x.broadcast_sub(&column(MEAN)?)?.broadcast_div(&column(DEVIATION)?)?;
        Ok(x.to_dtype(self.dtype)?)
    }

    /// Pictures (B, 3, S, S) as from [`ClipVisionModel::pixels`] to the states before the last `skip` layers, (B, T, C):
    /// one for the whole picture, then one for each patch.
    pub fn hidden(&self, pixels: &Tensor, skip: usize) -> Result<Tensor> {
        let depth = self.layers.len().saturating_sub(skip);
        let x = self.pre_norm.forward(&self.embed(pixels)?)?;
        self.layers[..depth].iter().try_fold(x, |x, layer| layer.forward(&x))
    }

    /// Pictures (B, 3, S, S) to one vector each, (B, P).
    pub fn embeds(&self, pixels: &Tensor) -> Result<Tensor> {
        let first = self.hidden(pixels, 0)?.narrow(1, 0, 1)?.squeeze(1)?;
        self.visual_projection.forward(&self.post_norm.forward(&first)?)
    }

    fn embed(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, _, height, width) = pixels.dims4()?;
        let side = self.config.image_size;
        if (height, width) != (side, side) {
            let message = format!("CLIP: pixels {:?}, not {side} x {side}", pixels.dims());
            return Err(candle_core::Error::Msg(message).into());
        }
        let patches = self.patch_embedding.forward(&to_channels_last(pixels)?)?.flatten(1, 2)?;
        let channels = self.config.hidden_size;
        let class = self.class_embedding.reshape((1, 1, channels))?.repeat((batch, 1, 1))?;
        let positions = self.position_embedding.first(self.position_embedding.weight().dim(0)?)?;
        Ok(Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&positions)?)
    }
}
