//! The tokenizer: transformers' ids, and what happens to prompts and files that are not as they should be.

use limner::model::tokenizer::Tokenizer;
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

fn ids(text: &str) -> Vec<u32> {
    tokenizer().ids(text).unwrap()
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
            let all = tokenizer.ids(&text).unwrap();
            assert_eq!(tokenizer.framed(&all), ids, "{text:?}, padded with {pad:?}");
            assert_eq!(all.len() + 2, count, "{text:?}");
        }
    }
}

#[test]
fn what_is_framed_has_the_length_of_the_text_encoder() {
    let tokenizer = tokenizer();
    let [start, end] = [tokenizer.framed(&[])[0], tokenizer.framed(&[])[1]];
    assert_eq!((tokenizer.max_length(), tokenizer.room()), (MAX_LENGTH, 14));
    for count in [0, 1, 13, 14, 15, 100] {
        let framed = tokenizer.framed(&vec![7; count]);
        let words = count.min(14);
        assert!(framed.len() == MAX_LENGTH && framed[0] == start && framed[words + 1] == end, "{framed:?}");
        assert_eq!(framed.iter().filter(|id| **id == 7).count(), words);
    }
}

/// As long as a prompt may be, in one word. The work must not grow with the square of that.
#[test]
fn words_without_end_are_read_soon() {
    let began = std::time::Instant::now();
    for letter in ["a", "🍎", "'", "7", "e\u{301}", "\u{200b}"] {
        assert!(ids(&letter.repeat(32_000 / letter.chars().count())).len() > 1000, "{letter:?}");
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    let long = "red apple ".repeat(3_000);
    assert_eq!(ids(&long), ids("red apple").repeat(3_000));
    assert_eq!(ids(&format!("red{}apple", " ".repeat(200_000))), ids("red apple"));
}

#[test]
fn any_text_gives_ids_of_the_vocabulary() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocabulary_size(), 2014);
    for start in (0..0x11_0000).step_by(64) {
        let text: String = (start..start + 64).filter_map(char::from_u32).collect();
        let ids = tokenizer.ids(&text).unwrap();
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
    assert_eq!(tokenizer.ids("red apple").unwrap(), ids("red apple"));
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
