//! A product over the cores: activations in strips, each written as bf16 where it is used, times panels of weights.

use super::isa::Isa;
use super::tile::{Block, DEPTH, PAIR, Ready, Rows, STEP};
use crate::kernels::threads;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

/// Numbers of activations, in all strips, that are written before anything is multiplied: then each core takes some of the
/// columns, and passes all rows for them, so that weights are read once. As much as fits into a core's own cache.
const AT_ONCE: usize = 1 << 20;

/// Tasks that keep all cores at work.
const TASKS: usize = 16;

/// The rows of a strip and what is read of them. The same for all strips of a product.
pub(super) struct Form {
    /// Numbers from a row to the next.
    pub(super) stride: usize,
    /// Where a row's parts begin, one for each tap of the kernel.
    pub(super) taps: Vec<usize>,
    /// Tiles of weights for each part.
    pub(super) steps: usize,
}

impl Form {
    /// Of rows of `depth` numbers one after the other, which must be whole tiles.
    pub(super) fn of_rows(depth: usize) -> Self {
        Self { stride: depth, taps: vec![0], steps: depth / DEPTH }
    }

    /// Numbers of a strip, with what the last block reads beyond its rows.
    pub(super) fn length(&self, rows: usize) -> usize {
        let last = self.taps.iter().max().copied().unwrap_or(0);
        (rows.next_multiple_of(PAIR).saturating_sub(1)) * self.stride + last + self.steps * DEPTH
    }
}

/// Some rows that are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strip {
    /// What its owner knows it by.
    pub(super) first: usize,
    /// How many there are.
    pub(super) rows: usize,
}

/// The panels of a product.
#[derive(Clone)]
pub(super) struct Panels<'a> {
    bits: &'a [u16],
    /// Blocks of columns: pairs of panels.
    pairs: Range<usize>,
    /// From the first panel of a pair to the second.
    apart: usize,
}

impl<'a> Panels<'a> {
    /// All columns, in order.
    pub(super) fn in_order(bits: &'a [u16], columns: usize) -> Self {
        Self { bits, pairs: 0..columns.div_ceil(PAIR), apart: 1 }
    }

    /// 16 columns of the first half and those 16 of the second half to a block. Half as many must be a multiple of 16.
    pub(super) fn of_halves(bits: &'a [u16], columns: usize) -> Self {
        let pairs = columns / PAIR;
        Self { bits, pairs: 0..pairs, apart: pairs }
    }

    /// One of the pairs.
    fn only(&self, pair: usize) -> Self {
        Self { pairs: pair..pair + 1, ..self.clone() }
    }

    /// Those of a pair, each so long.
    fn pair(&self, pair: usize, length: usize) -> [&'a [u16]; 2] {
        let first = if self.apart == 1 { 2 * pair } else { pair };
        [first, first + self.apart].map(|panel| &self.bits[panel * length..(panel + 1) * length])
    }
}

/// Computes a product. `fill` writes a strip as bf16; it must write all that `form` reads of its rows, and what is beside
/// them may be anything. `give` is told of each block: the strip, its first row there, its number among the columns' blocks,
/// and the sums. Blocks are given once, each to one thread; rows and columns of the last ones may be more than there are.
pub(super) fn multiply(
    isa: Isa,
    form: &Form,
    panels: &Panels<'_>,
    strips: &[Strip],
    fill: impl Fn(Strip, &mut [u16]) + Sync,
    give: impl Fn(Strip, usize, usize, &Block) + Sync,
) {
    let lengths = strips.iter().map(|strip| form.length(strip.rows).next_multiple_of(DEPTH));
    let pairs = panels.pairs.len();
    let all: usize = lengths.clone().sum();
    let one = |ready: &Ready, values: &[u16], strip: Strip, panels: &Panels<'_>| {
        within(ready, form, panels, values, strip.rows, |row, pair, block| give(strip, row, pair, block));
    };
    if all > AT_ONCE || strips.len() >= TASKS {
        return threads::for_each(strips.iter().zip(lengths).collect(), |(&strip, length)| {
            with_lines(length, |values| {
                fill(strip, values);
                one(&Ready::new(isa), values, strip, panels);
            });
        });
    }
    with_lines(all, |values| {
        let (mut rest, mut parts) = (&mut values[..], Vec::new());
        for (strip, length) in strips.iter().zip(lengths.clone()) {
            let (part, others) = rest.split_at_mut(length);
            parts.push((*strip, part));
            rest = others;
        }
        threads::for_each(parts, |(strip, part)| fill(strip, part));
        let together = pairs.div_ceil(TASKS).max(1);
        let values = &values[..];
        threads::for_each((0..pairs).step_by(together).collect(), |first| {
            let ready = Ready::new(isa);
            // Pair by pair, so that its weights are read once for all strips.
            for pair in first..pairs.min(first + together) {
                let mut at = 0;
                for (strip, length) in strips.iter().zip(lengths.clone()) {
                    one(&ready, &values[at..at + length], *strip, &panels.only(pair));
                    at += length;
                }
            }
        });
    });
}

/// The same on this thread, for the rows that `values` hold already.
pub(super) fn within(
    ready: &Ready,
    form: &Form,
    panels: &Panels<'_>,
    values: &[u16],
    rows: usize,
    mut give: impl FnMut(usize, usize, &Block),
) {
    let panel = form.taps.len() * form.steps * STEP;
    let mut block = Block::zero();
    for pair in panels.pairs.clone() {
        let both = panels.pair(pair, panel);
        for row in (0..rows).step_by(PAIR) {
            let values = &values[row * form.stride..];
            ready.multiply(Rows { values, stride: form.stride, taps: &form.taps, steps: form.steps }, both, &mut block);
            give(row, pair, &block);
        }
    }
}

/// The most numbers that stay with a thread: 4 MiB.
const MOST_KEPT: usize = 1 << 21;

thread_local! {
    static LINES: Cell<Vec<Vec<u16>>> = const { Cell::new(Vec::new()) };
}

/// Calls `f` with `length` numbers of any value, which begin at a cache line: a tile's row is one, and loads of two take
/// twice the time. The memory stays with the thread. May be called within itself.
pub(super) fn with_lines<R>(length: usize, f: impl FnOnce(&mut [u16]) -> R) -> R {
    // Taken out, so that what is called within finds what is left.
    let taken = LINES.with(|kept| {
        let mut all = kept.take();
        let taken = all.pop();
        kept.set(all);
        taken
    });
    let mut numbers = taken.unwrap_or_default();
    if numbers.len() < length + DEPTH {
        numbers.clear();
        numbers.reserve(length + DEPTH);
        numbers.resize(length + DEPTH, 0);
    }
    let first = numbers.as_ptr().align_offset(64).min(DEPTH);
    let result = f(&mut numbers[first..first + length]);
    if numbers.len() <= MOST_KEPT {
        LINES.with(|kept| {
            let mut all = kept.take();
            all.push(numbers);
            kept.set(all);
        });
    }
    result
}

/// Where results go: a matrix of which each block is written by one task.
pub(super) struct Target<'a, T> {
    first: *mut T,
    length: usize,
    columns: usize,
    matrix: PhantomData<&'a mut [T]>,
}

// SAFETY: threads share nothing but the right to call `write`, whose caller answers for who writes where.
#[allow(unsafe_code)]
unsafe impl<T: Send> Sync for Target<'_, T> {}

impl<'a, T: Copy> Target<'a, T> {
    /// All of a matrix of so many columns.
    pub(super) fn of(data: &'a mut [T], columns: usize) -> Self {
        Self { first: data.as_mut_ptr(), length: data.len(), columns, matrix: PhantomData }
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// A new matrix of so many rows, written by `write`.
    ///
    /// # Safety
    ///
    /// `write` writes all of it.
    #[allow(unsafe_code)]
    pub(super) unsafe fn fresh<E>(
        rows: usize,
        columns: usize,
        write: impl FnOnce(&Self) -> Result<(), E>,
    ) -> Result<Vec<T>, E> {
        let length = rows * columns;
        let mut data = Vec::<T>::with_capacity(length);
        write(&Target { first: data.as_mut_ptr(), length, columns, matrix: PhantomData })?;
        // SAFETY: there is room for so many, and the caller says that they have been written.
        #[allow(unsafe_code)]
        unsafe {
            data.set_len(length);
        }
        Ok(data)
    }

    /// Reads numbers of a row from a column on; those past the last column are left as they are.
    ///
    /// # Safety
    ///
    /// They have been written, and nothing else writes them meanwhile.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub(super) unsafe fn read<const N: usize>(&self, row: usize, column: usize, values: &mut [T; N]) {
        let (place, room) = self.place(row, column);
        // SAFETY: in the matrix, by what `place` asserts, and written, as the caller says; `values` lie elsewhere.
        #[allow(unsafe_code)]
        unsafe {
            match room < N {
                true => std::ptr::copy_nonoverlapping(place.cast_const(), values.as_mut_ptr(), room),
                false => *values = place.cast::<[T; N]>().read_unaligned(),
            }
        }
    }

    /// The same of any number of them.
    ///
    /// # Safety
    ///
    /// As for `read`.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub(super) unsafe fn read_some(&self, row: usize, column: usize, values: &mut [T]) {
        let (place, room) = self.place(row, column);
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(place.cast_const(), values.as_mut_ptr(), values.len().min(room));
        }
    }

    /// Writes numbers of a row from a column on; those past the last column are left out.
    ///
    /// # Safety
    ///
    /// Nothing else reads or writes these numbers meanwhile.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub(super) unsafe fn write<const N: usize>(&self, row: usize, column: usize, values: &[T; N]) {
        let (place, room) = self.place(row, column);
        // SAFETY: in the matrix, by what `place` asserts; it is memory of its own, so that `values` lie elsewhere.
        #[allow(unsafe_code)]
        unsafe {
            match room < N {
                true => std::ptr::copy_nonoverlapping(values.as_ptr(), place, room),
                // Of a size that the compiler knows: a few instructions instead of a call.
                false => place.cast::<[T; N]>().write_unaligned(*values),
            }
        }
    }

    /// The same of any number of them.
    ///
    /// # Safety
    ///
    /// As for `write`.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub(super) unsafe fn write_some(&self, row: usize, column: usize, values: &[T]) {
        let (place, room) = self.place(row, column);
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), place, values.len().min(room));
        }
    }

    /// Where a row's numbers are from a column on, and how many there are.
    #[inline(always)]
    fn place(&self, row: usize, column: usize) -> (*mut T, usize) {
        assert!(column <= self.columns && (row + 1) * self.columns <= self.length, "a row past the end");
        (self.first.wrapping_add(row * self.columns + column), self.columns - column)
    }
}
