//! What the words of a prompt are read as: a tokenizer's ids, and those of vectors that stand for a name.

use crate::Result;
use crate::model::adapter::{Adapters, Embedding, Inversion};
use crate::model::tokenizer::Tokenizer;
use crate::prompt::{Piece, pieces};
use candle_core::{Device, Tensor};
use std::ops::Range;

/// The embeddings that a prompt names.
#[derive(Debug, Default)]
pub(super) struct Added(Vec<(Inversion, Embedding)>);

impl Added {
    /// Reads the files' headers. Fails with [`crate::Error::Model`] where one does not fit any more.
    pub(super) fn open(inversions: &[Inversion], adapters: &Adapters) -> Result<Self> {
        let open = |inversion: &Inversion| {
            let embedding = adapters.embedding(&inversion.path);
            let embedding = embedding.map_err(|message| crate::Error::model(&inversion.path, message))?;
            Ok((inversion.clone(), embedding))
        };
        Ok(Self(inversions.iter().map(open).collect::<Result<_>>()?))
    }

    /// The vectors of all of them for a text encoder, counted from 0: (n, C); none where there is no embedding.
    pub(super) fn vectors(&self, encoder: usize, device: &Device) -> Result<Option<Tensor>> {
        let all = self.0.iter().map(|(_, embedding)| embedding.vectors(encoder, device)).collect::<Result<Vec<_>>>()?;
        if all.is_empty() { Ok(None) } else { Ok(Some(Tensor::cat(&all, 0)?)) }
    }

    /// Name and hash of each.
    pub(super) fn hashes(&self) -> Vec<(String, String)> {
        self.0.iter().map(|(inversion, embedding)| (inversion.name.clone(), embedding.hash())).collect()
    }
}

/// The words of one text encoder.
pub(super) struct Vocabulary<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    names: Vec<&'a str>,
    /// Of each name.
    ids: Vec<Range<u32>>,
}

impl<'a> Vocabulary<'a> {
    /// The ids of vectors begin with `first`, in the order of [`Added::vectors`].
    pub(super) fn new(tokenizer: &'a Tokenizer, added: &'a Added, mut first: u32) -> Self {
        let mut vocabulary = Self { tokenizer, names: Vec::new(), ids: Vec::new() };
        for (inversion, embedding) in &added.0 {
            let ids = first..first + embedding.count() as u32;
            for word in &inversion.words {
                vocabulary.names.push(word);
                vocabulary.ids.push(ids.clone());
            }
            first = ids.end;
        }
        vocabulary
    }

    /// The ids of a text, in groups of those that belong together.
    pub(super) fn groups(&self, text: &str) -> Result<Vec<Vec<u32>>> {
        let mut groups = Vec::new();
        for piece in pieces(text, &self.names) {
            match piece {
                Piece::Text(text) => groups.extend(self.tokenizer.ids(text)?.into_iter().map(|id| vec![id])),
                Piece::Name(i) => groups.push(self.ids[i].clone().collect()),
            }
        }
        Ok(groups)
    }
}
