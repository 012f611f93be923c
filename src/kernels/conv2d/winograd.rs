//! Convolutions of 3 x 3 at stride 1 in f32 by Winograd's minimal filtering, F(2 x 2, 3 x 3) (Lavin and Gray, arXiv:1509.09308):
//! four results take 16 multiplications for each pair of an input and an output instead of 36.
//!
//! With tiles `d` of 4 x 4 of the input, a stride of 2 apart, and filters `g`, results are `A^T [(G g G^T) * (B^T d B)] A`. Summed over
//! inputs that is a matrix product for each of the 16 numbers of a tile. `A`, `B` and `G` have no numbers but 0, 1, -1 and 1/2,
//! so that little is lost by them: a U-Net of Stable Diffusion's size is 3e-6 off PyTorch's, and was 2e-6 without.
//!
//! In a picture that is enlarged twice by repeating positions, a tile's middle rows are the same, and its middle columns: a third
//! of `B^T d` is zero then, in both directions, and 9 of the 16 products are left.
//!
//! Each result comes of the same sums in the same order whatever is computed beside it, be it by other threads or of other
//! samples.

use super::sizes::{Sizes, nearest};
use crate::kernels::panels::{PART, Product, ROWS, WIDTH};
use crate::kernels::stored::Weights;
use crate::kernels::threads::{self, Scratch};
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Numbers of a tile.
const TILE: usize = 16;

/// All of them,
const ALL: [usize; TILE] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
/// and those that are not zero, after `B^T d B`, in a picture that is enlarged twice.
const OF_ENLARGED: [usize; 9] = [0, 1, 3, 4, 5, 7, 12, 13, 15];

/// Left out between those of one number of the tiles and those of the next. Their distance would else be a multiple of 4 KiB,
/// which are the same places in the first cache, and there are 16 of them.
const GAP: usize = 64;

/// Numbers of a filter.
const TAPS: usize = 9;

/// Inputs of weights that are transformed at a time, and what channels are a multiple of.
const LANES: usize = 16;

/// Positions of a sample from which on it pays: with fewer, transforming the weights takes what is gained.
const POSITIONS: usize = 256;

/// Numbers of transformed weights that are there at a time: 16 MiB.
const FILTERS: usize = 1 << 22;

/// Numbers of transformed tiles, and of what they are multiplied to, that are there at a time on one core: 4 MiB.
const TILES: usize = 1 << 20;

/// Tiles of a task, about: weights are not read too often, and the cores are done at about the same time.
const TASK: usize = 192;

/// Whether it serves these sizes. That depends on one sample alone, so that a result does not depend on how many there are.
pub(super) fn serves(s: &Sizes) -> bool {
    [s.kernel_height, s.kernel_width, s.stride] == [3, 3, 1]
        && s.inputs.is_multiple_of(LANES)
        && s.outputs.is_multiple_of(PART)
        && s.out_height * s.out_width >= POSITIONS
}

/// Numbers from one of a panel's 16 or 9 filters to the next.
fn line(inputs: usize) -> usize {
    inputs * WIDTH + GAP
}

/// The numbers of a tile's column.
#[inline(always)]
fn column(i: usize) -> [usize; 4] {
    [i, 4 + i, 8 + i, 12 + i]
}

/// Those of its row.
#[inline(always)]
fn row(i: usize) -> [usize; 4] {
    [4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3]
}

/// A convolution of which some rows are computed.
pub(super) struct Filtering<'a> {
    pub(super) sizes: &'a Sizes,
    pub(super) weights: Weights<'a>,
    pub(super) bias: &'a [f32],
    /// Whether results are added to what is there.
    pub(super) adds: bool,
    /// The input from its row `first_row` on, counted through all samples.
    pub(super) x: &'a [f32],
    pub(super) first_row: usize,
}

/// Some rows of tiles, counted through all samples, and their results.
struct Task<'a> {
    rows: Range<usize>,
    y: &'a mut [f32],
}

impl Filtering<'_> {
    /// The results `y` for the positions from `first` on: whole rows, which begin with an even one of their sample and end
    /// before an even one or with the last.
    pub(super) fn run(&self, first: usize, y: &mut [f32]) {
        let s = self.sizes;
        if y.is_empty() {
            return;
        }
        let row_of_tiles =
            |p: usize| p / (s.out_height * s.out_width) * self.down() + p / s.out_width % s.out_height / 2;
        let rows = row_of_tiles(first)..row_of_tiles(first + y.len() / s.outputs - 1) + 1;
        let numbers = self.numbers();
        let block = (FILTERS / (numbers.len() * s.inputs) / WIDTH * WIDTH).max(WIDTH);
        let panel = numbers.len() * line(s.inputs);
        threads::with_scratch(Scratch::Panels, panel * block.min(s.outputs).div_ceil(WIDTH), |filters| {
            for from in (0..s.outputs).step_by(block) {
                let columns = from..s.outputs.min(from + block);
                let panels = filters.chunks_mut(panel).enumerate().take(columns.len().div_ceil(WIDTH));
                threads::for_each(panels.collect(), |(i, panel)| {
                    let outputs = from + i * WIDTH..columns.end.min(from + (i + 1) * WIDTH);
                    self.weights.with_rows(outputs, |weights| {
                        Arch::new().dispatch(Filter { weights, inputs: s.inputs, numbers, panel });
                    });
                });
                let filters = &*filters;
                threads::for_each(self.tasks(rows.clone(), y), |task| self.run_task(task, columns.clone(), filters));
            }
        });
    }

    /// Which numbers of a tile are multiplied.
    fn numbers(&self) -> &'static [usize] {
        let Sizes { source: [height, width], padding, .. } = *self.sizes;
        let twice = [self.sizes.height, self.sizes.width] == [2 * height, 2 * width];
        if twice && [padding.top, padding.left] == [1, 1] { &OF_ENLARGED } else { &ALL }
    }

    /// Tiles across.
    fn across(&self) -> usize {
        self.sizes.out_width.div_ceil(2)
    }

    /// Rows of tiles of a sample.
    fn down(&self) -> usize {
        self.sizes.out_height.div_ceil(2)
    }

    /// Rows of tiles shared among the cores: what each result is does not depend on how.
    fn tasks<'y>(&self, rows: Range<usize>, mut y: &'y mut [f32]) -> Vec<Task<'y>> {
        let cores = if threads::is_alone() { 1 } else { rayon::current_num_threads() };
        let tasks = cores * (rows.len() * self.across()).div_ceil(cores * TASK);
        let together = rows.len().div_ceil(tasks);
        let mut all = Vec::new();
        for from in rows.clone().step_by(together) {
            let rows = from..rows.end.min(from + together);
            let (own, rest) = y.split_at_mut((self.position(rows.end) - self.position(from)) * self.sizes.outputs);
            all.push(Task { rows, y: own });
            y = rest;
        }
        all
    }

    /// The first position of a row of tiles.
    fn position(&self, row: usize) -> usize {
        let s = self.sizes;
        (row / self.down() * s.out_height + row % self.down() * 2) * s.out_width
    }

    /// Results of some rows of tiles and some columns, whose filters are given.
    fn run_task(&self, Task { rows, y }: Task<'_>, columns: Range<usize>, filters: &[f32]) {
        let (s, across, count, numbers) = (self.sizes, self.across(), columns.len(), self.numbers().len());
        let together = (TILES / (numbers * (s.inputs + count)) / ROWS * ROWS).max(ROWS).min(rows.len() * across);
        let line = line(s.inputs);
        let first = self.position(rows.start);
        threads::with_scratch(Scratch::Activations, numbers * (together * (s.inputs + count) + 2 * GAP), |values| {
            for from in (rows.start * across..rows.end * across).step_by(together) {
                let tiles = from..(rows.end * across).min(from + together);
                let (of_inputs, of_outputs) = (tiles.len() * s.inputs + GAP, tiles.len() * count + GAP);
                let (inputs, outputs) = values.split_at_mut(numbers * of_inputs);
                Arch::new().dispatch(Transform { filtering: self, tiles: tiles.clone(), to: &mut *inputs });
                let both = inputs.chunks_exact(of_inputs).zip(outputs.chunks_exact_mut(of_outputs)).take(numbers);
                for (i, (inputs, outputs)) in both.enumerate() {
                    let product = Product {
                        rows: &inputs[..of_inputs - GAP],
                        depth: s.inputs,
                        panels: &filters[i * line..],
                        apart: numbers * line,
                        results: &mut outputs[..of_outputs - GAP],
                        columns: count,
                    };
                    product.run();
                }
                let columns = columns.clone();
                Arch::new().dispatch(Give { filtering: self, tiles, columns, products: outputs, first, y: &mut *y });
            }
        });
    }

    /// Where the 16 positions of a tile are in the input, of which there is none in the padding.
    fn places(&self, tile: usize) -> [Option<usize>; TILE] {
        let (s, before) = (self.sizes, self.first_row * self.sizes.source_row());
        let (row, column) = (tile / self.across(), tile % self.across() * 2);
        let (sample, row) = (row / self.down(), row % self.down() * 2);
        let [height, width] = s.source;
        std::array::from_fn(|i| {
            let y = (row + i / 4).checked_sub(s.padding.top).filter(|&y| y < s.height)?;
            let x = (column + i % 4).checked_sub(s.padding.left).filter(|&x| x < s.width)?;
            let row = sample * height + nearest(y, height, s.height);
            Some((row * width + nearest(x, width, s.width)) * s.inputs - before)
        })
    }
}

/// `B^T d B` for some tiles: for each of the numbers that are multiplied a row of the inputs for each tile.
struct Transform<'a> {
    filtering: &'a Filtering<'a>,
    tiles: Range<usize>,
    to: &'a mut [f32],
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { filtering, tiles, to } = self;
        let (inputs, numbers) = (filtering.sizes.inputs, filtering.numbers());
        let zeros = vec![0.0; inputs];
        let (vectors, apart) = (inputs / S::F32_LANES, (tiles.len() * inputs + GAP) / S::F32_LANES);
        let to = S::as_mut_simd_f32s(to).0;
        for (t, tile) in tiles.enumerate() {
            let mut source = [&[][..]; TILE];
            for (source, place) in source.iter_mut().zip(filtering.places(tile)) {
                let numbers = place.map_or(&zeros[..], |at| &filtering.x[at..at + inputs]);
                *source = &S::as_simd_f32s(numbers).0[..vectors];
            }
            for v in 0..vectors {
                let mut d = [simd.splat_f32s(0.0); TILE];
                for (d, source) in d.iter_mut().zip(&source) {
                    *d = source[v];
                }
                for i in 0..4 {
                    inner(simd, &mut d, column(i));
                }
                for i in 0..4 {
                    inner(simd, &mut d, row(i));
                }
                for (i, &number) in numbers.iter().enumerate() {
                    to[i * apart + t * vectors + v] = d[number];
                }
            }
        }
    }
}

/// `B^T` times four numbers of a tile, in their places.
#[inline(always)]
fn inner<S: Simd>(simd: S, d: &mut [S::f32s; TILE], [a, b, c, e]: [usize; 4]) {
    let (first, last) = (simd.sub_f32s(d[a], d[c]), simd.sub_f32s(d[b], d[e]));
    let (sum, difference) = (simd.add_f32s(d[b], d[c]), simd.sub_f32s(d[c], d[b]));
    (d[a], d[b], d[c], d[e]) = (first, sum, difference, last);
}

/// `A^T m A` for some tiles and columns, with the bias, to where they belong in `y`, which begins with the position `first`.
struct Give<'a> {
    filtering: &'a Filtering<'a>,
    tiles: Range<usize>,
    columns: Range<usize>,
    products: &'a [f32],
    first: usize,
    y: &'a mut [f32],
}

impl WithSimd for Give<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { filtering, tiles, columns, products, first, y } = self;
        let (s, numbers) = (filtering.sizes, filtering.numbers());
        let (vectors, apart) = (columns.len() / S::F32_LANES, (tiles.len() * columns.len() + GAP) / S::F32_LANES);
        let products = S::as_simd_f32s(products).0;
        let bias = &S::as_simd_f32s(&filtering.bias[columns.clone()]).0[..vectors];
        for (t, tile) in tiles.enumerate() {
            let (top, left) = (tile / filtering.across() % filtering.down() * 2, tile % filtering.across() * 2);
            let begin = filtering.position(tile / filtering.across()) + left - first;
            let there = |i: usize| top + i / 2 < s.out_height && left + i % 2 < s.out_width;
            for v in 0..vectors {
                let mut m = [simd.splat_f32s(0.0); TILE];
                for (i, &number) in numbers.iter().enumerate() {
                    m[number] = products[i * apart + t * vectors + v];
                }
                for i in 0..4 {
                    outer(simd, &mut m, column(i));
                }
                for i in 0..2 {
                    outer(simd, &mut m, row(i));
                }
                for (i, sum) in [m[0], m[1], m[4], m[5]].into_iter().enumerate() {
                    if there(i) {
                        let at = (begin + i / 2 * s.out_width + i % 2) * s.outputs + columns.start;
                        let place = &mut S::as_mut_simd_f32s(&mut y[at..at + columns.len()]).0[v];
                        let sum = simd.add_f32s(sum, bias[v]);
                        *place = if filtering.adds { simd.add_f32s(*place, sum) } else { sum };
                    }
                }
            }
        }
    }
}

/// `A^T` times four numbers of a tile, in the first two of their places.
#[inline(always)]
fn outer<S: Simd>(simd: S, m: &mut [S::f32s; TILE], [a, b, c, d]: [usize; 4]) {
    let (sum, difference) = (simd.add_f32s(m[b], m[c]), simd.sub_f32s(m[b], m[c]));
    (m[a], m[b]) = (simd.add_f32s(m[a], sum), simd.sub_f32s(difference, m[d]));
}

/// `G g G^T` for up to 64 outputs, (64, 3, 3, I): for each of the numbers that are multiplied, and each input, those of all
/// outputs.
struct Filter<'a> {
    weights: &'a [f32],
    inputs: usize,
    numbers: &'a [usize],
    panel: &'a mut [f32],
}

impl WithSimd for Filter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, inputs, numbers, panel } = self;
        let (vectors, apart) = (WIDTH / S::F32_LANES, line(inputs) / S::F32_LANES);
        let panel = S::as_mut_simd_f32s(panel).0;
        // Those of some inputs, with the outputs side by side.
        let mut turned = [[[0.0f32; WIDTH]; TAPS]; LANES];
        for from in (0..inputs).step_by(LANES) {
            for (output, weights) in weights.chunks_exact(TAPS * inputs).enumerate() {
                for (tap, weights) in weights.chunks_exact(inputs).enumerate() {
                    for (turned, weight) in turned.iter_mut().zip(&weights[from..from + LANES]) {
                        turned[tap][output] = *weight;
                    }
                }
            }
            for (i, taps) in turned.iter().enumerate() {
                for v in 0..vectors {
                    let mut g = [simd.splat_f32s(0.0); TILE];
                    for (tap, numbers) in taps.iter().enumerate() {
                        g[tap / 3 * 4 + tap % 3] = S::as_simd_f32s(numbers).0[v];
                    }
                    for i in 0..3 {
                        grow(simd, &mut g, column(i));
                    }
                    for i in 0..4 {
                        grow(simd, &mut g, row(i));
                    }
                    for (at, &number) in numbers.iter().enumerate() {
                        panel[at * apart + (from + i) * vectors + v] = g[number];
                    }
                }
            }
        }
    }
}

/// `G` times the first three of four numbers, in their places.
#[inline(always)]
fn grow<S: Simd>(simd: S, g: &mut [S::f32s; TILE], [a, b, c, d]: [usize; 4]) {
    let half = simd.splat_f32s(0.5);
    let (outer, last) = (simd.add_f32s(g[a], g[c]), g[c]);
    let (sum, difference) = (simd.add_f32s(outer, g[b]), simd.sub_f32s(outer, g[b]));
    (g[b], g[c], g[d]) = (simd.mul_f32s(sum, half), simd.mul_f32s(difference, half), last);
}
