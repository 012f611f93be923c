//! A model with adapters: another model.

use super::merge::changed;
use super::{Adapter, Layout, Network};
use crate::Result;
use crate::model::checkpoint::{Base, Hash, Model};
use crate::model::clip::{ClipTextConfig, ClipTextModel};
use crate::model::text_encoder::TextEncoder;
use crate::model::unet::UNet2DConditionModel;
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
    /// and rounded once. Everything else is shared, and this model stays as it is. Fails with [`crate::Error::Model`] for a
    /// file that was made for another model.
    pub fn adapted(&self, adapters: &[Applied]) -> Result<Self> {
        let files = adapters.iter().map(|applied| Adapter::read(&applied.path, &self.adaptable.layout));
        let files = files.collect::<Result<Vec<_>>>()?;
        let with = |strength: fn(&Applied) -> f64| -> Vec<(&Adapter, f64)> {
            files.iter().zip(adapters.iter().map(strength)).collect()
        };
        let mut adapted = self.clone();
        for (i, encoder) in adapted.text.iter_mut().enumerate() {
            *encoder = self.encoder(i, encoder, &with(|applied| applied.text))?;
        }
        let used =
            files.iter().zip(adapters).map(|(file, applied)| Used { applied: applied.clone(), hash: file.hash() });
        adapted.adapters = used.collect();
        adapted.unet = self.unet_with(&with(|applied| applied.unet))?;
        Ok(adapted)
    }

    fn encoder(&self, index: usize, encoder: &TextEncoder, adapters: &[(&Adapter, f64)]) -> Result<TextEncoder> {
        let Adaptable { bases, configs, .. } = &*self.adaptable;
        let changed = changed(bases, Network::Text(index), adapters)?;
        if changed.is_empty() {
            return Ok(encoder.clone());
        }
        let network = bases.text[index].build(changed, |vb| ClipTextModel::new(&configs[index], vb))?;
        Ok(TextEncoder { network: Arc::new(network), ..encoder.clone() })
    }

    fn unet_with(&self, adapters: &[(&Adapter, f64)]) -> Result<Arc<UNet2DConditionModel>> {
        let bases = &self.adaptable.bases;
        let changed = changed(bases, Network::UNet, adapters)?;
        if changed.is_empty() {
            return Ok(self.unet.clone());
        }
        let network = bases.unet.build(changed, |vb| UNet2DConditionModel::new(self.unet.config(), vb))?;
        Ok(Arc::new(network))
    }
}
