//! What a network was built of, kept so that others can be built that share it.

use super::Weights;
use crate::Result;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The parameters of a network by the names that it asked for. They are the network's own, not copies: layers keep what
/// they are given, and kernels are given as they are kept (see `WeightFile::load`).
#[derive(Debug, Clone)]
pub(in crate::model) struct Base {
    tensors: Arc<HashMap<String, Tensor>>,
    /// Of activations.
    dtype: DType,
    device: Device,
}

impl Base {
    /// The parameter called `name`.
    pub(in crate::model) fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Another network: `changed` in place of the parameters of these names, everything else shared.
    pub(in crate::model) fn build<T>(
        &self,
        changed: HashMap<String, Tensor>,
        build: impl FnOnce(&VarBuilder<'_>) -> Result<T>,
    ) -> Result<T> {
        let parameters = Box::new(Changed { base: self, changed });
        build(&VarBuilder::from_backend(parameters, self.dtype, self.device.clone()))
    }
}

/// Parameters of which some have changed.
struct Changed<'a> {
    base: &'a Base,
    changed: HashMap<String, Tensor>,
}

impl SimpleBackend for Changed<'_> {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.get_unchecked(name, dtype, device)?;
        if tensor.shape() != &shape {
            candle_core::bail!("{name}: expected {shape:?}, found {:?}", tensor.shape());
        }
        Ok(tensor)
    }

    /// In the type that it was given in, which need not be that of activations.
    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        match self.changed.get(name).or_else(|| self.base.get(name)) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("{name} is missing"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.base.get(name).is_some()
    }
}

/// Gives what `weights` have, and keeps it.
#[derive(Clone)]
pub(super) struct Recorder {
    weights: Weights,
    given: Arc<Mutex<HashMap<String, Tensor>>>,
}

impl Recorder {
    pub(super) fn new(weights: Weights) -> Self {
        Self { weights, given: Arc::default() }
    }

    /// What was given to a network with activations of this type, in this place.
    pub(super) fn into_base(self, dtype: DType, device: &Device) -> Base {
        let tensors = std::mem::take(&mut *self.given.lock().unwrap_or_else(PoisonError::into_inner));
        Base { tensors: Arc::new(tensors), dtype, device: device.clone() }
    }

    fn keep(&self, name: &str, tensor: Tensor) -> Tensor {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), tensor.clone());
        tensor
    }
}

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        Ok(self.keep(name, self.weights.get(shape, name, init, dtype, dev)?))
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        Ok(self.keep(name, self.weights.get_unchecked(name, dtype, device)?))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains_tensor(name)
    }
}
