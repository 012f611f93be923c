//! What a group normalisation has to know of a picture, which may be looked at a part at a time.

use super::math::vectorised;
use super::native::with_values;
use super::packed::round::Number;
use super::{is_native, reference, threads};
use crate::Result;
use candle_core::Tensor;

/// Numbers that are looked at together: 128 KiB.
const CHUNK: usize = 1 << 15;

/// Mean and spread of every channel of one picture, by parts of it.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// Positions of each part.
    positions: Vec<usize>,
    /// Of each part, the means of all channels, then the sums of squared deviations from those.
    values: Vec<f32>,
}

/// Mean and variance of each group of channels of one picture.
#[derive(Debug, Clone)]
pub struct GroupMoments(pub(super) Vec<(f64, f64)>);

impl Moments {
    /// Those of `x`, rows of `channels` values. They are read once: of some at a time, few enough to stay in the cache.
    pub(super) fn of<T: Number>(x: &[T], channels: usize) -> Self {
        let rows = (CHUNK / channels.max(1)).max(1);
        let chunks: Vec<&[T]> = x.chunks((rows * channels).max(1)).collect();
        let mut values = vec![0.0f32; 2 * channels * chunks.len()];
        threads::for_each(chunks.iter().zip(values.chunks_exact_mut(2 * channels)).collect(), |(x, moments)| {
            let (means, squares) = moments.split_at_mut(channels);
            channel_moments(x, means, squares);
        });
        Self { positions: chunks.iter().map(|x| x.len() / channels).collect(), values }
    }

    /// Looks at the next part of the picture, (1, .., C). Where every part is of as many positions as are looked at
    /// together, or of a multiple of that, the parts have the moments of the whole, bit for bit.
    pub fn add(&mut self, x: &Tensor) -> Result<()> {
        let x = x.contiguous()?;
        let channels = x.dim(candle_core::D::Minus1)?;
        let more = if is_native(&x) {
            with_values([&x], |[values]| Self::of(values, channels))?
        } else {
            let [means, squares] = reference::moments(&x)?;
            Self { positions: vec![x.elem_count() / channels.max(1)], values: [means, squares].concat() }
        };
        self.positions.extend(more.positions);
        self.values.extend(more.values);
        Ok(())
    }

    /// Those of each of `groups` groups of channels over all positions. They are put together in f64 (Chan, Golub and LeVeque
    /// 1983), so that nothing cancels.
    pub fn of_groups(&self, groups: usize, channels: usize) -> GroupMoments {
        let per_group = channels / groups;
        let count = (self.positions.iter().sum::<usize>() * per_group) as f64;
        let of_group = |group: usize| {
            let parts = self.values.chunks_exact(2 * channels).zip(&self.positions).map(|(moments, &positions)| {
                let (means, squares) = moments.split_at(channels);
                let own = group * per_group..(group + 1) * per_group;
                (positions as f64, &means[own.clone()], &squares[own])
            });
            let sum = |values: &[f32]| values.iter().map(|&v| f64::from(v)).sum::<f64>();
            let mean = parts.clone().map(|(rows, means, _)| rows * sum(means)).sum::<f64>() / count;
            let apart = |means: &[f32]| means.iter().map(|&m| (f64::from(m) - mean).powi(2)).sum::<f64>();
            let squares: f64 = parts.map(|(rows, means, squares)| sum(squares) + rows * apart(means)).sum();
            (mean, squares / count)
        };
        GroupMoments((0..groups).map(of_group).collect())
    }
}

/// The mean of each channel over the rows of `x`, and the sum of its squared deviations from that. Both start as zeros.
fn channel_moments<T: Number>(x: &[T], means: &mut [f32], squares: &mut [f32]) {
    let channels = means.len();
    let inverse = 1.0 / (x.len() / channels.max(1)) as f32;
    vectorised!(|| {
        for row in x.chunks_exact(channels) {
            means.iter_mut().zip(row).for_each(|(s, v)| *s += v.wide());
        }
        means.iter_mut().for_each(|m| *m *= inverse);
        for row in x.chunks_exact(channels) {
            for ((s, v), m) in squares.iter_mut().zip(row).zip(means.iter()) {
                *s += (v.wide() - m) * (v.wide() - m);
            }
        }
    });
}
