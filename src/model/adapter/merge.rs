//! Adapters at work: the parameters that they change.

use super::change::Change;
use super::kernel::Kernel;
use super::names::Layer;
use super::stored::Source;
use super::{Adapter, Bases, Network};
use crate::Result;
use crate::kernels::add_product;
use crate::model::checkpoint::Base;
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// A change with the file it is from, and how strongly it is to act.
type Term<'a> = (&'a Adapter, &'a Change, f64);

/// What adapters do to one network: the parameters that they change, by name.
pub(super) struct Changes<'a> {
    pub(super) network: Network,
    pub(super) base: &'a Base,
    terms: BTreeMap<&'a str, Vec<Term<'a>>>,
}

impl<'a> Changes<'a> {
    /// What acts with a strength of 0 changes nothing.
    pub(super) fn new(bases: &'a Bases, network: Network, adapters: impl Iterator<Item = (&'a Adapter, f64)>) -> Self {
        let base = bases.of(network);
        let mut terms: BTreeMap<&str, Vec<Term<'_>>> = BTreeMap::new();
        for (adapter, strength) in adapters.filter(|(_, strength)| *strength != 0.0) {
            let here = |(layer, _): &(&Layer, _)| layer.network == network && base.bytes(&layer.name).is_some();
            for (layer, change) in adapter.changes.iter().filter(here) {
                terms.entry(&layer.name).or_default().push((adapter, change, strength));
            }
        }
        Self { network, base, terms }
    }

    /// Bytes that the changed parameters will take.
    pub(super) fn bytes(&self) -> u64 {
        self.terms.keys().filter_map(|name| self.base.bytes(name)).sum()
    }

    /// The changed parameters, as the network's layers ask for them: each is `W + sum of strength * change`, summed in f32
    /// and rounded once.
    pub(super) fn compute(&self) -> Result<HashMap<String, Tensor>> {
        let one = |(name, terms): (&&str, &Vec<Term<'_>>)| -> Result<Option<(String, Tensor)>> {
            let Some(parameter) = self.base.get(name)? else { return Ok(None) };
            self.base.laid_out(name, sum(&parameter, terms)?).map(Some)
        };
        self.terms.par_iter().filter_map(|term| one(term).transpose()).collect()
    }
}

/// Products of low rank are added last, all at once.
fn sum(parameter: &Tensor, terms: &[Term<'_>]) -> Result<Tensor> {
    let Some(kernel) = Kernel::new(parameter.dims()) else { return Ok(parameter.clone()) };
    let stored = kernel.stored(parameter)?;
    let (mut ups, mut downs, mut others) = (Vec::new(), Vec::new(), None);
    for (adapter, change, strength) in terms {
        let source = Source { weights: &adapter.weights, device: parameter.device() };
        if let Some((up, down)) = change.factors(source, *strength)? {
            ups.push(up);
            downs.push(down);
        } else {
            let weight = stored.to_dtype(DType::F32)?;
            let before = others.take().unwrap_or_else(|| weight.clone());
            others = Some((before + change.read(source, &weight, *strength)?)?);
        }
    }
    let rest = others.unwrap_or(stored);
    let sum = if ups.is_empty() { rest } else { add_product(&rest, &Tensor::cat(&ups, 1)?, &Tensor::cat(&downs, 0)?)? };
    kernel.parameter(&sum, parameter)
}
