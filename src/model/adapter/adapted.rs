//! A model with adapters: another model.

use super::merge::changed;
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

impl Model {
    /// This model with adapters: `W + sum of strength * change` in place of each weight `W` that they change, summed in f32
    /// and rounded once. Everything else is shared, though its bytes count for both, and this model stays as it is. Fails with [`crate::Error::Model`] for a
    /// file that was made for another model.
    pub fn adapted(&self, adapters: &[Applied]) -> Result<Self> {
        let files = adapters.iter().map(|applied| Adapter::read(&applied.path, &self.adaptable.layout));
        let files = files.collect::<Result<Vec<_>>>()?;
        let with = |strength: fn(&Applied) -> f64| -> Vec<(&Adapter, f64)> {
            files.iter().zip(adapters.iter().map(strength)).collect()
        };
        let used =
            files.iter().zip(adapters).map(|(file, applied)| Used { applied: applied.clone(), hash: file.hash() });
        let mut adapted = self.clone();
        adapted.adapters = used.collect();
        for i in 0..self.text.len() {
            adapted.change_text(i, &with(|applied| applied.text))?;
        }
        adapted.change_unet(&with(|applied| applied.unet))?;
        Ok(adapted)
    }

    fn change_text(&mut self, index: usize, adapters: &[(&Adapter, f64)]) -> Result<()> {
        let Adaptable { bases, configs, .. } = &*self.adaptable;
        let changed = changed(bases, Network::Text(index), adapters)?;
        if !changed.is_empty() {
            self.bytes += bytes(&changed);
            let network = bases.text[index].build(changed, |vb| ClipTextModel::new(&configs[index], vb))?;
            self.text[index].network = Arc::new(network);
        }
        Ok(())
    }

    fn change_unet(&mut self, adapters: &[(&Adapter, f64)]) -> Result<()> {
        let bases = &self.adaptable.bases;
        let changed = changed(bases, Network::UNet, adapters)?;
        if !changed.is_empty() {
            self.bytes += bytes(&changed);
            let network = bases.unet.build(changed, |vb| UNet2DConditionModel::new(self.unet.config(), vb))?;
            self.unet = Arc::new(network);
        }
        Ok(())
    }
}

fn bytes(tensors: &HashMap<String, Tensor>) -> u64 {
    tensors.values().map(|tensor| (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64).sum()
}
