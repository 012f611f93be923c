//! Borders that are added to a picture.

use ::image::RgbImage;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Pixels to add on each side. In JSON four numbers: left, top, right, bottom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u32; 4]", into = "[u32; 4]")]
pub struct Edges {
    /// Columns on the left.
    pub left: u32,
    /// Rows above.
    pub top: u32,
    /// Columns on the right.
    pub right: u32,
    /// Rows below.
    pub bottom: u32,
}

impl Edges {
    /// Whether nothing is added.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The size of a picture with these borders.
    pub fn around(&self, (width, height): (u32, u32)) -> (u32, u32) {
        (width + self.left + self.right, height + self.top + self.bottom)
    }

    /// The picture with borders in which its outermost pixels are repeated.
    pub fn fill(&self, picture: &RgbImage) -> RgbImage {
        if self.is_none() {
            return picture.clone();
        }
        let (width, height) = self.around(picture.dimensions());
        let inside = |at: u32, border: u32, side: u32| at.saturating_sub(border).min(side.saturating_sub(1));
        RgbImage::from_fn(width, height, |x, y| {
            *picture.get_pixel(inside(x, self.left, picture.width()), inside(y, self.top, picture.height()))
        })
    }
}

impl From<[u32; 4]> for Edges {
    fn from([left, top, right, bottom]: [u32; 4]) -> Self {
        Self { left, top, right, bottom }
    }
}

impl From<Edges> for [u32; 4] {
    fn from(Edges { left, top, right, bottom }: Edges) -> Self {
        [left, top, right, bottom]
    }
}

impl fmt::Display for Edges {
    /// As a request has it: `left,top,right,bottom`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.left, self.top, self.right, self.bottom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::image::Rgb;

    #[test]
    fn borders_repeat_the_outermost_pixels() {
        let picture = RgbImage::from_fn(2, 2, |x, y| Rgb([(x * 10 + y) as u8, 0, 0]));
        let filled = Edges::from([1, 0, 2, 1]).fill(&picture);
        let reds: Vec<u8> = filled.pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(filled.dimensions(), (5, 3));
        assert_eq!(reds, [0, 0, 10, 10, 10, 1, 1, 11, 11, 11, 1, 1, 11, 11, 11]);
        assert_eq!(Edges::default().fill(&picture), picture);
    }
}
