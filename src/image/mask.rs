//! Which pixels of a picture are to be repainted.

use super::read::read_grey_on_black;
use super::{Area, Edges};
use crate::Result;
use crate::error::FieldError;
use ::image::GrayImage;
use ::image::imageops::{self, FilterType};
use candle_core::{Device, Tensor};

/// What a mask's greys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greys {
    /// White or black, whichever is nearer.
    Split,
    /// Strengths between keeping and repainting.
    Strengths,
}

/// White is repainted, black is kept: every pixel is one or the other, unless greys are strengths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// 255 where the picture is repainted, 0 where it is kept.
    grey: GrayImage,
    greys: Greys,
}

impl Mask {
    /// Reads a mask file that belongs to a picture of `of` = (width, height) pixels. Of greys that are split, a luma of 128
    /// or more is white; what is transparent counts as black, so that white strokes on a transparent ground work.
    pub fn read(bytes: &[u8], of: (u32, u32), greys: Greys) -> Result<Self, FieldError> {
        let grey = read_grey_on_black("mask", bytes)?;
        if grey.dimensions() != of {
            let ((w, h), (pw, ph)) = (grey.dimensions(), of);
            let message = format!("must be as large as the picture, {pw} x {ph} pixels, was {w} x {h}");
            return Err(FieldError::new("mask", "mask_size", message));
        }
        Self::from_grey(grey, greys)
    }

    /// Fails when nothing is white.
    pub(super) fn from_grey(mut grey: GrayImage, greys: Greys) -> Result<Self, FieldError> {
        if greys == Greys::Split {
            grey.iter_mut().for_each(|value| *value = if *value >= 128 { 255 } else { 0 });
        }
        if grey.iter().all(|value| *value == 0) {
            let message =
                "has no white pixel, so nothing would be repainted (white is repainted; transparent counts as black)";
            return Err(FieldError::new("mask", "mask_empty", message));
        }
        Ok(Self { grey, greys })
    }

    /// Scales and crops as [`super::fit`] does with the picture.
    pub fn fit(self, width: u32, height: u32) -> Result<Self, FieldError> {
        if self.grey.dimensions() == (width, height) {
            return Ok(self);
        }
        let filled = ::image::DynamicImage::from(self.grey).resize_to_fill(width, height, FilterType::Triangle);
        Self::from_grey(filled.into_luma8(), self.greys)
    }

    /// One value per pixel: 255 = repaint, 0 = keep.
    pub fn as_grey(&self) -> &GrayImage {
        &self.grey
    }

    /// 255 where a pixel may change at all, else 0.
    pub fn open(&self) -> GrayImage {
        let mut open = self.grey.clone();
        open.iter_mut().for_each(|value| *value = if *value > 0 { 255 } else { 0 });
        open
    }

    /// A mask for a picture of `size` with borders around it: the borders are white, and between them is `inner`, or
    /// black.
    pub fn with_borders(inner: Option<Self>, size: (u32, u32), borders: Edges) -> Self {
        let (width, height) = borders.around(size);
        let mut grey = GrayImage::from_pixel(width, height, ::image::Luma([255]));
        let (inner, greys) = match inner {
            Some(mask) => (mask.grey, mask.greys),
            None => (GrayImage::new(size.0, size.1), Greys::Split),
        };
        imageops::replace(&mut grey, &inner, i64::from(borders.left), i64::from(borders.top));
        Self { grey, greys }
    }

    /// The smallest area with everything white in it.
    pub fn bounds(&self) -> Area {
        let white = self.grey.enumerate_pixels().filter(|(.., value)| value.0[0] != 0).map(|(x, y, _)| (x, y));
        let from_to = |(left, top, right, bottom): (u32, u32, u32, u32), (x, y): (u32, u32)| {
            (left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1))
        };
        let (left, top, right, bottom) = white.fold((u32::MAX, u32::MAX, 0, 0), from_to);
        Area { left, top, width: right.saturating_sub(left), height: bottom.saturating_sub(top) }
    }

    /// The part of it in `area`, scaled to `place` on a black sheet: as white as the whitest pixel that is drawn there, so
    /// that thin strokes survive.
    pub fn placed(&self, area: Area, place: Area, sheet: (u32, u32)) -> Self {
        let columns = |x| covered(x, place.width, area.width).map(|x| x + area.left);
        let rows = |y| covered(y, place.height, area.height).map(|y| y + area.top);
        let mut grey = GrayImage::new(sheet.0, sheet.1);
        let at = |x, y| self.grey.get_pixel(x, y).0[0];
        let whitest = |x, y| rows(y).flat_map(|y| columns(x).map(move |x| at(x, y))).max().unwrap_or(0);
        let part = GrayImage::from_fn(place.width, place.height, |x, y| ::image::Luma([whitest(x, y)]));
        imageops::replace(&mut grey, &part, i64::from(place.left), i64::from(place.top));
        Self { grey, greys: self.greys }
    }

    /// 1 where the picture is kept and 0 where it is repainted, (1, 1, H, W) in f32.
    pub fn kept(&self, device: &Device) -> Result<Tensor> {
        let (width, height) = self.grey.dimensions();
        let values: Vec<f32> = self.grey.iter().map(|value| f32::from(u8::from(*value == 0))).collect();
        Ok(Tensor::from_vec(values, (1, 1, height as usize, width as usize), device)?)
    }

    /// The mask on the latents, (1, 1, H/factor, W/factor) in f32: a latent is repainted (1) when any of its pixels is, or as
    /// much as any of them, so that no repainted pixel hangs on a latent that was held to the old picture.
    pub fn to_latents(&self, factor: usize, device: &Device) -> Result<Tensor> {
        let step = factor.max(1) as u32;
        let (width, height) = (self.grey.width() / step, self.grey.height() / step);
        let whitest = |x, y| {
            let pixels = imageops::crop_imm(&self.grey, x * step, y * step, step, step).to_image();
            pixels.iter().copied().max().unwrap_or(0)
        };
        let values: Vec<f32> = (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| f32::from(whitest(x, y)) / 255.0)
            .collect();
        Ok(Tensor::from_vec(values, (1, 1, height as usize, width as usize), device)?)
    }
}

/// Which of `from` pixels lie under pixel `i` of `to`, when the one row is scaled to the other.
fn covered(i: u32, to: u32, from: u32) -> std::ops::Range<u32> {
    let (i, to, from) = (u64::from(i), u64::from(to).max(1), u64::from(from));
    (i * from / to) as u32..((i + 1) * from).div_ceil(to) as u32
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
        let mask = Mask::read(&grey(&[0, 127, 128, 255]), (4, 1), Greys::Split).unwrap();
        assert_eq!(mask.as_grey().as_raw()[..], [0, 0, 255, 255]);
    }

    #[test]
    fn greys_that_are_strengths_stay() {
        let mask = Mask::read(&grey(&[0, 1, 100, 255]), (4, 1), Greys::Strengths).unwrap();
        assert_eq!(
            [mask.as_grey().as_raw()[..].to_vec(), mask.open().into_raw()],
            [[0, 1, 100, 255], [0, 255, 255, 255]]
        );
        assert_eq!(mask.bounds(), Area { left: 1, top: 0, width: 3, height: 1 });
        let latents = Mask::with_borders(Some(mask), (4, 1), Edges::from([0, 0, 0, 1]));
        let latents = latents.to_latents(2, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(latents, [1.0, 1.0]);
        let dark = Mask::read(&grey(&[0, 51]), (2, 1), Greys::Strengths).unwrap().to_latents(1, &Device::Cpu).unwrap();
        assert_eq!(dark.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 0.2]);
    }

    #[test]
    fn transparent_counts_as_black() {
        let mut strokes = RgbaImage::from_pixel(2, 1, Rgba([255, 255, 255, 0]));
        strokes.put_pixel(1, 0, Rgba([255, 255, 255, 255]));
        assert_eq!(Mask::read(&png(&strokes.into()), (2, 1), Greys::Split).unwrap().as_grey().as_raw()[..], [0, 255]);
    }

    #[test]
    fn black_masks_and_other_sizes_are_refused() {
        assert_eq!(Mask::read(&grey(&[0, 127]), (2, 1), Greys::Split).unwrap_err().code, "mask_empty");
        let error = Mask::read(&grey(&[255, 255]), (3, 1), Greys::Split).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            ("mask_size", "must be as large as the picture, 3 x 1 pixels, was 2 x 1")
        );
    }

    #[test]
    fn a_latent_is_repainted_when_any_of_its_pixels_is() {
        let mut pixels = GrayImage::new(16, 8);
        pixels.put_pixel(15, 7, Luma([255]));
        let latents = Mask::from_grey(pixels, Greys::Split).unwrap().to_latents(8, &Device::Cpu).unwrap();
        assert_eq!(latents.dims(), [1, 1, 1, 2]);
        assert_eq!(latents.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0]);
    }

    #[test]
    fn a_scaled_mask_loses_no_stroke() {
        let mut thin = GrayImage::new(1000, 10);
        thin.put_pixel(777, 5, Luma([255]));
        let mask = Mask::from_grey(thin, Greys::Split).unwrap();
        assert_eq!(mask.bounds(), Area { left: 777, top: 5, width: 1, height: 1 });
        let whole = Area::whole((1000, 10));
        let small = mask.placed(whole, Area { left: 2, top: 1, width: 10, height: 1 }, (16, 4));
        assert_eq!(small.bounds(), Area { left: 9, top: 1, width: 1, height: 1 });
        assert_eq!(mask.placed(whole, whole, (1000, 10)), mask);
        let around = Area { left: 776, top: 4, width: 3, height: 3 };
        let large = mask.placed(around, Area::whole((9, 9)), (9, 9));
        assert_eq!(large.bounds(), Area { left: 3, top: 3, width: 3, height: 3 });
    }

    #[test]
    fn borders_are_white_around_what_was_there() {
        let inner = Mask::read(&grey(&[0, 255]), (2, 1), Greys::Split).unwrap();
        let rows = |inner| Mask::with_borders(inner, (2, 1), Edges::from([1, 1, 0, 0])).grey.into_raw();
        assert_eq!(rows(None), [255, 255, 255, 255, 0, 0]);
        assert_eq!(rows(Some(inner)), [255, 255, 255, 255, 0, 255]);
    }
}
