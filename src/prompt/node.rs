//! The tree of a prompt, and what it says at a step.

use super::{Span, Wording};

/// The least and the largest weight of text. Not 0, because a chunk of nothing has no mean that could be restored.
const WEIGHTS: (f64, f64) = (1e-3, 1e3);

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// A new chunk begins.
    Break,
    /// What is inside, with a weight that multiplies those around it.
    Emphasis {
        weight: f64,
        inside: Vec<Self>,
    },
    /// One thing, then another.
    Switch {
        before: Vec<Self>,
        after: Vec<Self>,
        when: When,
    },
    /// One after the other, a step each; at least one.
    Alternation(Vec<Vec<Self>>),
}

/// How long the first of two things is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum When {
    /// For this share of the steps, 0 to 1, rounded down to whole steps.
    Share(f64),
    /// For so many steps.
    Steps(usize),
}

impl When {
    fn is_before(self, (step, steps): (usize, usize)) -> bool {
        match self {
            Self::Share(share) => step < (share * steps as f64) as usize,
            Self::Steps(count) => step < count,
        }
    }
}

impl Wording {
    /// Adds what `nodes` say at step `at.0` of `at.1`. Recursion is as deep as brackets may be.
    pub(super) fn read(&mut self, nodes: &[Node], weight: f64, at: (usize, usize)) {
        for node in nodes {
            match node {
                Node::Text(text) => self.add(text, weight.clamp(WEIGHTS.0, WEIGHTS.1)),
                Node::Break => self.0.push(Vec::new()),
                Node::Emphasis { weight: factor, inside } => self.read(inside, weight * factor, at),
                Node::Switch { before, after, when } => {
                    self.read(if when.is_before(at) { before } else { after }, weight, at);
                }
                Node::Alternation(choices) => self.read(&choices[at.0 % choices.len()], weight, at),
            }
        }
    }

    /// Neighbours of one weight are one text, so that a word can be put together of parts.
    fn add(&mut self, text: &str, weight: f64) {
        let Some(passage) = self.0.last_mut() else { return };
        match passage.last_mut() {
            Some(span) if span.weight == weight => span.text.push_str(text),
            _ if text.is_empty() => {}
            _ => passage.push(Span { text: text.to_owned(), weight }),
        }
    }
}

/// All text in `nodes`, whenever it is read.
pub(super) fn texts<'a>(nodes: &'a [Node], found: &mut Vec<&'a str>) {
    for node in nodes {
        match node {
            Node::Text(text) => found.push(text),
            Node::Break => {}
            Node::Emphasis { inside, .. } => texts(inside, found),
            Node::Switch { before, after, .. } => [before, after].into_iter().for_each(|nodes| texts(nodes, found)),
            Node::Alternation(choices) => choices.iter().for_each(|nodes| texts(nodes, found)),
        }
    }
}
