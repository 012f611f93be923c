//! LoRA (Hu et al., arXiv:2106.09685): the change of a weight is `up down`, of low rank. Of a convolution, `down` has
//! kernels of the weight's size and `up` is a matrix; with a `mid`, the kernels are that one's (LoCon's Tucker form).

use super::kernel::Kernel;
use super::keys::Role;
use super::product::tucker;
use super::stored::{Mismatch, Parts, Source, Stored};
use crate::Result;
use candle_core::Tensor;

#[derive(Debug, Clone)]
pub(super) struct Lora {
    up: Stored,
    mid: Option<Stored>,
    down: Stored,
    rank: usize,
    kernel: Kernel,
}

impl Lora {
    pub(super) fn new(parts: &mut Parts, kernel: Kernel) -> Result<Self, Mismatch> {
        let (up, mid, down) = (parts.need(Role::Up)?, parts.take(Role::Mid), parts.need(Role::Down)?);
        let rank = down.rank(0)?;
        match &mid {
            None => down.expect(kernel.of(rank, kernel.inputs))?,
            Some(mid) => {
                down.expect(Kernel::matrix_of(rank, kernel.inputs))?;
                mid.expect(kernel.of(rank, rank))?;
            }
        }
        up.expect(Kernel::matrix_of(kernel.outputs, rank))?;
        Ok(Self { up, mid, down, rank, kernel })
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    /// `scale up`, (outputs, rank), and `down`, (rank, height * width * inputs): the change is their product.
    pub(super) fn factors(&self, source: Source<'_>, scale: f64) -> Result<(Tensor, Tensor)> {
        let (rank, kernel) = (self.rank, self.kernel);
        let up = (self.up.read(source, Kernel::matrix_of(kernel.outputs, rank))? * scale)?;
        let Some(mid) = &self.mid else { return Ok((up, self.down.read(source, kernel.of(rank, kernel.inputs))?)) };
        let down = self.down.read(source, Kernel::matrix_of(rank, kernel.inputs))?;
        Ok((up, tucker(&mid.read(source, kernel.of(rank, rank))?, &down)?))
    }

    /// `scale up down`, (outputs, height * width * inputs).
    pub(super) fn change(&self, source: Source<'_>, scale: f64) -> Result<Tensor> {
        let (up, down) = self.factors(source, scale)?;
        Ok(up.matmul(&down)?)
    }
}
