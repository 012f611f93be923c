//! CLIP's byte-pair tokenizer, read from `vocab.json` and `merges.txt`.

use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, SplitDelimiterBehavior};

/// CLIP's words: contractions, runs of letters, single digits, runs of anything else.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Text beyond this many bytes is cut before tokenizing: byte pairs of one endless word take more than linear time, and no
/// model reads that far.
const LONGEST_TEXT: usize = 16_384;

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Text to token ids of a fixed length.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    max_length: usize,
}

/// A tokenized prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Start, words, end, padding: exactly the model's length.
    pub ids: Vec<u32>,
    /// How many of them are start, words and end.
    pub count: usize,
    /// The end of the prompt that did not fit, as it was typed.
    pub dropped: Option<String>,
}

/// The fields of `special_tokens_map.json` and `tokenizer_config.json` that matter here.
#[derive(Deserialize, Default)]
struct Special {
    #[serde(default)]
    pad_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Plain(String),
    Added { content: String },
}

impl Tokenizer {
    /// Reads a tokenizer folder; prompts become `max_length` ids.
    pub fn from_folder(folder: &Path, max_length: usize) -> Result<Self> {
        let file = |name: &str| folder.join(name);
        let path = |name: &str| file(name).to_string_lossy().into_owned();
        for name in ["vocab.json", "merges.txt"] {
            std::fs::metadata(file(name)).map_err(|e| Error::model(file(name), e.to_string()))?;
        }
        let broken = |e: tokenizers::Error| Error::model(file("vocab.json"), e.to_string());
        let bpe = BPE::from_file(&path("vocab.json"), &path("merges.txt"))
            .unk_token(END.into())
            .end_of_word_suffix("</w>".into())
            .build()
            .map_err(broken)?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_normalizer(Some(normalizer().map_err(broken)?)).map_err(broken)?;
        inner.with_pre_tokenizer(Some(pre_tokenizer().map_err(broken)?));
        let id = |token: &str| {
            let missing = || Error::model(file("vocab.json"), format!("the token {token} is missing"));
            inner.token_to_id(token).ok_or_else(missing)
        };
        let pad = padding_token(folder)?.unwrap_or_else(|| END.to_owned());
        let (start, end, pad) = (id(START)?, id(END)?, id(&pad)?);
        if max_length < 3 {
            return Err(Error::model(folder, format!("a text length of {max_length} leaves no room for words")));
        }
        Ok(Self { inner, start, end, pad, max_length })
    }

    /// Length of every [`Tokens::ids`].
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Number of different ids.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Tokenizes a prompt. What is beyond the model's length is dropped and reported.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let cut = text.floor_char_boundary(LONGEST_TEXT);
        let encoding = self
            .inner
            .encode_char_offsets(&text[..cut], false)
            .map_err(|e| Error::Tensor(candle_core::Error::Msg(format!("tokenizer: {e}"))))?;
        let room = self.max_length - 2;
        let words = encoding.get_ids();
        let dropped = encoding.get_offsets().get(room).map(|&(start, _)| text.chars().skip(start).collect::<String>());
        let mut ids = vec![self.start];
        ids.extend(words.iter().take(room));
        ids.push(self.end);
        let count = ids.len();
        ids.resize(self.max_length, self.pad);
        Ok(Tokens { ids, count, dropped })
    }
}

/// Canonical composition, single spaces, lower case.
fn normalizer() -> tokenizers::Result<Normalizers> {
    let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into()), " ")?;
    Ok(Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(spaces),
        NormalizerWrapper::Lowercase(Lowercase),
    ]))
}

fn pre_tokenizer() -> tokenizers::Result<PreTokenizers> {
    let split = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, false);
    Ok(PreTokenizers::new(vec![PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)]))
}

fn padding_token(folder: &Path) -> Result<Option<String>> {
    for name in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let special: Special = serde_json::from_slice(&bytes).map_err(|e| Error::model(&path, e.to_string()))?;
        match special.pad_token {
            Some(Token::Plain(content) | Token::Added { content }) => return Ok(Some(content)),
            None => {}
        }
    }
    Ok(None)
}
