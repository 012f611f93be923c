//! How a kernel uses the cores: over all of them for one picture, or on the caller's thread alone when the caller has
//! already spread its work (the trainer runs one shard of a batch per core).
//!
//! No kernel lets the number of threads decide how a sum is split, so results do not depend on it.

use rayon::prelude::*;
use std::cell::Cell;
use std::convert::Infallible;
use std::mem::MaybeUninit;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
    static SCRATCH: [Cell<Vec<f32>>; KINDS] = const { [const { Cell::new(Vec::new()) }; KINDS] };
}

/// What scratch memory is for. That of one kind is not asked for within that of the same kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scratch {
    /// Rows that a kernel makes of activations.
    Activations,
    /// Rows of weights in f32.
    Weights,
    /// A part of a picture after a normalisation.
    Strip,
    /// What is to be added to something.
    Results,
    /// What is laid out for products of all cores.
    Panels,
}

const KINDS: usize = 5;

impl Scratch {
    /// The most numbers that stay with a thread: 8 MiB, and 16 of what one thread has for all. Training needs less; what Stable
    /// Diffusion's widest convolutions take would still be there when its autoencoder needs the memory.
    fn most_kept(self) -> usize {
        if self == Self::Panels { 1 << 22 } else { 1 << 21 }
    }
}

/// Calls `f` with `length` numbers of any value, which it must write before it reads them. The memory stays with the
/// thread: clearing a convolution's unfolded rows anew at every call took a twentieth of a training step.
pub(super) fn with_scratch<R>(kind: Scratch, length: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out, so that a task which this thread takes up within `f` finds none and makes its own.
    let mut scratch = SCRATCH.with(|all| all[kind as usize].take());
    if scratch.len() < length {
        scratch.resize(length, 0.0);
    }
    let result = f(&mut scratch[..length]);
    if scratch.len() <= kind.most_kept() {
        SCRATCH.with(|all| all[kind as usize].set(scratch));
    }
    result
}

/// Runs `f` with every kernel it calls staying on this thread.
pub fn on_this_thread<R>(f: impl FnOnce() -> R) -> R {
    let before = ALONE.replace(true);
    let result = f();
    ALONE.set(before);
    result
}

/// Whether kernels called here stay on this thread: nothing is gained by giving others work.
pub fn is_alone() -> bool {
    ALONE.get() || rayon::current_num_threads() == 1
}

/// What the matrix product may use.
pub(super) fn parallelism() -> gemm::Parallelism {
    if is_alone() { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(0) }
}

/// Calls `f` once for each task, over the cores when there is more than one task and the thread is not alone.
/// Every product inside `f` stays on its thread.
pub(super) fn for_each<T: Send>(tasks: Vec<T>, f: impl Fn(T) + Sync) {
    if is_alone() || tasks.len() == 1 {
        tasks.into_iter().for_each(f);
    } else {
        tasks.into_par_iter().for_each(|task| on_this_thread(|| f(task)));
    }
}

/// The same until one fails.
pub(super) fn try_for_each<T: Send, E: Send>(tasks: Vec<T>, f: impl Fn(T) -> Result<(), E> + Sync) -> Result<(), E> {
    if is_alone() || tasks.len() == 1 {
        return tasks.into_iter().try_for_each(f);
    }
    tasks.into_par_iter().try_for_each(|task| on_this_thread(|| f(task)))
}

/// Numbers of a task that does little with each: it costs about as much as a thousand of them.
pub(super) const TASK: usize = 1 << 15;

/// So many numbers for each row of `x`, of which `f` makes them, some rows at a time, over the cores.
pub(super) fn map_rows(x: &[f32], rows: usize, each: usize, f: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
    let together = (TASK / each.max(1)).max(1);
    let row = x.len() / rows.max(1);
    written(rows * each, together * each, |i, y| {
        f(&x[i * together * row..][..y.len() / each.max(1) * row], y);
    })
}

/// Calls `f` with parts of `x` and `y`, which have so many rows each, over the cores.
pub(super) fn for_each_part(x: &[f32], y: &mut [f32], rows: usize, f: impl Fn(&[f32], &mut [f32]) + Sync) {
    let lengths = [x.len(), y.len()].map(|length| length / rows.max(1));
    let together = (TASK / lengths[1].max(1)).max(1);
    let [of_x, of_y] = lengths.map(|length| (together * length).max(1));
    for_each(x.chunks(of_x).zip(y.chunks_mut(of_y)).collect(), |(x, y)| f(x, y));
}

/// So many numbers, written over the cores, `part` at a time: `write` knows which part it is, and finds `zero` in it. One
/// thread that clears them all would have the others wait; and each part is still in its core's cache when it is written.
pub(super) fn by_parts<T: Copy + Send + Sync, E: Send>(
    count: usize,
    part: usize,
    zero: T,
    write: impl Fn(usize, &mut [T]) -> Result<(), E> + Sync,
) -> Result<Vec<T>, E> {
    let mut all = Vec::with_capacity(count);
    let parts = all.spare_capacity_mut()[..count].chunks_mut(part.max(1));
    try_for_each(parts.enumerate().collect(), |(i, part)| {
        part.fill(MaybeUninit::new(zero));
        // SAFETY: all of it has been written.
        #[allow(unsafe_code)]
        let part = unsafe { std::slice::from_raw_parts_mut(part.as_mut_ptr().cast::<T>(), part.len()) };
        write(i, part)
    })?;
    // SAFETY: there is room for so many, and every part of them has been written.
    #[allow(unsafe_code)]
    unsafe {
        all.set_len(count);
    }
    Ok(all)
}

/// The same where nothing can fail.
pub(super) fn written(count: usize, part: usize, write: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let all = by_parts(count, part, 0.0, |i, part| {
        write(i, part);
        Ok::<_, Infallible>(())
    });
    let Ok(all) = all;
    all
}

/// So many zeros.
pub(super) fn zeros(count: usize) -> Vec<f32> {
    written(count, TASK, |_, _| ())
}

/// A vector of so many rows, each of which begins as `row`.
pub(super) fn repeated(row: &[f32], rows: usize) -> Vec<f32> {
    let part = (TASK / row.len().max(1)).max(1) * row.len();
    written(row.len() * rows, part, |_, part| {
        part.chunks_exact_mut(row.len()).for_each(|to| to.copy_from_slice(row));
    })
}
