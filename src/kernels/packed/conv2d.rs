//! Convolutions with packed weights.
//!
//! One of stride 1 is not unfolded. A strip of the picture lies as bf16 with zeros around it, one row after the other, and
//! a position's neighbours are the same distances away wherever it is: each tap of the kernel is a product of the same
//! rows, shifted. Between two rows lie as many columns of zeros as either side needs; what is computed for those is dropped.
//!
//! Of a picture that is enlarged twice by repeating positions, a kernel of 3 x 3 sees 2 x 2 different ones, whichever result it
//! is for: every second result, in both directions, is that of a kernel of 2 x 2 over the picture itself, whose weights are sums
//! of the others. That is 4 multiplications instead of 9.

use super::isa::Isa;
use super::linear::{Added, Results, strips};
use super::product::{Form, Panels, Strip, Target};
use super::round::Number;
use super::tile::DEPTH;
use super::{Packed, activation, steps};
use crate::kernels::Padding;
use crate::kernels::conv2d::{Sizes, nearest};
use crate::kernels::math::vectorised;
use crate::kernels::norm::Affine;
use candle_core::Result;

/// Numbers of a strip: they lie in a core's own cache, beside the weights, and there are strips enough to share among
/// cores of which one may be slower.
const STRIP: usize = 1 << 18;

/// Rows of results of a strip at least, where they fit: each strip sees two more of the input than it gives.
const ROWS: usize = 6;

/// Numbers of a strip at most, unless of a single row: of a core's own cache of 2 MiB, three quarters.
const MOST: usize = 3 << 18;

/// Positions across, before a picture is enlarged, from which on its results are computed in quarters: with fewer, adding up
/// the weights takes what is gained. How many rows there are is not asked, so that a band of a picture gives what the whole does.
const ACROSS: usize = 16;

/// Where the results of a convolution are among those of another.
#[derive(Clone, Copy)]
struct Among {
    /// Rows, and columns, from one to the next.
    apart: usize,
    /// Row and column of the first.
    first: [usize; 2],
    /// Columns of all.
    width: usize,
}

impl Among {
    /// The position of a result; `row` is counted through all samples.
    fn position(&self, row: usize, column: usize) -> usize {
        (row * self.apart + self.first[0]) * self.width + column * self.apart + self.first[1]
    }
}

/// A convolution, ready to run.
pub(in crate::kernels) struct Convolution<'a> {
    pub(in crate::kernels) sizes: Sizes,
    pub(in crate::kernels) weights: &'a Packed,
    /// What is done to the input first.
    pub(in crate::kernels) affine: Option<&'a Affine>,
}

impl Convolution<'_> {
    /// Of `x`, (B, H, W, I), (B, H', W', O); added to `onto`, in its place, where that is given.
    pub(in crate::kernels) fn run<X: Number, Y: Number>(
        &self,
        isa: Isa,
        x: &[X],
        added: Added<'_>,
        onto: Option<Vec<Y>>,
    ) -> Result<Vec<Y>> {
        let s = self.sizes;
        let pointwise = s.kernel_height * s.kernel_width == 1 && s.padding == Padding::same(0);
        let shifts = s.stride == 1 && (!pointwise || [s.height, s.width] != s.source || self.affine.is_some());
        self.give(added, onto, |target, added| {
            if self.has_quarters() {
                return self.by_quarters(isa, x, target, added);
            }
            let among = Among { apart: 1, first: [0, 0], width: s.out_width };
            self.weights.with_panels(|bits| {
                let results = Results { target, panels: &Panels::in_order(bits, s.outputs), added };
                match shifts {
                    true => self.shifted(isa, x, results, among),
                    false => self.unfolded(isa, x, results),
                }
            })
        })
    }

    /// Whether its results are computed in quarters. That depends on one sample alone, so that a result does not depend on
    /// how many there are.
    fn has_quarters(&self) -> bool {
        let Sizes { source: [height, width], kernel_height, kernel_width, stride, padding, .. } = self.sizes;
        let twice = [self.sizes.height, self.sizes.width] == [2 * height, 2 * width];
        let kernel = [kernel_height, kernel_width, stride] == [3, 3, 1] && padding == Padding::same(1);
        twice && kernel && width >= ACROSS
    }

    /// Every second result, in both directions, by a kernel of 2 x 2; so four times.
    fn by_quarters<X: Number, Y: Number>(
        &self,
        isa: Isa,
        x: &[X],
        target: &Target<'_, Y>,
        added: Added<'_>,
    ) -> Result<()> {
        let Sizes { batch, source: [height, width], out_width, .. } = self.sizes;
        for first @ [down, across] in [[0, 0], [0, 1], [1, 0], [1, 1]] {
            let sizes = Sizes {
                height,
                width,
                kernel_height: 2,
                kernel_width: 2,
                out_height: height,
                out_width: width,
                positions: batch * height * width,
                padding: Padding { top: 1 - down, bottom: down, left: 1 - across, right: across },
                ..self.sizes
            };
            let weights = &self.weights.quarter(first)?;
            let quarter = Convolution { sizes, weights, affine: self.affine };
            weights.with_panels(|bits| {
                let results = Results { target, panels: &Panels::in_order(bits, sizes.outputs), added };
                quarter.shifted(isa, x, results, Among { apart: 2, first, width: out_width });
            })?;
        }
        Ok(())
    }

    /// Numbers of a position, filled up.
    fn depth(&self) -> usize {
        self.sizes.inputs.next_multiple_of(DEPTH)
    }

    fn shifted<X: Number, Y: Number>(&self, isa: Isa, x: &[X], results: Results<'_, Y>, among: Among) {
        let (s, depth) = (self.sizes, self.depth());
        // With more padding than a kernel reaches, a row has more results than that.
        let pitch = (s.width + s.padding.left.max(s.padding.right)).max(s.out_width);
        let tap = |i: usize| (i / s.kernel_width * pitch + i % s.kernel_width) * depth;
        let taps = (0..s.kernel_height * s.kernel_width).map(tap).collect();
        let form = Form { stride: depth, taps, steps: steps(s.inputs) };
        let row = pitch * depth;
        let fitting = (MOST / row).saturating_sub(s.kernel_height - 1);
        let together = (STRIP / row).max(ROWS.min(fitting)).clamp(1, s.out_height);
        // Rows of results, counted through all samples.
        let strips: Vec<_> = (0..s.batch * s.out_height)
            .step_by(s.out_height)
            .flat_map(|sample| {
                (0..s.out_height).step_by(together).map(move |row| {
                    let rows = together.min(s.out_height - row);
                    Strip { first: sample + row, rows: (rows - 1) * pitch + s.out_width }
                })
            })
            .collect();
        let fill = |strip: Strip, values: &mut [u16]| self.fill(x, strip, pitch, values);
        let place = |strip: Strip, i: usize| {
            let (down, across) = (i / pitch, i % pitch);
            let there = i < strip.rows && across < s.out_width;
            there.then_some((among.position(strip.first + down, across), strip.first / s.out_height))
        };
        results.multiply(isa, &form, &strips, fill, place);
    }

    /// What `write` writes, which is all of it, or adds to `onto`.
    fn give<Y: Number>(
        &self,
        added: Added<'_>,
        onto: Option<Vec<Y>>,
        write: impl FnOnce(&Target<'_, Y>, Added<'_>) -> Result<()>,
    ) -> Result<Vec<Y>> {
        let (rows, columns) = (self.sizes.positions, self.sizes.outputs);
        let added = Added { onto: onto.is_some(), ..added };
        let write = |target: &Target<'_, Y>| write(target, added);
        if let Some(mut y) = onto {
            assert_eq!(y.len(), rows * columns, "what is added to has another shape");
            write(&Target::of(&mut y, columns))?;
            return Ok(y);
        }
        // SAFETY: the strips that are multiplied are all positions, or each quarter's a quarter, and the panels all columns.
        #[allow(unsafe_code)]
        unsafe {
            Target::fresh(rows, columns, write)
        }
    }

    /// The rows of the input that a strip sees, with zeros around them.
    fn fill<X: Number>(&self, x: &[X], strip: Strip, pitch: usize, values: &mut [u16]) {
        let (s, depth) = (self.sizes, self.depth());
        let (sample, first) = (strip.first / s.out_height, strip.first % s.out_height);
        let left = s.padding.left * depth;
        values[..left].fill(0);
        let (row, [source_height, source_width]) = (pitch * depth, s.source);
        let source_row = source_width * s.inputs;
        vectorised!(|| {
            for (i, out) in values[left..].chunks_mut(row).enumerate() {
                let y = (first + i).checked_sub(s.padding.top).filter(|&y| y < s.height);
                let (Some(y), true) = (y, out.len() >= s.width * depth) else {
                    out.fill(0);
                    continue;
                };
                let (out, gap) = out.split_at_mut(s.width * depth);
                gap.fill(0);
                let y = sample * source_height + nearest(y, source_height, s.height);
                let x = &x[y * source_row..(y + 1) * source_row];
                if depth == s.inputs && source_width == s.width {
                    self.positions(sample, x, out);
                    continue;
                }
                for (column, out) in out.chunks_exact_mut(depth).enumerate() {
                    let column = nearest(column, source_width, s.width);
                    let (out, rest) = out.split_at_mut(s.inputs);
                    self.positions(sample, &x[column * s.inputs..(column + 1) * s.inputs], out);
                    rest.fill(0);
                }
            }
        });
    }

    #[inline(always)]
    fn positions<X: Number>(&self, sample: usize, x: &[X], out: &mut [u16]) {
        match self.affine {
            Some(affine) => affine.apply_rounded(sample, x, out),
            None => activation::round(x, out),
        }
    }

    /// With the parts of a position side by side.
    fn unfolded<X: Number, Y: Number>(&self, isa: Isa, x: &[X], results: Results<'_, Y>) {
        let (s, depth) = (self.sizes, self.depth());
        let taps = s.kernel_height * s.kernel_width;
        let row = taps * depth;
        let (form, strips) = (Form::of_rows(row), strips(s.positions, row, STRIP));
        let of_sample = s.out_height * s.out_width;
        let fill = |strip: Strip, values: &mut [u16]| {
            vectorised!(|| {
                for (i, row) in values.chunks_exact_mut(row).take(strip.rows).enumerate() {
                    let mut part = 0;
                    s.for_each_part(strip.first + i, |_, offset| {
                        let (out, rest) = row[part..part + depth].split_at_mut(s.inputs);
                        match offset {
                            Some(at) => self.positions((strip.first + i) / of_sample, &x[at..at + s.inputs], out),
                            None => out.fill(0),
                        }
                        rest.fill(0);
                        part += depth;
                    });
                }
            });
        };
        let place = |strip: Strip, i: usize| (i < strip.rows).then(|| (strip.first + i, (strip.first + i) / of_sample));
        results.multiply(isa, &form, &strips, fill, place);
    }
}
