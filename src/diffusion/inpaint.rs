//! Repainting a part of a picture: masked reverse diffusion as a denoiser, and the final composite of pixels.

use crate::diffusion::denoiser::{Denoiser, Estimate};
use crate::error::{Error, FieldError, Result};
use candle_core::Tensor;
use image::{GrayImage, RgbImage};

/// A denoiser that knows part of the answer.
///
/// At every noise level the known part of the input is replaced by the known picture at that level, and the known part
/// of the output by the known picture (replacement: Song et al., arXiv:2011.13456, appendix I.2; with one noise for all
/// levels: blended latent diffusion). The noise is fixed, so that this stays a pure function of `(x, sigma)`. The
/// repainted part follows the known one approximately: replacement is biased, and more steps do not cure it.
#[derive(Debug, Clone)]
pub struct Inpaint<D> {
    inner: D,
    /// `mask`, (B or 1, 1, h, w).
    repaint: Tensor,
    /// `(1 - mask) * known`, (B, C, h, w).
    known: Tensor,
    /// `(1 - mask) * noise`.
    noise: Tensor,
}

impl<D: Denoiser> Inpaint<D> {
    /// `known` and `noise` are (B, C, h, w); `mask` is (B, 1, h, w) or (1, 1, h, w), 1 where to repaint and 0 where to
    /// keep, of the same dtype.
    pub fn new(inner: D, known: &Tensor, mask: &Tensor, noise: &Tensor) -> Result<Self> {
        let keep = mask.affine(-1.0, 1.0)?;
        Ok(Self {
            inner,
            repaint: mask.clone(),
            known: known.broadcast_mul(&keep)?,
            noise: noise.broadcast_mul(&keep)?,
        })
    }
}

impl<D: Denoiser> Denoiser for Inpaint<D> {
    fn denoise(&self, x: &Tensor, sigma: f64) -> Result<Tensor> {
        Ok(self.estimate(x, sigma)?.denoised)
    }

    fn estimate(&self, x: &Tensor, sigma: f64) -> Result<Estimate> {
        let known = (&self.known + (&self.noise * sigma)?)?;
        let input = (x.broadcast_mul(&self.repaint)? + known)?;
        let mut estimate = self.inner.estimate(&input, sigma)?;
        estimate.denoised = (estimate.denoised.broadcast_mul(&self.repaint)? + &self.known)?;
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
