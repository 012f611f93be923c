//! From prompts to what the network is told, step by step.

use super::Pipeline;
use super::chunks::chunks;
use super::vocabulary::{Added, Vocabulary};
use crate::error::{Error, FieldError, Result};
use crate::model::checkpoint::Model;
use crate::model::text_encoder::TextEncoder;
use crate::model::tokenizer::Tokenizer;
use crate::prompt::{Prompt, Wording};
use crate::request::{Facts, Plan, check_prompt};
use candle_core::{D, Tensor};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// The most states of one prompt, start and end tokens among them: two hundred chunks of Stable Diffusion. Every query
/// of the network attends to all of them.
const MAX_STATES: usize = 1 << 14;

/// How a prompt fills the chunks that a model reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TokenCount {
    /// Tokens of the prompt up to its end, with what `BREAK` leaves empty. Of a prompt that changes from step to step,
    /// those of its longest form.
    pub count: usize,
    /// How many there can be before one more chunk is begun.
    pub limit: usize,
    /// Chunks, each of which is read by itself.
    pub chunks: usize,
}

/// The prompts of a plan, to be read when a step needs them.
pub(super) struct Text<'a> {
    model: &'a Model,
    prompt: Prompt,
    negative: Prompt,
    added: &'a Added,
    /// For each text encoder, the vectors of `added`.
    vectors: Vec<Option<Tensor>>,
    /// How many of the text encoder's last layers are left out, where the plan says so.
    skip: Option<usize>,
    /// How many steps there will be.
    steps: usize,
    /// What was read already; with all together no more than [`MAX_STATES`] states or one prompt.
    read: RefCell<HashMap<Wording, TextStates>>,
}

/// What the network is told of texts, a row each.
#[derive(Debug, Clone)]
pub(super) struct TextStates {
    /// The states, (B, T, C).
    pub(super) context: Tensor,
    /// Each text as one vector, (B, P), for models that are told that, too.
    pub(super) pooled: Option<Tensor>,
}

/// What the network is told at one step. All states have the same number of chunks.
pub(super) struct States {
    /// Weight and states of each prompt that `AND` joins.
    pub(super) prompts: Vec<(f64, TextStates)>,
    /// The negative prompt's.
    pub(super) negative: TextStates,
}

/// Counts a prompt's tokens for a model, given its tokenizer and what else is known of it. Fails with [`Error::Invalid`]
/// when it has more characters than a plan may have.
pub fn count_tokens(tokenizer: &Tokenizer, facts: &Facts, prompt: &str) -> Result<TokenCount> {
    check_prompt("prompt", prompt).map_err(Error::invalid)?;
    let (prompt, steps) = (Prompt::parse(prompt), facts.steps);
    let forms = prompt.parts().iter().flat_map(|part| (0..steps).map(|step| part.at(step, steps)));
    let named = facts.adapters.inversions(&prompt.texts()).into_iter();
    let named: Vec<_> = named.filter_map(|(inversion, wrong)| wrong.is_none().then_some(inversion)).collect();
    let added = Added::open(&named, &facts.adapters)?;
    let vocabulary = Vocabulary::new(tokenizer, &added, 0);
    let room = tokenizer.room();
    let mut longest = TokenCount::default();
    for wording in forms.collect::<HashSet<_>>() {
        let chunks = chunks(&vocabulary, &wording)?;
        let count = room * (chunks.len() - 1) + chunks.last().map_or(0, |chunk| chunk.words);
        if chunks.len() > longest.chunks || count > longest.count {
            longest = TokenCount { count, limit: room * chunks.len(), chunks: chunks.len() };
        }
    }
    Ok(longest)
}

impl Pipeline {
    /// Counts a prompt's tokens as [`count_tokens`] does.
    pub fn tokens(&self, prompt: &str) -> Result<TokenCount> {
        // Encoders that read side by side have one vocabulary.
        count_tokens(&self.model.text[0].tokenizer, &self.facts, prompt)
    }
}

impl TextStates {
    /// Rows of several, in order. All have as many states.
    pub(super) fn stacked(rows: &[&Self]) -> Result<Self> {
        let pooled: Option<Vec<_>> = rows.iter().map(|row| row.pooled.as_ref()).collect();
        let contexts: Vec<_> = rows.iter().map(|row| &row.context).collect();
        let pooled = pooled.map(|pooled| Tensor::cat(&pooled, 0)).transpose()?;
        Ok(Self { context: Tensor::cat(&contexts, 0)?, pooled })
    }

    fn zeros_like(&self) -> Result<Self> {
        let pooled = self.pooled.as_ref().map(Tensor::zeros_like).transpose()?;
        Ok(Self { context: self.context.zeros_like()?, pooled })
    }

    fn length(&self) -> usize {
        self.context.dims()[1]
    }
}

impl<'a> Text<'a> {
    /// The prompts of a plan that takes so many steps, to be read by `model`; `added` are the plan's embeddings.
    pub(super) fn new(model: &'a Model, plan: &Plan, added: &'a Added, steps: usize) -> Result<Self> {
        let encoders = model.text.iter().enumerate();
        let vectors = encoders.map(|(i, encoder)| added.vectors(i, encoder.network.device()));
        Ok(Self {
            model,
            prompt: Prompt::parse(&plan.prompt),
            negative: Prompt::parse_negative(&plan.negative_prompt),
            added,
            vectors: vectors.collect::<Result<_>>()?,
            skip: plan.clip_skip.map(|skip| skip - 1),
            steps,
            read: RefCell::default(),
        })
    }

    /// What the network is told at step `step`, from 0. What is shorter is filled up with empty chunks.
    pub(super) fn at(&self, step: usize) -> Result<States> {
        let read = |field, prompt: &Prompt| -> Result<Vec<(f64, TextStates)>> {
            let parts = prompt.parts().iter();
            parts.map(|part| Ok((part.weight, self.states(field, &part.at(step, self.steps))?))).collect()
        };
        let mut all = read("negative_prompt", &self.negative)?;
        all.extend(read("prompt", &self.prompt)?);
        let length = all.iter().map(|(_, states)| states.length()).max().unwrap_or_default();
        for (_, states) in &mut all {
            *states = self.filled(states, length)?;
        }
        let (_, negative) = all.remove(0);
        let silent = self.model.zeros_for_empty && self.negative.is_empty();
        Ok(States { prompts: all, negative: if silent { negative.zeros_like()? } else { negative } })
    }

    /// `states` with those of empty chunks after them, up to `length` of them.
    fn filled(&self, states: &TextStates, length: usize) -> Result<TextStates> {
        let missing = length - states.length();
        if missing == 0 {
            return Ok(states.clone());
        }
        let empty = self.states("prompt", &Wording(vec![Vec::new()]))?;
        let filling = empty.context.repeat((1, missing / empty.length(), 1))?;
        Ok(TextStates { context: Tensor::cat(&[&states.context, &filling], 1)?, pooled: states.pooled.clone() })
    }

    /// The states of a wording, one row. Each wording is read once.
    fn states(&self, field: &str, wording: &Wording) -> Result<TextStates> {
        if let Some(states) = self.read.borrow().get(wording) {
            return Ok(states.clone());
        }
        let states = self.encode(field, wording)?;
        let mut read = self.read.borrow_mut();
        let kept: usize = read.values().map(TextStates::length).sum();
        if kept + states.length() > MAX_STATES {
            read.clear();
        }
        read.insert(wording.clone(), states.clone());
        Ok(states)
    }

    /// What all encoders say of a wording, side by side in the channels.
    fn encode(&self, field: &str, wording: &Wording) -> Result<TextStates> {
        let encoders = self.model.text.iter().zip(&self.vectors);
        let said = encoders.map(|(encoder, added)| self.encode_with(encoder, added.as_ref(), field, wording));
        let said = said.collect::<Result<Vec<_>>>()?;
        let contexts: Vec<_> = said.iter().map(|said| &said.context).collect();
        let context = Tensor::cat(&contexts, D::Minus1)?;
        Ok(TextStates { context, pooled: said.into_iter().rev().find_map(|said| said.pooled) })
    }

    /// Chunk after chunk; the first one stands for the whole where one vector is asked for.
    fn encode_with(
        &self,
        encoder: &TextEncoder,
        added: Option<&Tensor>,
        field: &str,
        wording: &Wording,
    ) -> Result<TextStates> {
        let first = encoder.network.vocabulary_size() as u32;
        let chunks = chunks(&Vocabulary::new(&encoder.tokenizer, self.added, first), wording)?;
        let length = encoder.tokenizer.max_length();
        let (found, most) = (chunks.len(), MAX_STATES / length);
        if found > most {
            let message = format!("fills {found} chunks of {} tokens, at most {most} are read", length - 2);
            return Err(Error::invalid(FieldError::new(field, "too_long", message).range(0.0, most as f64)));
        }
        let (mut states, mut pooled) = (Vec::with_capacity(found), None);
        for chunk in &chunks {
            let said = encoder.read(&chunk.ids, chunk.end(), self.skip, added)?;
            states.push(chunk.weighted(said.states)?);
            pooled = pooled.or(said.pooled);
        }
        Ok(TextStates { context: Tensor::cat(&states, 1)?, pooled })
    }
}
