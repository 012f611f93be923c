//! Scaled dot-product attention with its gradients. Heads lie side by side in the channels, so no transposes are needed;
//! queries are taken in blocks, so that the matrix of scores never exists whole.

use super::gemm::{Matrix, Onto, product};
use super::math::{exp, vectorised};
use super::native::{gradient, output, values, with_values};
use super::packed::{self, Isa};
use super::panels::{PART, Product, WIDTH};
use super::threads::{self, Scratch};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Queries per block on the way back: with 4096 keys the scores of one take 1 MiB.
const BLOCK: usize = 64;

/// The same on the way forward: a multiple of the rows that are multiplied together.
const QUERIES: usize = 48;

/// Numbers of panels that are laid out at a time, unless of a single sample: 16 MiB.
const PANELS: usize = 1 << 22;

/// Maxima and sums that run side by side.
const LANES: usize = 16;

/// Arguments: q (B, T, C), k (B, S, C), v (B, S, C).
#[derive(Clone, Copy)]
pub(super) struct Attention {
    pub(super) heads: usize,
    pub(super) causal: bool,
}

/// One head's view of q, k, v: sizes of one sample.
#[derive(Clone, Copy)]
struct Sizes {
    queries: usize,
    keys: usize,
    channels: usize,
    head: usize,
}

impl Sizes {
    fn scale(&self) -> f32 {
        (1.0 / (self.head as f64).sqrt()) as f32
    }

    /// Keys that there are scores of.
    fn padded_keys(&self) -> usize {
        self.keys.next_multiple_of(PART)
    }

    /// Numbers of the panels of keys of a head: its channels times 64 keys each.
    fn key_panels(&self) -> usize {
        self.keys.next_multiple_of(WIDTH) * self.head
    }

    /// Numbers of the panels of values of a head: all keys times 64 of its channels each.
    fn value_panels(&self) -> usize {
        self.head.next_multiple_of(WIDTH) * self.padded_keys()
    }

    /// The panels of keys (S, C) of the head whose channels begin with `first`.
    fn lay_out_keys(&self, k: &[f32], first: usize, panels: &mut [f32]) {
        for (i, panel) in panels.chunks_exact_mut(self.head * WIDTH).enumerate() {
            for column in 0..WIDTH {
                let key = (i * WIDTH + column < self.keys).then(|| &k[(i * WIDTH + column) * self.channels + first..]);
                for (channel, line) in panel.chunks_exact_mut(WIDTH).enumerate() {
                    line[column] = key.map_or(0.0, |key| key[channel]);
                }
            }
        }
    }

    /// Those of values, likewise.
    fn lay_out_values(&self, v: &[f32], first: usize, panels: &mut [f32]) {
        for (i, panel) in panels.chunks_exact_mut(self.padded_keys() * WIDTH).enumerate() {
            let columns = WIDTH.min(self.head - i * WIDTH);
            let lines = panel.chunks_exact_mut(WIDTH);
            for (key, line) in lines.enumerate() {
                line.fill(0.0);
                if key < self.keys {
                    line[..columns].copy_from_slice(&v[key * self.channels + first + i * WIDTH..][..columns]);
                }
            }
        }
    }

    /// Columns of head `h` of `rows` rows.
    fn part<'a>(&self, x: &'a [f32], rows: usize, h: usize) -> Matrix<'a> {
        Matrix::strided(&x[h * self.head..], rows, self.head, self.channels)
    }
}

impl Attention {
    fn sizes(&self, q: &Shape, k: &Shape) -> Result<Sizes> {
        let ((_, queries, channels), (_, keys, _)) = (q.dims3()?, k.dims3()?);
        if self.heads == 0 || channels % self.heads != 0 {
            candle_core::bail!("attention: {} heads do not divide {channels} channels", self.heads);
        }
        Ok(Sizes { queries, keys, channels, head: channels / self.heads })
    }

    /// The same with products in bf16, of contiguous tensors.
    pub(super) fn in_brain(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> crate::Result<Tensor> {
        let Sizes { queries, keys, channels, head } = self.sizes(q.shape(), k.shape())?;
        let sizes = packed::attention::Sizes { queries, keys, channels, head, causal: self.causal };
        let y = with_values([q, k, v], |all| packed::attention::attention(Isa::best(), sizes, all))?;
        Ok(Tensor::from_vec(y, q.shape().clone(), q.device())?)
    }

    /// Softmax weights of `count` queries starting at `first`, into `scores` (count x keys).
    fn weights(&self, s: Sizes, q: Matrix<'_>, k: Matrix<'_>, first: usize, scores: &mut [f32]) {
        product(scores, s.keys, Onto::Nothing, s.scale(), q, k.transposed());
        vectorised!(|| {
            for (i, row) in scores.chunks_exact_mut(s.keys).enumerate() {
                let seen = if self.causal { (first + i + 1).min(s.keys) } else { s.keys };
                let (row, hidden) = row.split_at_mut(seen);
                hidden.fill(0.0);
                softmax(row);
            }
        });
    }

    /// Of all samples: keys and values of each head are laid out in panels once, for all queries.
    fn forward(&self, s: Sizes, [q, k, v]: [&[f32]; 3], y: &mut [f32]) {
        let (of_queries, of_keys) = ((s.queries * s.channels).max(1), s.keys * s.channels);
        let part = s.key_panels() + s.value_panels();
        // Samples whose panels stay with the thread; their results do not depend on how many there are.
        let together = (PANELS / (self.heads * part).max(1)).max(1);
        let groups = q.chunks(together * of_queries).zip(y.chunks_mut(together * of_queries));
        for (group, (q, y)) in groups.enumerate() {
            let samples = q.len() / of_queries;
            threads::with_scratch(Scratch::Panels, samples * self.heads * part, |panels| {
                threads::for_each(panels.chunks_mut(part.max(1)).enumerate().collect(), |(i, panels)| {
                    let sample = group * together + i / self.heads;
                    let (sample, first) = (sample * of_keys..(sample + 1) * of_keys, i % self.heads * s.head);
                    let (keys, values) = panels.split_at_mut(s.key_panels());
                    s.lay_out_keys(&k[sample.clone()], first, keys);
                    s.lay_out_values(&v[sample], first, values);
                });
                let panels = &*panels;
                let samples = q.chunks(of_queries).zip(y.chunks_mut(of_queries)).enumerate();
                let tasks = samples.flat_map(|(sample, (q, y))| {
                    let panels = &panels[sample * self.heads * part..][..self.heads * part];
                    let block = QUERIES * s.channels;
                    let blocks = q.chunks(block).zip(y.chunks_mut(block)).enumerate();
                    blocks.map(move |(i, (q, y))| (i * QUERIES, q, panels, y))
                });
                threads::for_each(tasks.collect(), |(first, q, panels, y)| self.forward_block(s, q, panels, first, y));
            });
        }
    }

    /// The queries `first..` of one sample: q and y hold just their rows, and panels what belongs to the whole sample.
    fn forward_block(&self, s: Sizes, q: &[f32], panels: &[f32], first: usize, y: &mut [f32]) {
        let (count, keys, head) = (q.len() / s.channels, s.padded_keys(), s.head.next_multiple_of(PART));
        threads::with_scratch(Scratch::Activations, count * (s.head + keys + head), |numbers| {
            let (queries, rest) = numbers.split_at_mut(count * s.head);
            let (scores, results) = rest.split_at_mut(count * keys);
            for (h, panels) in panels.chunks_exact(s.key_panels() + s.value_panels()).enumerate() {
                let (key_panels, value_panels) = panels.split_at(s.key_panels());
                for (to, q) in queries.chunks_exact_mut(s.head).zip(q.chunks_exact(s.channels)) {
                    to.iter_mut().zip(&q[h * s.head..]).for_each(|(to, v)| *to = v * s.scale());
                }
                let (depth, apart) = (s.head, s.head * WIDTH);
                Product { rows: queries, depth, panels: key_panels, apart, results: scores, columns: keys }.run();
                let mut inverse = [0.0; QUERIES];
                vectorised!(|| {
                    for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                        let seen = if self.causal { (first + i + 1).min(s.keys) } else { s.keys };
                        let (row, hidden) = row.split_at_mut(seen);
                        hidden.fill(0.0);
                        inverse[i] = soften(row);
                    }
                });
                let (depth, apart) = (keys, keys * WIDTH);
                Product { rows: scores, depth, panels: value_panels, apart, results, columns: head }.run();
                for ((y, result), inverse) in
                    y.chunks_exact_mut(s.channels).zip(results.chunks_exact(head)).zip(inverse)
                {
                    y[h * s.head..][..s.head].iter_mut().zip(result).for_each(|(y, v)| *y = v * inverse);
                }
            }
        });
    }

    /// With P the weights: dV = P^T dY, dP = dY V^T, dS = P (dP - sum(dP P)), dQ = dS K, dK = dS^T Q.
    fn backward_sample(&self, s: Sizes, [q, k, v, dy]: [&[f32]; 4], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let (mut p, mut dp) = (vec![0.0; BLOCK * s.keys], vec![0.0; BLOCK * s.keys]);
        for first in (0..s.queries).step_by(BLOCK) {
            let count = BLOCK.min(s.queries - first);
            let rows = first * s.channels..(first + count) * s.channels;
            let (q, dy, dq) = (&q[rows.clone()], &dy[rows.clone()], &mut dq[rows]);
            let (p, dp) = (&mut p[..count * s.keys], &mut dp[..count * s.keys]);
            for h in 0..self.heads {
                let (qh, kh, vh) = (s.part(q, count, h), s.part(k, s.keys, h), s.part(v, s.keys, h));
                let dyh = s.part(dy, count, h);
                self.weights(s, qh, kh, first, p);
                product(dp, s.keys, Onto::Nothing, 1.0, dyh, vh.transposed());
                let weights = Matrix::dense(p, count, s.keys);
                product(&mut dv[h * s.head..], s.channels, Onto::Sum, 1.0, weights.transposed(), dyh);
                vectorised!(|| {
                    for (p, dp) in p.chunks_exact(s.keys).zip(dp.chunks_exact_mut(s.keys)) {
                        let along: f32 = p.iter().zip(dp.iter()).map(|(p, d)| p * d).sum();
                        dp.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - along));
                    }
                });
                let ds = Matrix::dense(dp, count, s.keys);
                product(&mut dq[h * s.head..], s.channels, Onto::Nothing, s.scale(), ds, kh);
                product(&mut dk[h * s.head..], s.channels, Onto::Sum, s.scale(), ds.transposed(), qh);
            }
        }
    }
}

/// Powers of a row of scores in place, less the largest; returns what makes their sum 1.
#[inline(always)]
fn soften(row: &mut [f32]) -> f32 {
    let mut tops = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        tops.iter_mut().zip(chunk).for_each(|(top, v)| *top = top.max(*v));
    }
    let top = tops.into_iter().fold(rest, f32::max);
    let mut sums = [0.0; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (sum, v) in sums.iter_mut().zip(chunk) {
            *v = exp(*v - top);
            *sum += *v;
        }
    }
    for (sum, v) in sums.iter_mut().zip(chunks.into_remainder()) {
        *v = exp(*v - top);
        *sum += *v;
    }
    1.0 / sums.iter().sum::<f32>()
}

/// In place, subtracting the maximum first.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let inverse = soften(row);
    row.iter_mut().for_each(|v| *v *= inverse);
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let s = self.sizes(lq.shape(), lk.shape())?;
        let (q, k, v) = (values(q, lq)?, values(k, lk)?, values(v, lv)?);
        let mut y = threads::zeros(q.len());
        self.forward(s, [q, k, v], &mut y);
        output(y, lq.shape().clone())
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _res: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let s = self.sizes(q.shape(), k.shape())?;
        let (dq, dk, dv) = with_values([q, k, v, &grad.contiguous()?], |[q, k, v, dy]| {
            let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
            let (nq, nk) = (s.queries * s.channels, s.keys * s.channels);
            for i in 0..q.len() / nq {
                let (query, key) = (i * nq..(i + 1) * nq, i * nk..(i + 1) * nk);
                let inputs = [&q[query.clone()], &k[key.clone()], &v[key.clone()], &dy[query.clone()]];
                self.backward_sample(s, inputs, &mut dq[query], &mut dk[key.clone()], &mut dv[key]);
            }
            (dq, dk, dv)
        })?;
        Ok((gradient(dq, q)?, gradient(dk, k)?, gradient(dv, v)?))
    }
}
