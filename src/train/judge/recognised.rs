//! The judge's opinion as an energy, for classifier guidance.

use super::{Judge, Towers};
use crate::diffusion::inverse::{Energy, LinearOperator, Shrink};
use crate::error::{Error, FieldError, Result};
use crate::train::data::captions;
use candle_core::{D, Tensor};

/// `-log p(text | picture)`: how surprised the judge would be to hear that a picture shows this, and not what any other word
/// says that it knows. It never saw noise, so that it is to be asked about expected clean pictures.
///
/// Whoever draws with it cannot measure with it: a picture that pleases the judge need not please anyone else.
pub struct Recognised {
    towers: Towers,
    size: usize,
    /// (1 + words, D): the text, and each other word.
    texts: Tensor,
}

impl Judge {
    /// For pictures of what `text` says; none where it knows no word of that.
    pub fn into_recognised(self, text: &str) -> Result<Option<Recognised>> {
        let said = captions::words(text);
        if !said.iter().any(|word| self.ids.contains_key(word)) {
            return Ok(None);
        }
        let others = self.words.iter().filter(|word| !said.contains(word)).map(String::as_str);
        let texts: Vec<&str> = [text].into_iter().chain(others).collect();
        let towers = self.towers()?;
        let texts = self.read(&towers, &texts)?.detach();
        Ok(Some(Recognised { towers, size: self.size, texts }))
    }
}

impl Energy for Recognised {
    fn energy(&self, pictures: &Tensor) -> Result<Tensor> {
        let pictures = sized(pictures, self.size)?.permute((0, 2, 3, 1))?.contiguous()?;
        let alike = self.towers.picture.forward(&pictures)?.matmul(&self.texts.t()?)?;
        let logits = alike.broadcast_mul(&self.towers.log_scale.detach().exp()?)?;
        Ok(candle_nn::ops::log_softmax(&logits, D::Minus1)?.narrow(1, 0, 1)?.squeeze(1)?.neg()?)
    }
}

/// Pictures (B, 3, H, W) as squares of the judge's size, by means or by repetition.
fn sized(pictures: &Tensor, size: usize) -> Result<Tensor> {
    let (_, _, height, width) = pictures.dims4()?;
    match (height == width, height) {
        (true, height) if height == size => Ok(pictures.clone()),
        (true, height) if height.is_multiple_of(size) => Shrink::new(height / size).apply(pictures),
        (true, height) if size.is_multiple_of(height) => Shrink::new(size / height).pseudo_inverse(pictures),
        _ => {
            let message = format!("looks at {size} x {size} pixels, to which {width} x {height} cannot be brought");
            Err(Error::invalid(FieldError::new("energy", "judge_size", message)))
        }
    }
}
