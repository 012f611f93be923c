//! Edges by Canny's method ("A computational approach to edge detection", 1986), pixel for pixel as OpenCV's `Canny` draws
//! them in its usual setting (3x3 Sobel, L1 norm, no smoothing): that is what networks for edges were trained on.

use ::image::{Rgb, RgbImage};

/// tan 22.5 degrees in 1/32768, as OpenCV rounds it.
const TAN_22_5: i32 = 13_573;

/// White lines on black where colours change: a line is drawn where its slope, the sum of the horizontal and the vertical
/// Sobel derivative, exceeds `high` somewhere, and as far as it stays above `low`. In the wrong order the two are swapped.
/// A slope is at most 2040; 100 and 200 are usual.
pub fn canny(picture: &RgbImage, low: u32, high: u32) -> RgbImage {
    let (low, high) = (low.min(high) as i32, low.max(high) as i32);
    let slopes = Slopes::of(picture);
    let (width, height) = picture.dimensions();
    let pixels = || (0..height as i32).flat_map(|y| (0..width as i32).map(move |x| (x, y)));
    let mut may_be: Vec<bool> = pixels().map(|(x, y)| slopes.at(x, y).sum() > low && slopes.is_ridge(x, y)).collect();
    let place = |(x, y): (i32, i32)| y as usize * width as usize + x as usize;

    let mut edges = RgbImage::new(width, height);
    let sure = |&(x, y): &(i32, i32)| may_be[place((x, y))] && slopes.at(x, y).sum() > high;
    let mut found: Vec<(i32, i32)> = pixels().filter(sure).collect();
    while let Some((x, y)) = found.pop() {
        edges.put_pixel(x as u32, y as u32, Rgb([255; 3]));
        let around = (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (x + dx, y + dy)));
        let inside = |&(x, y): &(i32, i32)| (0..width as i32).contains(&x) && (0..height as i32).contains(&y);
        for neighbour in around.filter(inside) {
            if std::mem::take(&mut may_be[place(neighbour)]) {
                found.push(neighbour);
            }
        }
    }
    edges
}

/// How steeply a colour changes at a pixel.
#[derive(Debug, Clone, Copy, Default)]
struct Slope {
    dx: i32,
    dy: i32,
}

impl Slope {
    fn sum(self) -> i32 {
        self.dx.abs() + self.dy.abs()
    }
}

/// The slopes of all pixels: of each, that of the colour channel with the steepest.
struct Slopes {
    width: i32,
    height: i32,
    values: Vec<Slope>,
}

impl Slopes {
    fn of(picture: &RgbImage) -> Self {
        let (width, height) = (picture.width() as i32, picture.height() as i32);
        let colour = |x: i32, y: i32| {
            picture.get_pixel(x.clamp(0, width - 1) as u32, y.clamp(0, height - 1) as u32).0.map(i32::from)
        };
        let slope = |x: i32, y: i32| {
            let rows = [-1, 0, 1].map(|dy| [-1, 0, 1].map(|dx| colour(x + dx, y + dy)));
            let channels = [0, 1, 2].map(|c| sobel(rows.map(|row| row.map(|colour| colour[c]))));
            channels.into_iter().reduce(|best, other| if other.sum() > best.sum() { other } else { best })
        };
        let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        Self { width, height, values: pixels.map(|(x, y)| slope(x, y).unwrap_or_default()).collect() }
    }

    /// Flat beyond the border.
    fn at(&self, x: i32, y: i32) -> Slope {
        let inside = (0..self.width).contains(&x) && (0..self.height).contains(&y);
        if inside { self.values[(y * self.width + x) as usize] } else { Slope::default() }
    }

    /// Whether a pixel is steeper than its two neighbours across the edge, to the nearest eighth of a turn. Of two alike
    /// the first is the edge, except on diagonals, where neither is.
    fn is_ridge(&self, x: i32, y: i32) -> bool {
        let Slope { dx, dy } = self.at(x, y);
        let (sum, sum_at) = (self.at(x, y).sum(), |x, y| self.at(x, y).sum());
        let (across, down) = (dx.abs() * TAN_22_5, dy.abs() << 15);
        if down < across {
            return sum > sum_at(x - 1, y) && sum >= sum_at(x + 1, y);
        }
        // tan 67.5 = 2 + tan 22.5.
        if down > across + (dx.abs() << 16) {
            return sum > sum_at(x, y - 1) && sum >= sum_at(x, y + 1);
        }
        let side = if (dx ^ dy) < 0 { -1 } else { 1 };
        sum > sum_at(x - side, y - 1) && sum > sum_at(x + side, y + 1)
    }
}

/// The derivatives at the middle of 3x3 values.
fn sobel([above, beside, below]: [[i32; 3]; 3]) -> Slope {
    let smooth = |row: [i32; 3]| row[0] + 2 * row[1] + row[2];
    let across = |row: [i32; 3]| row[2] - row[0];
    Slope { dx: across(above) + 2 * across(beside) + across(below), dy: smooth(below) - smooth(above) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by tests/fixtures/canny/make.py.
    const GOLDEN: &str = include_str!("../../tests/fixtures/canny/golden.json");

    #[derive(serde::Deserialize)]
    struct Case {
        kind: String,
        width: u32,
        height: u32,
        low: u32,
        high: u32,
        edges: Vec<String>,
    }

    /// The twin of `pixel` in tests/fixtures/canny/make.py.
    fn pixel(kind: &str, x: u32, y: u32) -> Rgb<u8> {
        let waves = || [(x * x + 3 * y * y) / 7 % 256, (5 * x + y * y) / 3 % 256, x * y / 2 % 256];
        let disc = || (x.abs_diff(20).pow(2) + y.abs_diff(14).pow(2) < 100) as u32;
        Rgb(match kind {
            "waves" => waves(),
            "disc" => [40 + 160 * disc(), 90, 200 - 150 * disc()],
            "grey" => [waves()[0]; 3],
            _ => [if x < 11 { 0 } else { 60 }, 2 * x, if y < 9 { 0 } else { 3 * y }],
        }
        .map(|value| value as u8))
    }

    fn drawn(edges: &RgbImage) -> Vec<String> {
        let line = |row: ::image::buffer::Pixels<'_, Rgb<u8>>| {
            row.map(|pixel| if pixel.0 == [255; 3] { '#' } else { '.' }).collect()
        };
        edges.rows().map(line).collect()
    }

    #[test]
    fn edges_are_those_of_opencv() {
        for case in serde_json::from_str::<Vec<Case>>(GOLDEN).unwrap() {
            let picture = RgbImage::from_fn(case.width, case.height, |x, y| pixel(&case.kind, x, y));
            let found = canny(&picture, case.low, case.high);
            assert_eq!(drawn(&found), case.edges, "{} {} {}", case.kind, case.low, case.high);
            assert_eq!(canny(&picture, case.high, case.low), found);
        }
    }

    #[test]
    fn flat_pictures_have_no_edges_and_steps_have_one() {
        let flat = RgbImage::from_pixel(9, 7, Rgb([200, 10, 90]));
        assert!(canny(&flat, 0, 0).iter().all(|value| *value == 0));
        let step = RgbImage::from_fn(9, 3, |x, _| Rgb([if x < 4 { 10 } else { 90 }; 3]));
        // The slope is 4 x 80 on both sides of the step; the first is the edge.
        assert_eq!(drawn(&canny(&step, 100, 319)), ["...#.....", "...#.....", "...#....."]);
        assert_eq!(drawn(&canny(&step, 100, 320)), [".........", ".........", "........."]);
    }

    #[test]
    fn weak_lines_are_drawn_where_they_go_on_from_strong_ones() {
        // A step that fades from 80 to 0 from top to bottom.
        let step = RgbImage::from_fn(8, 9, |x, y| Rgb([if x < 4 { 0 } else { 80 - 10 * y as u8 }; 3]));
        let rows = |low, high| drawn(&canny(&step, low, high)).iter().filter(|row| row.contains('#')).count();
        assert!(rows(100, 250) > rows(250, 250) && rows(100, 250) == rows(100, 100));
    }

    #[test]
    fn a_single_pixel_is_no_edge() {
        assert_eq!(canny(&RgbImage::from_pixel(1, 1, Rgb([255; 3])), 0, 1).into_raw(), [0, 0, 0]);
    }
}
