//! Repainting a part of a picture: masked reverse diffusion as a denoiser, and the final composite of pixels.

pub mod resampling;

use crate::diffusion::denoiser::{Denoiser, Estimate};
use crate::diffusion::noise::NoiseSource;
use crate::error::{Error, FieldError, Result};
use candle_core::Tensor;
use image::{GrayImage, RgbImage};
use std::cell::RefCell;

/// A denoiser that knows part of the answer.
///
/// At every noise level the known part of the input is replaced by the known picture at that level, and the known part
/// of the output by the known picture. The repainted part follows the known one approximately: replacement is biased, and
/// more steps do not cure it; [`resampling::Resampling`] does, at a price.
pub struct Inpaint<D> {
    inner: D,
    mask: Mask,
    /// (B, C, h, w).
    known: Tensor,
    noise: Noise,
}

/// Where to repaint.
enum Mask {
    /// At every noise level the same, (B or 1, 1, h, w).
    Same(Tensor),
    /// From some noise level on.
    Soft(Strengths),
}

/// What makes the known picture a noisy one.
enum Noise {
    /// The same at all levels: the denoiser stays a pure function of `(x, sigma)`.
    Fixed(Tensor),
    /// Drawn anew for every call.
    Fresh(RefCell<Box<dyn NoiseSource>>),
}

/// How much of the ladder every pixel is redrawn for: a pixel of strength .3 keeps to the known picture for the first
/// seven tenths of the steps (Levin and Fried, arXiv:2306.00950).
#[derive(Debug, Clone)]
pub struct Strengths {
    /// (B or 1, 1, h, w), 0 to 1.
    mask: Tensor,
    /// The sigmas that the sampler walks down.
    ladder: Vec<f64>,
}

impl Strengths {
    /// `mask` is (B, 1, h, w) or (1, 1, h, w), from 0, which is kept, to 1, which is drawn from noise alone.
    pub fn new(mask: &Tensor, ladder: &[f64]) -> Self {
        Self { mask: mask.clone(), ladder: ladder.to_vec() }
    }

    /// The share of the steps that is still to come at `sigma`.
    fn to_come(&self, sigma: f64) -> f64 {
        let steps = self.ladder.len().saturating_sub(1).max(1);
        let begun = self.ladder.iter().take_while(|begin| **begin > sigma).count();
        1.0 - begun as f64 / steps as f64
    }

    /// 1 where the picture is being redrawn at `sigma`.
    fn at(&self, sigma: f64) -> Result<Tensor> {
        // A mask of bytes has steps of 1/255: half of one keeps rounding out of the comparison.
        let threshold = self.to_come(sigma).max(1.0 / 255.0) - 0.5 / 255.0;
        Ok(self.mask.ge(threshold)?.to_dtype(self.mask.dtype())?)
    }
}

impl<D: Denoiser> Inpaint<D> {
    /// Blended diffusion (Avrahami et al., arXiv:2206.02779): one noise for all levels, so that this stays a pure function
    /// of `(x, sigma)`. `known` and `noise` are (B, C, h, w); `mask` is (B, 1, h, w) or (1, 1, h, w), 1 where to repaint
    /// and 0 where to keep, of the same dtype.
    pub fn new(inner: D, known: &Tensor, mask: &Tensor, noise: &Tensor) -> Self {
        Self { inner, mask: Mask::Same(mask.clone()), known: known.clone(), noise: Noise::Fixed(noise.clone()) }
    }

    /// Replacement (Song et al., arXiv:2011.13456, appendix I.2): new noise from `noise` for every call.
    pub fn replacing(inner: D, known: &Tensor, mask: &Tensor, noise: Box<dyn NoiseSource>) -> Self {
        let noise = Noise::Fresh(RefCell::new(noise));
        Self { inner, mask: Mask::Same(mask.clone()), known: known.clone(), noise }
    }

    /// Differential diffusion: as [`Inpaint::new`], with a strength for every pixel.
    pub fn soft(inner: D, known: &Tensor, strengths: Strengths, noise: &Tensor) -> Self {
        Self { inner, mask: Mask::Soft(strengths), known: known.clone(), noise: Noise::Fixed(noise.clone()) }
    }

    fn noisy(&self, sigma: f64) -> Result<Tensor> {
        let noise = match &self.noise {
            Noise::Fixed(noise) => noise.clone(),
            Noise::Fresh(source) => {
                source.borrow_mut().normal(self.known.shape(), self.known.dtype(), self.known.device())?
            }
        };
        Ok((&self.known + (noise * sigma)?)?)
    }
}

/// `new` where the mask is 1, `old` where it is 0.
fn blend(new: &Tensor, old: &Tensor, mask: &Tensor) -> Result<Tensor> {
    Ok((new.broadcast_mul(mask)? + old.broadcast_mul(&mask.affine(-1.0, 1.0)?)?)?)
}

impl<D: Denoiser> Denoiser for Inpaint<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.denoised)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let mask = match &self.mask {
            Mask::Same(mask) => mask.clone(),
            Mask::Soft(strengths) => strengths.at(sigma)?,
        };
        let mut estimate = self.inner.estimate(&blend(x, &self.noisy(sigma)?, &mask)?, sigma)?;
        estimate.denoised = blend(&estimate.denoised, &self.known, &mask)?;
        Ok(estimate)
    }
}

/// The generated picture where the mask is white, and the original where it is black, bit for bit: no autoencoder gives
/// back exactly what it was given. What is grey is mixed. All three have the same size.
pub fn composite(original: &RgbImage, generated: &RgbImage, mask: &GrayImage) -> Result<RgbImage> {
    let size = original.dimensions();
    for (field, other) in [("generated", generated.dimensions()), ("mask", mask.dimensions())] {
        if other != size {
            let message = format!("is {}x{}, but the picture is {}x{}", other.0, other.1, size.0, size.1);
            return Err(Error::invalid(FieldError::new(field, "size_mismatch", message)));
        }
    }
    let mut result = original.clone();
    for ((out, new), mask) in result.pixels_mut().zip(generated.pixels()).zip(mask.pixels()) {
        for (out, new) in out.0.iter_mut().zip(new.0) {
            *out = mixed(*out, new, mask.0[0]);
        }
    }
    Ok(result)
}

/// `share` of 255 parts new, the rest old, rounded.
fn mixed(old: u8, new: u8, share: u8) -> u8 {
    let (old, new, share) = (u32::from(old), u32::from(new), u32::from(share));
    ((old * (255 - share) + new * share + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Luma, Rgb};

    #[test]
    fn black_keeps_the_original_bit_for_bit_and_grey_mixes() {
        let original = RgbImage::from_fn(16, 16, |x, y| Rgb([(x * 16 + y) as u8, (y * 7) as u8, 255 - x as u8]));
        let generated = RgbImage::from_fn(16, 16, |x, y| Rgb([(x * 3) as u8, 200, (y ^ x) as u8]));
        let mask = GrayImage::from_fn(16, 16, |x, y| Luma([(x * 16 + y) as u8]));
        let result = composite(&original, &generated, &mask).unwrap();
        for (x, y, pixel) in result.enumerate_pixels() {
            let (old, new) = (original.get_pixel(x, y).0, generated.get_pixel(x, y).0);
            let share = f64::from(mask.get_pixel(x, y).0[0]) / 255.0;
            for (channel, value) in pixel.0.into_iter().enumerate() {
                let exact = f64::from(old[channel]) * (1.0 - share) + f64::from(new[channel]) * share;
                assert_eq!(f64::from(value), exact.round(), "{x} {y}");
            }
            assert!(share > 0.0 || pixel.0 == old);
        }
    }

    #[test]
    fn a_mask_of_another_size_is_named() {
        let (picture, mask) = (RgbImage::new(4, 4), GrayImage::new(4, 5));
        let message = composite(&picture, &picture, &mask).unwrap_err().to_string();
        assert_eq!(message, "mask: is 4x5, but the picture is 4x4");
    }
}
