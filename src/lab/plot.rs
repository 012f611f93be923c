//! What was walked, as SVG. Colours are presentation attributes: the pages' policy allows no inline styles.

mod steps;

pub use steps::steps;

use super::SIGMAS;
use super::data::Mixture;
use super::errors::Curve;
use super::walk::Walked;
use crate::Result;
use crate::image::encode_png;
use ::image::{Rgb, RgbImage};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;

/// How far the axes reach, in units of the deviation that pictures of unit variance would have at a level.
const REACH: f64 = 3.2;
/// The most paths that are drawn: more cannot be told apart.
const PATHS: usize = 32;
/// Where density is none, and where it is greatest.
const PALE: [f64; 3] = [250.0, 249.0, 254.0];
const DEEP: [f64; 3] = [124.0, 92.0, 214.0];
/// Ends of the plots of lines.
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 36.0;

/// Shrinks a level's points so that noise of any level fits the picture.
fn shrinkage(sigma: f64) -> f64 {
    1.0 / sigma.hypot(1.0)
}

/// A walk on a line: noise levels from left to right, falling, densities as colour, and the points' paths.
pub fn paths(mixture: &Mixture, walked: &Walked) -> Result<String> {
    let (width, height) = (640.0, 340.0);
    let place = |sigma: f64| if sigma == 0.0 { width } else { 0.96 * width * way(sigma) };
    let up = |x: f64, sigma: f64| height * (0.5 - x * shrinkage(sigma) / (2.0 * REACH));
    let column = |share: f64| {
        let sigma = SIGMAS.0 * (SIGMAS.1 / SIGMAS.0).powf(share / 0.96);
        if share > 0.96 { SIGMAS.1 } else { sigma }
    };
    let heat = heat(160, 85, true, |i, j| {
        let sigma = column((i + 0.5) / 160.0);
        mixture.density([REACH * (1.0 - 2.0 * (j + 0.5) / 85.0) / shrinkage(sigma), 0.0], sigma)
    })?;
    let mut svg = open(width, height, &format!("Paths of {} points through {}", walked.states[0].len(), mixture.title));
    let _ = write!(svg, "{}", picture(&heat, width, height));
    for point in 0..walked.states[0].len().min(PATHS) {
        let line = walked
            .sigmas
            .iter()
            .zip(&walked.states)
            .map(|(sigma, states)| format!("{:.1},{:.1}", place(*sigma), up(states[point][0], *sigma)));
        let line: Vec<String> = line.collect();
        let _ = write!(
            svg,
            r##"<polyline points="{}" fill="none" stroke="#1d1633" stroke-opacity="0.55" stroke-width="1"/>"##,
            line.join(" ")
        );
    }
    Ok(svg + "</svg>")
}

/// One moment of a walk in the plane: density as colour, the points, and where there is room, the score's direction.
pub fn frame(mixture: &Mixture, walked: &Walked, index: usize, field: bool) -> Result<String> {
    let (side, index) = (440.0, index.min(walked.sigmas.len() - 1));
    let sigma = walked.sigmas[index];
    // At the end there is no noise, but a density of points nobody sees.
    let shown = sigma.max(SIGMAS.1);
    let at = |place: f64| (place / side * 2.0 - 1.0) * REACH / shrinkage(shown);
    let to = |x: f64| side * (0.5 + x * shrinkage(shown) / (2.0 * REACH));
    let heat = heat(110, 110, false, |i, j| {
        mixture.density([at((i + 0.5) * side / 110.0), -at((j + 0.5) * side / 110.0)], shown)
    })?;
    let mut svg = open(side, side, &format!("{} points at noise level {sigma:.3}", walked.states[index].len()));
    let _ = write!(svg, "{}", picture(&heat, side, side));
    for (i, j) in (0..15).flat_map(|i| (0..15).map(move |j| (i, j))).filter(|_| field) {
        let (x, y) = ((f64::from(i) + 0.5) * side / 15.0, (f64::from(j) + 0.5) * side / 15.0);
        let [u, v] = mixture.score([at(x), -at(y)], shown);
        let length = u.hypot(v);
        let scale = 12.0 * (length * shown).tanh() / length.max(1e-9);
        let _ = write!(
            svg,
            r##"<path d="M{x:.1} {y:.1}l{:.1} {:.1}" stroke="#3c2a7a" stroke-opacity="0.6"/><circle cx="{x:.1}" cy="{y:.1}" r="1.1" fill="#3c2a7a"/>"##,
            u * scale,
            -v * scale
        );
    }
    for point in &walked.states[index] {
        let (x, y) = (to(point[0]), to(-point[1]));
        let _ = write!(svg, r##"<circle cx="{x:.1}" cy="{y:.1}" r="2.2" fill="#c2410c" fill-opacity="0.8"/>"##);
    }
    Ok(svg + "</svg>")
}

/// The largest error against evaluations, both axes logarithmic.
pub fn errors(curves: &[Curve]) -> String {
    let (width, height) = (640.0, 400.0);
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let most = all().map(|(n, _)| *n as f64).fold(1.0, f64::max);
    let least = all().map(|(n, _)| *n as f64).fold(f64::MAX, f64::min);
    let fold = |start: f64, pick: fn(f64, f64) -> f64| all().map(|(_, e)| *e).fold(start, pick);
    let (low, high) = ((fold(1.0, f64::min) / 2.0).max(1e-8), fold(1e-8, f64::max));
    let x = |n: usize| LEFT + (width - LEFT - 130.0) * (n as f64 / least).ln() / (most / least).ln();
    let y = |e: f64| (height - BOTTOM) * (high / e.max(low)).ln() / (high / low).ln() + 6.0;
    let mut svg = open(width, height, "Largest error at the end against evaluations, for every deterministic sampler");
    let _ = write!(svg, r##"<rect width="{width}" height="{height}" fill="#faf9fe"/>"##);
    for power in -8..=1 {
        let at = y(10f64.powi(power));
        if (6.0..=height - BOTTOM + 6.0).contains(&at) {
            let _ = write!(
                svg,
                r##"<path d="M{LEFT} {at:.1}H{:.1}" stroke="#d9d3ec"/><text x="8" y="{:.1}" font-size="12" fill="#453a63">1e{power}</text>"##,
                width - 130.0,
                at + 4.0
            );
        }
    }
    for n in [4usize, 8, 16, 32, 64, 128, 256].into_iter().filter(|n| (least..=most).contains(&(*n as f64))) {
        let _ = write!(
            svg,
            r##"<text x="{:.1}" y="{:.1}" font-size="12" fill="#453a63" text-anchor="middle">{n}</text>"##,
            x(n),
            height - 10.0
        );
    }
    for (i, curve) in curves.iter().enumerate() {
        let hue = 360 * i / curves.len().max(1);
        let colour = format!("hsl({hue},70%,38%)");
        let line: Vec<String> = curve.points.iter().map(|(n, e)| format!("{:.1},{:.1}", x(*n), y(*e))).collect();
        let _ =
            write!(svg, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.6"/>"#, line.join(" "));
        let _ = write!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" font-size="12" fill="{colour}">{}</text>"#,
            width - 118.0,
            20.0 + 17.0 * i as f64,
            curve.sampler
        );
    }
    svg + "</svg>"
}

/// How far down in ln sigma, of 1.
fn way(sigma: f64) -> f64 {
    (SIGMAS.0 / sigma).ln() / (SIGMAS.0 / SIGMAS.1).ln()
}

fn open(width: f64, height: f64, title: &str) -> String {
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="system-ui, sans-serif"><title>{title}</title>"#
    )
}

/// Values as colours, by the greatest of a column where each is a level of its own, else by the greatest of all.
fn heat(columns: u32, rows: u32, by_column: bool, value: impl Fn(f64, f64) -> f64) -> Result<Vec<u8>> {
    let mut picture = RgbImage::new(columns, rows);
    let column = |i: u32| (0..rows).map(|j| value(f64::from(i), f64::from(j))).collect::<Vec<f64>>();
    let values: Vec<Vec<f64>> = (0..columns).map(column).collect();
    let greatest = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let of_all = values.iter().map(|column| greatest(column)).fold(0.0, f64::max);
    for (i, values) in values.into_iter().enumerate() {
        let top = if by_column { greatest(&values) } else { of_all };
        for (j, value) in values.into_iter().enumerate() {
            // The root shows thin tails.
            let share = if top > 0.0 { (value / top).sqrt() } else { 0.0 };
            let mixed = [0, 1, 2].map(|c| (PALE[c] + share * (DEEP[c] - PALE[c])) as u8);
            picture.put_pixel(i as u32, j as u32, Rgb(mixed));
        }
    }
    encode_png(&picture, &[])
}

fn picture(png: &[u8], width: f64, height: f64) -> String {
    let data = STANDARD.encode(png);
    format!(
        r#"<image href="data:image/png;base64,{data}" width="{width}" height="{height}" preserveAspectRatio="none"/>"#
    )
}

#[cfg(test)]
mod tests {
    use super::super::walk::Experiment;
    use super::super::{Mixture, curves};
    use super::*;

    #[test]
    fn plots_are_whole_and_hold_what_was_walked() {
        let of = |data: &str| {
            let mixture = Mixture::named(data).unwrap();
            Experiment { mixture, sampler: "pc".parse().unwrap(), steps: 9, points: 7, seed: 1 }
        };
        let (line, plane) = (of("two"), of("ring"));
        let drawn = paths(&line.mixture, &line.walk().unwrap()).unwrap();
        assert_eq!((drawn.matches("<polyline").count(), drawn.ends_with("</svg>")), (7, true));
        let walked = plane.walk().unwrap();
        let drawn = frame(&plane.mixture, &walked, 999, true).unwrap();
        assert_eq!(drawn.matches("#c2410c").count(), 7);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
        let curves = curves(&line.mixture, 1).unwrap();
        let drawn = errors(&curves);
        assert!(drawn.matches("<polyline").count() == curves.len() && !drawn.contains("NaN"));
    }
}
