//! What a model's networks look like from outside: the names and shapes of their parameters.

use super::Network;
use super::kernel::Kernel;
use super::names::{Layer, Names};
use crate::model::checkpoint::Weights;
use std::collections::HashMap;

/// The parameters that adapters can change, as the model's files have them: some may be of layers that are never used.
#[derive(Debug, Default)]
pub(in crate::model) struct Layout {
    text: Vec<HashMap<String, Kernel>>,
    unet: HashMap<String, Kernel>,
    names: Names,
}

impl Layout {
    /// Of text encoders and a U-Net.
    pub(in crate::model) fn new<'a>(text: impl Iterator<Item = &'a Weights>, unet: &Weights) -> Self {
        let (text, unet): (Vec<_>, _) = (text.map(kernels).collect(), kernels(unet));
        Self { names: Names::new(&text, &unet), text, unet }
    }

    /// Channels of each text encoder's words; 0 where that cannot be told.
    pub(super) fn text_widths(&self) -> Vec<usize> {
        let names = ["", "text_model."].map(|prefix| format!("{prefix}embeddings.token_embedding.weight"));
        let table = |kernels: &HashMap<String, Kernel>| names.iter().find_map(|name| kernels.get(name)).copied();
        self.text.iter().map(|kernels| table(kernels).map_or(0, |table| table.inputs)).collect()
    }

    /// The layer that an adapter calls `name`.
    pub(super) fn find(&self, name: &str) -> Option<&Layer> {
        self.names.find(name)
    }

    /// The shape of a parameter.
    pub(super) fn kernel(&self, parameter: &Layer) -> Option<Kernel> {
        let kernels = match parameter.network {
            Network::Text(i) => self.text.get(i)?,
            Network::UNet => &self.unet,
        };
        kernels.get(&parameter.name).copied()
    }
}

fn kernels(weights: &Weights) -> HashMap<String, Kernel> {
    let kernel = |name: &str| Some((name.to_owned(), Kernel::new(&weights.shape(name)?)?));
    weights.names().filter_map(kernel).collect()
}
