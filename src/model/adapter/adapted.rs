//! A model with adapters: another model.

use super::merge::changed;
use super::names::Names;
use super::{Adapter, Bases, Network};
use crate::Result;
use crate::model::checkpoint::Model;
use crate::model::clip::{ClipTextConfig, ClipTextModel};
use crate::model::text_encoder::TextEncoder;
use crate::model::unet::UNet2DConditionModel;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An adapter's file, and how strongly it acts: 1 is as it was trained, 0 not at all.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The file, or the folder as PEFT writes it.
    pub path: PathBuf,
    /// On the text encoders.
    pub text: f64,
    /// On the U-Net.
    pub unet: f64,
}

/// What a model keeps so that others can be made of it.
#[derive(Debug)]
pub(in crate::model) struct Adaptable {
    bases: Bases,
    /// Of the text encoders; the U-Net has its own.
    configs: Vec<ClipTextConfig>,
    names: Names,
}

impl Adaptable {
    /// Of the parameters of a model's networks.
    pub(in crate::model) fn new(bases: Bases, configs: Vec<ClipTextConfig>) -> Self {
        Self { names: Names::new(&bases), bases, configs }
    }
}

impl Model {
    /// This model with adapters: `W + sum of strength * change` in place of each weight `W` that they change, summed in f32
    /// and rounded once. Everything else is shared, and this model stays as it is. Fails with [`crate::Error::Model`] for a
    /// file that was made for another model.
    pub fn adapted(&self, adapters: &[Applied]) -> Result<Self> {
        let read = |applied: &Applied| self.adapter(&applied.path);
        let files = adapters.iter().map(read).collect::<Result<Vec<_>>>()?;
        let with = |strength: fn(&Applied) -> f64| -> Vec<(&Adapter, f64)> {
            files.iter().zip(adapters.iter().map(strength)).collect()
        };
        let text = self.text.iter().enumerate().map(|(i, encoder)| self.encoder(i, encoder, &with(|a| a.text)));
        Ok(Self { text: text.collect::<Result<_>>()?, unet: self.unet_with(&with(|a| a.unet))?, ..self.clone() })
    }

    /// Whether an adapter fits this model: an error says why not.
    pub fn check_adapter(&self, path: &Path) -> Result<()> {
        self.adapter(path).map(drop)
    }

    fn adapter(&self, path: &Path) -> Result<Adapter> {
        Adapter::read(path, &self.adaptable.bases, &self.adaptable.names)
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
