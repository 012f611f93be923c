//! A block of a product in plain Rust.

use super::round::widen;
use super::tile::{Block, DEPTH, Rows, STEP, WIDTH};
use crate::kernels::math::vectorised;

/// Onto what is in the block: `block += rows * panels^T`.
pub(super) fn multiply(rows: Rows<'_>, panels: [&[u16]; 2], block: &mut Block) {
    vectorised!(|| {
        for (r, sums) in block.0.iter_mut().enumerate() {
            for (half, panel) in panels.iter().enumerate() {
                let sums = &mut sums[half * WIDTH..(half + 1) * WIDTH];
                let mut tiles = panel.chunks_exact(STEP);
                for tap in rows.taps {
                    let first = tap + r * rows.stride;
                    let values = rows.values[first..first + rows.steps * DEPTH].chunks_exact(DEPTH);
                    for (values, tile) in values.zip(&mut tiles) {
                        for (pair, weights) in values.chunks_exact(2).zip(tile.chunks_exact(2 * WIDTH)) {
                            let (a, b) = (widen(pair[0]), widen(pair[1]));
                            for (sum, w) in sums.iter_mut().zip(weights.chunks_exact(2)) {
                                *sum += a * widen(w[0]) + b * widen(w[1]);
                            }
                        }
                    }
                }
            }
        }
    });
}
