//! From prompts to what the network is told.

use super::Pipeline;
use crate::Result;
use crate::request::Plan;
use candle_core::Tensor;
use serde::Serialize;

/// How a prompt fills the room that a model has for words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    /// Tokens of the whole prompt, read or not. (The end of a text of many thousand words is not counted.)
    pub count: usize,
    /// How many of them the model reads.
    pub limit: usize,
    /// The end of the prompt that is not read, as it was typed.
    pub cut: Option<String>,
}

/// The states of prompt and negative prompt.
pub(super) struct Text {
    /// The prompt's, (1, T, C).
    pub(super) conditional: Tensor,
    /// The negative prompt's and the prompt's, (2, T, C).
    pub(super) pair: Tensor,
}

impl Pipeline {
    /// Counts a prompt's tokens, without the two that mark start and end.
    pub fn tokens(&self, prompt: &str) -> Result<TokenCount> {
        let tokens = self.model.tokenizer.encode(prompt)?;
        let limit = self.model.tokenizer.max_length() - MARKS;
        Ok(TokenCount { count: tokens.total - MARKS, limit, cut: tokens.dropped })
    }

    pub(super) fn text(&self, plan: &Plan) -> Result<Text> {
        let conditional = self.encode(&plan.prompt)?;
        let pair = Tensor::cat(&[&self.encode(&plan.negative_prompt)?, &conditional], 0)?;
        Ok(Text { conditional, pair })
    }

    /// Text to its states, (1, T, C).
    fn encode(&self, text: &str) -> Result<Tensor> {
        let ids = self.model.tokenizer.encode(text)?.ids;
        let length = ids.len();
        self.model.text_encoder.forward(&Tensor::from_vec(ids, (1, length), &self.device)?)
    }
}

/// The tokens for start and end.
const MARKS: usize = 2;
