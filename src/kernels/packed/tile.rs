//! A block of a product: 32 rows of activations by 32 columns, the outputs of two panels of weights.

use super::isa::Isa;
use super::{amx, avx512, portable};

/// Outputs of a panel.
pub(super) const WIDTH: usize = 16;

/// Rows, and columns, of a block.
pub(super) const PAIR: usize = 2 * WIDTH;

/// Inputs of a tile: 64 bytes.
pub(super) const DEPTH: usize = 32;

/// Numbers of a tile of weights: 1 KiB.
pub(super) const STEP: usize = WIDTH * DEPTH;

/// The sums of a block, row by row.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [[f32; PAIR]; PAIR]);

impl Block {
    pub(super) fn zero() -> Self {
        Self([[0.0; PAIR]; PAIR])
    }
}

/// 32 rows of activations: a row is, for each of `taps`, `steps` times 32 numbers from there on. The next row is the same
/// `stride` numbers further on.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [u16],
    pub(super) stride: usize,
    pub(super) taps: &'a [usize],
    pub(super) steps: usize,
}

impl Rows<'_> {
    /// Whether all that is read lies in `values`.
    pub(super) fn fit(&self) -> bool {
        let furthest = self.taps.iter().max().map_or(0, |tap| tap + (PAIR - 1) * self.stride + self.steps * DEPTH);
        furthest <= self.values.len()
    }

    /// Numbers of weights that a panel has.
    pub(super) fn panel(&self) -> usize {
        self.taps.len() * self.steps * STEP
    }
}

/// What a thread must hold to multiply.
pub(super) struct Ready {
    isa: Isa,
    tiles: Option<amx::Tiles>,
}

impl Ready {
    pub(super) fn new(isa: Isa) -> Self {
        Self { isa, tiles: (isa == Isa::Amx).then(amx::Tiles::new) }
    }

    /// Whether AVX-512 may be used beside.
    pub(super) fn has_vectors(&self) -> bool {
        self.isa != Isa::Portable && avx512::is_here()
    }

    /// The same for panels that lie one after the other: a block for each two.
    pub(super) fn multiply_many(&self, rows: Rows<'_>, panels: &[u16], blocks: &mut [Block]) {
        match &self.tiles {
            Some(tiles) if rows.taps == [0] && rows.steps == 2 => tiles.multiply_many(rows, panels, blocks),
            _ => {
                let panel = rows.panel();
                for (block, panels) in blocks.iter_mut().zip(panels.chunks_exact(2 * panel)) {
                    let (first, second) = panels.split_at(panel);
                    self.multiply(rows, [first, second], block);
                }
            }
        }
    }

    /// `block = rows * panels^T`.
    pub(super) fn multiply(&self, rows: Rows<'_>, panels: [&[u16]; 2], block: &mut Block) {
        if self.tiles.is_none() {
            *block = Block::zero();
        }
        self.run(rows, panels, block, false);
    }

    /// `block += rows * panels^T`.
    pub(super) fn multiply_onto(&self, rows: Rows<'_>, panels: [&[u16]; 2], block: &mut Block) {
        self.run(rows, panels, block, true);
    }

    /// Only tiles have to be told where to begin; the others begin with what is in the block.
    fn run(&self, rows: Rows<'_>, panels: [&[u16]; 2], block: &mut Block, onto: bool) {
        assert!(rows.fit(), "rows of activations reach past their end");
        assert!(panels.iter().all(|panel| panel.len() >= rows.panel()), "a panel of weights is too short");
        match (&self.tiles, self.isa) {
            (Some(tiles), _) => tiles.multiply(rows, panels, block, onto),
            (None, Isa::Avx512) => avx512::multiply(rows, panels, block),
            (None, _) => portable::multiply(rows, panels, block),
        }
    }
}
