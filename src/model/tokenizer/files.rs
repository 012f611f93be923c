//! The files of a tokenizer folder, read and checked.

use crate::model::checkpoint::{read_file, read_json, without_mark};
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Neither `vocab.json` nor `merges.txt` is longer; CLIP's are 1 MB and half of that.
const LARGEST: u64 = 16 << 20;

/// What a tokenizer is built of.
pub(super) struct Files {
    /// What errors name.
    pub(super) path: PathBuf,
    /// Unit to id.
    pub(super) vocabulary: HashMap<String, u32>,
    /// Pairs of units that become one, most important first.
    pub(super) merges: Vec<(String, String)>,
    pub(super) special: Special,
}

/// The tokens that stand for no text.
pub(super) struct Special {
    pub(super) start: String,
    pub(super) end: String,
    pub(super) pad: String,
    pub(super) unknown: String,
}

/// The fields of `special_tokens_map.json` and `tokenizer_config.json` that matter here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Names {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    pad_token: Option<Token>,
    unk_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Added { content: String },
}

impl Files {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("vocab.json");
        let bytes = read_file(&path, LARGEST)?;
        let vocabulary: HashMap<String, u32> =
            serde_json::from_slice(without_mark(&bytes)).map_err(|e| Error::model(&path, e.to_string()))?;
        let merges = read_merges(&folder.join("merges.txt"), &vocabulary)?;
        Ok(Self { path, vocabulary, merges, special: Special::read(folder)? })
    }

    /// The id of a token that has to be there.
    pub(super) fn id(&self, token: &str) -> Result<u32> {
        let missing = || Error::model(&self.path, format!("the token {token:?} is missing"));
        self.vocabulary.get(token).copied().ok_or_else(missing)
    }
}

/// One pair a line, after a line that begins with `#version`. Both units and what they become must have an id: the crate
/// `tokenizers` panics on some files where that is not so.
fn read_merges(path: &Path, vocabulary: &HashMap<String, u32>) -> Result<Vec<(String, String)>> {
    let bytes = read_file(path, LARGEST)?;
    let text = std::str::from_utf8(without_mark(&bytes)).map_err(|e| Error::model(path, e.to_string()))?;
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with("#version") {
            continue;
        }
        let wrong = |reason: &str| Error::model(path, format!("line {}: {line:?} {reason}", number + 1));
        let (a, b) = line.split_once(' ').ok_or_else(|| wrong("is not a pair of units"))?;
        if ![a, b, &format!("{a}{b}")].iter().all(|unit| vocabulary.contains_key(*unit)) {
            return Err(wrong("has a unit that vocab.json does not have"));
        }
        merges.push((a.to_owned(), b.to_owned()));
    }
    Ok(merges)
}

impl Special {
    /// CLIP's, unless a file says otherwise. `special_tokens_map.json` comes first, as in transformers: Stable Diffusion
    /// 2's `!` for padding is named only there.
    fn read(folder: &Path) -> Result<Self> {
        let map = Names::read(&folder.join("special_tokens_map.json"))?;
        let config = Names::read(&folder.join("tokenizer_config.json"))?;
        let pick = |a: Option<Token>, b: Option<Token>, default: &str| match a.or(b) {
            Some(Token::Plain(content) | Token::Added { content }) => content,
            None => default.to_owned(),
        };
        let end = pick(map.eos_token, config.eos_token, "<|endoftext|>");
        Ok(Self {
            start: pick(map.bos_token, config.bos_token, "<|startoftext|>"),
            pad: pick(map.pad_token, config.pad_token, &end),
            unknown: pick(map.unk_token, config.unk_token, &end),
            end,
        })
    }

    pub(super) fn all(self) -> impl Iterator<Item = String> {
        [self.start, self.end, self.pad, self.unknown].into_iter()
    }
}

impl Names {
    fn read(path: &Path) -> Result<Self> {
        if path.exists() { read_json(path) } else { Ok(Self::default()) }
    }
}
