//! `<lora:name:0.8>`: an adapter that a prompt asks for, wherever in it that stands.
//!
//! ```text
//! tag    := "<lora:" name [":" number [":" number]] ">"
//! name   := characters but "<", ">", ":", "," and control characters
//! ```
//!
//! The first number is the strength on the text encoders, and on the U-Net, too, unless there is a second (AUTOMATIC1111's
//! `extensions-builtin/Lora/extra_networks_lora.py`); without any it is 1.

use super::parser::number;

/// What a tag begins with.
const BEGINNING: &str = "<lora:";

/// No name is longer, in bytes: what follows is not searched for an end.
const LONGEST: usize = 300;

/// An adapter by name, and how strongly it is to act.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraTag<'a> {
    /// Never empty, and without blank ends.
    pub name: &'a str,
    /// On the text encoders; finite.
    pub text: f64,
    /// On the U-Net; finite.
    pub unet: f64,
}

impl<'a> LoraTag<'a> {
    /// The tag that `text` begins with, and its length in bytes.
    pub(super) fn at(text: &'a str) -> Option<(Self, usize)> {
        let inside = text.strip_prefix(BEGINNING)?;
        let end = inside.bytes().take(LONGEST).position(|b| b == b'>')?;
        Some((Self::parse(&inside[..end])?, BEGINNING.len() + end + 1))
    }

    /// What stands between `<lora:` and `>`: `name`, `name:0.8` or `name:0.8:0.5`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(':').map(str::trim);
        let name = parts.next().filter(|name| is_lora_name(name))?;
        let mut strength = || match parts.next() {
            None => Some(None),
            Some(typed) => number(typed).map(|(value, _)| Some(value)),
        };
        let (text, unet) = (strength()?, strength()?);
        let text = text.unwrap_or(1.0);
        parts.next().is_none().then_some(Self { name, text, unet: unet.unwrap_or(text) })
    }

    /// As it is typed.
    pub fn typed(&self) -> String {
        let Self { name, text, unet } = self;
        if text == unet { format!("{BEGINNING}{name}:{text}>") } else { format!("{BEGINNING}{name}:{text}:{unet}>") }
    }
}

/// Whether a tag, and a list of several, can have this name.
pub fn is_lora_name(name: &str) -> bool {
    let special = |c: char| matches!(c, '<' | '>' | ':' | ',') || c.is_control();
    !name.is_empty() && name.len() < LONGEST / 2 && name.trim() == name && !name.contains(special)
}
