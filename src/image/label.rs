//! Words on a sheet of pictures.

use super::grid;
use ::image::{Rgb, RgbImage, imageops};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const HEIGHT: RasterHeight = RasterHeight::Size16;
/// Pixels above and below a line, and beside it.
const MARGIN: u32 = 4;
const GROUND: Rgb<u8> = Rgb([230, 230, 235]);

/// Pictures of one size, row by row, with a label over every column and before every row. Characters other than ASCII
/// are shown as "?"; labels are cut where their column ends, row labels after 24 characters.
pub fn labelled_grid(pictures: &[RgbImage], columns: &[String], rows: &[String]) -> RgbImage {
    let sheet = grid(pictures, columns.len());
    let longest = rows.iter().map(|row| row.chars().count().min(24)).max().unwrap_or(0) as u32;
    let left = if longest == 0 { 0 } else { longest * letter_width() + 2 * MARGIN };
    let top = HEIGHT.val() as u32 + 2 * MARGIN;
    let mut labelled = RgbImage::from_pixel(left + sheet.width(), top + sheet.height(), GROUND);
    imageops::replace(&mut labelled, &sheet, i64::from(left), i64::from(top));
    let (step_x, step_y) = (
        sheet.width() / columns.len().max(1) as u32,
        sheet.height() / pictures.len().div_ceil(columns.len().max(1)).max(1) as u32,
    );
    for (i, label) in (0..).zip(columns) {
        write(&mut labelled, label, (left + i * step_x + MARGIN, MARGIN), step_x - MARGIN);
    }
    for (i, label) in (0..).zip(rows) {
        let middle = top + i * step_y + step_y.saturating_sub(HEIGHT.val() as u32) / 2;
        write(&mut labelled, label, (MARGIN, middle), left.saturating_sub(MARGIN));
    }
    labelled
}

fn letter_width() -> u32 {
    get_raster_width(FontWeight::Regular, HEIGHT) as u32
}

/// Writes dark on light from the upper left corner `at`, in `width` pixels at most.
fn write(picture: &mut RgbImage, text: &str, at: (u32, u32), width: u32) {
    for (i, letter) in (0..width / letter_width()).zip(text.chars()) {
        let raster =
            get_raster(letter, FontWeight::Regular, HEIGHT).or_else(|| get_raster('?', FontWeight::Regular, HEIGHT));
        let Some(raster) = raster else { return };
        for (y, row) in (at.1..).zip(raster.rows()) {
            for (x, ink) in (at.0 + i * letter_width()..).zip(row.iter()) {
                if let Some(pixel) = picture.get_pixel_mut_checked(x, y) {
                    pixel.0 = pixel.0.map(|ground| ground - (u16::from(ground) * u16::from(*ink) / 255) as u8);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_written_outside_the_pictures() {
        let pictures: Vec<RgbImage> = (0..4).map(|_| RgbImage::from_pixel(40, 30, Rgb([255; 3]))).collect();
        let labels = |words: [&str; 2]| words.map(str::to_owned);
        let sheet = labelled_grid(&pictures, &labels(["5", "a label that is far too long"]), &labels(["é1", "2"]));
        let bare = labelled_grid(&pictures, &labels(["", ""]), &labels(["  ", " "]));
        assert_eq!(sheet.dimensions(), bare.dimensions());
        let plain = grid(&pictures, 2);
        let (left, top) = (sheet.width() - plain.width(), sheet.height() - plain.height());
        let inside = imageops::crop_imm(&sheet, left, top, plain.width(), plain.height()).to_image();
        assert_eq!(inside, plain);
        assert!(sheet.pixels().any(|pixel| pixel.0[0] < 60) && bare.pixels().all(|pixel| pixel.0[0] >= 230));
    }
}
