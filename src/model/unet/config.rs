//! The fields of diffusers' `unet/config.json`, with diffusers' defaults, and what of them this crate builds.

use super::supported;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

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

    /// Whether this gives `levels` blocks a value of at least 1 each.
    fn covers(&self, levels: usize) -> bool {
        match self {
            Self::All(value) => *value > 0,
            Self::Each(values) => values.len() == levels && values.iter().all(|&value| value > 0),
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

/// What is added to the time embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdditionEmbedType {
    /// The text states, pooled.
    Text,
    /// A pooled text and the sizes of the picture: SDXL (Podell et al., arXiv:2307.01952, section 2.2).
    TextTime,
}

/// Sizes of a `UNet2DConditionModel`.
///
/// Reading one from JSON takes diffusers' default for a field that is not there, ignores fields that change nothing
/// here, and is an error for a field that would ask for another network, so that no file runs as something it is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, remote = "Self")]
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
    /// What is added to the time embedding; nothing in most models.
    pub addition_embed_type: Option<AdditionEmbedType>,
    /// Attention heads of the pooling that makes it, for [`AdditionEmbedType::Text`].
    pub addition_embed_type_num_heads: usize,
    /// Channels of each size's sinusoids, for [`AdditionEmbedType::TextTime`].
    pub addition_time_embed_dim: Option<usize>,
    /// Channels of pooled text and sizes together, likewise.
    pub projection_class_embeddings_input_dim: Option<usize>,
    /// Channels of the guidance scale's sinusoids, in models that were distilled to know it (Meng et al.,
    /// arXiv:2210.03142; latent consistency models).
    pub time_cond_proj_dim: Option<usize>,
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
            addition_embed_type: None,
            addition_embed_type_num_heads: 64,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            time_cond_proj_dim: None,
            attention_head_dim: PerBlock::All(8),
            transformer_layers_per_block: PerBlock::All(1),
            use_linear_projection: false,
        }
    }
}

/// The numbers that say a picture's sizes to an SDXL U-Net: original height and width, top and left of the crop, height
/// and width of the target.
pub(super) const SIZES: usize = 6;

/// What stands beside the noisy latents in a U-Net's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing: text to picture.
    Nothing,
    /// One channel of mask, 1 where to paint, and the latents of the picture without that part: models made for
    /// inpainting (Rombach et al., arXiv:2112.10752, section 4.5).
    MaskAndPicture,
    /// The latents of the picture to be edited: InstructPix2Pix (Brooks et al., arXiv:2211.09800).
    Picture,
}

impl UNetConfig {
    /// What stands beside the latents, told from the channels; none where these fit nothing known.
    pub fn beside(&self) -> Option<Beside> {
        match self.in_channels.checked_sub(self.out_channels) {
            Some(0) => Some(Beside::Nothing),
            Some(extra) if extra == self.out_channels + 1 => Some(Beside::MaskAndPicture),
            Some(extra) if extra == self.out_channels => Some(Beside::Picture),
            _ => None,
        }
    }

    /// The cross-attentions with their channels, in the order in which diffusers counts attentions: down, up, middle.
    pub fn cross_attentions(&self) -> Vec<(String, usize)> {
        let (channels, coarsest) = (&self.block_out_channels, self.block_out_channels.len() - 1);
        let mut found = Vec::new();
        let mut push = |block: String, transformers: usize, level: usize| {
            for (i, d) in
                (0..transformers).flat_map(|i| (0..self.transformer_layers_per_block.at(level)).map(move |d| (i, d)))
            {
                found.push((format!("{block}.attentions.{i}.transformer_blocks.{d}.attn2"), channels[level]));
            }
        };
        for (level, kind) in self.down_block_types.iter().enumerate() {
            let transformers = if *kind == DownBlockType::CrossAttention { self.layers_per_block } else { 0 };
            push(format!("down_blocks.{level}"), transformers, level);
        }
        for (i, kind) in self.up_block_types.iter().enumerate() {
            let transformers = if *kind == UpBlockType::CrossAttention { self.layers_per_block + 1 } else { 0 };
            push(format!("up_blocks.{i}"), transformers, coarsest - i);
        }
        push("mid_block".to_owned(), 1, coarsest);
        found
    }

    /// Channels of the skip connections, in the order of the way down.
    pub(in crate::model) fn skips(&self) -> Vec<usize> {
        let channels = &self.block_out_channels;
        let mut skips = vec![channels[0]];
        for (level, &width) in channels.iter().enumerate() {
            let downsampled = usize::from(level + 1 < channels.len());
            skips.extend(std::iter::repeat_n(width, self.layers_per_block + downsampled));
        }
        skips
    }

    /// Channels of the time embedding that the residual blocks see.
    pub(super) fn time_channels(&self) -> usize {
        4 * self.block_out_channels[0]
    }

    /// For [`AdditionEmbedType::TextTime`]: the channels of the pooled text, and of each size's sinusoids.
    pub fn added_channels(&self) -> Result<(usize, usize), String> {
        let (size, whole) = (self.addition_time_embed_dim, self.projection_class_embeddings_input_dim);
        let (Some(size), Some(whole)) = (size, whole) else {
            return Err("text_time needs addition_time_embed_dim and projection_class_embeddings_input_dim".into());
        };
        let pooled = size.checked_mul(SIZES).and_then(|sizes| whole.checked_sub(sizes)).filter(|&n| n > 0 && size > 0);
        let message =
            || format!("{whole} channels of projection_class_embeddings_input_dim do not hold {SIZES} x {size}");
        pooled.map(|pooled| (pooled, size)).ok_or_else(message)
    }

    /// What is wrong with these sizes, if anything.
    pub fn check(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        let (down, up) = (self.down_block_types.len(), self.up_block_types.len());
        if levels == 0 || down != levels || up != levels {
            return Err(format!("{levels} block_out_channels, {down} down_block_types and {up} up_block_types differ"));
        }
        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
            ("cross_attention_dim", self.cross_attention_dim),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("{name} must be at least 1"));
        }
        let per_block = [
            ("attention_head_dim", &self.attention_head_dim),
            ("transformer_layers_per_block", &self.transformer_layers_per_block),
        ];
        if let Some((name, value)) = per_block.iter().find(|(_, value)| !value.covers(levels)) {
            return Err(format!("{name} must be a number from 1 or a list of {levels}, not {value:?}"));
        }
        self.check_added()?;
        self.check_channels()?;
        self.check_time_frequencies()
    }

    fn check_added(&self) -> Result<(), String> {
        let (width, heads) = (self.cross_attention_dim, self.addition_embed_type_num_heads);
        match self.addition_embed_type {
            Some(AdditionEmbedType::Text) if heads == 0 || !width.is_multiple_of(heads) => {
                Err(format!("addition_embed_type_num_heads {heads} does not divide cross_attention_dim {width}"))
            }
            Some(AdditionEmbedType::TextTime) => self.added_channels().map(drop),
            _ => Ok(()),
        }
    }

    fn check_channels(&self) -> Result<(), String> {
        let groups = self.norm_num_groups;
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.attention_head_dim.at(level);
            if channels == 0 || !channels.is_multiple_of(groups) || !channels.is_multiple_of(heads) {
                return Err(format!("{channels} channels are not divisible into {groups} groups and {heads} heads"));
            }
        }
        Ok(())
    }

    fn check_time_frequencies(&self) -> Result<(), String> {
        let (shift, half) = (self.freq_shift, self.block_out_channels[0] / 2);
        // The first block's channels hold half cosines, half sines; their frequencies divide by `half - shift`.
        if half as f64 > shift && shift.is_finite() {
            return Ok(());
        }
        Err(format!("freq_shift must be less than {half}, half the first of block_out_channels, not {shift}"))
    }
}

impl Serialize for UNetConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for UNetConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = serde_json::Map::deserialize(deserializer)?;
        supported::check(&fields).map_err(D::Error::custom)?;
        // diffusers writes null where a model is bound to no size.
        fields.retain(|name, value| !(name == "sample_size" && value.is_null()));
        for (name, value) in &fields {
            let alone = Value::from_iter([(name.clone(), value.clone())]);
            Self::deserialize(alone).map_err(|e| D::Error::custom(format!("{name}: {e}")))?;
        }
        Self::deserialize(Value::Object(fields)).map_err(D::Error::custom)
    }
}
