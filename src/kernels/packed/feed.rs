//! The feed-forward part of a transformer block, joined: what lies between its two products is never there as a whole.

use super::isa::Isa;
use super::linear::{Added, give_rows, halves, round_rows, strips};
use super::product::{Form, Panels, Target, with_lines, within};
use super::tile::{DEPTH, PAIR, Ready, WIDTH};
use super::{Packed, activation};
use crate::kernels::threads;
use candle_core::Result;

/// Numbers of a strip between the products: 1 MiB as bf16.
const STRIP: usize = 1 << 19;

/// The least of rows for which it is worth reading all weights once for each strip.
const ROWS: usize = 512;

/// A gated feed-forward network: two products and what is added to each.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Feed<'a> {
    pub(in crate::kernels) weights: [&'a Packed; 2],
    pub(in crate::kernels) biases: [&'a [f32]; 2],
}

impl Feed<'_> {
    /// Whether it serves these weights, for so many rows.
    pub(in crate::kernels) fn serves([first, second]: [&Packed; 2], rows: usize) -> bool {
        first.outputs.is_multiple_of(2 * DEPTH)
            && second.inputs == first.outputs / 2
            && second.outputs == first.inputs
            && rows >= ROWS
    }

    /// `x + w2 (a * gelu(b)) + b2` with `(a, b) = w1 norm(x) + b1`, for `x` (n, I); `norm` normalises rows.
    pub(in crate::kernels) fn run(
        &self,
        isa: Isa,
        x: &[f32],
        norm: impl Fn(&[f32], &mut [f32]) + Sync,
    ) -> Result<Vec<f32>> {
        let [first, second] = self.weights;
        let (inputs, inner) = (first.inputs, second.inputs);
        let rows = x.len() / inputs.max(1);
        let depth = inputs.next_multiple_of(DEPTH);
        let forms = [depth, inner].map(Form::of_rows);
        let added = Added { bias: Some(self.biases[1]), rows: Some(x), ..Added::default() };
        let write = |target: &Target<'_, f32>| {
            first.with_panels(|first_bits| {
                second.with_panels(|second_bits| {
                    let panels =
                        [Panels::of_halves(first_bits, first.outputs), Panels::in_order(second_bits, second.outputs)];
                    threads::for_each(strips(rows, inner, STRIP), |strip| {
                        let lengths = forms.each_ref().map(|form| form.length(strip.rows).next_multiple_of(DEPTH));
                        with_lines(lengths[0] + lengths[1], |lines| {
                            let (outer, inner_lines) = lines.split_at_mut(lengths[0]);
                            let x = &x[strip.first * inputs..(strip.first + strip.rows) * inputs];
                            threads::with_scratch(threads::Scratch::Activations, x.len(), |normed| {
                                norm(x, normed);
                                round_rows(normed, inputs, outer);
                            });
                            let ready = Ready::new(isa);
                            within(&ready, &forms[0], &panels[0], outer, strip.rows, |row, pair, block| {
                                let count = PAIR.min(strip.rows - row);
                                let into = &mut inner_lines[row * inner + pair * WIDTH..];
                                activation::gate(block, count, halves(self.biases[0], pair * WIDTH), (into, inner));
                            });
                            within(&ready, &forms[1], &panels[1], inner_lines, strip.rows, |row, pair, block| {
                                let place = |i: usize| (i < strip.rows).then_some((strip.first + i, 0));
                                give_rows(target, place, (row, pair * PAIR), block, added);
                            });
                        });
                    });
                })
            })?
        };
        // SAFETY: the strips are all rows, and the panels of the second product all columns.
        #[allow(unsafe_code)]
        unsafe {
            Target::fresh(rows, second.outputs, write)
        }
    }
}
