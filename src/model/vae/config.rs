//! The fields of `vae/config.json` for an `AutoencoderKL`, with diffusers' defaults, and what of them this crate builds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// More levels than any autoencoder has: 128 pixels per latent.
const MOST_LEVELS: usize = 8;

/// More channels, layers or groups than any autoencoder has.
const LARGEST_COUNT: usize = 1 << 16;

/// Sizes of an `AutoencoderKL`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Always `AutoencoderKL`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Channels of the pictures that are encoded.
    pub in_channels: usize,
    /// Channels of the decoded pictures.
    pub out_channels: usize,
    /// Blocks of the encoder, finest first: all `DownEncoderBlock2D`.
    pub down_block_types: Vec<String>,
    /// Blocks of the decoder, coarsest first: all `UpDecoderBlock2D`.
    pub up_block_types: Vec<String>,
    /// Channels at each resolution, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// The activation: `silu`, also called `swish`.
    pub act_fn: String,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of every group norm.
    pub norm_num_groups: usize,
    /// What the pipeline multiplies latents with, so that their variance is about 1.
    pub scaling_factor: f64,
    /// What the pipeline subtracts from latents before that.
    pub shift_factor: Option<f64>,
    /// Statistics per latent channel, of which this crate knows nothing yet.
    pub latents_mean: Option<Value>,
    /// See `latents_mean`.
    pub latents_std: Option<Value>,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the coarsest level has its attention layer.
    pub mid_block_add_attention: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            class_name: "AutoencoderKL".into(),
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl VaeConfig {
    /// What is wrong with these sizes, if anything.
    pub fn check(&self) -> Result<(), String> {
        self.check_kinds()?;
        self.check_channels()?;
        if !(self.scaling_factor.is_finite() && self.scaling_factor > 0.0) {
            return Err(format!("scaling_factor must be above 0, not {}", self.scaling_factor));
        }
        Ok(())
    }

    /// Pixels per latent, along one side.
    pub fn factor(&self) -> usize {
        1 << (self.levels() - 1)
    }

    /// The most numbers that exist at a time while a latent of this size is decoded whole.
    pub(super) fn decoding(&self, height: usize, width: usize) -> usize {
        let pixels = height * width * self.factor() * self.factor();
        self.at_most(pixels, |level| self.channels((level + 1).min(self.levels() - 1)))
    }

    /// The same while a picture of this size is encoded.
    pub(super) fn encoding(&self, height: usize, width: usize) -> usize {
        self.at_most(height * width, |level| self.channels(level.saturating_sub(1)))
    }

    /// Of all levels, the most that goes into a residual block, comes out of it and is between.
    fn at_most(&self, pixels: usize, inputs: impl Fn(usize) -> usize) -> usize {
        let of_level = |level: usize| (pixels >> (2 * level)) * (inputs(level) + 2 * self.channels(level));
        (0..self.levels()).map(of_level).max().unwrap_or(0)
    }

    pub(super) fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Channels at level `level`, the finest being 0.
    pub(super) fn channels(&self, level: usize) -> usize {
        self.block_out_channels[level]
    }

    fn check_kinds(&self) -> Result<(), String> {
        let blocks = [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ];
        for (name, kinds, known) in blocks {
            if let Some(other) = kinds.iter().find(|kind| *kind != known) {
                return Err(format!("{name}: {other:?} is not supported, only {known:?}"));
            }
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            return Err(format!("act_fn {:?} is not supported, only \"silu\"", self.act_fn));
        }
        if self.latents_mean.is_some() || self.latents_std.is_some() {
            return Err("latents_mean and latents_std are not supported in an AutoencoderKL".into());
        }
        Ok(())
    }

    fn check_channels(&self) -> Result<(), String> {
        let (levels, down, up) = (self.levels(), self.down_block_types.len(), self.up_block_types.len());
        if down != levels || up != levels || !(1..=MOST_LEVELS).contains(&levels) {
            let lists = format!("{levels} block_out_channels, {down} down_block_types, {up} up_block_types");
            return Err(format!("{lists}: there must be as many of each, 1 to {MOST_LEVELS}"));
        }
        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("latent_channels", self.latent_channels),
            ("norm_num_groups", self.norm_num_groups),
        ];
        let channels = self.block_out_channels.iter().map(|&n| ("block_out_channels", n));
        if let Some((name, n)) = counts.into_iter().chain(channels).find(|(_, n)| *n == 0 || *n > LARGEST_COUNT) {
            return Err(format!("{name} is {n}, outside 1 to {LARGEST_COUNT}"));
        }
        let groups = self.norm_num_groups;
        match self.block_out_channels.iter().find(|&&n| n % groups != 0) {
            Some(channels) => Err(format!("{groups} groups do not divide {channels} channels")),
            None => Ok(()),
        }
    }
}
