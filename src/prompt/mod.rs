//! What is typed as a prompt, to the words that are read at each step and how strongly.
//!
//! | typed | means |
//! |---|---|
//! | `(word:1.3)` | `word` with 1.3 times the weight |
//! | `(word)`, `[word]` | 1.1 times, 1/1.1 times; nested ones multiply |
//! | `[a:b:0.5]`, `[a:b:7]` | `a` for half of the steps, for 7 steps; then `b` |
//! | `[a:0.5]`, `[a::0.5]` | `a` from then on, `a` until then |
//! | `[a\|b\|c]` | one after the other, a step each |
//! | `BREAK` | what follows begins a new chunk of tokens |
//! | `a :0.7 AND b :-0.3` | two prompts, each with its own conditional; see [`crate::diffusion::guidance`] |
//! | `<lora:name:0.8>` | an adapter; see [`LoraTag`] |
//! | `\(` `\)` `\[` `\]` `\:` `\|` `\\` | the character itself |
//!
//! The semantics are those of AUTOMATIC1111's web UI (`modules/prompt_parser.py`) where a prompt is well formed. What is
//! not well formed is text, all of its characters included: there are no wrong prompts. The work is linear in the
//! length of a prompt, whatever it holds.

mod embedded;
mod lexer;
mod lora;
mod node;
mod parser;

#[cfg(test)]
mod tests;

pub use embedded::{Piece, pieces};
pub use lora::{LoraTag, is_lora_name};

use lexer::Token;
use node::Node;
use std::hash::{Hash, Hasher};

/// The most prompts that `AND` joins; further ones are words.
pub const MAX_PARTS: usize = 16;

/// A parsed prompt: what `AND` joins.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    parts: Vec<Part>,
}

/// One of the prompts that `AND` joins; commonly the only one.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Finite, and negative for what is to be avoided. 1 unless there are several parts.
    pub weight: f64,
    nodes: Vec<Node>,
}

/// What is read at one step: passages, each of which begins a new chunk. At least one, commonly the only one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wording(pub Vec<Vec<Span>>);

/// Text of one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// Never empty.
    pub text: String,
    /// Finite and positive.
    pub weight: f64,
}

/// Weights are never NaN.
impl Eq for Span {}

impl Hash for Span {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
        self.weight.to_bits().hash(state);
    }
}

impl Prompt {
    /// Parses any text. Adapters that it asks for are no part of what is read.
    pub fn parse(text: &str) -> Self {
        let mut tokens = lexer::tokens(text);
        tokens.retain(|token| !matches!(token, Token::Lora(..)));
        Self { parts: parser::parse(tokens, MAX_PARTS) }
    }

    /// Parses a negative prompt, in which `AND` is a word, and so is what would be an adapter: there is one thing only to
    /// steer away from, by the same networks.
    pub fn parse_negative(text: &str) -> Self {
        Self { parts: parser::parse(lexer::tokens(text), 1) }
    }

    /// The adapters that a text asks for, in order.
    pub fn loras(text: &str) -> Vec<LoraTag<'_>> {
        let tag = |token| if let Token::Lora(tag, _) = token { Some(tag) } else { None };
        lexer::tokens(text).into_iter().filter_map(tag).collect()
    }

    /// At least one.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether nothing is read at any step.
    pub fn is_empty(&self) -> bool {
        self.texts().iter().all(|text| text.trim().is_empty())
    }

    /// All text that is read at any step.
    pub fn texts(&self) -> Vec<&str> {
        let mut texts = Vec::new();
        self.parts.iter().for_each(|part| node::texts(&part.nodes, &mut texts));
        texts
    }
}

impl Part {
    /// What is read at step `step`, from 0, of `steps`.
    pub fn at(&self, step: usize, steps: usize) -> Wording {
        let mut wording = Wording(vec![Vec::new()]);
        wording.read(&self.nodes, 1.0, (step, steps));
        wording
    }
}
