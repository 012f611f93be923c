//! The training set on disk: `DIR/index.json` beside `DIR/pictures/*.png`, square RGB pictures of one size.
//!
//! Built by [`icons`] (icon sets from the npm registry) or [`folder`] (a person's own captioned pictures), read by the
//! trainer and by the evaluation through [`Dataset`].

pub mod captions;
pub mod dice;
mod emoji;
pub mod folder;
pub mod icons;
mod package;
mod render;
mod split;
mod store;
pub mod vocabulary;

pub use dice::Dice;
pub use store::Source;

use crate::{Error, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Bytes of one pixel: red, green, blue.
pub const CHANNELS: usize = 3;

/// What a record may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Seen in training.
    Train,
    /// Never seen, but the same concept in other styles was: it measures composition.
    HeldOutPair,
    /// Never seen in any style: the reference for memorisation and for the judge's ceiling.
    HeldOut,
}

/// One picture and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The picture's path, relative to the data set's folder.
    pub file: String,
    /// What is drawn, in plain lower-case words: "red apple".
    pub concept: String,
    /// The style's name ([`captions::STYLES`]), where the set has styles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// Other words a person might type for this picture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keywords: Vec<String>,
    /// The broad kind: "food & drink".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Captions to use word for word instead of composing them; empty for icons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captions: Vec<String>,
    /// What the record may be used for.
    pub split: Split,
}

/// What `index.json` holds. It is written last, so its presence means a complete data set.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Index {
    size: usize,
    sources: Vec<Source>,
    records: Vec<Record>,
}

/// An opened data set. Pictures stay on disk until [`Dataset::load_pixels`].
#[derive(Debug, Clone)]
pub struct Dataset {
    folder: PathBuf,
    /// Width and height of every picture.
    pub size: usize,
    /// Where the pictures and words came from.
    pub sources: Vec<Source>,
    /// Every picture, in the fixed order of the index.
    pub records: Vec<Record>,
}

impl Dataset {
    /// Reads `folder/index.json`. A missing or damaged index is an [`Error::Training`] that names the file.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(store::INDEX);
        let text = std::fs::read(&path).map_err(|e| {
            Error::Training(format!("{}: {e}: not a data set (`limner data` makes one)", path.display()))
        })?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|e| Error::Training(format!("{}: not a data set's index: {e}", path.display())))?;
        if index.size == 0 || index.records.is_empty() {
            return Err(Error::Training(format!("{}: the data set is empty", path.display())));
        }
        Ok(Self { folder: folder.to_owned(), size: index.size, sources: index.sources, records: index.records })
    }

    /// A data set that is nowhere on disk.
    #[cfg(test)]
    pub(crate) fn of_records(size: usize, records: Vec<Record>) -> Self {
        Self { folder: PathBuf::new(), size, sources: Vec::new(), records }
    }

    /// Every picture's pixels, in record order: `records.len() * size * size * 3` bytes, rows from the top, RGB.
    pub fn load_pixels(&self) -> Result<Vec<u8>> {
        let mut pixels = vec![0; self.records.len() * self.picture_bytes()];
        pixels
            .par_chunks_mut(self.picture_bytes())
            .zip(&self.records)
            .try_for_each(|(out, record)| self.read_picture(record, out))?;
        Ok(pixels)
    }

    /// Bytes of one picture.
    pub fn picture_bytes(&self) -> usize {
        self.size * self.size * CHANNELS
    }

    /// The indices of the records in `split`.
    pub fn indices(&self, split: Split) -> Vec<usize> {
        (0..self.records.len()).filter(|&i| self.records[i].split == split).collect()
    }

    /// The records a model may be trained on.
    pub fn training(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|r| r.split == Split::Train)
    }

    /// Every word that can occur in a training caption, lower-cased and split as the tokenizer does.
    pub fn words(&self) -> BTreeSet<String> {
        let texts = self.training().flat_map(Record::vocabulary);
        texts.flat_map(|text| captions::words(&text)).filter(|w| w.chars().any(char::is_alphanumeric)).collect()
    }

    fn read_picture(&self, record: &Record, out: &mut [u8]) -> Result<()> {
        let path = self.folder.join(&record.file);
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let picture = ::image::load_from_memory_with_format(&bytes, ::image::ImageFormat::Png)
            .map_err(|e| Error::Training(format!("{}: {e}", path.display())))?
            .into_rgb8();
        if picture.as_raw().len() != out.len() || picture.width() as usize != self.size {
            let (w, h) = picture.dimensions();
            let size = self.size;
            let message = format!("{}: expected {size}x{size} pixels, found {w}x{h}", path.display());
            return Err(Error::Training(message));
        }
        out.copy_from_slice(picture.as_raw());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
