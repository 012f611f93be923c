//! Rectangles: which part of a picture is drawn anew, and where it lies in what is drawn.

use super::Edges;
use ::image::{ImageBuffer, Pixel, imageops};

/// A rectangle of pixels inside a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Columns to the left of it.
    pub left: u32,
    /// Rows above it.
    pub top: u32,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Area {
    /// All of a picture.
    pub fn whole((width, height): (u32, u32)) -> Self {
        Self { left: 0, top: 0, width, height }
    }

    /// The largest area of the shape of `size` in the middle of `sheet`, to within a pixel.
    pub fn fitted(size: (u32, u32), sheet: (u32, u32)) -> Self {
        let scaled = |side: u32, to: u32, from: u32| {
            let (side, to, from) = (u64::from(side), u64::from(to), u64::from(from).max(1));
            ((side * to + from / 2) / from).max(1) as u32
        };
        let width = scaled(size.0, sheet.1, size.1).min(sheet.0);
        let height = scaled(size.1, sheet.0, size.0).min(sheet.1);
        Self { left: (sheet.0 - width) / 2, top: (sheet.1 - height) / 2, width, height }
    }

    /// With `by` more pixels on each side, as far as a picture of size `within` has them.
    pub fn padded(self, by: u32, within: (u32, u32)) -> Self {
        let (left, top) = (self.left.saturating_sub(by), self.top.saturating_sub(by));
        let right = (self.left + self.width).saturating_add(by).min(within.0);
        let bottom = (self.top + self.height).saturating_add(by).min(within.1);
        Self { left, top, width: right - left, height: bottom - top }
    }

    /// Made wider or higher until it has the shape of `shape`, as far as a picture of size `within` has room. Grows
    /// evenly on both sides, and on one where the picture ends.
    pub fn grown_to(self, shape: (u32, u32), within: (u32, u32)) -> Self {
        let wanted = |other: u32, to: u32, from: u32| {
            let wanted = (u64::from(other) * u64::from(to)).div_ceil(u64::from(from).max(1));
            u32::try_from(wanted).unwrap_or(u32::MAX)
        };
        let (left, width) = grown(self.left, self.width, wanted(self.height, shape.0, shape.1), within.0);
        let (top, height) = grown(self.top, self.height, wanted(self.width, shape.1, shape.0), within.1);
        Self { left, top, width, height }
    }

    /// What lies around it in a picture of size `within`.
    pub fn edges(&self, within: (u32, u32)) -> Edges {
        let (right, bottom) = (within.0 - self.left - self.width, within.1 - self.top - self.height);
        Edges { left: self.left, top: self.top, right, bottom }
    }

    /// Columns and rows.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// This part of a picture.
    pub fn crop<P: Pixel + 'static>(
        &self,
        picture: &ImageBuffer<P, Vec<P::Subpixel>>,
    ) -> ImageBuffer<P, Vec<P::Subpixel>> {
        imageops::crop_imm(picture, self.left, self.top, self.width, self.height).to_image()
    }
}

/// A stretch of one side, at least `wanted` long if `most` allows, with its middle where it was if that is possible.
fn grown(start: u32, length: u32, wanted: u32, most: u32) -> (u32, u32) {
    let longer = wanted.min(most).max(length);
    (start.saturating_sub((longer - length) / 2).min(most.saturating_sub(longer)), longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(left: u32, top: u32, width: u32, height: u32) -> Area {
        Area { left, top, width, height }
    }

    #[test]
    fn padding_ends_at_the_picture() {
        assert_eq!(area(10, 20, 5, 5).padded(8, (100, 30)), area(2, 12, 21, 18));
        assert_eq!(area(0, 0, 100, 30).padded(256, (100, 30)), area(0, 0, 100, 30));
    }

    #[test]
    fn an_area_grows_to_a_shape_where_there_is_room() {
        assert_eq!(area(40, 10, 10, 20).grown_to((64, 32), (100, 60)), area(25, 10, 40, 20));
        assert_eq!(area(0, 10, 10, 20).grown_to((64, 32), (100, 60)), area(0, 10, 40, 20));
        assert_eq!(area(90, 10, 10, 20).grown_to((32, 32), (100, 60)), area(80, 10, 20, 20));
        // A strip as long as the picture has no room for a square.
        assert_eq!(area(0, 5, 100, 10).grown_to((32, 32), (100, 20)), area(0, 0, 100, 20));
        assert_eq!(area(3, 3, 51, 50).grown_to((64, 64), (100, 100)), area(3, 3, 51, 51));
    }

    #[test]
    fn what_has_another_shape_is_fitted_into_the_middle() {
        assert_eq!(Area::fitted((100, 20), (32, 32)), area(0, 13, 32, 6));
        assert_eq!(Area::fitted((20, 100), (64, 32)), area(29, 0, 6, 32));
        assert_eq!(Area::fitted((50, 25), (64, 32)), area(0, 0, 64, 32));
        assert_eq!(Area::fitted((16_384, 512), (8, 8)), area(0, 3, 8, 1));
        assert_eq!(area(0, 13, 32, 6).edges((32, 32)), Edges { left: 0, top: 13, right: 0, bottom: 13 });
    }
}
