//! A mask's hard border made soft, on its white side only.

use super::Mask;
use ::image::GrayImage;

/// A step to the side costs 3 and a diagonal one 4: within 8 % of the straight distance (Borgefors 1986).
const STRAIGHT: u16 = 3;
/// The neighbours that come earlier, row by row, with what the step from them costs.
const EARLIER: [(isize, isize, u16); 4] = [(-1, 0, STRAIGHT), (0, -1, STRAIGHT), (-1, -1, 4), (1, -1, 4)];
/// Farther than any feather reaches.
const FAR: u16 = 30_000;

impl Mask {
    /// How much of each pixel is new, of 255: nothing where the mask is black, and all of it where black is more than
    /// `pixels` away. What lies beyond the picture's border does not count as black.
    pub fn feathered(&self, pixels: u32) -> GrayImage {
        if pixels == 0 {
            return self.open();
        }
        let (reach, mut shares) = (u32::from(STRAIGHT) * (pixels + 1), self.open());
        for (share, distance) in shares.iter_mut().zip(distances(self.as_grey())) {
            *share = (255 * u32::from(distance) / reach).min(255) as u8;
        }
        shares
    }
}

/// Each pixel's distance to the nearest black one, in thirds of a pixel.
fn distances(mask: &GrayImage) -> Vec<u16> {
    let (width, height) = (mask.width() as usize, mask.height() as usize);
    let mut distances: Vec<u16> = mask.iter().map(|value| if *value == 0 { 0 } else { FAR }).collect();
    let mut relax = |x: usize, y: usize, sign: isize| {
        for (dx, dy, cost) in EARLIER {
            if let (Some(nx), Some(ny)) = (x.checked_add_signed(sign * dx), y.checked_add_signed(sign * dy))
                && nx < width
                && ny < height
            {
                distances[y * width + x] = distances[y * width + x].min(distances[ny * width + nx] + cost);
            }
        }
    };
    (0..height).for_each(|y| (0..width).for_each(|x| relax(x, y, 1)));
    (0..height).rev().for_each(|y| (0..width).rev().for_each(|x| relax(x, y, -1)));
    distances
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Greys;
    use ::image::Luma;

    fn mask(grey: GrayImage) -> Mask {
        Mask::from_grey(grey, Greys::Split).unwrap()
    }

    #[test]
    fn white_fades_in_and_black_stays_black() {
        let row = mask(GrayImage::from_fn(8, 1, |x, _| Luma([if x < 2 { 0 } else { 255 }])));
        assert_eq!(row.feathered(0).as_raw()[..], [0, 0, 255, 255, 255, 255, 255, 255]);
        assert_eq!(row.feathered(3).as_raw()[..], [0, 0, 63, 127, 191, 255, 255, 255]);
    }

    #[test]
    fn it_fades_in_from_every_side_and_not_from_the_border() {
        let mut grey = GrayImage::from_pixel(41, 41, Luma([255]));
        grey.put_pixel(20, 20, Luma([0]));
        let shares = mask(grey).feathered(9);
        for (x, y, share) in shares.enumerate_pixels() {
            let exact = f64::from(x.abs_diff(20)).hypot(f64::from(y.abs_diff(20))) / 10.0;
            assert!((f64::from(share.0[0]) / 255.0 - exact.min(1.0)).abs() < 0.09, "{x} {y} {share:?}");
        }
        assert!(mask(GrayImage::from_pixel(5, 5, Luma([255]))).feathered(64).iter().all(|share| *share == 255));
    }
}
