//! Textual inversion (Gal et al., arXiv:2208.01618): a few vectors that a text encoder reads in place of words.

use super::layout::Layout;
use crate::model::checkpoint::{Hash, Weights};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::path::Path;

/// A file of vectors, for the text encoders of one model.
#[derive(Debug)]
pub struct Embedding {
    weights: Weights,
    /// For each text encoder, what the file calls its vectors.
    keys: Vec<String>,
    vectors: usize,
    token: Option<String>,
}

/// What files call the vectors of SDXL's encoders: those of web UIs, and those of diffusers' trainer.
const PAIRS: [[&str; 2]; 2] = [["clip_l", "clip_g"], ["text_encoders_0", "text_encoders_1"]];

/// What web UIs call those of a single encoder.
const SINGLE: &str = "emb_params";

/// No text encoder reads more at a time.
const MOST_VECTORS: usize = 1000;

impl Embedding {
    /// Reads the header of a file. Fails with [`Error::Model`], naming what was expected and found, where its vectors are
    /// not for the model's encoders.
    pub(super) fn open(path: &Path, layout: &Layout) -> Result<Self> {
        let weights = Weights::read_file(path.to_owned())?;
        let unusable = |message: String| Error::model(path, message);
        let widths = layout.text_widths();
        let keys = keys(&weights, widths.len()).map_err(unusable)?;
        let mut vectors = None;
        for (key, width) in keys.iter().zip(widths) {
            let shape = weights.shape(key).unwrap_or_default();
            let (found, count) = match shape[..] {
                [width] => (width, 1),
                [count, width] if (1..=MOST_VECTORS).contains(&count) => (width, count),
                _ => return Err(unusable(format!("{key}: expected vectors, found the shape {shape:?}"))),
            };
            if found != width {
                return Err(unusable(format!("{key}: expected vectors of {width} numbers, found {found}")));
            }
            if *vectors.get_or_insert(count) != count {
                return Err(unusable(format!("{}: not as many vectors for each text encoder", keys.join(" and "))));
            }
        }
        let token = (keys.len() == 1 && keys[0] != SINGLE).then(|| keys[0].clone());
        Ok(Self { vectors: vectors.unwrap_or(0), weights, keys, token })
    }

    /// The word that the file itself gives its vectors, as diffusers has it: `<cat-toy>`.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// How many tokens it is read as.
    pub fn count(&self) -> usize {
        self.vectors
    }

    /// Those for a text encoder, counted from 0: (count, C), f32.
    pub fn vectors(&self, encoder: usize, device: &Device) -> Result<Tensor> {
        let key = self.keys.get(encoder).map_or("", String::as_str);
        Ok(self.weights.numbers(key, device)?.reshape((self.vectors, ()))?)
    }

    /// The first ten digits of the file's SHA-256.
    pub fn hash(&self) -> String {
        Hash::of([&self.weights]).get().to_owned()
    }
}

/// What the vectors of each of so many text encoders are called.
fn keys(weights: &Weights, encoders: usize) -> Result<Vec<String>, String> {
    let has = |key: &str| weights.shape(key).is_some();
    let names: Vec<&str> = weights.names().take(2).collect();
    let pair = PAIRS.into_iter().find(|pair| pair.iter().all(|key| has(key)));
    match (encoders, pair, names.as_slice()) {
        (2, Some(pair), _) => Ok(pair.map(str::to_owned).into()),
        (1, None, _) if has(SINGLE) => Ok(vec![SINGLE.to_owned()]),
        (1, None, [only]) => Ok(vec![(*only).to_owned()]),
        (1, Some(pair), _) => {
            Err(format!("it has vectors for two text encoders ({}), the model has one", pair.join(" and ")))
        }
        (2, None, _) => Err("it has vectors for one text encoder, the model has two (clip_l and clip_g)".into()),
        _ => Err(format!("no textual inversion: expected {SINGLE}, or a single tensor")),
    }
}
