//! Small files that change a model: LoRA, LoHa and LoKr, in the names of kohya's trainer, diffusers or PEFT; and those
//! that add words to it.
//!
//! An `Adapter` is a file bound to a model: every tensor of it has a role for a layer of the model, and the shape that
//! goes with it, or the file is refused. Of some adapters and a model, [`crate::model::checkpoint::Model::adapted`] makes
//! another model, which has the changed parameters as its own and shares all others with the first; that one is never
//! written to.

mod adapted;
mod catalogue;
mod change;
mod dora;
mod embedding;
mod kernel;
mod keys;
mod layout;
mod ldm;
mod loha;
mod lokr;
mod lora;
mod merge;
mod names;
mod peft;
mod product;
mod stored;

pub(super) use adapted::{Adaptable, Bases};
pub use adapted::{Adaptation, Applied, Used};
pub use catalogue::{Adapters, Catalogue, Inversion};
pub use embedding::Embedding;
pub(super) use layout::Layout;

use super::checkpoint::{Hash, Weights, read_json};
use crate::{Error, Result};
use change::Change;
use keys::Role;
use names::Layer;
use peft::PeftConfigs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stored::{Mismatch, Parts, Stored};

/// A network that adapters change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Network {
    /// A text encoder, counted from 0.
    Text(usize),
    /// The U-Net.
    UNet,
}

/// An adapter's file, and what it does to each parameter of the model it was read for.
#[derive(Debug)]
pub(super) struct Adapter {
    weights: Weights,
    changes: BTreeMap<Layer, Change>,
}

/// How many mismatches are told.
const TOLD: usize = 5;

/// What PEFT calls the files in an adapter's folder.
const PEFT_FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_config.json"];

impl Adapter {
    /// Reads a file, or a folder as PEFT writes it, for a model. Fails with [`Error::Model`] when there is a tensor in it
    /// that the model has no use for: such a file was made for another one, which the message then says.
    fn read(path: &Path, layout: &Layout) -> Result<Self> {
        let (file, config) = files(path);
        let weights = Weights::read_file(file)?;
        let configs = match (config, weights.note("lora_adapter_metadata")) {
            (Some(config), _) => Ok(PeftConfigs::beside(read_json(&config)?)),
            (None, Some(note)) => PeftConfigs::noted(note),
            (None, None) => Ok(PeftConfigs::default()),
        };
        let configs = configs.and_then(|configs| configs.check().map(|()| configs));
        let configs = configs.map_err(|problem| Error::model(path, format!("its PEFT configuration: {problem}")))?;
        let (changes, mismatches) = bind(&weights, layout, &configs);
        if mismatches.is_empty() && !changes.is_empty() {
            return Ok(Self { weights, changes });
        }
        Err(Error::model(path, refusal(&weights, mismatches)))
    }

    fn hash(&self) -> Arc<Hash> {
        Arc::new(Hash::of([&self.weights]))
    }
}

/// The file of tensors, and the configuration beside it.
fn files(path: &Path) -> (PathBuf, Option<PathBuf>) {
    let [tensors, config] = PEFT_FILES;
    let file = if path.is_dir() { path.join(tensors) } else { path.to_owned() };
    let config = file.with_file_name(config);
    let described = file.ends_with(tensors) && config.is_file();
    (file, described.then_some(config))
}

/// Every tensor's use, and those that have none.
fn bind(weights: &Weights, layout: &Layout, configs: &PeftConfigs) -> (BTreeMap<Layer, Change>, Vec<Mismatch>) {
    let mut mismatches = Vec::new();
    let mut layers: BTreeMap<&Layer, Parts> = BTreeMap::new();
    let mut keys: Vec<&str> = weights.names().collect();
    keys.sort_unstable();
    for key in keys {
        let stored = Stored { key: key.to_owned(), shape: weights.shape(key).unwrap_or_default() };
        let placed = match keys::split(key) {
            None => Err(stored.mismatch("not a kind of tensor that LoRA, LoHa or LoKr have")),
            Some((name, role)) => match layout.find(name) {
                None => Err(stored.mismatch(format!("the model has no such layer, found {:?}", stored.shape))),
                Some(layer) => layers.entry(layer).or_default().add(role, stored),
            },
        };
        mismatches.extend(placed.err());
    }
    let mut changes = BTreeMap::new();
    for (layer, mut parts) in layers {
        match changes_of(layer, &mut parts, weights, layout, configs) {
            Ok(found) => changes.extend(found),
            Err(mismatch) => mismatches.push(mismatch),
        }
    }
    mismatches.sort_by(|a, b| a.key.cmp(&b.key));
    (changes, mismatches)
}

/// What the parts do to the weight of a layer, and to its bias; under the parameters' own names.
fn changes_of(
    layer: &Layer,
    parts: &mut Parts,
    weights: &Weights,
    layout: &Layout,
    configs: &PeftConfigs,
) -> Result<Vec<(Layer, Change)>, Mismatch> {
    let parameter = |kind: &str| Layer { network: layer.network, name: format!("{}.{kind}", layer.name) };
    let shape = |of: &Layer, stored: &Stored| {
        let kernel = layout.kernel(of);
        kernel.ok_or_else(|| {
            stored.mismatch(format!("the model's layer has no {}", of.name.rsplit('.').next().unwrap_or_default()))
        })
    };
    let mut changes = Vec::new();
    if let Some(bias) = parts.take(Role::Bias) {
        let parameter = parameter("bias");
        let kernel = shape(&parameter, &bias)?;
        changes.push((parameter, Change::of_bias(bias, kernel)?));
    }
    if let Some(any) = parts.any_but(Role::Alpha) {
        let parameter = parameter("weight");
        let kernel = shape(&parameter, &any)?;
        let scale = |parts: &mut Parts, rank: usize| scale(layer, parts, rank, weights, configs);
        changes.push((parameter, Change::of_weight(parts, kernel, scale)?));
    } else {
        parts.take(Role::Alpha);
    }
    match parts.rest() {
        None => Ok(changes),
        Some(rest) => Err(rest.mismatch("it does nothing beside the layer's other tensors")),
    }
}

/// How strongly a layer's change of some rank was trained to act.
fn scale(
    layer: &Layer,
    parts: &mut Parts,
    rank: usize,
    weights: &Weights,
    configs: &PeftConfigs,
) -> Result<f64, Mismatch> {
    let Some(alpha) = parts.take(Role::Alpha) else {
        return Ok(configs.scale(layer, rank).unwrap_or(1.0));
    };
    match weights.number(&alpha.key) {
        Some(value) if value.is_finite() => Ok(value / rank as f64),
        Some(value) => Err(alpha.mismatch(format!("it is {value}"))),
        None => Err(alpha.mismatch("it is no number")),
    }
}

/// Why a file is not for this model.
fn refusal(weights: &Weights, mismatches: Vec<Mismatch>) -> String {
    let count = mismatches.len();
    if count == 0 {
        return "it has no tensors".into();
    }
    let first = mismatches.into_iter().take(TOLD).map(|Mismatch { key, problem }| format!("{key}: {problem}"));
    let first = first.collect::<Vec<_>>().join("; ");
    let more = if count > TOLD { format!("; and {} more", count - TOLD) } else { String::new() };
    let notes = ["modelspec.architecture", "ss_base_model_version"].iter().filter_map(|key| weights.note(key));
    let made_for = notes.map(|note| format!("{:?}", note.chars().take(60).collect::<String>())).collect::<Vec<_>>();
    let says = if made_for.is_empty() { String::new() } else { format!("; it says it is for {}", made_for.join(", ")) };
    format!("does not fit the model ({count} mismatches): {first}{more}{says}")
}
