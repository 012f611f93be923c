//! The attention part of a transformer block, joined: queries, keys, values and what comes of them are never there but as
//! bf16.

use super::attention::{Sizes, attend_all};
use super::isa::Isa;
use super::linear::{Added, STRIP, round_rows, strips, times};
use super::product::{Form, Panels, Strip, Target, with_lines, within};
use super::tile::{Block, DEPTH, PAIR, Ready};
use super::{Packed, round};
use crate::kernels::math::vectorised;
use crate::kernels::threads;
use candle_core::Result;

/// The products around an attention of some sizes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Attend<'a> {
    pub(in crate::kernels) sizes: Sizes,
    pub(in crate::kernels) queries: &'a Packed,
    pub(in crate::kernels) keys: &'a Packed,
    pub(in crate::kernels) values: &'a Packed,
    pub(in crate::kernels) out: &'a Packed,
    /// Of the last product.
    pub(in crate::kernels) bias: &'a [f32],
}

impl Attend<'_> {
    /// Whether it serves these sizes: rows of bf16 must be whole tiles.
    pub(in crate::kernels) fn serves(&self) -> bool {
        let all = [self.queries, self.keys, self.values, self.out];
        let fits = |packed: &Packed| packed.outputs == self.sizes.channels;
        let inner = [self.queries, self.out].into_iter().all(|packed| packed.inputs == self.sizes.channels);
        self.sizes.channels.is_multiple_of(DEPTH)
            && all.into_iter().all(fits)
            && inner
            && self.keys.inputs == self.values.inputs
    }

    /// `x + out(attention(q, k, v)) + bias` with `q` of `norm(x)`, `k` and `v` of `context`, or of `norm(x)` as well.
    /// `norm` normalises rows.
    pub(in crate::kernels) fn run(
        &self,
        isa: Isa,
        x: &[f32],
        context: Option<&[f32]>,
        norm: impl Fn(&[f32], &mut [f32]) + Sync,
    ) -> Result<Vec<f32>> {
        let (s, channels) = (self.sizes, self.sizes.channels);
        let rows = x.len() / channels;
        let others = context.map_or(rows, |context| context.len() / self.keys.inputs.max(1));
        let lengths = [rows, others, others, rows].map(|rows| rows * channels);
        with_lines(lengths.iter().sum(), |lines| {
            let (queries, rest) = lines.split_at_mut(lengths[0]);
            let (keys, rest) = rest.split_at_mut(lengths[1]);
            let (values, attended) = rest.split_at_mut(lengths[2]);
            let (scale, identity) = (s.scale(), |x: &[f32], y: &mut [f32]| y.copy_from_slice(x));
            match context {
                None => {
                    let targets = [&mut *queries, keys, values];
                    let scaled = [(self.queries, scale), (self.keys, 1.0), (self.values, 1.0)];
                    project(isa, x, &norm, scaled.into_iter().zip(targets).collect())?;
                }
                Some(context) => {
                    project(isa, x, &norm, vec![((self.queries, scale), &mut *queries)])?;
                    let both = vec![((self.keys, 1.0), &mut *keys), ((self.values, 1.0), &mut *values)];
                    project(isa, context, &identity, both)?;
                }
            }
            let target = Target::of(&mut *attended, channels);
            attend_all(isa, s, [&*queries, &*keys, &*values], |row, column, sums| {
                let mut bits = [0u16; PAIR];
                for (i, sums) in sums.chunks(PAIR).enumerate() {
                    bits.iter_mut().zip(sums).for_each(|(to, v)| *to = round::bits(*v));
                    // SAFETY: each query and head belongs to one task.
                    #[allow(unsafe_code)]
                    unsafe {
                        target.write_some(row, column + i * PAIR, &bits[..sums.len()]);
                    }
                }
            });
            self.project_out(isa, x, attended)
        })
    }

    fn project_out(&self, isa: Isa, x: &[f32], attended: &[u16]) -> Result<Vec<f32>> {
        let channels = self.sizes.channels;
        let fill = |strip: Strip, values: &mut [u16]| {
            let own = &attended[strip.first * channels..(strip.first + strip.rows) * channels];
            values[..own.len()].copy_from_slice(own);
        };
        let added = Added { bias: Some(self.bias), rows: Some(x), ..Added::default() };
        times(isa, self.out, x.len() / channels, fill, added)
    }
}

/// Products of the same rows, once normalised and rounded, with several weights; what comes of each is scaled and goes, as
/// bf16, where it is to.
fn project(
    isa: Isa,
    x: &[f32],
    norm: &(impl Fn(&[f32], &mut [f32]) + Sync),
    products: Vec<((&Packed, f32), &mut [u16])>,
) -> Result<()> {
    let Some(((first, _), _)) = products.first() else { return Ok(()) };
    let inputs = first.inputs;
    let depth = inputs.next_multiple_of(DEPTH);
    let form = Form::of_rows(depth);
    let targets: Vec<_> =
        products.into_iter().map(|((weights, scale), to)| (weights, scale, Target::of(to, weights.outputs))).collect();
    let failed = std::sync::OnceLock::new();
    threads::for_each(strips(x.len() / inputs.max(1), depth, STRIP), |strip| {
        with_lines(form.length(strip.rows).next_multiple_of(DEPTH), |lines| {
            let x = &x[strip.first * inputs..(strip.first + strip.rows) * inputs];
            threads::with_scratch(threads::Scratch::Activations, x.len(), |normed| {
                norm(x, normed);
                round_rows(normed, inputs, lines);
            });
            let ready = Ready::new(isa);
            for (weights, scale, target) in &targets {
                let all = weights.with_panels(|bits| {
                    let panels = Panels::in_order(bits, weights.outputs);
                    within(&ready, &form, &panels, lines, strip.rows, |row, pair, block| {
                        let count = PAIR.min(strip.rows - row);
                        give_bits(target, (strip.first + row, pair * PAIR), count, block, *scale);
                    });
                });
                if let Err(e) = all {
                    let _ = failed.set(e);
                }
            }
        });
    });
    failed.into_inner().map_or(Ok(()), Err)
}

/// The first `count` rows of a block, scaled, as bf16.
fn give_bits(target: &Target<'_, u16>, (row, column): (usize, usize), count: usize, block: &Block, scale: f32) {
    vectorised!(|| {
        for (i, sums) in block.0.iter().take(count).enumerate() {
            let mut bits = [0u16; PAIR];
            bits.iter_mut().zip(sums).for_each(|(to, v)| *to = round::bits(*v * scale));
            // SAFETY: strips have no rows in common, and each is one task's.
            #[allow(unsafe_code)]
            unsafe {
                target.write(row + i, column, &bits);
            }
        }
    });
}
