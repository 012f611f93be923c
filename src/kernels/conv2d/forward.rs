//! The forward pass of a convolution.

use super::sizes::Sizes;
use super::winograd::{self, Filtering};
use crate::kernels::gemm::Matrix;
use crate::kernels::norm::Affine;
use crate::kernels::stored::{FEW, Weights};
use crate::kernels::threads::{self, Scratch};
use candle_core::{Result, Shape, bail};
use std::ops::Range;

/// Numbers of the input that are normalised at a time: 8 MiB.
const STRIP: usize = 1 << 21;

/// Numbers that are unfolded at a time on one core, where more than one chunk is.
const GROUP: usize = 1 << 21;

/// Numbers of all positions unfolded, where that is done before anything is multiplied: 16 MiB.
const AT_ONCE: usize = 1 << 22;

/// Chunks for which weights are widened together: then widening takes next to no time.
const MOST_CHUNKS: usize = 4;

/// Tasks that keep all cores at work.
const TASKS: usize = 8;

/// Numbers that are normalised in one task: a task costs about as much as a thousand.
const TASK: usize = 1 << 14;

/// A convolution, ready to run.
pub(in crate::kernels) struct Forward<'a> {
    sizes: Sizes,
    weights: Weights<'a>,
    bias: &'a [f32],
    /// Whether the result is added to what is there.
    adds: bool,
}

/// The input, and where the result goes.
enum Place<'a> {
    Apart(&'a [f32], &'a mut [f32]),
    /// Over the input, which has the same shape.
    Same(&'a mut [f32]),
}

impl Place<'_> {
    fn source(&self) -> &[f32] {
        match self {
            Self::Apart(x, _) => x,
            Self::Same(xy) => xy,
        }
    }

    fn target(&mut self) -> &mut [f32] {
        match self {
            Self::Apart(_, y) => y,
            Self::Same(xy) => xy,
        }
    }
}

impl<'a> Forward<'a> {
    pub(super) fn new(sizes: Sizes, weights: Weights<'a>, bias: &'a [f32]) -> Self {
        Self { sizes, weights, bias, adds: false }
    }

    /// The same, but what is where the result goes stays in it.
    pub(in crate::kernels) fn adding(self) -> Self {
        Self { adds: true, ..self }
    }

    /// Of the result.
    pub(in crate::kernels) fn shape(&self) -> Shape {
        self.sizes.result()
    }

    /// From `x` to `y`.
    pub(in crate::kernels) fn run(&self, x: &[f32], y: &mut [f32]) {
        self.multiply(x, 0, 0, y);
    }

    /// From `x`, first normalised, to `y`.
    pub(in crate::kernels) fn run_normed(&self, affine: &Affine, x: &[f32], y: &mut [f32]) {
        self.by_strips(affine, Place::Apart(x, y));
    }

    /// The same, over the input. Fails where the result has another shape.
    pub(in crate::kernels) fn run_in_place(&self, affine: &Affine, xy: &mut [f32]) -> Result<()> {
        if !self.sizes.keeps_shape() || self.adds {
            bail!("conv2d: only a result of the input's shape can take its place");
        }
        self.by_strips(affine, Place::Same(xy));
        Ok(())
    }

    /// The normalised picture exists in strips only. Each row of it is computed once: those that two strips see are kept
    /// from one to the next, so that the result may lie where the picture was.
    fn by_strips(&self, affine: &Affine, mut place: Place<'_>) {
        let (outputs, row, strips) = (self.sizes.outputs, self.sizes.source_row(), self.strips());
        let longest = strips.iter().map(|strip| self.sizes.rows_seen(strip).len()).max().unwrap_or(0);
        threads::with_scratch(Scratch::Strip, longest * row, |normed| {
            let mut known: Range<usize> = 0..0;
            for strip in strips {
                let seen = self.sizes.rows_seen(&strip);
                let kept = known.end.saturating_sub(seen.start);
                let from = seen.start.saturating_sub(known.start) * row;
                normed.copy_within(from..from + kept * row, 0);
                self.normalise(affine, place.source(), seen.start + kept..seen.end, &mut normed[kept * row..]);
                let y = &mut place.target()[strip.start * outputs..strip.end * outputs];
                self.multiply(normed, seen.start, strip.start, y);
                known = seen;
            }
        });
    }

    /// All positions, some at a time. Where `winograd` serves, which takes two rows of a sample at a time, none of them are parted.
    fn strips(&self) -> Vec<Range<usize>> {
        let Sizes { positions, out_height, out_width, .. } = self.sizes;
        let fitting = (STRIP / self.sizes.source_row().max(1)).max(1);
        let steps = |all: Range<usize>, step: usize| {
            let end = all.end;
            all.step_by(step).map(move |first| first..end.min(first + step))
        };
        if !winograd::serves(&self.sizes) {
            return steps(0..positions, (fitting * out_width).next_multiple_of(self.sizes.chunk())).collect();
        }
        let sample = out_height * out_width;
        match fitting / out_height {
            0 => {
                let step = fitting.next_multiple_of(2) * out_width;
                (0..positions).step_by(sample).flat_map(|first| steps(first..first + sample, step)).collect()
            }
            whole => steps(0..positions, whole * sample).collect(),
        }
    }

    /// These rows of the input, counted through all samples.
    fn normalise(&self, affine: &Affine, x: &[f32], rows: Range<usize>, normed: &mut [f32]) {
        let (row, of_sample) = (self.sizes.source_row(), self.sizes.source_rows());
        let together = (TASK / row.max(1)).max(1);
        let x = &x[rows.start * row..rows.end * row];
        let tasks = x.chunks(together * row).zip(normed.chunks_mut(together * row)).enumerate();
        threads::for_each(tasks.collect(), |(i, (x, y))| {
            for (j, (x, y)) in x.chunks_exact(row).zip(y.chunks_exact_mut(row)).enumerate() {
                affine.apply((rows.start + i * together + j) / of_sample, x, y);
            }
        });
    }

    /// The results `y` for the positions from `first` on. `x` is the input from its row `first_row` on.
    fn multiply(&self, x: &[f32], first_row: usize, first: usize, y: &mut [f32]) {
        if winograd::serves(&self.sizes) {
            let Self { sizes, weights, bias, adds } = self;
            return Filtering { sizes, weights: *weights, bias, adds: *adds, x, first_row }.run(first, y);
        }
        let (patch, chunk, outputs) = (self.sizes.patch(), self.sizes.chunk(), self.sizes.outputs);
        let chunks = y.len().div_ceil(chunk * outputs);
        let last = y.len() / outputs - chunks.saturating_sub(1) * chunk;
        let few = chunks <= 2 && chunks * chunk * patch <= AT_ONCE && last >= FEW;
        if few && self.weights.gain_by_all_at_once() {
            return self.multiply_at_once(x, first_row, first, y);
        }
        let most = if self.weights.is_full() { 1 } else { MOST_CHUNKS };
        let group = (GROUP / (chunk * patch)).min(chunks / TASKS).clamp(1, most) * chunk;
        threads::for_each(y.chunks_mut(group * outputs).enumerate().collect(), |(i, y)| {
            let count = y.len() / outputs;
            threads::with_scratch(Scratch::Activations, count * patch, |rows| {
                self.sizes.unfold(x, first_row, first + i * group, rows);
                self.give(y, |y| {
                    let parts = y.chunks_mut(chunk * outputs).zip(rows.chunks(chunk * patch));
                    let parts = parts.map(|(y, rows)| (y, Matrix::dense(rows, rows.len() / patch, patch)));
                    self.weights.add_products(&mut parts.collect::<Vec<_>>());
                });
            });
        });
    }

    /// Everything is unfolded before anything is multiplied. Then each core takes some of the weights for all positions:
    /// of few positions they are most of the work.
    fn multiply_at_once(&self, x: &[f32], first_row: usize, first: usize, y: &mut [f32]) {
        let (patch, chunk) = (self.sizes.patch(), self.sizes.chunk());
        let count = y.len() / self.sizes.outputs;
        threads::with_scratch(Scratch::Activations, count * patch, |rows| {
            threads::for_each(rows.chunks_mut(chunk * patch).enumerate().collect(), |(i, rows)| {
                self.sizes.unfold(x, first_row, first + i * chunk, rows);
            });
            self.give(y, |y| self.weights.add_product_spread(y, rows));
        });
    }

    /// Calls `add` with the bias in each row, and puts what it makes of that where the results go.
    fn give(&self, y: &mut [f32], add: impl FnOnce(&mut [f32])) {
        let biased = |y: &mut [f32]| {
            y.chunks_exact_mut(self.bias.len()).for_each(|row| row.copy_from_slice(self.bias));
            add(y);
        };
        if !self.adds {
            return biased(y);
        }
        threads::with_scratch(Scratch::Results, y.len(), |results| {
            biased(results);
            y.iter_mut().zip(results).for_each(|(y, v)| *y += *v);
        });
    }
}
