//! A text encoder with its tokenizer, and which of its states a U-Net is told.

use super::clip::ClipTextModel;
use super::tokenizer::Tokenizer;
use crate::Result;
use candle_core::Tensor;
use std::sync::Arc;

/// Text to states. A clone shares both parts.
#[derive(Debug, Clone)]
pub struct TextEncoder {
    /// Text to ids.
    pub tokenizer: Arc<Tokenizer>,
    /// Ids to states.
    pub network: Arc<ClipTextModel>,
    /// Which states its U-Net was trained with.
    pub reading: Reading,
}

/// Which of a text encoder's states a family of models was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// How many of the last layers are left out.
    pub skip: usize,
    /// Whether the final norm follows all the same.
    pub final_norm: bool,
    /// Whether the text is told as one vector, too.
    pub pooled: bool,
}

impl Reading {
    /// Stable Diffusion 1 and 2: the last layer that the checkpoint has, and the norm.
    pub const LAST: Self = Self { skip: 0, final_norm: true, pooled: false };
    /// SDXL's first encoder: the last layer but one, as it is.
    pub const XL_FIRST: Self = Self { skip: 1, final_norm: false, pooled: false };
    /// SDXL's second encoder, which also gives the vector.
    pub const XL_SECOND: Self = Self { skip: 1, final_norm: false, pooled: true };
}

/// What a text encoder says of one chunk of text.
#[derive(Debug)]
pub struct Said {
    /// (1, T, C).
    pub states: Tensor,
    /// (1, P), where it is asked for.
    pub pooled: Option<Tensor>,
}

impl TextEncoder {
    /// Reads [`Tokenizer::max_length`] ids with the end token at position `end`. `skip`, where given, takes the place of
    /// [`Reading::skip`] (`clip skip` less one), but one layer is always read. Ids past the vocabulary are those of `added`
    /// vectors.
    pub fn read(&self, ids: &[u32], end: usize, skip: Option<usize>, added: Option<&Tensor>) -> Result<Said> {
        let skip = skip.unwrap_or(self.reading.skip).min(self.network.depth().saturating_sub(1));
        let hidden = match added {
            None => self.network.hidden(&Tensor::from_slice(ids, (1, ids.len()), self.network.device())?, skip)?,
            Some(added) => self.network.hidden_of(&self.network.tokens(ids, added)?, skip)?,
        };
        let pooled = self.reading.pooled.then(|| self.network.pooled(&hidden, skip, end)).transpose()?;
        let states = if self.reading.final_norm { self.network.normed(&hidden)? } else { hidden };
        Ok(Said { states, pooled })
    }
}
