//! The fields of diffusers' `unet/config.json`, with diffusers' defaults.

use serde::{Deserialize, Serialize};

/// One value for all blocks, or one per block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerBlock {
    /// The same everywhere.
    All(usize),
    /// One per down block.
    Each(Vec<usize>),
}

impl PerBlock {
    /// The value of down block `i`; the last given where the list is short.
    pub fn at(&self, i: usize) -> usize {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values.get(i).or(values.last()).copied().unwrap_or(1),
        }
    }
}

/// The kinds of block on the way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlockType {
    /// Residual blocks only.
    #[serde(rename = "DownBlock2D")]
    Plain,
    /// Each residual block is followed by a transformer that sees the text.
    #[serde(rename = "CrossAttnDownBlock2D")]
    CrossAttention,
}

/// The kinds of block on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlockType {
    /// Residual blocks only.
    #[serde(rename = "UpBlock2D")]
    Plain,
    /// Each residual block is followed by a transformer that sees the text.
    #[serde(rename = "CrossAttnUpBlock2D")]
    CrossAttention,
}

/// Sizes of a `UNet2DConditionModel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    /// Always `UNet2DConditionModel`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Side of the latents that the model was trained on.
    pub sample_size: usize,
    /// Channels of the input: latents, and mask and masked picture for inpainting models.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Whether the time embedding has its cosines first.
    pub flip_sin_to_cos: bool,
    /// Shift of the time embedding's frequencies.
    pub freq_shift: f64,
    /// Blocks on the way down, finest first.
    pub down_block_types: Vec<DownBlockType>,
    /// Blocks on the way up, coarsest first.
    pub up_block_types: Vec<UpBlockType>,
    /// Channels at each resolution, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per down block; up blocks have one more.
    pub layers_per_block: usize,
    /// Padding of the stride-2 convolutions.
    pub downsample_padding: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// Epsilon of the residual blocks' group norms.
    pub norm_eps: f64,
    /// Channels of the text states.
    pub cross_attention_dim: usize,
    /// Number of attention heads per block: diffusers' name for it is a historic slip that checkpoints keep.
    pub attention_head_dim: PerBlock,
    /// Transformer layers per transformer.
    pub transformer_layers_per_block: PerBlock,
    /// Whether transformers begin and end with linear layers instead of 1x1 convolutions.
    pub use_linear_projection: bool,
}

impl Default for UNetConfig {
    fn default() -> Self {
        use {DownBlockType as Down, UpBlockType as Up};
        Self {
            class_name: "UNet2DConditionModel".into(),
            sample_size: 64,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![Down::CrossAttention, Down::CrossAttention, Down::CrossAttention, Down::Plain],
            up_block_types: vec![Up::Plain, Up::CrossAttention, Up::CrossAttention, Up::CrossAttention],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            downsample_padding: 1,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            attention_head_dim: PerBlock::All(8),
            transformer_layers_per_block: PerBlock::All(1),
            use_linear_projection: false,
        }
    }
}
