//! LoKr (LyCORIS, arXiv:2309.14859): the change of a weight is the Kronecker product of two matrices, of which the second
//! has the weight's kernels.

use super::kernel::Kernel;
use super::keys::Role;
use super::product::{Product, first, second};
use super::stored::{Mismatch, Parts, Source};
use crate::Result;
use candle_core::Tensor;

#[derive(Debug, Clone)]
pub(super) struct Lokr {
    first: Product,
    second: Product,
}

impl Lokr {
    pub(super) fn new(parts: &mut Parts, kernel: Kernel) -> Result<Self, Mismatch> {
        let (rows, columns) = size_of_first(parts, kernel)?;
        let first = Product::new(parts, first(Role::Lokr), Kernel::matrix_of(rows, columns))?;
        let second =
            Product::new(parts, second(Role::Lokr), kernel.of(kernel.outputs / rows, kernel.inputs / columns))?;
        Ok(Self { first, second })
    }

    /// None where neither matrix has factors: such an adapter has no scale either.
    pub(super) fn rank(&self) -> Option<usize> {
        self.second.rank().or(self.first.rank())
    }

    /// (A, C) and (B, height * width * D) to (A B, height * width * C D).
    pub(super) fn change(&self, source: Source<'_>, scale: f64) -> Result<Tensor> {
        let (first, second) = (self.first.read(source, scale)?, self.second.read(source, 1.0)?);
        let ((a, c), Kernel { outputs: b, inputs: d, .. }) = (first.dims2()?, self.second.kernel());
        let area = self.second.kernel().area();
        // All products of an element of the one and one of the other, then into place.
        let outer = first.reshape((a * c, 1))?.matmul(&second.reshape((1, b * area * d))?)?;
        let placed = outer.reshape((a, c, b, area, d))?.permute((0, 2, 3, 1, 4))?.contiguous()?;
        Ok(placed.reshape((a * b, area * c * d))?)
    }
}

/// Rows and columns of the first matrix, which must divide the weight's outputs and inputs.
fn size_of_first(parts: &Parts, kernel: Kernel) -> Result<(usize, usize), Mismatch> {
    let [whole, a, b, _] = first(Role::Lokr);
    let get = |role| parts.get(role).ok_or_else(|| parts.missing(role));
    let (left, right) = match parts.get(whole) {
        Some(whole) => (whole, whole),
        None => (get(a)?, get(b)?),
    };
    let (rows, columns) = (left.dim(0), right.dim(1));
    let divides = |part: usize, whole: usize| part > 0 && whole.is_multiple_of(part);
    if divides(rows, kernel.outputs) && divides(columns, kernel.inputs) {
        return Ok((rows, columns));
    }
    let (outputs, inputs) = (kernel.outputs, kernel.inputs);
    Err(left.mismatch(format!("{rows} x {columns} do not divide the layer's {outputs} x {inputs}")))
}
