//! Scaled dot-product attention with products in bf16: of the matrix of scores there is never more than 32 queries by some
//! hundred keys.
//!
//! Softmax takes the largest score off all others, lest their powers grow beyond what a number can hold. Where queries and keys
//! are short enough that no score can be so large, the powers are taken as they are: then nothing has to be looked for first
//! and nothing corrected later. Elsewhere an online softmax (Milakov and Gimelshein, arXiv:1805.02867) does that.

use super::isa::Isa;
use super::product::{Target, with_lines};
use super::round::Number;
use super::tile::{Block, PAIR, Ready, Rows, STEP, WIDTH};
use super::{avx512, interleave, round, steps};
use crate::kernels::math::{exp2, vectorised};
use crate::kernels::threads;
use std::convert::Infallible;
use std::ops::Range;

/// Keys whose scores are there at a time: with 32 queries 128 KiB.
const KEYS: usize = 1024;

/// The same where powers are taken as they are: what is made of scores lies in the first cache.
const SHORT: usize = 128;

/// The largest scores whose powers are taken as they are. With their sums they stay far within f32, and so do those of the
/// smallest scores, of which the largest may be one.
const MOST: f32 = 100.0;

/// Queries of a task.
const QUERIES: usize = 128;

/// The sizes of one call.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Sizes {
    /// Of a sample.
    pub(in crate::kernels) queries: usize,
    /// Of a sample.
    pub(in crate::kernels) keys: usize,
    /// Of all heads, side by side.
    pub(in crate::kernels) channels: usize,
    /// Channels of a head.
    pub(in crate::kernels) head: usize,
    /// Whether position t sees positions 0..=t alone.
    pub(in crate::kernels) causal: bool,
}

impl Sizes {
    /// What queries are multiplied with: weights are powers of two, which take less to compute than those of e.
    pub(super) fn scale(self) -> f32 {
        (std::f64::consts::LOG2_E / (self.head as f64).sqrt()) as f32
    }

    fn heads(self) -> usize {
        self.channels / self.head
    }

    /// Keys in whole blocks.
    fn padded_keys(self) -> usize {
        self.keys.next_multiple_of(PAIR)
    }

    /// Channels of a head in whole blocks.
    fn padded_head(self) -> usize {
        self.head.next_multiple_of(PAIR)
    }

    /// Numbers of the panels of keys, and of values, of one head.
    fn panels(self) -> usize {
        self.padded_keys() * self.padded_head()
    }

    /// How many keys a query sees.
    fn seen(self, query: usize) -> usize {
        if self.causal { (query + 1).min(self.keys) } else { self.keys }
    }
}

/// `q` (B, T, C), `k` and `v` (B, S, C) to (B, T, C).
pub(in crate::kernels) fn attention(isa: Isa, s: Sizes, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
    let rows = q.len() / s.channels.max(1);
    let write = |target: &Target<'_, f32>| -> Result<(), Infallible> {
        attend_all(isa, s, [q, k, v], |row, column, sums| {
            // SAFETY: each query and head belongs to one task.
            #[allow(unsafe_code)]
            unsafe {
                target.write_some(row, column, sums);
            }
        });
        Ok(())
    };
    // SAFETY: all queries of all heads are attended, and the heads are all columns.
    #[allow(unsafe_code)]
    let Ok(y) = unsafe { Target::fresh(rows, s.channels, write) };
    y
}

/// A number as bf16, times `scale` where that has not been done: what is bf16 has been scaled.
#[inline(always)]
fn scaled<T: Number>(v: T, scale: f32) -> u16 {
    if T::ROUNDED { v.bits() } else { round::bits(v.wide() * scale) }
}

/// Tells `put` for each query and head where its result goes, a row and a column, and the result.
pub(super) fn attend_all<T: Number>(
    isa: Isa,
    s: Sizes,
    [q, k, v]: [&[T]; 3],
    put: impl Fn(usize, usize, &[f32]) + Sync,
) {
    let (of_queries, of_keys) = (s.queries * s.channels, s.keys * s.channels);
    let parts = q.len() / of_queries * s.heads();
    with_lines(2 * parts * s.panels(), |panels| {
        let (keys, values) = panels.split_at_mut(parts * s.panels());
        let mut longest = vec![0.0f32; parts];
        let both = keys.chunks_mut(s.panels()).zip(values.chunks_mut(s.panels())).zip(&mut longest).enumerate();
        threads::for_each(both.collect(), |(part, ((keys, values), longest))| {
            let from = part / s.heads() * of_keys..(part / s.heads() + 1) * of_keys;
            let first = part % s.heads() * s.head;
            *longest = pack_keys(s, &k[from.clone()], first, keys);
            pack_values(s, &v[from], first, values);
        });
        let (keys, values) = (&*keys, &*values);
        let tasks = (0..parts).flat_map(|part| (0..s.queries).step_by(QUERIES).map(move |first| (part, first)));
        threads::for_each(tasks.collect(), |(part, first)| {
            let (ready, mut work) = (Ready::new(isa), Work::new(s));
            let (sample, head) = (part / s.heads(), part % s.heads());
            let of_part = part * s.panels()..(part + 1) * s.panels();
            let (keys, values) = (&keys[of_part.clone()], &values[of_part]);
            let panels = Head { s, ready: &ready, keys, values, longest: longest[part] };
            for first in (first..s.queries.min(first + QUERIES)).step_by(PAIR) {
                let count = PAIR.min(s.queries - first);
                let q = &q[sample * of_queries + first * s.channels..][..count * s.channels];
                panels.attend(&q[head * s.head..], (first, count), &mut work, |i, sums| {
                    put(sample * s.queries + first + i, head * s.head, &sums[..s.head]);
                });
            }
        });
    });
}

/// Panels whose outputs are keys and whose inputs are channels. Returns the length of the longest key.
fn pack_keys<T: Number>(s: Sizes, k: &[T], first: usize, panels: &mut [u16]) -> f32 {
    let depth = s.padded_head();
    let mut rows = vec![0u16; WIDTH * depth];
    vectorised!(|| {
        let mut longest = 0.0f32;
        for (i, panel) in panels.chunks_exact_mut(WIDTH * depth).enumerate() {
            let count = WIDTH.min(s.keys.saturating_sub(i * WIDTH));
            for (column, row) in rows.chunks_exact_mut(depth).enumerate() {
                if column < count {
                    let values = &k[(i * WIDTH + column) * s.channels + first..][..s.head];
                    row.iter_mut().zip(values).for_each(|(to, v)| *to = scaled(*v, 1.0));
                } else {
                    row.fill(0);
                }
            }
            longest = rows.chunks_exact(depth).map(square).fold(longest, f32::max);
            interleave(&rows, depth, panel);
        }
        longest.sqrt()
    })
}

/// The square of the length of a row of whole blocks. NaN counts as infinitely long: `f32::max` would pass over it.
#[inline(always)]
fn square(row: &[u16]) -> f32 {
    // In lanes of its own each, so that sums need not wait for one another.
    let mut squares = [0.0f32; WIDTH];
    for row in row.chunks_exact(WIDTH) {
        squares.iter_mut().zip(row).for_each(|(sum, v)| *sum += round::widen(*v) * round::widen(*v));
    }
    let square: f32 = squares.iter().sum();
    if square.is_nan() { f32::INFINITY } else { square }
}

/// Panels whose outputs are channels and whose inputs are keys.
fn pack_values<T: Number>(s: Sizes, v: &[T], first: usize, panels: &mut [u16]) {
    vectorised!(|| {
        for (i, panel) in panels.chunks_exact_mut(WIDTH * s.padded_keys()).enumerate() {
            let columns = WIDTH.min(s.head.saturating_sub(i * WIDTH));
            for (pair, place) in panel.chunks_exact_mut(2 * WIDTH).enumerate() {
                let mut both = [[0u16; WIDTH]; 2];
                for (key, row) in (2 * pair..s.keys).zip(&mut both) {
                    let values = &v[key * s.channels + (first + i * WIDTH).min(s.channels)..][..columns];
                    match values.first_chunk::<WIDTH>() {
                        // A number of columns that the compiler knows, but for the last ones.
                        Some(values) => *row = values.map(|v| scaled(v, 1.0)),
                        None => row.iter_mut().zip(values).for_each(|(to, v)| *to = scaled(*v, 1.0)),
                    }
                }
                for ((place, a), b) in place.chunks_exact_mut(2).zip(both[0]).zip(both[1]) {
                    (place[0], place[1]) = (a, b);
                }
            }
        }
    });
}

/// What a task computes in.
struct Work {
    /// Of a few keys, until powers cannot be taken as they are.
    scores: Vec<Block>,
    results: Vec<Block>,
    product: Block,
    row: Vec<f32>,
}

impl Work {
    fn new(s: Sizes) -> Self {
        let results = vec![Block::zero(); s.padded_head() / PAIR];
        let scores = vec![Block::zero(); SHORT.min(s.padded_keys()) / PAIR];
        Self { scores, results, product: Block::zero(), row: vec![0.0; s.padded_head()] }
    }
}

/// One head of one sample.
struct Head<'a> {
    s: Sizes,
    ready: &'a Ready,
    keys: &'a [u16],
    values: &'a [u16],
    /// The length of the longest key.
    longest: f32,
}

impl Head<'_> {
    /// Up to 32 queries, rows of `q`; `give` gets the result of each.
    fn attend<T: Number>(
        &self,
        q: &[T],
        (first, count): (usize, usize),
        work: &mut Work,
        mut give: impl FnMut(usize, &[f32]),
    ) {
        let (s, depth) = (self.s, self.s.padded_head());
        with_lines(PAIR * (depth + KEYS), |lines| {
            let (queries, weights) = lines.split_at_mut(PAIR * depth);
            round_queries(s, q, (count, s.scale()), queries);
            work.results.iter_mut().for_each(|block| *block = Block::zero());
            let longest = queries.chunks_exact(depth).map(square).fold(0.0, f32::max).sqrt();
            let rows = Rows { values: queries, stride: depth, taps: &[0], steps: steps(depth) };
            let sums = match longest * self.longest <= MOST {
                true => self.weigh_all(rows, first..first + count, weights, work),
                false => self.soften_all(rows, first..first + count, weights, work),
            };
            for (row, sum) in sums.iter().take(count).enumerate() {
                let inverse = 1.0 / sum;
                for (all, block) in work.row.chunks_exact_mut(PAIR).zip(&work.results) {
                    all.iter_mut().zip(&block.0[row]).for_each(|(to, v)| *to = v * inverse);
                }
                give(row, &work.row);
            }
        });
    }

    /// Powers of the scores of queries, which are those in `own` and the `rows`, as they are, times values, into
    /// `work.results`; returns the sums of the powers.
    fn weigh_all(&self, rows: Rows<'_>, own: Range<usize>, weights: &mut [u16], work: &mut Work) -> [f32; PAIR] {
        let (s, depth) = (self.s, self.s.padded_head());
        let furthest = s.seen(own.end - 1);
        let mut sums = [[0.0f32; WIDTH]; PAIR];
        for from in (0..furthest).step_by(SHORT) {
            let to = (from + SHORT).min(furthest.next_multiple_of(PAIR));
            let scores = &mut work.scores[..(to - from) / PAIR];
            self.ready.multiply_many(rows, &self.keys[from * depth..to * depth], scores);
            for (i, scores) in scores.iter().enumerate() {
                let seen = std::array::from_fn(|row| s.seen(own.start + row).saturating_sub(from + i * PAIR).min(PAIR));
                let weights = (&mut weights[i * PAIR..], SHORT);
                match self.ready.has_vectors() {
                    true => avx512::weigh(scores, &seen, weights, &mut sums),
                    false => weigh(scores, &seen, weights, &mut sums),
                }
            }
            let weights = Rows { values: weights, stride: SHORT, taps: &[0], steps: scores.len() };
            for (i, result) in work.results.iter_mut().enumerate() {
                self.ready.multiply_onto(weights, self.values(i, from, scores.len()), result);
            }
        }
        sums.map(|sums| sums.iter().sum())
    }

    /// Panels of values of `blocks` times 32 keys from `from` on: the `i`-th 32 channels.
    fn values(&self, i: usize, from: usize, blocks: usize) -> [&[u16]; 2] {
        let panel = self.s.padded_keys() * WIDTH;
        let at = |half: usize| (2 * i + half) * panel + from * WIDTH;
        [0, 1].map(|half| &self.values[at(half)..at(half) + blocks * STEP])
    }

    /// The same with the largest score so far taken off.
    fn soften_all(&self, rows: Rows<'_>, own: Range<usize>, weights: &mut [u16], work: &mut Work) -> [f32; PAIR] {
        let Work { scores, results, product, .. } = work;
        scores.resize(KEYS.min(self.s.padded_keys()) / PAIR, Block::zero());
        let (s, depth) = (self.s, self.s.padded_head());
        let (mut tops, mut sums) = ([f32::NEG_INFINITY; PAIR], [0.0f32; PAIR]);
        let furthest = s.seen(own.end - 1);
        for from in (0..furthest).step_by(KEYS) {
            let to = (from + KEYS).min(furthest.next_multiple_of(PAIR));
            let blocks = (to - from) / PAIR;
            self.ready.multiply_many(rows, &self.keys[from * depth..to * depth], &mut scores[..blocks]);
            let factors = vectorised!(|| {
                let mut factors = [1.0f32; PAIR];
                for row in 0..own.len() {
                    let seen = s.seen(own.start + row).saturating_sub(from).min(to - from);
                    let weights = &mut weights[row * KEYS..row * KEYS + to - from];
                    let (top, sum) = match self.ready.has_vectors() {
                        true => avx512::soften(&scores[..blocks], row, seen, tops[row], weights),
                        false => soften(&scores[..blocks], row, seen, tops[row], weights),
                    };
                    factors[row] = exp2(tops[row] - top);
                    sums[row] = sums[row] * factors[row] + sum;
                    tops[row] = top;
                }
                factors
            });
            let rows = Rows { values: weights, stride: KEYS, taps: &[0], steps: blocks };
            for (i, result) in results.iter_mut().enumerate() {
                self.ready.multiply(rows, self.values(i, from, blocks), product);
                vectorised!(|| {
                    for ((result, product), factor) in result.0.iter_mut().zip(&product.0).zip(factors) {
                        result.iter_mut().zip(product).for_each(|(r, p)| *r = *r * factor + p);
                    }
                });
            }
        }
        sums
    }
}

/// Queries as bf16, scaled and filled up with zeros.
fn round_queries<T: Number>(s: Sizes, q: &[T], (count, scale): (usize, f32), queries: &mut [u16]) {
    vectorised!(|| {
        for (i, row) in queries.chunks_exact_mut(s.padded_head()).enumerate() {
            row.fill(0);
            if i < count {
                let q = &q[i * s.channels..][..s.head];
                row.iter_mut().zip(q).for_each(|(to, v)| *to = scaled(*v, scale));
            }
        }
    });
}

/// Powers of two of a block of scores as bf16, rows `stride` apart, and added to `sums`. Of those that are not seen, zeros.
fn weigh(
    scores: &Block,
    seen: &[usize; PAIR],
    (weights, stride): (&mut [u16], usize),
    sums: &mut [[f32; WIDTH]; PAIR],
) {
    vectorised!(|| {
        for (((scores, seen), weights), sums) in
            scores.0.iter().zip(seen).zip(weights.chunks_mut(stride)).zip(&mut *sums)
        {
            for (i, (score, weight)) in scores.iter().zip(weights).enumerate() {
                let power = if i < *seen { exp2(*score) } else { 0.0 };
                sums[i % WIDTH] += power;
                *weight = round::positive_bits(power);
            }
        }
    });
}

/// Powers of two of a row of scores, less the largest so far, as bf16. Of those that are not seen, zeros. Returns the
/// largest, and the sum of the powers.
#[inline(always)]
fn soften(scores: &[Block], row: usize, seen: usize, top: f32, weights: &mut [u16]) -> (f32, f32) {
    let mut tops = [top; PAIR];
    for (i, block) in scores.iter().enumerate() {
        let seen = seen.saturating_sub(i * PAIR).min(PAIR);
        let scores = &block.0[row];
        match seen {
            PAIR => tops.iter_mut().zip(scores).for_each(|(top, v)| *top = if *v > *top { *v } else { *top }),
            _ => tops.iter_mut().zip(&scores[..seen]).for_each(|(top, v)| *top = if *v > *top { *v } else { *top }),
        }
    }
    let top = tops.iter().copied().fold(top, f32::max);
    let mut sums = [0.0f32; PAIR];
    for (i, (block, weights)) in scores.iter().zip(weights.chunks_exact_mut(PAIR)).enumerate() {
        let seen = seen.saturating_sub(i * PAIR).min(PAIR);
        let scores = &block.0[row];
        match seen {
            PAIR => {
                for ((sum, v), to) in sums.iter_mut().zip(scores).zip(weights) {
                    let power = exp2(*v - top);
                    *sum += power;
                    *to = round::positive_bits(power);
                }
            }
            _ => {
                weights.fill(0);
                for ((sum, v), to) in sums.iter_mut().zip(&scores[..seen]).zip(weights) {
                    let power = exp2(*v - top);
                    *sum += power;
                    *to = round::positive_bits(power);
                }
            }
        }
    }
    (top, sums.iter().sum())
}
