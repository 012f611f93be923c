//! A model with adapters: another model.

use super::merge::Changes;
use super::{Adapter, Layout, Network};
use crate::Result;
use crate::model::checkpoint::{Base, Hash, Model};
use crate::model::clip::{ClipTextConfig, ClipTextModel};
use crate::model::unet::UNet2DConditionModel;
use candle_core::Tensor;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// An adapter's file, and how strongly it acts: 1 is as it was trained, 0 not at all.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// What it is called.
    pub name: String,
    /// The file, or the folder as PEFT writes it.
    pub path: PathBuf,
    /// On the text encoders.
    pub text: f64,
    /// On the U-Net.
    pub unet: f64,
}

/// An adapter that a model was made with.
#[derive(Debug, Clone)]
pub struct Used {
    /// As it was asked for.
    pub applied: Applied,
    hash: Arc<Hash>,
}

impl Used {
    /// The first ten digits of the file's SHA-256. The first call may read it.
    pub fn hash(&self) -> &str {
        self.hash.get()
    }
}

/// What a model keeps so that others can be made of it.
#[derive(Debug)]
pub(in crate::model) struct Adaptable {
    pub(in crate::model) layout: Arc<Layout>,
    pub(in crate::model) bases: Bases,
    /// Of the text encoders; the U-Net has its own.
    pub(in crate::model) configs: Vec<ClipTextConfig>,
}

/// The parameters of a model's networks.
#[derive(Debug)]
pub(in crate::model) struct Bases {
    pub(in crate::model) text: Vec<Base>,
    pub(in crate::model) unet: Base,
}

impl Bases {
    pub(super) fn of(&self, network: Network) -> &Base {
        match network {
            Network::Text(i) => &self.text[i],
            Network::UNet => &self.unet,
        }
    }
}

/// Adapters that were read for a model, of which another model can be made.
pub struct Adaptation<'a> {
    model: &'a Model,
    files: Vec<(Adapter, Applied)>,
}

impl Model {
    /// This model with adapters: `W + sum of strength * change` in place of each weight `W` that they change, summed in f32
    /// and rounded once. Everything else is shared, though its bytes count for both, and this model stays as it is. Fails
    /// as [`Model::adaptation`].
    pub fn adapted(&self, adapters: &[Applied]) -> Result<Self> {
        self.adaptation(adapters)?.make()
    }

    /// What adapters will do to this model, before any weight is computed. Fails with [`crate::Error::Model`] for a file
    /// that was made for another model.
    pub fn adaptation(&self, adapters: &[Applied]) -> Result<Adaptation<'_>> {
        let read = |applied: &Applied| Ok((Adapter::read(&applied.path, &self.adaptable.layout)?, applied.clone()));
        Ok(Adaptation { model: self, files: adapters.iter().map(read).collect::<Result<_>>()? })
    }

    /// The same with these changes.
    fn change(&mut self, changes: &Changes<'_>) -> Result<()> {
        let changed = changes.compute()?;
        debug_assert_eq!(bytes(&changed), changes.bytes());
        if changed.is_empty() {
            return Ok(());
        }
        self.bytes += bytes(&changed);
        match changes.network {
            Network::Text(i) => {
                let config = &self.adaptable.configs[i];
                self.text[i].network = Arc::new(changes.base.build(changed, |vb| ClipTextModel::new(config, vb))?);
            }
            Network::UNet => {
                let network = changes.base.build(changed, |vb| UNet2DConditionModel::new(self.unet.config(), vb))?;
                self.unet = Arc::new(network);
            }
        }
        Ok(())
    }
}

impl Adaptation<'_> {
    /// Bytes that the changed weights will take besides those of the model.
    pub fn bytes(&self) -> u64 {
        self.changes().map(|changes| changes.bytes()).sum()
    }

    /// Computes the changed weights, and builds the networks that have them.
    pub fn make(&self) -> Result<Model> {
        let used = |(file, applied): &(Adapter, Applied)| Used { applied: applied.clone(), hash: file.hash() };
        let mut adapted = self.model.clone();
        adapted.adapters = self.files.iter().map(used).collect();
        self.changes().try_for_each(|changes| adapted.change(&changes))?;
        Ok(adapted)
    }

    /// Of each network.
    fn changes(&self) -> impl Iterator<Item = Changes<'_>> {
        let networks = (0..self.model.text.len()).map(Network::Text).chain([Network::UNet]);
        networks.map(|network| {
            let strength = move |applied: &Applied| match network {
                Network::Text(_) => applied.text,
                Network::UNet => applied.unet,
            };
            let adapters = self.files.iter().map(move |(file, applied)| (file, strength(applied)));
            Changes::new(&self.model.adaptable.bases, network, adapters)
        })
    }
}

fn bytes(tensors: &HashMap<String, Tensor>) -> u64 {
    tensors.values().map(|tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
}
