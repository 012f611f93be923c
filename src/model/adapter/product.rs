//! The matrices that LoHa and LoKr are made of, which are stored as they are or as products of smaller ones.

use super::kernel::Kernel;
use super::keys::{Factor, Role};
use super::stored::{Mismatch, Parts, Source, Stored};
use crate::Result;
use candle_core::Tensor;

/// One matrix, (outputs, height * width * inputs).
#[derive(Debug, Clone)]
pub(super) struct Product {
    form: Form,
    kernel: Kernel,
}

#[derive(Debug, Clone)]
enum Form {
    /// As it is.
    Whole(Stored),
    /// (outputs, rank) times (rank, height * width * inputs).
    Factors { a: Stored, b: Stored, rank: usize },
    /// Kernels of (rank, rank) between (rank, outputs) and (rank, inputs).
    Tucker { a: Stored, core: Stored, b: Stored, rank: usize },
}

/// What a matrix and its factors are called: whole, a, b, core.
pub(super) type Roles = [Role; 4];

/// Of the first of two matrices.
pub(super) fn first(role: fn(Factor) -> Role) -> Roles {
    [Factor::W1, Factor::W1A, Factor::W1B, Factor::T1].map(role)
}

/// Of the second.
pub(super) fn second(role: fn(Factor) -> Role) -> Roles {
    [Factor::W2, Factor::W2A, Factor::W2B, Factor::T2].map(role)
}

impl Product {
    pub(super) fn new(parts: &mut Parts, [whole, a, b, core]: Roles, kernel: Kernel) -> Result<Self, Mismatch> {
        let form = if let Some(whole) = parts.take(whole) {
            whole.expect(kernel)?;
            Form::Whole(whole)
        } else if let Some(core) = parts.take(core) {
            let (a, b, rank) = (parts.need(a)?, parts.need(b)?, core.rank(0)?);
            core.expect(kernel.of(rank, rank))?;
            a.expect(Kernel::matrix_of(rank, kernel.outputs))?;
            b.expect(Kernel::matrix_of(rank, kernel.inputs))?;
            Form::Tucker { a, core, b, rank }
        } else {
            let (a, b) = (parts.need(a)?, parts.need(b)?);
            let rank = b.rank(0)?;
            a.expect(Kernel::matrix_of(kernel.outputs, rank))?;
            b.expect(kernel.of(rank, kernel.inputs))?;
            Form::Factors { a, b, rank }
        };
        Ok(Self { form, kernel })
    }

    pub(super) fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Of factors.
    pub(super) fn rank(&self) -> Option<usize> {
        match self.form {
            Form::Whole(_) => None,
            Form::Factors { rank, .. } | Form::Tucker { rank, .. } => Some(rank),
        }
    }

    /// The matrix times `scale`.
    pub(super) fn read(&self, source: Source<'_>, scale: f64) -> Result<Tensor> {
        let (kernel, read) = (self.kernel, |stored: &Stored, kernel| stored.read(source, kernel));
        match &self.form {
            Form::Whole(whole) => Ok((read(whole, kernel)? * scale)?),
            Form::Factors { a, b, rank } => {
                let a = (read(a, Kernel::matrix_of(kernel.outputs, *rank))? * scale)?;
                Ok(a.matmul(&read(b, kernel.of(*rank, kernel.inputs))?)?)
            }
            Form::Tucker { a, core, b, rank } => {
                let a = (read(a, Kernel::matrix_of(*rank, kernel.outputs))? * scale)?;
                let b = read(b, Kernel::matrix_of(*rank, kernel.inputs))?;
                Ok(a.t()?.matmul(&tucker(&read(core, kernel.of(*rank, *rank))?, &b)?)?)
            }
        }
    }
}

/// Kernels (rank, height * width * rank) of which the inputs become those of `b`, (rank, inputs).
pub(super) fn tucker(core: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (outputs, rank) = (core.dim(0)?, b.dim(0)?);
    Ok(core.reshape(((), rank))?.matmul(b)?.reshape((outputs, ()))?)
}
