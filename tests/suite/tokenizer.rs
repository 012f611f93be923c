//! The tokenizer: transformers' ids, and what happens to prompts and files that are not as they should be.

use limner::model::tokenizer::{Tokenizer, Tokens};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Written by tests/fixtures/tokenizer/make.py, for two padding tokens.
const GOLDEN: &str = include_str!("../fixtures/tokenizer/golden.json");
const MAX_LENGTH: usize = 16;

#[derive(Deserialize)]
struct Case {
    text: String,
    /// Cut and padded to 16.
    ids: Vec<u32>,
    /// Of all ids, not cut and not padded.
    count: usize,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer")
}

/// A copy of the tokenizer folder, to be damaged.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(fixtures().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&fixtures(), MAX_LENGTH).unwrap()
}

fn encode(text: &str) -> Tokens {
    tokenizer().encode(text).unwrap()
}

fn refusal(folder: &TempDir) -> String {
    Tokenizer::from_folder(folder.path(), MAX_LENGTH).unwrap_err().to_string()
}

#[test]
fn ids_are_those_of_transformers() {
    let golden: HashMap<String, Vec<Case>> = serde_json::from_str(GOLDEN).unwrap();
    for (pad, cases) in golden {
        let folder = copy();
        let special = serde_json::json!({ "pad_token": { "content": pad, "lstrip": false } });
        fs::write(folder.path().join("special_tokens_map.json"), special.to_string()).unwrap();
        let tokenizer = Tokenizer::from_folder(folder.path(), MAX_LENGTH).unwrap();
        for Case { text, ids, count } in cases {
            let tokens = tokenizer.encode(&text).unwrap();
            assert_eq!(tokens.ids, ids, "{text:?}, padded with {pad:?}");
            assert_eq!(tokens.count, count.min(MAX_LENGTH), "{text:?}");
            assert_eq!(tokens.dropped.is_some(), count > MAX_LENGTH, "{text:?}");
        }
    }
}

#[test]
fn the_text_that_was_cut_is_what_was_typed() {
    // Fourteen units fit: eleven words of one unit, "Apple" of two, and "ÉTÉ", as typed, of four.
    let tokens = encode("a a a a a a a a a a a Apple the ÉTÉ  and More, café!");
    assert_eq!(tokens.dropped.as_deref(), Some("ÉTÉ  and More, café!"));
    assert_eq!((tokens.ids.len(), tokens.count), (16, 16));
    assert_eq!(tokens.ids[15], tokenizer().encode("").unwrap().ids[1], "the end token is kept");
    // An accent typed by itself belongs to the text before it is composed with its letter.
    assert_eq!(encode("a a a a a a a a a a a a a a e\u{301} b").dropped.as_deref(), Some("e\u{301} b"));
    // The cut is inside an apple of four units: all of it is shown.
    assert_eq!(encode("a a a a a a a a a a a a a 🍎🍎").dropped.as_deref(), Some("🍎🍎"));
    assert_eq!(encode("a a a a a a a a a a a a a a  \n").dropped, None, "white space is no loss");
}

#[test]
fn of_a_text_without_end_the_first_words_are_read() {
    for letter in ["a", "🍎", "'", "7", "e\u{301}", "\u{200b}"] {
        let text = letter.repeat((1 << 20) / letter.len());
        let tokens = encode(&text);
        assert_eq!(tokens.count, MAX_LENGTH);
        let dropped = tokens.dropped.unwrap();
        assert!(text.ends_with(&dropped) && dropped.len() > text.len() - 8192, "{letter:?}: {}", dropped.len());
    }
    // The part that is not looked at does not change the ids of the part that is.
    let long = "red apple ".repeat(50_000);
    assert_eq!(encode(&long).ids, encode(&long[..2000]).ids);
    // White space is not counted: what follows it is read.
    let wide = format!("red{}apple", " ".repeat(200_000));
    assert_eq!(encode(&wide), encode("red apple"));
}

#[test]
fn any_text_gives_ids_of_the_vocabulary() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocabulary_size(), 2014);
    for start in (0..0x11_0000).step_by(64) {
        let text: String = (start..start + 64).filter_map(char::from_u32).collect();
        let Tokens { ids, .. } = tokenizer.encode(&text).unwrap();
        assert!(ids.iter().all(|&id| id < 2014), "{start:x}");
    }
}

#[test]
fn files_from_other_systems_are_read() {
    let folder = copy();
    for name in ["vocab.json", "merges.txt"] {
        let text = fs::read_to_string(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name), format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
    }
    let tokenizer = Tokenizer::from_folder(folder.path(), MAX_LENGTH).unwrap();
    assert_eq!(tokenizer.encode("red apple").unwrap(), encode("red apple"));
}

#[test]
fn damaged_files_are_named() {
    let damages: [(&str, &str, &str); 8] = [
        (
            "merges.txt",
            "#version: 0.2\nqqqq z\n",
            r#"merges.txt: line 2: "qqqq z" has a unit that vocab.json does not"#,
        ),
        // The crate `tokenizers` panics on this one: both units exist, together they are longer than any unit.
        ("merges.txt", "<|startoftext|> <|endoftext|>\n", "line 1"),
        ("merges.txt", "a\n", r#"line 1: "a" is not a pair of units"#),
        ("vocab.json", "{}", "merges.txt: line 2"),
        ("vocab.json", "[1, 2]", "vocab.json: invalid type"),
        ("vocab.json", r#"{"a": -1}"#, "vocab.json: invalid value"),
        ("special_tokens_map.json", r#"{"pad_token": "nowhere"}"#, r#"vocab.json: the token "nowhere" is missing"#),
        ("tokenizer_config.json", "{", "tokenizer_config.json: EOF"),
    ];
    for (name, content, expected) in damages {
        let folder = copy();
        fs::write(folder.path().join(name), content).unwrap();
        let message = refusal(&folder);
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    }
    let folder = copy();
    fs::remove_file(folder.path().join("merges.txt")).unwrap();
    assert!(refusal(&folder).ends_with("merges.txt: the file is missing"));
    let short = Tokenizer::from_folder(&fixtures(), 2).unwrap_err().to_string();
    assert!(short.contains("a text length of 2"), "{short}");
}
