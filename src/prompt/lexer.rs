//! A prompt's characters to tokens, of which every bracket has its partner.

use super::lora::LoraTag;

/// The deepest nesting of brackets; deeper ones are characters. Bounds the recursion over what is parsed.
pub(super) const MAX_DEPTH: usize = 32;

/// What a backslash makes a plain character.
const ESCAPED: [char; 7] = ['(', ')', '[', ']', ':', '|', '\\'];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bracket {
    Round,
    Square,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Token<'a> {
    /// Characters that stand for themselves.
    Text(&'a str),
    Open(Bracket),
    Close(Bracket),
    Colon,
    Bar,
    Break,
    And,
    /// An adapter, and how it was typed.
    Lora(LoraTag<'a>, &'a str),
}

/// The tokens of `text`. Brackets come in pairs, properly nested and at most [`MAX_DEPTH`] deep; others are text.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = split(text);
    let paired = paired(&tokens);
    let mut depth = 0;
    for (token, paired) in tokens.iter_mut().zip(paired) {
        let here = match token {
            Token::Open(_) if paired => {
                depth += 1;
                depth
            }
            Token::Close(_) if paired => {
                depth -= 1;
                depth + 1
            }
            Token::Open(_) | Token::Close(_) => usize::MAX,
            _ => 0,
        };
        if here > MAX_DEPTH {
            *token = Token::Text(token.typed());
        }
    }
    tokens
}

impl<'a> Token<'a> {
    /// How it was typed.
    pub(super) fn typed(self) -> &'a str {
        match self {
            Self::Text(text) => text,
            Self::Open(Bracket::Round) => "(",
            Self::Open(Bracket::Square) => "[",
            Self::Close(Bracket::Round) => ")",
            Self::Close(Bracket::Square) => "]",
            Self::Colon => ":",
            Self::Bar => "|",
            Self::Break => "BREAK",
            Self::And => "AND",
            Self::Lora(_, typed) => typed,
        }
    }
}

fn split(text: &str) -> Vec<Token<'_>> {
    let (mut tokens, mut from, mut at) = (Vec::new(), 0, 0);
    while let Some(c) = text[at..].chars().next() {
        let Some((token, length)) = special(text, at, c) else {
            at += c.len_utf8();
            continue;
        };
        if from < at {
            tokens.push(Token::Text(&text[from..at]));
        }
        tokens.push(token);
        at += length;
        from = at;
    }
    if from < at {
        tokens.push(Token::Text(&text[from..at]));
    }
    tokens
}

/// The token that begins with the character `c` at byte `at`, if that is not just a character, and its bytes.
fn special(text: &str, at: usize, c: char) -> Option<(Token<'_>, usize)> {
    let one = |token| Some((token, 1));
    match c {
        '(' => one(Token::Open(Bracket::Round)),
        ')' => one(Token::Close(Bracket::Round)),
        '[' => one(Token::Open(Bracket::Square)),
        ']' => one(Token::Close(Bracket::Square)),
        ':' => one(Token::Colon),
        '|' => one(Token::Bar),
        '\\' => text[at + 1..].starts_with(ESCAPED).then(|| (Token::Text(&text[at + 1..at + 2]), 2)),
        'A' => is_word(text, at, "AND").then_some((Token::And, 3)),
        '<' => LoraTag::at(&text[at..]).map(|(tag, length)| (Token::Lora(tag, &text[at..at + length]), length)),
        'B' => is_word(text, at, "BREAK").then_some((Token::Break, 5)),
        _ => None,
    }
}

/// Whether `word` stands at byte `at` of `text`, and not as a part of a longer one.
fn is_word(text: &str, at: usize, word: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    let after = text[at..].strip_prefix(word);
    after.is_some_and(|after| !after.starts_with(joins)) && !text[..at].ends_with(joins)
}

/// For each token, whether it is a bracket with a partner. A bracket between two partners whose own partner is outside
/// has none.
fn paired(tokens: &[Token<'_>]) -> Vec<bool> {
    let mut paired = vec![false; tokens.len()];
    let mut open: Vec<(usize, Bracket)> = Vec::new();
    // How many of each are open, so that a search which must fail is not begun.
    let mut counts = [0usize; 2];
    for (i, token) in tokens.iter().enumerate() {
        match *token {
            Token::Open(bracket) => {
                open.push((i, bracket));
                counts[bracket as usize] += 1;
            }
            Token::Close(bracket) if counts[bracket as usize] > 0 => {
                while let Some((j, other)) = open.pop() {
                    counts[other as usize] -= 1;
                    if other == bracket {
                        (paired[i], paired[j]) = (true, true);
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    paired
}
