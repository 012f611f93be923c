//! Group and layer normalisation with their gradients. A layer norm is a group norm of single positions and one group.

use super::Activation;
use super::math::{sigmoid, vectorised};
use super::native::{gradient, output, values, with_values};
use super::threads;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

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

/// Numbers of which the sums are worth spreading over the cores: 4 MiB.
const MANY: usize = 1 << 20;

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
}

impl Norm {
    /// Two passes over the rows, per channel in f32 and over channels in f64: no cancellation, and rows stay in the cache.
    fn statistics(&self, x: &[f32], channels: usize) -> Statistics {
        let per_group = channels / self.groups;
        let count = (self.positions * per_group) as f64;
        let over_groups = |sums: &[f32]| -> Vec<f64> {
            sums.chunks_exact(per_group).map(|g| g.iter().map(|&v| f64::from(v)).sum::<f64>() / count).collect()
        };
        let sums = channel_sums(
            x,
            channels,
            #[inline(always)]
            |sums, row, _| sums.iter_mut().zip(row).for_each(|(s, v)| *s += v),
        );
        let mean: Vec<f32> = spread(&over_groups(&sums), per_group);
        let squares = channel_sums(
            x,
            channels,
            #[inline(always)]
            |sums, row, first| {
                for ((s, v), m) in sums.iter_mut().zip(row).zip(&mean[first..]) {
                    *s += (v - m) * (v - m);
                }
            },
        );
        let inverse: Vec<f64> = over_groups(&squares).iter().map(|v| 1.0 / (v + self.eps).sqrt()).collect();
        Statistics { mean, inverse: spread(&inverse, per_group) }
    }

    /// What it does to each of the samples that `x` has.
    pub(super) fn affine(&self, x: &[f32], w: &[f32], b: &[f32]) -> Affine {
        let channels = w.len();
        let (mut scale, mut shift) = (Vec::new(), Vec::new());
        for sample in x.chunks_exact((self.positions * channels).max(1)) {
            let Statistics { mean, inverse } = self.statistics(sample, channels);
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
        let Statistics { mean, inverse } = self.statistics(x, channels);
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

/// A sum over the rows of `x` for each channel. `add` adds to some of the sums those channels of a row, the first of
/// which is the one it is told. Of many rows, each core takes some channels: a sum is never split.
fn channel_sums(x: &[f32], channels: usize, add: impl Fn(&mut [f32], &[f32], usize) + Sync) -> Vec<f32> {
    let mut sums = vec![0.0f32; channels];
    let together = if x.len() < MANY { channels } else { (channels / 4).next_multiple_of(16) };
    threads::for_each(sums.chunks_mut(together.max(1)).enumerate().collect(), |(i, sums)| {
        let first = i * together;
        vectorised!(|| x.chunks_exact(channels).for_each(|row| add(sums, &row[first..first + sums.len()], first)));
    });
    sums
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
        let mut y = vec![0.0; x.len()];
        // Small samples go to a core many at a time: a task costs about as much as a thousand values.
        let per_task = (16_384 / sample.max(1)).max(1) * sample;
        threads::for_each(x.chunks(per_task).zip(y.chunks_mut(per_task)).collect(), |(x, y)| {
            for (x, y) in x.chunks_exact(sample).zip(y.chunks_exact_mut(sample)) {
                self.forward_sample(x, w, b, y);
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
