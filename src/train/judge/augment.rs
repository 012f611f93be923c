//! A training picture seen a little differently each time, so that the judge learns shapes rather than pixels.
//!
//! Never mirrored: arrows, letters and clocks would become other concepts.

use crate::train::data::{CHANNELS, Dice};

/// Largest change of size, as a share.
const ZOOM: f32 = 0.15;
/// Largest shift, as a share of the side.
const SHIFT: f32 = 0.08;
/// Largest change of each colour's strength, as a share.
const TINT: f32 = 0.15;
/// Largest deviation of added noise, in units of the signed range [-1, 1].
const NOISE: f32 = 0.1;
/// How often a picture is blurred, as an autoencoder would.
const BLURRED: f64 = 0.3;

/// A byte in [-1, 1].
pub(super) fn signed(value: u8) -> f32 {
    f32::from(value) / 127.5 - 1.0
}

/// `rgb` (`size * size * 3` bytes) zoomed, shifted, tinted, sometimes blurred, with noise; in [-1, 1] before the noise.
pub(super) fn varied(rgb: &[u8], size: usize, dice: &mut Dice) -> Vec<f32> {
    let zoom = 1.0 + spread(dice, ZOOM);
    let reach = SHIFT * size as f32;
    let (dx, dy) = (spread(dice, reach), spread(dice, reach));
    let gains = [(); CHANNELS].map(|()| 1.0 + spread(dice, TINT));
    let centre = (size as f32 - 1.0) / 2.0;
    let mut picture = Vec::with_capacity(rgb.len());
    for i in 0..size * size {
        let (x, y) = ((i % size) as f32, (i / size) as f32);
        let (x, y) = ((x - centre) * zoom + centre + dx, (y - centre) * zoom + centre + dy);
        for (c, gain) in gains.iter().enumerate() {
            // Gains act on what differs from the white ground, which stays white.
            picture.push(1.0 - (1.0 - sample(rgb, size, x, y, c)) * gain);
        }
    }
    if dice.chance(BLURRED) {
        picture = blurred(&picture, size);
    }
    let noise = NOISE * dice.uniform() as f32;
    picture.iter().map(|v| v.clamp(-1.0, 1.0) + spread(dice, noise)).collect()
}

/// Uniform in +-`width`.
fn spread(dice: &mut Dice, width: f32) -> f32 {
    (2.0 * dice.uniform() as f32 - 1.0) * width
}

/// Bilinear; white outside.
fn sample(rgb: &[u8], size: usize, x: f32, y: f32, c: usize) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let at = |dx: f32, dy: f32| {
        let (x, y) = (left + dx, top + dy);
        let is_inside = x >= 0.0 && y >= 0.0 && x < size as f32 && y < size as f32;
        if is_inside { signed(rgb[(y as usize * size + x as usize) * CHANNELS + c]) } else { 1.0 }
    };
    let (u, v) = (x - left, y - top);
    let upper = at(0.0, 0.0) * (1.0 - u) + at(1.0, 0.0) * u;
    let lower = at(0.0, 1.0) * (1.0 - u) + at(1.0, 1.0) * u;
    upper * (1.0 - v) + lower * v
}

/// The mean of each pixel and its four neighbours, where it has them.
fn blurred(picture: &[f32], size: usize) -> Vec<f32> {
    let row = size * CHANNELS;
    let mean = |i: usize| {
        let (x, y) = (i % row / CHANNELS, i / row);
        let neighbours = [
            (x > 0).then(|| i - CHANNELS),
            (x + 1 < size).then(|| i + CHANNELS),
            (y > 0).then(|| i - row),
            (y + 1 < size).then(|| i + row),
        ];
        let there = neighbours.into_iter().flatten();
        let (n, sum) = there.fold((1.0, picture[i]), |(n, sum), j| (n + 1.0, sum + picture[j]));
        sum / n
    };
    (0..picture.len()).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_white_picture_stays_white_but_for_the_noise() {
        let white = vec![255; 16 * 16 * CHANNELS];
        for seed in 0..20 {
            let seen = varied(&white, 16, &mut Dice::new(seed));
            assert!(seen.iter().all(|v| (1.0 - v).abs() <= NOISE), "seed {seed}");
        }
    }

    #[test]
    fn sampling_between_pixels_is_linear() {
        let rgb: Vec<u8> = [[0u8; 3], [255; 3], [0; 3], [255; 3]].concat();
        assert!((sample(&rgb, 2, 0.25, 0.5, 0) + 0.5).abs() < 1e-6);
        assert_eq!(sample(&rgb, 2, -5.0, 0.0, 0), 1.0);
    }

    #[test]
    fn the_same_dice_see_the_same_picture() {
        let picture: Vec<u8> = (0..16 * 16 * CHANNELS).map(|i| (i % 251) as u8).collect();
        let seen = |seed| varied(&picture, 16, &mut Dice::new(seed));
        assert_eq!(seen(1), seen(1));
        assert_ne!(seen(1), seen(2));
    }
}
