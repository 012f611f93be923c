//! Weights in bf16, laid out for the processor's matrix instructions, and the products with them.
//!
//! Activations are rounded to bf16 as they go into a product, sums are kept in f32, and what lies between products stays in
//! f32, but for what is of use to a product alone. A product is computed in blocks of 32 rows by 32 columns: see `tile`.

pub(super) mod activation;
mod amx;
pub(super) mod attend;
pub(super) mod attention;
mod avx512;
pub(super) mod conv2d;
pub(super) mod feed;
pub(super) mod fused;
pub(super) mod gradient;
mod isa;
pub(super) mod linear;
mod portable;
mod product;
pub(super) mod round;
mod tile;

pub use isa::Isa;

use super::fused::fault;
use super::math::vectorised;
use super::threads;
use crate::Result;
use candle_core::{DType, Device, Shape, Storage, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use round::Number;
use tile::{DEPTH, PAIR, STEP, WIDTH};

/// The weights of a layer: outputs, taps of its kernel (one for a linear layer), inputs.
///
/// `panels` holds for each 16 outputs, each tap and each 32 inputs a tile of 16 rows: pairs of inputs, side by side for the
/// 16 outputs. Outputs are filled up to a multiple of 32 and the inputs of a tap to one of 32, with zeros.
#[derive(Debug, Clone)]
pub struct Packed {
    panels: Tensor,
    outputs: usize,
    /// Height and width of the kernel.
    kernel: (usize, usize),
    inputs: usize,
}

/// Tiles of a panel for one tap.
pub(super) fn steps(inputs: usize) -> usize {
    inputs.div_ceil(DEPTH)
}

/// How many panels there are, and the numbers of each.
fn panels_of(outputs: usize, taps: usize, inputs: usize) -> [usize; 2] {
    [outputs.div_ceil(PAIR) * 2, taps * steps(inputs) * STEP]
}

/// Panels that begin as zeros and are written some at a time: `write` knows the number of the first.
fn panels<E: From<candle_core::Error> + Send>(
    [count, length]: [usize; 2],
    together: usize,
    write: impl Fn(usize, &mut [u16]) -> std::result::Result<(), E> + Sync,
) -> std::result::Result<Tensor, E> {
    let panels = threads::by_parts(count * length, together * length, bf16::ZERO, |i, part: &mut [bf16]| {
        write(i * together, part.reinterpret_cast_mut())
    })?;
    Ok(Tensor::from_vec(panels, (count, length), &Device::Cpu)?)
}

impl Packed {
    /// A weight with these dimensions, (O, I) or (O, kh, kw, I), whose panels are those that [`pack`] made.
    pub fn new(panels: Tensor, dims: &[usize]) -> Result<Self> {
        let (outputs, kernel, inputs) = sizes(dims);
        if panels.dims() != panels_of(outputs, kernel.0 * kernel.1, inputs) || panels.dtype() != DType::BF16 {
            let message = format!("packed weights: {:?} are no panels of {dims:?}", panels.dims());
            return Err(candle_core::Error::Msg(message).into());
        }
        Ok(Self { panels, outputs, kernel, inputs })
    }

    /// How many inputs a tap has.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// (O, kh, kw, I).
    pub(super) fn shape(&self) -> Shape {
        Shape::from((self.outputs, self.kernel.0, self.kernel.1, self.inputs))
    }

    /// The weights one by one again, in bf16, as (O, taps * I).
    pub fn unpack(&self) -> Result<Tensor> {
        let (outputs, taps, inputs) = (self.outputs, self.taps(), self.inputs);
        let values = self.with_panels(|panels| {
            let mut values = vec![bf16::ZERO; outputs * taps * inputs];
            values.par_chunks_mut((taps * inputs).max(1)).enumerate().for_each(|(output, row)| {
                for (tap, row) in row.chunks_mut(inputs).enumerate() {
                    for (input, value) in row.iter_mut().enumerate() {
                        *value = bf16::from_bits(panels[self.place(output, tap, input)]);
                    }
                }
            });
            values
        })?;
        Ok(Tensor::from_vec(values, (outputs, taps * inputs), &Device::Cpu)?)
    }

    /// Of a kernel of 3 x 3 over a picture enlarged twice: the kernel of 2 x 2 over the picture itself that gives every second
    /// result, in both directions, from this one on.
    fn quarter(&self, [down, across]: [usize; 2]) -> candle_core::Result<Self> {
        // Which of the three see the same position as one of the two.
        let seen = |first: usize, tap: usize| if tap == 0 { 0..first + 1 } else { first + 1..3 };
        let (kernel, part) = ((2, 2), steps(self.inputs) * STEP);
        let panels = self.with_panels(|all| {
            panels(panels_of(self.outputs, 4, self.inputs), 1, |i, panel| {
                let all = &all[i * 9 * part..(i + 1) * 9 * part];
                for (tap, sums) in panel.chunks_exact_mut(part).enumerate() {
                    let rows = seen(down, tap / 2);
                    let taps = rows.flat_map(|row| seen(across, tap % 2).map(move |column| 3 * row + column));
                    let taps: Vec<_> = taps.map(|tap| &all[tap * part..(tap + 1) * part]).collect();
                    vectorised!(|| add(&taps, sums));
                }
                Ok::<_, candle_core::Error>(())
            })
        })??;
        Ok(Self { panels, kernel, ..self.clone() })
    }

    fn taps(&self) -> usize {
        self.kernel.0 * self.kernel.1
    }

    /// Where a weight is.
    fn place(&self, output: usize, tap: usize, input: usize) -> usize {
        let panel = output / WIDTH * self.taps() * steps(self.inputs);
        let tile = panel + tap * steps(self.inputs) + input / DEPTH;
        tile * STEP + input % DEPTH / 2 * 2 * WIDTH + output % WIDTH * 2 + input % 2
    }

    /// Calls `f` with the bits of all panels.
    fn with_panels<R>(&self, f: impl FnOnce(&[u16]) -> R) -> candle_core::Result<R> {
        u16::with(&self.panels, f)
    }
}

/// Outputs, kernel and inputs of (O, I) or (O, kh, kw, I).
fn sizes(dims: &[usize]) -> (usize, (usize, usize), usize) {
    match *dims {
        [outputs, height, width, inputs] => (outputs, (height, width), inputs),
        _ => (dims.first().copied().unwrap_or(1), (1, 1), dims.iter().skip(1).product()),
    }
}

/// The panels of weights (O, I) or (O, kh, kw, I), in any of the types F32, F16 and BF16, contiguous and on the CPU.
pub fn pack(weights: &Tensor) -> Result<Tensor> {
    let (storage, layout) = weights.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { return Err(fault("weights are not contiguous")) };
    let Storage::Cpu(cpu) = &*storage else { return Err(fault("weights to be packed are not on the CPU")) };
    let dims = weights.dims();
    match weights.dtype() {
        DType::F32 => copied(&cpu.as_slice::<f32>()?[start..end], dims, round::bits),
        DType::BF16 => copied(&cpu.as_slice::<bf16>()?[start..end], dims, bf16::to_bits),
        DType::F16 => copied(&cpu.as_slice::<f16>()?[start..end], dims, |v| of_f16(v.to_bits())),
        _ => Err(fault("weights to be packed are neither F32 nor F16 nor BF16")),
    }
}

/// [`pack_rows`] of what is in memory.
fn copied<T: Copy + Default + Send + Sync>(
    values: &[T],
    dims: &[usize],
    round: impl Fn(T) -> u16 + Sync,
) -> Result<Tensor> {
    let row: usize = dims.iter().skip(1).product();
    pack_rows(dims, round, |first, rows: &mut [T]| {
        rows.copy_from_slice(&values[first * row..][..rows.len()]);
        Ok(())
    })
}

/// The bits of the bf16 that is nearest to the f16 of these bits.
pub fn of_f16(stored: u16) -> u16 {
    round::bits(super::stored::widen(stored))
}

/// The bits of the bf16 that is nearest to `v`.
pub fn of_f32(v: f32) -> u16 {
    round::bits(v)
}

/// Numbers of weights that are read at a time, unless of a single panel: few enough to stay in a core's cache.
const READ: usize = 1 << 15;

/// [`pack`] of weights that are not in memory yet: `read` gives all rows (outputs) from one on for which it is given room, each
/// as (taps, inputs), and `round` makes bits of bf16 of a number. It is called on several threads, once for each row.
pub fn pack_rows<T: Copy + Default + Send + Sync>(
    dims: &[usize],
    round: impl Fn(T) -> u16 + Sync,
    read: impl Fn(usize, &mut [T]) -> Result<()> + Sync,
) -> Result<Tensor> {
    let (outputs, (height, width), inputs) = sizes(dims);
    let (taps, row) = (height * width, height * width * inputs);
    let shape = panels_of(outputs, taps, inputs);
    let together = (READ / (WIDTH * row).max(1)).max(1);
    panels(shape, together, |first, panels| {
        let first = first * WIDTH;
        let rows = outputs.saturating_sub(first).min(together * WIDTH);
        if rows * row == 0 {
            return Ok(());
        }
        let mut values = vec![T::default(); rows * row];
        read(first, &mut values)?;
        for (values, panel) in values.chunks(WIDTH * row).zip(panels.chunks_exact_mut(shape[1])) {
            fill(panel, values, (taps, inputs), &round);
        }
        Ok(())
    })
}

/// Sums of numbers in bf16, one, two or four.
#[inline(always)]
fn add(numbers: &[&[u16]], sums: &mut [u16]) {
    use round::{bits, widen};
    match *numbers {
        [a] => sums.copy_from_slice(a),
        [a, b] => sums.iter_mut().zip(a).zip(b).for_each(|((sum, a), b)| *sum = bits(widen(*a) + widen(*b))),
        [a, b, c, d] => {
            let (first, second) = (a.iter().zip(b), c.iter().zip(d));
            for ((sum, (a, b)), (c, d)) in sums.iter_mut().zip(first).zip(second) {
                *sum = bits((widen(*a) + widen(*b)) + (widen(*c) + widen(*d)));
            }
        }
        _ => unreachable!("a position is seen by one, two or four taps"),
    }
}

/// A panel of up to 16 rows.
fn fill<T: Copy>(panel: &mut [u16], values: &[T], (taps, inputs): (usize, usize), round: impl Fn(T) -> u16) {
    let rows: Vec<&[T]> = values.chunks(taps * inputs).collect();
    let mut lines = [0u16; STEP];
    vectorised!(|| {
        for (at, tile) in panel.chunks_exact_mut(STEP).enumerate() {
            let (tap, step) = (at / steps(inputs), at % steps(inputs));
            let part = tap * inputs + step * DEPTH..(tap * inputs + (step + 1) * DEPTH).min((tap + 1) * inputs);
            for (line, row) in lines.chunks_exact_mut(DEPTH).zip(&rows) {
                let (line, rest) = line.split_at_mut(part.len());
                line.iter_mut().zip(&row[part.clone()]).for_each(|(to, v)| *to = round(*v));
                rest.fill(0);
            }
            interleave(&lines, DEPTH, tile);
        }
    });
}

/// The tiles of 16 rows of `depth` numbers each: their pairs side by side.
#[inline(always)]
fn interleave(rows: &[u16], depth: usize, tiles: &mut [u16]) {
    for (pair, place) in tiles.chunks_exact_mut(2 * WIDTH).enumerate() {
        for (row, place) in rows.chunks_exact(depth).zip(place.chunks_exact_mut(2)) {
            place.copy_from_slice(&row[2 * pair..2 * pair + 2]);
        }
    }
}

#[cfg(test)]
mod tests;
