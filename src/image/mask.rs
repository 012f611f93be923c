//! Which pixels of a picture are to be repainted.

use super::read::read_grey_on_black;
use crate::Result;
use crate::error::FieldError;
use ::image::GrayImage;
use ::image::imageops::{self, FilterType};
use candle_core::{Device, Tensor};

/// White is repainted, black is kept: every pixel is one or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// 255 where the picture is repainted, else 0.
    grey: GrayImage,
}

impl Mask {
    /// Reads a mask file that belongs to a picture of `of` = (width, height) pixels. A luma of 128 or more is white;
    /// what is transparent counts as black, so that white strokes on a transparent ground work.
    pub fn read(bytes: &[u8], of: (u32, u32)) -> Result<Self, FieldError> {
        let grey = read_grey_on_black("mask", bytes)?;
        if grey.dimensions() != of {
            let ((w, h), (pw, ph)) = (grey.dimensions(), of);
            let message = format!("must be as large as the picture, {pw} x {ph} pixels, was {w} x {h}");
            return Err(FieldError::new("mask", "mask_size", message));
        }
        Self::from_grey(grey)
    }

    /// Splits grey values at 128. Fails when nothing is white.
    fn from_grey(mut grey: GrayImage) -> Result<Self, FieldError> {
        for value in grey.iter_mut() {
            *value = if *value >= 128 { 255 } else { 0 };
        }
        if grey.iter().all(|value| *value == 0) {
            let message =
                "has no white pixel, so nothing would be repainted (white is repainted; transparent counts as black)";
            return Err(FieldError::new("mask", "mask_empty", message));
        }
        Ok(Self { grey })
    }

    /// Scales and crops as [`super::fit`] does with the picture.
    pub fn fit(self, width: u32, height: u32) -> Result<Self, FieldError> {
        if self.grey.dimensions() == (width, height) {
            return Ok(self);
        }
        let filled = ::image::DynamicImage::from(self.grey).resize_to_fill(width, height, FilterType::Triangle);
        Self::from_grey(filled.into_luma8())
    }

    /// One value per pixel: 255 = repaint, 0 = keep.
    pub fn as_grey(&self) -> &GrayImage {
        &self.grey
    }

    /// The mask on the latents, (1, 1, H/factor, W/factor) in f32: a latent is repainted (1) when any of its pixels is,
    /// so that no repainted pixel hangs on a latent that was held to the old picture.
    pub fn to_latents(&self, factor: usize, device: &Device) -> Result<Tensor> {
        let step = factor.max(1) as u32;
        let (width, height) = (self.grey.width() / step, self.grey.height() / step);
        let any =
            |x, y| imageops::crop_imm(&self.grey, x * step, y * step, step, step).to_image().iter().any(|v| *v != 0);
        let values: Vec<f32> = (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| f32::from(u8::from(any(x, y))))
            .collect();
        Ok(Tensor::from_vec(values, (1, 1, height as usize, width as usize), device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::{DynamicImage, ImageFormat, Luma, Rgba, RgbaImage};

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn grey(values: &[u8]) -> Vec<u8> {
        png(&GrayImage::from_raw(values.len() as u32, 1, values.to_vec()).unwrap().into())
    }

    #[test]
    fn grey_is_split_at_128() {
        let mask = Mask::read(&grey(&[0, 127, 128, 255]), (4, 1)).unwrap();
        assert_eq!(mask.as_grey().as_raw()[..], [0, 0, 255, 255]);
    }

    #[test]
    fn transparent_counts_as_black() {
        let mut strokes = RgbaImage::from_pixel(2, 1, Rgba([255, 255, 255, 0]));
        strokes.put_pixel(1, 0, Rgba([255, 255, 255, 255]));
        assert_eq!(Mask::read(&png(&strokes.into()), (2, 1)).unwrap().as_grey().as_raw()[..], [0, 255]);
    }

    #[test]
    fn black_masks_and_other_sizes_are_refused() {
        assert_eq!(Mask::read(&grey(&[0, 127]), (2, 1)).unwrap_err().code, "mask_empty");
        let error = Mask::read(&grey(&[255, 255]), (3, 1)).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            ("mask_size", "must be as large as the picture, 3 x 1 pixels, was 2 x 1")
        );
    }

    #[test]
    fn a_latent_is_repainted_when_any_of_its_pixels_is() {
        let mut pixels = GrayImage::new(16, 8);
        pixels.put_pixel(15, 7, Luma([255]));
        let latents = Mask::from_grey(pixels).unwrap().to_latents(8, &Device::Cpu).unwrap();
        assert_eq!(latents.dims(), [1, 1, 1, 2]);
        assert_eq!(latents.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0]);
    }
}
