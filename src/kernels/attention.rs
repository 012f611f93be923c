//! Scaled dot-product attention with its gradients. Heads lie side by side in the channels, so no transposes are needed;
//! queries are taken in blocks, so that the matrix of scores never exists whole.

use super::gemm::{Matrix, Onto, product};
use super::math::{exp, vectorised};
use super::native::{gradient, output, values, with_values};
use super::packed::{self, Isa};
use super::threads::{self, Scratch};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// Queries per block: with 4096 keys the scores of one take 1 MiB.
const BLOCK: usize = 64;

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

    /// The queries `first..` of one sample: q and y hold just their rows, k and v the whole sample.
    fn forward_block(&self, s: Sizes, q: &[f32], k: &[f32], v: &[f32], first: usize, y: &mut [f32]) {
        let count = q.len() / s.channels;
        threads::with_scratch(Scratch::Activations, count * s.keys, |scores| {
            for h in 0..self.heads {
                self.weights(s, s.part(q, count, h), s.part(k, s.keys, h), first, scores);
                let out = &mut y[h * s.head..];
                let weights = Matrix::dense(scores, count, s.keys);
                product(out, s.channels, Onto::Nothing, 1.0, weights, s.part(v, s.keys, h));
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

/// In place, subtracting the maximum first.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|v| *v = exp(*v - top));
    let inverse = 1.0 / row.iter().sum::<f32>();
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
        let mut y = vec![0.0; q.len()];
        let samples =
            q.chunks(s.queries * s.channels).zip(k.chunks(s.keys * s.channels).zip(v.chunks(s.keys * s.channels)));
        let tasks = samples.zip(y.chunks_mut(s.queries * s.channels)).flat_map(|((q, (k, v)), y)| {
            let block = BLOCK * s.channels;
            q.chunks(block).zip(y.chunks_mut(block)).enumerate().map(move |(i, (q, y))| (i * BLOCK, q, k, v, y))
        });
        threads::for_each(tasks.collect(), |(first, q, k, v, y)| self.forward_block(s, q, k, v, first, y));
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
