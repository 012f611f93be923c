//! Drawings to pixels: an SVG document becomes a square RGB picture on white.

use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg;

/// Each side is drawn this many times larger and averaged down: thin outlines keep their weight at 64 pixels.
const OVERSAMPLING: usize = 4;

/// Draws `svg` centred in `size` x `size` pixels on white, as RGB bytes. The error says what is wrong with the drawing.
pub(super) fn draw(svg: &str, size: usize) -> Result<Vec<u8>, String> {
    let tree = usvg::Tree::from_str(svg, &usvg::Options::default()).map_err(|e| e.to_string())?;
    let side = size * OVERSAMPLING;
    let mut canvas = Pixmap::new(side as u32, side as u32).ok_or_else(|| format!("cannot draw at {size} pixels"))?;
    canvas.fill(Color::WHITE);
    let (w, h) = (tree.size().width(), tree.size().height());
    let scale = side as f32 / w.max(h);
    let centre = Transform::from_translate((side as f32 - w * scale) / 2.0, (side as f32 - h * scale) / 2.0);
    resvg::render(&tree, centre.pre_scale(scale, scale), &mut canvas.as_mut());
    Ok(shrink(canvas.data(), size))
}

/// Box average of opaque RGBA at `size * OVERSAMPLING` to RGB at `size`.
fn shrink(rgba: &[u8], size: usize) -> Vec<u8> {
    let row = size * OVERSAMPLING * 4;
    let area = (OVERSAMPLING * OVERSAMPLING) as u32;
    let mean = |x: usize, y: usize, c: usize| {
        let corner = y * OVERSAMPLING * row + x * OVERSAMPLING * 4 + c;
        let line = |dy: usize| (0..OVERSAMPLING).map(move |dx| u32::from(rgba[corner + dy * row + dx * 4]));
        let sum: u32 = (0..OVERSAMPLING).flat_map(line).sum();
        ((sum + area / 2) / area) as u8
    };
    (0..size * size).flat_map(|i| (0..3).map(move |c| (i, c))).map(|(i, c)| mean(i % size, i / size, c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_covered_square_is_drawn_on_white() -> Result<(), String> {
        let svg = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><path fill="#ff0000" d="M0 0h4v8h-4z"/></svg>"##;
        let picture = draw(svg, 4)?;
        let row: Vec<u8> = [[255, 0, 0], [255, 0, 0], [255, 255, 255], [255, 255, 255]].concat();
        assert_eq!(picture, row.repeat(4));
        Ok(())
    }

    #[test]
    fn a_wide_drawing_is_centred() -> Result<(), String> {
        let svg =
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 4"><path fill="#000" d="M0 0h8v4h-8z"/></svg>"##;
        let reds: Vec<u8> = draw(svg, 4)?.iter().step_by(3).copied().collect();
        assert_eq!(reds, [[255; 4], [0; 4], [0; 4], [255; 4]].concat());
        Ok(())
    }

    #[test]
    fn a_broken_drawing_is_an_error() {
        assert!(draw("<svg", 4).is_err());
    }
}
