//! DoRA (Liu et al., arXiv:2402.09353): the changed weight's rows or columns are brought to lengths of their own.

use super::kernel::Kernel;
use super::keys::Role;
use super::stored::{Mismatch, Parts, Source, Stored};
use crate::Result;
use candle_core::{D, Tensor};

/// The lengths, and whose they are.
#[derive(Debug, Clone)]
pub(super) struct Dora {
    lengths: Stored,
    of: Lengths,
    kernel: Kernel,
}

#[derive(Debug, Clone, Copy)]
enum Lengths {
    /// Of all that makes one output.
    Outputs,
    /// Of all that one input makes: as LyCORIS had it at first.
    Inputs,
}

impl Dora {
    /// None where a layer has no such lengths.
    pub(super) fn new(parts: &mut Parts, kernel: Kernel) -> Result<Option<Self>, Mismatch> {
        if let Some(lengths) = parts.take(Role::MagnitudeVector) {
            return Self::of(lengths, Lengths::Outputs, kernel).map(Some);
        }
        let Some(lengths) = parts.take(Role::DoraScale) else { return Ok(None) };
        let of = if lengths.dim(0) == kernel.outputs { Lengths::Outputs } else { Lengths::Inputs };
        Self::of(lengths, of, kernel).map(Some)
    }

    fn of(lengths: Stored, of: Lengths, kernel: Kernel) -> Result<Self, Mismatch> {
        let found: usize = lengths.shape.iter().product();
        let expected = match of {
            Lengths::Outputs => kernel.outputs,
            Lengths::Inputs => kernel.inputs,
        };
        if found != expected {
            return Err(lengths.mismatch(format!("expected {expected} lengths, found {:?}", lengths.shape)));
        }
        Ok(Self { lengths, of, kernel })
    }

    /// The change of `weight` when it is changed by `change` and then brought to its lengths; all (outputs, height * width
    /// * inputs).
    pub(super) fn change(&self, source: Source<'_>, weight: &Tensor, change: &Tensor) -> Result<Tensor> {
        let Kernel { outputs, inputs, .. } = self.kernel;
        let merged = (weight + change)?;
        let count = self.lengths.shape.iter().product();
        let lengths = self.lengths.read(source, Kernel::matrix_of(count, 1))?;
        let rescaled = match self.of {
            Lengths::Outputs => {
                let found = (merged.sqr()?.sum_keepdim(D::Minus1)?.sqrt()? + EPSILON)?;
                merged.broadcast_mul(&(lengths / found)?)?
            }
            Lengths::Inputs => {
                let kernels = merged.reshape((outputs, self.kernel.area(), inputs))?;
                let found = (kernels.sqr()?.sum_keepdim((0, 1))?.sqrt()? + EPSILON)?;
                kernels.broadcast_mul(&(lengths.reshape((1, 1, inputs))? / found)?)?.reshape(merged.shape())?
            }
        };
        Ok((rescaled - weight)?)
    }
}

/// LyCORIS's, so that a row of zeros stays one.
const EPSILON: f64 = f32::EPSILON as f64;
