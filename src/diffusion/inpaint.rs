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

/// The mask's value from which on a pixel is repainted.
const REPAINT: u8 = 128;

/// The generated picture where the mask is white, and the original everywhere else, bit for bit: no autoencoder gives
/// back exactly what it was given. Grey counts as white from 128 on. All three have the same size.
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
        if mask.0[0] >= REPAINT {
            *out = *new;
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Luma, Rgb};

    #[test]
    fn unmasked_pixels_are_the_originals_bit_for_bit() {
        let original = RgbImage::from_fn(16, 16, |x, y| Rgb([(x * 16 + y) as u8, (y * 7) as u8, 255 - x as u8]));
        let generated = RgbImage::from_fn(16, 16, |x, y| Rgb([(x * 3) as u8, 200, (y ^ x) as u8]));
        let mask = GrayImage::from_fn(16, 16, |x, y| Luma([(x * 16 + y) as u8]));
        let result = composite(&original, &generated, &mask).unwrap();
        for (x, y, pixel) in result.enumerate_pixels() {
            let source = if mask.get_pixel(x, y).0[0] < 128 { &original } else { &generated };
            assert_eq!(pixel, source.get_pixel(x, y));
        }
    }

    #[test]
    fn a_mask_of_another_size_is_named() {
        let (picture, mask) = (RgbImage::new(4, 4), GrayImage::new(4, 5));
        let message = composite(&picture, &picture, &mask).unwrap_err().to_string();
        assert_eq!(message, "mask: is 4x5, but the picture is 4x4");
    }
}
