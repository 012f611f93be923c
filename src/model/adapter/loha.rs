//! LoHa (Hyeon-Woo et al., arXiv:2108.06098, in LyCORIS, arXiv:2309.14859): the change of a weight is the product,
//! element by element, of two matrices of low rank.

use super::kernel::Kernel;
use super::keys::Role;
use super::product::{Product, first, second};
use super::stored::{Mismatch, Parts, Source};
use crate::Result;
use candle_core::Tensor;

#[derive(Debug, Clone)]
pub(super) struct Loha {
    first: Product,
    second: Product,
}

impl Loha {
    pub(super) fn new(parts: &mut Parts, kernel: Kernel) -> Result<Self, Mismatch> {
        let first = Product::new(parts, first(Role::Hada), kernel)?;
        Ok(Self { first, second: Product::new(parts, second(Role::Hada), kernel)? })
    }

    pub(super) fn rank(&self) -> Option<usize> {
        self.first.rank()
    }

    pub(super) fn change(&self, source: Source<'_>, scale: f64) -> Result<Tensor> {
        Ok((self.first.read(source, scale)? * self.second.read(source, 1.0)?)?)
    }
}
