//! Adapters at work: the parameters that they change.

use super::change::Change;
use super::kernel::Kernel;
use super::stored::Source;
use super::{Adapter, Bases, Network};
use crate::Result;
use crate::kernels::add_product;
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use std::collections::{BTreeMap, HashMap};

/// A change with the file it is from, and how strongly it is to act.
type Term<'a> = (&'a Adapter, &'a Change, f64);

/// The parameters of `network` that `adapters` change: each is `W + sum of strength * change`, summed in f32 and
/// rounded once. What acts with a strength of 0 changes nothing.
pub(super) fn changed(
    bases: &Bases,
    network: Network,
    adapters: &[(&Adapter, f64)],
) -> Result<HashMap<String, Tensor>> {
    let mut terms: BTreeMap<&str, Vec<Term<'_>>> = BTreeMap::new();
    for (adapter, strength) in adapters.iter().filter(|(_, strength)| *strength != 0.0) {
        for (layer, change) in adapter.changes.iter().filter(|(layer, _)| layer.network == network) {
            terms.entry(&layer.name).or_default().push((adapter, change, *strength));
        }
    }
    let base = bases.of(network);
    let one = |(name, terms): (&str, Vec<Term<'_>>)| -> Result<Option<(String, Tensor)>> {
        let Some(parameter) = base.get(name)? else { return Ok(None) };
        Ok(Some((name.to_owned(), sum(&parameter, &terms)?)))
    };
    terms.into_par_iter().filter_map(|term| one(term).transpose()).collect()
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
