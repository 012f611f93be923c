//! CLIP's byte-pair tokenizer (Sennrich et al., arXiv:1508.07909, on the bytes of lower-cased text), id for id that of
//! transformers' `CLIPTokenizer`.

mod files;

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

/// Longer units than this are not counted on when a long text is cut: CLIP's longest has 94 bytes.
const LONGEST_UNIT: usize = 256;

/// Text to token ids of a fixed length.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    size: usize,
    max_length: usize,
    /// Bytes, not counting white space, after which a text is cut unread.
    longest_text: usize,
}

/// A tokenized prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Start, words, end, padding: exactly the model's length.
    pub ids: Vec<u32>,
    /// How many of them are start, words and end.
    pub count: usize,
    /// How many there would be if everything fitted, start and end included.
    pub total: usize,
    /// The end of the prompt that did not fit, as it was typed.
    pub dropped: Option<String>,
}

impl Tokenizer {
    /// Reads the folder's `vocab.json` and `merges.txt`, and the names of its special tokens where it has a
    /// `special_tokens_map.json` or a `tokenizer_config.json`. Prompts become `max_length` ids. Fails with
    /// [`Error::Model`].
    pub fn from_folder(folder: &Path, max_length: usize) -> Result<Self> {
        if max_length < 3 {
            return Err(Error::model(folder, format!("a text length of {max_length} leaves no room for words")));
        }
        let files = Files::read(folder)?;
        let broken = |e: tokenizers::Error| Error::model(folder.join("vocab.json"), e.to_string());
        let special = [&files.special.start, &files.special.end, &files.special.pad];
        let [start, end, pad] = special.map(|token| files.id(token));
        let longest_unit = files.vocabulary.keys().map(String::len).max().unwrap_or(1).min(LONGEST_UNIT);
        Ok(Self {
            start: start?,
            end: end?,
            pad: pad?,
            size: files.vocabulary.values().max().map_or(0, |&id| id as usize + 1),
            max_length,
            // Four times what could be read, because composing characters can make text shorter.
            longest_text: 4 * max_length * longest_unit,
            inner: build(files).map_err(broken)?,
        })
    }

    /// Length of every [`Tokens::ids`].
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// The number of ids: one more than the largest.
    pub fn vocabulary_size(&self) -> usize {
        self.size
    }

    /// Tokenizes a prompt. What is beyond the model's length is dropped and reported. The time this takes is bounded: of a
    /// very long text, the part that could not be read in any case is not looked at.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        let near = &text[..self.readable(text)];
        let fault = |e: tokenizers::Error| Error::Tensor(candle_core::Error::Msg(format!("tokenizer: {e}")));
        let encoding = self.inner.encode(near, false).map_err(fault)?;
        let room = self.max_length - 2;
        let cut = encoding.get_offsets().get(room).map_or(near.len(), |&(first, _)| first);
        // Offsets are bytes, and a unit can begin inside a character that is several units.
        let rest = &text[text.floor_char_boundary(cut)..];
        let mut ids = vec![self.start];
        ids.extend(encoding.get_ids().iter().take(room));
        ids.push(self.end);
        let count = ids.len();
        ids.resize(self.max_length, self.pad);
        let total = encoding.len() + 2;
        Ok(Tokens { ids, count, total, dropped: (!rest.trim().is_empty()).then(|| rest.to_owned()) })
    }

    /// How many bytes of `text` are worth looking at: byte pairs of one endless word take more than linear time. The ids
    /// of words that are read are those of the whole text, unless the cut is inside the very word that fills the room.
    fn readable(&self, text: &str) -> usize {
        let solid = text.char_indices().filter(|(_, c)| !c.is_whitespace());
        solid.map(|(at, _)| at).nth(self.longest_text).unwrap_or(text.len())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_on_a_text_without_end_is_bounded() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        let tokenizer = Tokenizer::from_folder(&folder, 16).unwrap();
        // The 19 bytes of congratulations</w> are this vocabulary's longest unit.
        let most = 4 * 16 * 19;
        assert_eq!(tokenizer.readable(&"a".repeat(1 << 20)), most);
        assert_eq!(tokenizer.readable(&"\u{1f34e}".repeat(1 << 18)), 4 * most);
        assert_eq!(tokenizer.readable(&" ".repeat(1 << 20)), 1 << 20);
        assert_eq!(tokenizer.readable("red apple"), 9);
    }
}
