//! Where a drawn picture goes: into the picture that it repaints a part of.

use crate::Result;
use crate::diffusion::inpaint::composite;
use crate::image::{Area, Mask, RgbImage, resize};
use crate::request::Repaint;
use ::image::{GrayImage, imageops};

/// A picture, the part of it that is drawn anew, and the sheet on which that part is drawn.
#[derive(Debug)]
pub(super) struct Canvas<'a> {
    picture: &'a RgbImage,
    mask: &'a Mask,
    /// The part of the picture that is drawn,
    area: Area,
    /// where it lies on the sheet, scaled,
    place: Area,
    /// and the sheet's size.
    sheet: (u32, u32),
    /// How much of each pixel of the part is new, of 255.
    shares: GrayImage,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(picture: &'a RgbImage, mask: &'a Mask, repaint: &Repaint, sheet: (usize, usize)) -> Self {
        let (size, sheet) = (picture.dimensions(), (sheet.0 as u32, sheet.1 as u32));
        let area = match repaint.only_masked {
            false => Area::whole(size),
            true => mask.bounds().padded(repaint.only_masked_padding, size).grown_to(sheet, size),
        };
        let shares = area.crop(&mask.feathered(repaint.mask_feather));
        Self { picture, mask, area, place: Area::fitted(area.size(), sheet), sheet, shares }
    }

    /// The part as the network is to see it. Where it has not the sheet's shape, its outermost pixels fill the rest.
    pub(super) fn seen(&self) -> RgbImage {
        let part = resize(self.area.crop(self.picture), self.place.width, self.place.height);
        self.place.edges(self.sheet).fill(&part)
    }

    /// Which pixels of the sheet are drawn anew.
    pub(super) fn mask(&self) -> Mask {
        self.mask.placed(self.area, self.place, self.sheet)
    }

    /// The whole picture with what was drawn in its place. Pixels that are black in the mask are the picture's. (A preview
    /// may be smaller than the sheet.)
    pub(super) fn finish(&self, drawn: RgbImage) -> Result<RgbImage> {
        let drawn = resize(drawn, self.sheet.0, self.sheet.1);
        let new = resize(self.place.crop(&drawn), self.area.width, self.area.height);
        let part = composite(&self.area.crop(self.picture), &new, &self.shares)?;
        let mut whole = self.picture.clone();
        imageops::replace(&mut whole, &part, i64::from(self.area.left), i64::from(self.area.top));
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Greys;
    use ::image::Rgb;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 2) as u8, (y * 3) as u8, 90]))
    }

    /// White from (60, 20) up to (79, 29).
    fn mask() -> Mask {
        let white = |x: u32, y: u32| (60..80).contains(&x) && (20..30).contains(&y);
        let picture = RgbImage::from_fn(100, 50, |x, y| Rgb([if white(x, y) { 255 } else { 0 }; 3]));
        Mask::read(&crate::image::encode_png(&picture, &[]).unwrap(), (100, 50), Greys::Split).unwrap()
    }

    #[test]
    fn a_part_goes_to_the_sheet_and_back_in_its_place() {
        let (picture, mask) = (gradient(100, 50), mask());
        for (padding, sheet) in [(0, (32, 32)), (4, (64, 32)), (256, (32, 32)), (7, (24, 80))] {
            let repaint = Repaint { only_masked: true, only_masked_padding: padding, ..Repaint::default() };
            let canvas = Canvas::new(&picture, &mask, &repaint, sheet);
            let seen = canvas.seen();
            assert_eq!(seen.dimensions(), (sheet.0 as u32, sheet.1 as u32));
            // A smooth picture, repainted as it was, is what it was, nearly.
            let whole = canvas.finish(seen.clone()).unwrap();
            let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b);
            assert!(whole.iter().zip(picture.iter()).map(apart).max().unwrap() <= 12, "{padding} {sheet:?}");
            let red = canvas.finish(RgbImage::from_pixel(seen.width(), seen.height(), Rgb([255, 0, 0]))).unwrap();
            for (x, y, pixel) in red.enumerate_pixels() {
                let white = mask.as_grey().get_pixel(x, y).0[0] == 255;
                assert_eq!(pixel, if white { &Rgb([255, 0, 0]) } else { picture.get_pixel(x, y) }, "{x} {y}");
            }
        }
    }

    #[test]
    fn the_mask_covers_all_that_will_be_put_back() {
        let (picture, mask) = (gradient(100, 50), mask());
        let repaint = Repaint { only_masked: true, only_masked_padding: 5, ..Repaint::default() };
        let canvas = Canvas::new(&picture, &mask, &repaint, (60, 60));
        // 30 x 20 pixels around the white part, made a square of 30 x 30, twice as large on the sheet.
        assert_eq!(canvas.area, Area { left: 55, top: 10, width: 30, height: 30 });
        assert_eq!(canvas.mask().bounds(), Area { left: 10, top: 20, width: 40, height: 20 });
    }
}
