//! CLIP's vocabulary, for checkpoints that come without one: single files have no tokenizer beside them.
//!
//! `clip-merges.txt` is the list of merges of OpenAI's CLIP (MIT licence), one pair a line, most important first. The
//! vocabulary follows from it: the bytes, the bytes at the end of a word, what every merge makes, and the two ends.

use super::files::{Files, Special};
use std::collections::HashMap;
use std::path::PathBuf;

const MERGES: &str = include_str!("clip-merges.txt");
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// What a text is filled up with after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// The end token, as OpenAI's CLIP has it.
    End,
    /// The token of id 0, which is "!": OpenCLIP.
    Zero,
}

/// The vocabulary, padded as the text encoder was trained.
pub(super) fn files(padding: Padding) -> Files {
    let merges: Vec<(String, String)> =
        MERGES.lines().filter_map(|line| line.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    let bytes = byte_characters();
    let single = bytes.iter().map(char::to_string);
    let last = bytes.iter().map(|c| format!("{c}</w>"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let units = single.chain(last).chain(merged).chain([START.to_owned(), END.to_owned()]);
    let vocabulary: HashMap<String, u32> = units.zip(0..).collect();
    let special = Special {
        start: START.to_owned(),
        end: END.to_owned(),
        pad: match padding {
            Padding::End => END.to_owned(),
            Padding::Zero => "!".to_owned(),
        },
        unknown: END.to_owned(),
    };
    Files { path: PathBuf::from("CLIP's own vocabulary"), vocabulary, merges, special }
}

/// A printable character for each byte, in the order of their ids (Radford et al. 2019): bytes that are printable in
/// Latin-1 are themselves and come first, the others are the characters from U+0100 on.
fn byte_characters() -> Vec<char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let themselves: Vec<char> = (0..=u8::MAX).filter(printable).map(char::from).collect();
    let others = 256 - themselves.len() as u32;
    let replaced = (0..others).filter_map(|i| char::from_u32(0x100 + i));
    themselves.iter().copied().chain(replaced).collect()
}
