//! The tensors of an adapter before they are read: by name, with their shapes, and in the roles they play for a layer.

use super::kernel::Kernel;
use super::keys::Role;
use crate::Result;
use crate::model::checkpoint::Weights;
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;

/// A tensor of the file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) key: String,
    pub(super) shape: Vec<usize>,
}

/// A tensor that does not fit the model, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub(super) key: String,
    pub(super) problem: String,
}

impl Stored {
    /// Refuses another shape than that of `expected`. Dimensions of 1 at the end may be there or not, and the inputs and
    /// pixels of a kernel may be one dimension.
    pub(super) fn expect(&self, expected: Kernel) -> Result<(), Mismatch> {
        let Kernel { outputs, inputs, .. } = expected;
        let flat = [outputs, inputs * expected.area()];
        if trimmed(&self.shape) == trimmed(&expected.shape()) || trimmed(&self.shape) == trimmed(&flat) {
            return Ok(());
        }
        let expected = expected.shape();
        let shown = if trimmed(&expected).len() > 2 { &expected[..] } else { &expected[..2] };
        Err(self.mismatch(format!("expected {shown:?}, found {:?}", self.shape)))
    }

    pub(super) fn mismatch(&self, problem: impl Into<String>) -> Mismatch {
        Mismatch { key: self.key.clone(), problem: problem.into() }
    }

    /// The length of dimension `dim`, which is a rank: 0 is none.
    pub(super) fn rank(&self, dim: usize) -> Result<usize, Mismatch> {
        match self.dim(dim) {
            0 => Err(self.mismatch("the rank is 0")),
            rank => Ok(rank),
        }
    }

    /// The length of dimension `dim`, 1 where there are fewer.
    pub(super) fn dim(&self, dim: usize) -> usize {
        self.shape.get(dim).copied().unwrap_or(1)
    }

    /// The tensor as a matrix in f32; its shape must be the expected one.
    pub(super) fn read(&self, source: Source<'_>, kernel: Kernel) -> Result<Tensor> {
        kernel.matrix(&source.weights.numbers(&self.key, source.device)?)
    }
}

/// Without the ones at the end.
fn trimmed(shape: &[usize]) -> &[usize] {
    let ones = shape.iter().rev().take_while(|&&dim| dim == 1).count();
    &shape[..shape.len() - ones]
}

/// Where tensors are read from, and where to.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) weights: &'a Weights,
    pub(super) device: &'a Device,
}

/// What a file has for one layer.
#[derive(Debug, Default)]
pub(super) struct Parts {
    roles: BTreeMap<Role, Stored>,
    /// Any of them, whatever was taken.
    first: String,
}

impl Parts {
    /// Adds a tensor; two of one role cannot both be meant.
    pub(super) fn add(&mut self, role: Role, stored: Stored) -> Result<(), Mismatch> {
        if self.first.is_empty() {
            self.first.clone_from(&stored.key);
        }
        match self.roles.insert(role, stored) {
            None => Ok(()),
            Some(before) => Err(before.mismatch(format!("{} is there for the same", self.roles[&role].key))),
        }
    }

    pub(super) fn get(&self, role: Role) -> Option<&Stored> {
        self.roles.get(&role)
    }

    pub(super) fn take(&mut self, role: Role) -> Option<Stored> {
        self.roles.remove(&role)
    }

    /// Takes the tensor of one role, without which those of other roles mean nothing.
    pub(super) fn need(&mut self, role: Role) -> Result<Stored, Mismatch> {
        self.take(role).ok_or_else(|| self.missing(role))
    }

    /// That there is none of this role, said of a tensor that needs it.
    pub(super) fn missing(&self, role: Role) -> Mismatch {
        Mismatch { key: self.first.clone(), problem: format!("there is no {role:?} beside it") }
    }

    /// Any of another role.
    pub(super) fn any_but(&self, role: Role) -> Option<Stored> {
        self.roles.iter().find(|(other, _)| **other != role).map(|(_, stored)| stored.clone())
    }

    /// Takes any that is left.
    pub(super) fn rest(&mut self) -> Option<Stored> {
        self.roles.pop_first().map(|(_, stored)| stored)
    }
}
