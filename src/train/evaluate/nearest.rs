//! Is a picture a copy of a training picture? Distances between pictures averaged down to 16 x 16.

use crate::train::data::{CHANNELS, Dataset};
use rayon::prelude::*;

/// Side of a thumbnail: coarse enough that a shift by a pixel does not hide a copy.
const SIDE: usize = 16;
const VALUES: usize = SIDE * SIDE * CHANNELS;

/// Small versions of pictures, values in [0, 1].
pub(super) struct Thumbnails(Vec<f32>);

impl Thumbnails {
    /// Of pictures with sides of `size`, which is a multiple of [`SIDE`].
    pub(super) fn new(pixels: &[u8], size: usize) -> Self {
        Self(pixels.par_chunks(size * size * CHANNELS).flat_map_iter(|picture| thumbnail(picture, size)).collect())
    }

    /// Of some pictures of a data set.
    pub(super) fn of(data: &Dataset, pixels: &[u8], indices: &[usize]) -> Self {
        let bytes = data.picture_bytes();
        let picture = |&i: &usize| thumbnail(&pixels[i * bytes..][..bytes], data.size);
        Self(indices.par_iter().flat_map_iter(picture).collect())
    }

    /// The median, over `others`, of the root-mean-square distance to the nearest of these; `None` if either is empty.
    pub(super) fn median_distance(&self, others: &Self) -> Option<f64> {
        let nearest = |other: &[f32]| self.0.chunks(VALUES).map(|own| square(own, other)).fold(f32::INFINITY, f32::min);
        let mut distances: Vec<f32> = others.0.par_chunks(VALUES).map(nearest).collect();
        distances.sort_by(f32::total_cmp);
        let median = distances.get(distances.len() / 2).filter(|d| d.is_finite())?;
        Some((f64::from(*median) / VALUES as f64).sqrt())
    }
}

/// Box averages. `size` is a multiple of [`SIDE`].
fn thumbnail(picture: &[u8], size: usize) -> Vec<f32> {
    let box_side = size / SIDE;
    let mut sums = vec![0f32; VALUES];
    for (i, &value) in picture.iter().enumerate() {
        let (x, y, c) = (i / CHANNELS % size, i / CHANNELS / size, i % CHANNELS);
        sums[(y / box_side * SIDE + x / box_side) * CHANNELS + c] += f32::from(value);
    }
    let scale = 1.0 / (255.0 * (box_side * box_side) as f32);
    sums.into_iter().map(|sum| sum * scale).collect()
}

fn square(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}
