//! The parts of a model before any network is built: what they are, where their weights lie, and whether they belong
//! together.

use super::Defaults;
use super::weights::Weights;
use crate::diffusion::denoiser::Prediction;
use crate::diffusion::errors::SquaredErrors;
use crate::diffusion::schedule::NoiseSchedule;
use crate::model::clip::ClipTextConfig;
use crate::model::codec::CodecConfig;
use crate::model::text_encoder::Reading;
use crate::model::tokenizer::Tokenizer;
use crate::model::unet::{AdditionEmbedType, UNetConfig};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// No count in a configuration is larger: what this program could load stays far below.
const LARGEST_COUNT: usize = 1 << 20;

/// Everything a model is built of.
pub(super) struct Parts {
    /// One, or two whose states stand side by side.
    pub(super) text: Vec<TextParts>,
    pub(super) unet: (UNetConfig, Weights),
    pub(super) codec: (CodecConfig, Weights),
    pub(super) schedule: NoiseSchedule,
    pub(super) errors: Option<SquaredErrors>,
    pub(super) prediction: Prediction,
    pub(super) defaults: Defaults,
    /// Whether an empty negative prompt is told as zeros instead of being read.
    pub(super) zeros_for_empty: bool,
}

/// What a text encoder is built of.
pub(super) struct TextParts {
    pub(super) tokenizer: Tokenizer,
    pub(super) config: ClipTextConfig,
    pub(super) weights: Weights,
    pub(super) reading: Reading,
}

/// What was read, so that an error can name the file at fault.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// A folder with one configuration per part.
    Folder(&'a Path),
    /// One file, whose tensors say everything.
    File(&'a Path),
}

impl Source<'_> {
    /// Where the description of `part` is from.
    fn description(self, part: &str) -> PathBuf {
        match self {
            Self::Folder(path) => path.join(part),
            Self::File(path) => path.to_owned(),
        }
    }

    /// Refuses sizes that cannot be meant, before memory is asked for, and parts that do not belong together.
    pub(super) fn check(self, text: &[(&str, &ClipTextConfig)], unet: &UNetConfig, codec: &CodecConfig) -> Result<()> {
        text.iter().try_for_each(|(part, text)| self.check_text(part, text))?;
        self.check_unet(unet, text.iter().map(|(_, text)| text.hidden_size).sum())?;
        self.check_added(unet, text)?;
        let (found, expected) = (codec.latent_channels(), unet.out_channels);
        if found == expected {
            return Ok(());
        }
        let message = format!("{found} latent channels, but the U-Net draws {expected}");
        Err(Error::model(self.description("vae/config.json"), message))
    }

    fn check_text(self, part: &str, text: &ClipTextConfig) -> Result<()> {
        let file = self.description(&format!("{part}/config.json"));
        let counts = [
            ("vocab_size", text.vocab_size),
            ("hidden_size", text.hidden_size),
            ("intermediate_size", text.intermediate_size),
            ("num_hidden_layers", text.num_hidden_layers),
            ("num_attention_heads", text.num_attention_heads),
            ("max_position_embeddings", text.max_position_embeddings),
            ("projection_dim", text.projection_dim),
        ];
        check_counts(&file, &counts)?;
        if text.hidden_size.is_multiple_of(text.num_attention_heads) {
            return Ok(());
        }
        let message = format!("{} heads do not divide {} channels", text.num_attention_heads, text.hidden_size);
        Err(Error::model(file, message))
    }

    /// SDXL's U-Nets are told a text as a vector, too: the last encoder has to give it.
    fn check_added(self, unet: &UNetConfig, text: &[(&str, &ClipTextConfig)]) -> Result<()> {
        let file = || self.description("unet/config.json");
        if unet.addition_embed_type != Some(AdditionEmbedType::TextTime) {
            return Ok(());
        }
        let (pooled, size) = unet.added_channels().map_err(|message| Error::model(file(), message))?;
        check_counts(&file(), &[("projection_class_embeddings_input_dim", pooled), ("addition_time_embed_dim", size)])?;
        let given = text.last().map_or(0, |(_, text)| text.pooled_size());
        if given == pooled {
            return Ok(());
        }
        let message = format!("it is told a text in {pooled} channels, the last text encoder gives {given}");
        Err(Error::model(file(), message))
    }

    /// `states` is what the text encoders give.
    fn check_unet(self, unet: &UNetConfig, states: usize) -> Result<()> {
        let file = self.description("unet/config.json");
        let counts = [
            ("sample_size", unet.sample_size),
            ("in_channels", unet.in_channels),
            ("out_channels", unet.out_channels),
            ("layers_per_block", unet.layers_per_block),
            ("norm_num_groups", unet.norm_num_groups),
            ("cross_attention_dim", unet.cross_attention_dim),
        ];
        check_counts(&file, &counts)?;
        if unet.cross_attention_dim != states {
            let expected = unet.cross_attention_dim;
            let message = format!("cross_attention_dim is {expected}, the text encoder gives {states}");
            return Err(Error::model(file, message));
        }
        if let Some(channels) = unet.time_cond_proj_dim {
            check_counts(&file, &[("time_cond_proj_dim", channels)])?;
        }
        if unet.beside().is_none() {
            let (from, to) = (unet.in_channels, unet.out_channels);
            let message = format!(
                "{from} input and {to} output channels: neither a text-to-image U-Net nor one for inpainting or editing"
            );
            return Err(Error::model(file, message));
        }
        let blocks: Vec<_> = unet.block_out_channels.iter().map(|&c| ("block_out_channels", c)).collect();
        check_counts(&file, &blocks)?;
        unet.check().map_err(|message| Error::model(file, message))
    }

    /// Refuses a vocabulary of which some ids have no row in the text encoder's table.
    pub(super) fn check_vocabulary(self, part: &str, tokenizer: &Tokenizer, text: &ClipTextConfig) -> Result<()> {
        let (ids, rows) = (tokenizer.vocabulary_size(), text.vocab_size);
        if ids <= rows {
            return Ok(());
        }
        let message = format!("it has ids up to {}, but the text encoder's table only {rows} rows", ids - 1);
        Err(Error::model(self.description(&format!("{part}/vocab.json")), message))
    }
}

/// Refuses counts of 0 and counts that are too large.
pub(super) fn check_counts(file: &Path, counts: &[(&str, usize)]) -> Result<()> {
    match counts.iter().find(|(_, count)| *count == 0 || *count > LARGEST_COUNT) {
        None => Ok(()),
        Some((name, count)) => Err(Error::model(file, format!("{name} is {count}, outside 1 to {LARGEST_COUNT}"))),
    }
}
