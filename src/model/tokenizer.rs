//! CLIP's byte-pair tokenizer (Sennrich et al., arXiv:1508.07909, on the bytes of lower-cased text), id for id that of
//! transformers' `CLIPTokenizer`.

mod embedded;
mod files;

pub use embedded::Padding;

use crate::{Error, Result};
use files::Files;
use std::path::Path;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, NormalizerWrapper, SplitDelimiterBehavior};

/// CLIP's words: special tokens, contractions, runs of letters, single digits, runs of anything else.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Text to token ids, and any number of them to what a text encoder reads.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    size: usize,
    max_length: usize,
}

impl Tokenizer {
    /// Reads the folder's `vocab.json` and `merges.txt`, and the names of its special tokens where it has a
    /// `special_tokens_map.json` or a `tokenizer_config.json`. The text encoder reads `max_length` ids at a time. Fails with
    /// [`Error::Model`].
    pub fn from_folder(folder: &Path, max_length: usize) -> Result<Self> {
        Self::new(Files::read(folder)?, max_length)
    }

    /// CLIP's own, which this program carries with it.
    pub fn clip(padding: Padding, max_length: usize) -> Result<Self> {
        Self::new(embedded::files(padding), max_length)
    }

    fn new(files: Files, max_length: usize) -> Result<Self> {
        let path = files.path.clone();
        if max_length < 3 {
            return Err(Error::model(path, format!("a text length of {max_length} leaves no room for words")));
        }
        let special = [&files.special.start, &files.special.end, &files.special.pad];
        let [start, end, pad] = special.map(|token| files.id(token));
        Ok(Self {
            start: start?,
            end: end?,
            pad: pad?,
            size: files.vocabulary.values().max().map_or(0, |&id| id as usize + 1),
            max_length,
            inner: build(files).map_err(|e| Error::model(path, e.to_string()))?,
        })
    }

    /// The ids that a text encoder reads at a time, start and end among them.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// How many of them can be words.
    pub fn room(&self) -> usize {
        self.max_length - 2
    }

    /// The number of ids: one more than the largest.
    pub fn vocabulary_size(&self) -> usize {
        self.size
    }

    /// The ids of a text of any length, without start and end.
    pub fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let fault = |e: tokenizers::Error| Error::Tensor(candle_core::Error::Msg(format!("tokenizer: {e}")));
        Ok(self.inner.encode(text, false).map_err(fault)?.get_ids().to_vec())
    }

    /// Start, the first [`Self::room`] of `ids`, end, and padding: [`Self::max_length`] ids.
    pub fn framed(&self, ids: &[u32]) -> Vec<u32> {
        let words = &ids[..ids.len().min(self.room())];
        let mut framed = [&[self.start], words, &[self.end]].concat();
        framed.resize(self.max_length, self.pad);
        framed
    }
}

fn build(files: Files) -> tokenizers::Result<tokenizers::Tokenizer> {
    let Files { vocabulary, merges, special, .. } = files;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<Vocab>(), merges)
        .unk_token(special.unknown.clone())
        .end_of_word_suffix("</w>".into())
        .build()?;
    let mut inner = tokenizers::Tokenizer::new(bpe);
    inner.with_normalizer(Some(normalizer()?))?;
    inner.with_pre_tokenizer(Some(pre_tokenizer()?));
    // In a prompt they are themselves, which matters for SD 2: it pads with "!".
    inner.add_special_tokens(special.all().map(|token| AddedToken::from(token, true)))?;
    Ok(inner)
}

/// Canonical composition, single spaces, lower case.
fn normalizer() -> tokenizers::Result<Normalizers> {
    Ok(Normalizers::new(vec![
        NormalizerWrapper::NFC(NFC),
        NormalizerWrapper::Replace(Replace::new(ReplacePattern::Regex(r"\s+".into()), " ")?),
        NormalizerWrapper::Lowercase(Lowercase),
    ]))
}

fn pre_tokenizer() -> tokenizers::Result<PreTokenizers> {
    let split = Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true)?;
    let bytes = ByteLevel::new(false, true, true);
    Ok(PreTokenizers::new(vec![PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)]))
}
