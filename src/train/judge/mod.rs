//! The judge: which concept, and which style, does a picture show?
//!
//! A small dual encoder in the manner of CLIP (Radford et al. 2021): a picture tower and a text tower map into one
//! space, where a picture lies nearest to its own name. It has its own words, widths and seed, is trained only on real
//! training pictures and conditions no generator but by [`Recognised`], where somebody asks for that: so its opinion on
//! other generated pictures is independent of them.

mod augment;
mod file;
mod recognised;
mod towers;
mod training;

pub use recognised::Recognised;
pub use training::{Settings, train};

use super::data::captions;
use super::parameters::Parameters;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use towers::{PictureTower, TextTower};

/// Pictures embedded at a time.
const CHUNK: usize = 128;

/// A judge: its words and its parameters.
#[derive(Debug)]
pub struct Judge {
    words: Vec<String>,
    ids: HashMap<String, u32>,
    size: usize,
    parameters: Parameters,
}

/// Both towers and the softmax's sharpness. Layers copy some parameters when they are made, so the towers are made
/// anew from the parameters for every training step.
struct Towers {
    picture: PictureTower,
    text: TextTower,
    log_scale: Tensor,
}

impl Judge {
    /// An untrained judge of `size` x `size` pictures which knows `words`; the same `seed` gives the same parameters.
    pub fn new(words: Vec<String>, size: usize, seed: u64) -> Result<Self> {
        if size == 0 || !size.is_multiple_of(towers::REDUCTION) {
            let message = format!("the judge needs pictures whose side is a multiple of {}", towers::REDUCTION);
            return Err(Error::Training(format!("{message}, not {size}")));
        }
        let ids = words.iter().zip(1..).map(|(word, id)| (word.clone(), id)).collect();
        let judge = Self { words, ids, size, parameters: Parameters::new(seed, &Device::Cpu) };
        judge.towers()?;
        Ok(judge)
    }

    /// Width and height of the pictures it judges.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Pictures of `size * size * 3` RGB bytes each, one after the other, to unit vectors: (pictures, D).
    pub fn embed_pictures(&self, pixels: &[u8]) -> Result<Tensor> {
        let towers = self.towers()?;
        let bytes = self.size * self.size * super::data::CHANNELS;
        let embed = |chunk: &[u8]| {
            let values: Vec<f32> = chunk.iter().map(|&v| augment::signed(v)).collect();
            Ok(towers.picture.forward(&self.batch(values)?)?.detach())
        };
        let parts = pixels.chunks(CHUNK * bytes).map(embed).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Texts to unit vectors: (texts, D). Words it does not know count for nothing.
    pub fn embed_texts<S: AsRef<str>>(&self, texts: &[S]) -> Result<Tensor> {
        Ok(self.read(&self.towers()?, texts)?.detach())
    }

    /// f32 values in [-1, 1] as (B, size, size, 3).
    fn batch(&self, values: Vec<f32>) -> Result<Tensor> {
        let n = values.len() / (self.size * self.size * super::data::CHANNELS);
        Ok(Tensor::from_vec(values, (n, self.size, self.size, super::data::CHANNELS), &Device::Cpu)?)
    }

    fn read<S: AsRef<str>>(&self, towers: &Towers, texts: &[S]) -> Result<Tensor> {
        let known = |text: &S| captions::words(text.as_ref()).iter().filter_map(|w| self.ids.get(w).copied()).collect();
        let ids: Vec<Vec<u32>> = texts.iter().map(known).collect();
        towers.text.forward(&ids)
    }

    fn towers(&self) -> Result<Towers> {
        let vb = self.parameters.builder();
        Ok(Towers {
            picture: PictureTower::new(self.size, &vb.pp("picture"))?,
            text: TextTower::new(self.words.len() + 1, &vb.pp("text"))?,
            log_scale: vb.get_with_hints(1, "log_scale", candle_nn::Init::Const(towers::FIRST_LOG_SCALE))?,
        })
    }
}

#[cfg(test)]
mod tests;
