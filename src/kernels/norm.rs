//! Group and layer normalisation with their gradients. A layer norm is a group norm of single positions and one group.

use super::Activation;
use super::math::{sigmoid, vectorised};
use super::moments::{GroupMoments, Moments};
use super::native::{gradient, output, values, with_values};
use super::packed::activation;
use super::packed::round::Number;
use super::threads;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use std::borrow::Borrow;

/// Arguments: x (B, .., C), w (C), b (C). Statistics are taken over `positions` rows of C values at a time and over the
/// channels of one group.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub(super) name: &'static str,
    pub(super) positions: usize,
    pub(super) groups: usize,
    pub(super) eps: f64,
    pub(super) activation: Activation,
}

/// Mean and 1 / standard deviation of every channel's group.
struct Statistics {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

/// What a normalisation does to the channels of each sample: `x * scale + shift`, then the activation.
pub(super) struct Affine {
    /// Of all channels, for each sample.
    scale: Vec<f32>,
    shift: Vec<f32>,
    channels: usize,
    activation: Activation,
}

impl Affine {
    /// Scale and shift of all channels, for each sample.
    pub(super) fn parts(&self) -> [&[f32]; 2] {
        [&self.scale, &self.shift]
    }

    /// Some positions of a sample, from `x` to `y`.
    pub(super) fn apply(&self, sample: usize, x: &[f32], y: &mut [f32]) {
        let channels = self.channels;
        let of_sample = sample * channels..(sample + 1) * channels;
        let (scale, shift) = (&self.scale[of_sample.clone()], &self.shift[of_sample]);
        let silu = self.activation == Activation::Silu;
        vectorised!(|| {
            for (row, out) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
                for (((o, v), s), t) in out.iter_mut().zip(row).zip(scale).zip(shift) {
                    *o = v * s + t;
                }
                if silu {
                    out.iter_mut().for_each(|o| *o *= sigmoid(*o));
                }
            }
        });
    }

    /// The same for one row of positions, as the bits of bf16.
    #[inline(always)]
    pub(super) fn apply_rounded<T: Number>(&self, sample: usize, x: &[T], y: &mut [u16]) {
        let channels = self.channels;
        let of_sample = sample * channels..(sample + 1) * channels;
        let (scale, shift) = (&self.scale[of_sample.clone()], &self.shift[of_sample]);
        let silu = self.activation == Activation::Silu;
        for (row, out) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            activation::scale(row, scale, shift, silu, out);
        }
    }
}

impl Norm {
    fn statistics(&self, moments: &GroupMoments, channels: usize) -> Statistics {
        let per_group = channels / self.groups;
        let of_group = |(mean, variance): &(f64, f64)| (*mean, 1.0 / (variance + self.eps).sqrt());
        let (mean, inverse): (Vec<_>, Vec<_>) = moments.0.iter().map(of_group).unzip();
        Statistics { mean: spread(&mean, per_group), inverse: spread(&inverse, per_group) }
    }

    /// What it does to each of the samples that `x` has.
    pub(super) fn affine<T: Number>(&self, x: &[T], w: &[f32], b: &[f32]) -> Affine {
        let samples = x.chunks_exact((self.positions * w.len()).max(1));
        self.affine_of(samples.map(|sample| self.moments(sample, w.len())), w, b)
    }

    fn moments<T: Number>(&self, sample: &[T], channels: usize) -> GroupMoments {
        Moments::of(sample, channels).of_groups(self.groups, channels)
    }

    /// What it does to samples of which these are the moments.
    pub(super) fn affine_of(
        &self,
        samples: impl Iterator<Item = impl Borrow<GroupMoments>>,
        w: &[f32],
        b: &[f32],
    ) -> Affine {
        let channels = w.len();
        let (mut scale, mut shift) = (Vec::new(), Vec::new());
        for moments in samples {
            let Statistics { mean, inverse } = self.statistics(moments.borrow(), channels);
            scale.extend(w.iter().zip(&inverse).map(|(w, i)| w * i));
            let scale = &scale[scale.len() - channels..];
            shift.extend(b.iter().zip(&mean).zip(scale).map(|((b, m), s)| b - m * s));
        }
        Affine { scale, shift, channels, activation: self.activation }
    }

    fn forward_sample(&self, x: &[f32], w: &[f32], b: &[f32], y: &mut [f32]) {
        self.affine(x, w, b).apply(0, x, y);
    }

    /// With xh = (x - mean) * inverse and z = w xh + b, before the activation:
    /// dx = inverse * (w dz - mean(w dz) - xh mean(w dz xh)), means over the group; dw += dz xh; db += dz.
    fn backward_sample(&self, [x, w, b, dy]: [&[f32]; 4], dx: &mut [f32], dw: &mut [f32], db: &mut [f32]) {
        let channels = w.len();
        let per_group = channels / self.groups;
        let Statistics { mean, inverse } = self.statistics(&self.moments(x, channels), channels);
        let silu = self.activation == Activation::Silu;
        let (mut sum_dz, mut sum_dz_xh) = (vec![0.0f32; channels], vec![0.0f32; channels]);
        // Slices of one known length, here and below, so that the compiler drops the bounds checks and can vectorise.
        vectorised!(|| {
            let (mean, inverse, w, b) = (&mean[..channels], &inverse[..channels], &w[..channels], &b[..channels]);
            let (sum_dz, sum_dz_xh) = (&mut sum_dz[..channels], &mut sum_dz_xh[..channels]);
            for ((x, dy), dz) in
                x.chunks_exact(channels).zip(dy.chunks_exact(channels)).zip(dx.chunks_exact_mut(channels))
            {
                let (x, dy, dz) = (&x[..channels], &dy[..channels], &mut dz[..channels]);
                for c in 0..channels {
                    let xh = (x[c] - mean[c]) * inverse[c];
                    let mut d = dy[c];
                    if silu {
                        let z = w[c] * xh + b[c];
                        let s = sigmoid(z);
                        d *= s * (1.0 + z * (1.0 - s));
                    }
                    dz[c] = d;
                    sum_dz[c] += d;
                    sum_dz_xh[c] += d * xh;
                }
            }
        });
        dw.iter_mut().zip(&sum_dz_xh).for_each(|(t, v)| *t += v);
        db.iter_mut().zip(&sum_dz).for_each(|(t, v)| *t += v);
        let count = (self.positions * per_group) as f32;
        let group_mean = |sums: &[f32]| -> Vec<f32> {
            let weighted: Vec<f32> = sums.iter().zip(w).map(|(s, w)| s * w).collect();
            let means: Vec<f64> =
                weighted.chunks_exact(per_group).map(|g| f64::from(g.iter().sum::<f32>() / count)).collect();
            spread(&means, per_group)
        };
        let (mean_d, mean_d_xh) = (group_mean(&sum_dz), group_mean(&sum_dz_xh));
        vectorised!(|| {
            let (mean, inverse, w) = (&mean[..channels], &inverse[..channels], &w[..channels]);
            let (mean_d, mean_d_xh) = (&mean_d[..channels], &mean_d_xh[..channels]);
            for (x, dx) in x.chunks_exact(channels).zip(dx.chunks_exact_mut(channels)) {
                let (x, dx) = (&x[..channels], &mut dx[..channels]);
                for c in 0..channels {
                    let xh = (x[c] - mean[c]) * inverse[c];
                    dx[c] = inverse[c] * (w[c] * dx[c] - mean_d[c] - xh * mean_d_xh[c]);
                }
            }
        });
    }
}

/// Sums that run side by side in [`normalise_rows`].
const LANES: usize = 32;

/// A layer norm: each row of `x` on its own, two passes over it.
pub(super) fn normalise_rows(x: &[f32], w: &[f32], b: &[f32], eps: f64, y: &mut [f32]) {
    let channels = w.len();
    let count = 1.0 / channels as f32;
    vectorised!(|| {
        for (row, out) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            let mean = lane_sum(
                row,
                #[inline(always)]
                |v| v,
            ) * count;
            let square = lane_sum(
                row,
                #[inline(always)]
                |v| (v - mean) * (v - mean),
            );
            let inverse = (1.0 / (f64::from(square * count) + eps).sqrt()) as f32;
            for (((o, v), w), b) in out.iter_mut().zip(row).zip(w).zip(b) {
                *o = (v - mean) * inverse * w + b;
            }
        }
    });
}

#[inline(always)]
fn lane_sum(row: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|&v| of(v)).sum();
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &v)| *lane += of(v));
    }
    lanes.iter().sum::<f32>() + rest
}

/// One value per group to one per channel.
fn spread(groups: &[f64], per_group: usize) -> Vec<f32> {
    groups.iter().flat_map(|&v| std::iter::repeat_n(v as f32, per_group)).collect()
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, b) = (values(x, lx)?, values(w, lw)?, values(b, lb)?);
        let sample = self.positions * w.len();
        let of_rows = self.positions * self.groups == 1 && self.activation == Activation::Identity;
        let y = threads::map_rows(x, x.len() / sample.max(1), sample, |x, y| match of_rows {
            true => normalise_rows(x, w, b, self.eps, y),
            false => {
                for (x, y) in x.chunks_exact(sample).zip(y.chunks_exact_mut(sample)) {
                    self.forward_sample(x, w, b, y);
                }
            }
        });
        output(y, lx.shape().clone())
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw, db) = with_values([x, w, b, &grad.contiguous()?], |[xs, w, b, dy]| {
            let sample = self.positions * w.len();
            let (mut dx, mut dw, mut db) = (vec![0.0; xs.len()], vec![0.0; w.len()], vec![0.0; b.len()]);
            for ((x, dy), dx) in xs.chunks_exact(sample).zip(dy.chunks_exact(sample)).zip(dx.chunks_exact_mut(sample)) {
                self.backward_sample([x, w, b, dy], dx, &mut dw, &mut db);
            }
            (dx, dw, db)
        })?;
        Ok((gradient(dx, x)?, gradient(dw, w)?, gradient(db, b)?))
    }
}
