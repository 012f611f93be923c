//! Many pictures on one sheet.

use ::image::{Rgb, RgbImage, imageops};

/// Pixels between neighbours and around the sheet.
const GAP: u32 = 4;

/// Pictures of one size, row by row, `columns` beside each other with a thin gap.
pub fn grid(pictures: &[RgbImage], columns: usize) -> RgbImage {
    let (width, height) = pictures.first().map_or((0, 0), RgbImage::dimensions);
    let (across, down) = (columns as u32, pictures.len().div_ceil(columns.max(1)) as u32);
    let (step_x, step_y) = (width + GAP, height + GAP);
    let mut sheet = RgbImage::from_pixel(across * step_x + GAP, down * step_y + GAP, Rgb([230, 230, 235]));
    for (i, picture) in (0..).zip(pictures) {
        let (column, row) = (i % across, i / across);
        imageops::replace(&mut sheet, picture, i64::from(column * step_x + GAP), i64::from(row * step_y + GAP));
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_has_its_place() {
        let pictures: Vec<RgbImage> = (0..5).map(|i| RgbImage::from_pixel(8, 6, Rgb([i * 40; 3]))).collect();
        let sheet = grid(&pictures, 3);
        assert_eq!(sheet.dimensions(), (3 * 12 + 4, 2 * 10 + 4));
        for (i, (x, y)) in [(4, 4), (16, 4), (28, 4), (4, 14), (16, 14)].into_iter().enumerate() {
            assert_eq!((sheet.get_pixel(x, y).0[0], sheet.get_pixel(x + 7, y + 5).0[0]), (i as u8 * 40, i as u8 * 40));
        }
        assert_eq!(sheet.get_pixel(28, 14).0, [230, 230, 235]);
    }
}
