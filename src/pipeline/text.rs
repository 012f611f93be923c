//! From prompts to what the network is told, step by step.

use super::Pipeline;
use super::chunks::chunks;
use crate::error::{Error, FieldError, Result};
use crate::prompt::{Prompt, Wording};
use crate::request::{Plan, check_prompt};
use candle_core::Tensor;
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
    pipeline: &'a Pipeline,
    prompt: Prompt,
    negative: Prompt,
    /// How many steps there will be.
    steps: usize,
    /// States of what was read already, (1, T, C); with all together no more than [`MAX_STATES`] or one prompt.
    read: RefCell<HashMap<Wording, Tensor>>,
}

/// What the network is told at one step. All states have the same number of chunks.
pub(super) struct States {
    /// Weight and states, (1, T, C), of each prompt that `AND` joins.
    pub(super) prompts: Vec<(f64, Tensor)>,
    /// The negative prompt's and the first prompt's, (2, T, C).
    pub(super) pair: Tensor,
}

impl Pipeline {
    /// Counts a prompt's tokens. Fails with [`Error::Invalid`] when it has more characters than a plan may have.
    pub fn tokens(&self, prompt: &str) -> Result<TokenCount> {
        check_prompt("prompt", prompt).map_err(Error::invalid)?;
        let (prompt, steps) = (Prompt::parse(prompt), self.facts().steps);
        let forms = prompt.parts().iter().flat_map(|part| (0..steps).map(|step| part.at(step, steps)));
        let room = self.model.tokenizer.room();
        let mut longest = TokenCount::default();
        for wording in forms.collect::<HashSet<_>>() {
            let chunks = chunks(&self.model.tokenizer, &wording)?;
            let count = room * (chunks.len() - 1) + chunks.last().map_or(0, |chunk| chunk.words);
            if chunks.len() > longest.chunks || count > longest.count {
                longest = TokenCount { count, limit: room * chunks.len(), chunks: chunks.len() };
            }
        }
        Ok(longest)
    }

    pub(super) fn text(&self, plan: &Plan, steps: usize) -> Text<'_> {
        Text {
            pipeline: self,
            prompt: Prompt::parse(&plan.prompt),
            negative: Prompt::parse_negative(&plan.negative_prompt),
            steps,
            read: RefCell::default(),
        }
    }
}

impl Text<'_> {
    /// What the network is told at step `step`, from 0. What is shorter is filled up with empty chunks.
    pub(super) fn at(&self, step: usize) -> Result<States> {
        let read = |field, prompt: &Prompt| -> Result<Vec<(f64, Tensor)>> {
            let parts = prompt.parts().iter();
            parts.map(|part| Ok((part.weight, self.states(field, &part.at(step, self.steps))?))).collect()
        };
        let mut all = read("negative_prompt", &self.negative)?;
        all.extend(read("prompt", &self.prompt)?);
        let mut length = 0;
        for (_, states) in &all {
            length = length.max(states.dim(1)?);
        }
        for (_, states) in &mut all {
            *states = self.filled(states, length)?;
        }
        let pair = Tensor::cat(&[&all[0].1, &all[1].1], 0)?;
        Ok(States { prompts: all.split_off(1), pair })
    }

    /// `states`, (1, T, C), with states of empty chunks after them, up to `length` of them.
    fn filled(&self, states: &Tensor, length: usize) -> Result<Tensor> {
        let missing = length - states.dim(1)?;
        if missing == 0 {
            return Ok(states.clone());
        }
        let empty = self.states("prompt", &Wording(vec![Vec::new()]))?;
        Ok(Tensor::cat(&[states, &empty.repeat((1, missing / empty.dim(1)?, 1))?], 1)?)
    }

    /// The states of a wording, chunk after chunk, (1, T, C). Each wording is read once.
    fn states(&self, field: &str, wording: &Wording) -> Result<Tensor> {
        if let Some(states) = self.read.borrow().get(wording) {
            return Ok(states.clone());
        }
        let states = self.encode(field, wording)?;
        let mut read = self.read.borrow_mut();
        let kept: usize = read.values().map(|states| states.dims()[1]).sum();
        if kept + states.dim(1)? > MAX_STATES {
            read.clear();
        }
        read.insert(wording.clone(), states.clone());
        Ok(states)
    }

    fn encode(&self, field: &str, wording: &Wording) -> Result<Tensor> {
        let model = &self.pipeline.model;
        let chunks = chunks(&model.tokenizer, wording)?;
        let length = model.tokenizer.max_length();
        let (found, most) = (chunks.len(), MAX_STATES / length);
        if found > most {
            let message = format!("fills {found} chunks of {} tokens, at most {most} are read", length - 2);
            return Err(Error::invalid(FieldError::new(field, "too_long", message).range(0.0, most as f64)));
        }
        let encode = |chunk: &super::chunks::Chunk| {
            let ids = Tensor::from_slice(&chunk.ids, (1, length), &self.pipeline.device)?;
            chunk.weighted(model.text_encoder.forward(&ids)?)
        };
        let states = chunks.iter().map(encode).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&states, 1)?)
    }
}
