//! Tokens to trees, with a stack of open brackets in place of recursion.

use super::Part;
use super::lexer::{Bracket, Token};
use super::node::{Node, When};

/// The weight of a pair of round brackets; square ones divide by it.
const EMPHASIS: f64 = 1.1;

/// The largest weight that a bracket or a part can have: more would overflow where brackets are nested.
const LARGEST_WEIGHT: f64 = 1e3;

/// The parts of a prompt: at most `most` (at least 1), further `AND`s are words.
pub(super) fn parse(tokens: Vec<Token<'_>>, most: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut level, mut around) = (Level::default(), Vec::new());
    for token in tokens {
        match token {
            // Adapters act on the whole prompt, and are taken out of one before.
            Token::Text(_) | Token::Lora(..) => level.text(token.typed()),
            Token::Colon => level.separate(Separator::Colon),
            Token::Bar => level.separate(Separator::Bar),
            Token::Break => level.last.push(Node::Break),
            Token::And if around.is_empty() && parts.len() + 1 < most => parts.push(std::mem::take(&mut level)),
            Token::And => level.text(token.typed()),
            Token::Open(_) => around.push(std::mem::take(&mut level)),
            Token::Close(bracket) => {
                let inside = std::mem::replace(&mut level, around.pop().unwrap_or_default());
                level.last.push(match bracket {
                    Bracket::Round => inside.round(),
                    Bracket::Square => inside.square(),
                });
            }
        }
    }
    parts.push(level);
    match <[Level; 1]>::try_from(parts) {
        // A prompt by itself has no weight: "16:9" is two numbers.
        Ok([only]) => vec![Part { weight: 1.0, nodes: only.joined() }],
        Err(parts) => parts.into_iter().map(Level::part).collect(),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Separator {
    Colon,
    Bar,
}

impl Separator {
    fn typed(self) -> &'static str {
        match self {
            Self::Colon => Token::Colon.typed(),
            Self::Bar => Token::Bar.typed(),
        }
    }
}

/// What stands between two brackets, or outside of all.
#[derive(Default)]
struct Level {
    /// What came before each separator.
    done: Vec<(Vec<Node>, Separator)>,
    /// What came after the last one.
    last: Vec<Node>,
}

impl Level {
    fn text(&mut self, text: &str) {
        push_text(&mut self.last, text);
    }

    fn separate(&mut self, separator: Separator) {
        self.done.push((std::mem::take(&mut self.last), separator));
    }

    /// One of the prompts that `AND` joins: `a` or `a :0.7`.
    fn part(mut self) -> Part {
        match self.take_number() {
            Some((weight, _)) => Part { weight: weight.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT), nodes: self.joined() },
            None => Part { weight: 1.0, nodes: self.joined() },
        }
    }

    /// `(a)` or `(a:1.3)`.
    fn round(mut self) -> Node {
        // What is below 0 is as little as can be.
        let weight = self.take_number().map_or(EMPHASIS, |(weight, _)| weight.clamp(0.0, LARGEST_WEIGHT));
        Node::Emphasis { weight, inside: self.joined() }
    }

    /// `[a|b]`, `[a:b:0.5]`, `[a:0.5]`, or `[a]`.
    fn square(mut self) -> Node {
        if self.done.iter().any(|(_, separator)| *separator == Separator::Bar) {
            return Node::Alternation(self.choices());
        }
        if self.done.len() <= 2
            && let Some((number, is_share)) = self.take_number()
        {
            let when = if is_share { When::Share(number.clamp(0.0, 1.0)) } else { When::Steps(number as usize) };
            let before = self.done.pop().map_or_else(Vec::new, |(nodes, _)| nodes);
            return Node::Switch { before, after: self.last, when };
        }
        Node::Emphasis { weight: 1.0 / EMPHASIS, inside: self.joined() }
    }

    /// Takes a number off the end, with the colon before it: its value, and whether it was typed with a point.
    fn take_number(&mut self) -> Option<(f64, bool)> {
        let ([Node::Text(text)], Some((_, Separator::Colon))) = (&self.last[..], self.done.last()) else { return None };
        let number = number(text.trim())?;
        self.last = self.done.pop().map_or_else(Vec::new, |(nodes, _)| nodes);
        Some(number)
    }

    /// What stands between bars. Colons are characters there.
    fn choices(self) -> Vec<Vec<Node>> {
        let mut choices = vec![Vec::new()];
        let mut add = |nodes: Vec<Node>, begins: bool| match choices.last_mut() {
            Some(choice) if !begins => append(choice, nodes),
            _ => choices.push(nodes),
        };
        let mut begins = false;
        for (mut nodes, separator) in self.done {
            if separator == Separator::Colon {
                push_text(&mut nodes, separator.typed());
            }
            add(nodes, begins);
            begins = separator == Separator::Bar;
        }
        add(self.last, begins);
        choices
    }

    /// All of it, separators as characters.
    fn joined(self) -> Vec<Node> {
        let mut all = Vec::new();
        for (nodes, separator) in self.done {
            append(&mut all, nodes);
            push_text(&mut all, separator.typed());
        }
        append(&mut all, self.last);
        all
    }
}

/// Neighbouring texts are one.
fn push_text(nodes: &mut Vec<Node>, text: &str) {
    match nodes.last_mut() {
        Some(Node::Text(before)) => before.push_str(text),
        _ => nodes.push(Node::Text(text.to_owned())),
    }
}

fn append(nodes: &mut Vec<Node>, more: Vec<Node>) {
    for node in more {
        match node {
            Node::Text(text) => push_text(nodes, &text),
            node => nodes.push(node),
        }
    }
}

/// An optional sign, digits, and at most one point among them.
pub(super) fn number(text: &str) -> Option<(f64, bool)> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let points = digits.bytes().filter(|b| *b == b'.').count();
    let is_number = points <= 1 && digits.len() > points && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    is_number.then(|| text.parse().ok()).flatten().map(|value| (value, points == 1))
}
