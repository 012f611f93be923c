//! What a network was built of, kept so that others can be built that share it.

use super::{Weights, pack};
use crate::Result;
use crate::kernels::Packed;
use crate::model::layers::{name_packed, packed_name};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The parameters of a network by the names that it asked for. They are the network's own, not copies: layers keep what
/// they are given, and kernels are given as they are kept (see `WeightFile::load`).
#[derive(Debug, Clone)]
pub(in crate::model) struct Base {
    tensors: Arc<HashMap<String, Kept>>,
    /// Of activations.
    dtype: DType,
    device: Device,
}

/// A parameter, and the shape in which it was asked for.
#[derive(Debug, Clone)]
struct Kept {
    tensor: Tensor,
    shape: Shape,
}

impl Kept {
    /// One in the layout of [`Packed`] one by one again, lying in memory as `WeightFile::load` has it.
    fn unpacked(&self) -> Result<Tensor> {
        let tensor = |dims: &[usize]| Packed::new(self.tensor.clone(), dims)?.unpack();
        Ok(match *self.shape.dims() {
            [outputs, inputs, height, width] => {
                let dims = [outputs, height, width, inputs];
                tensor(&dims)?.reshape(&dims)?.permute((0, 3, 1, 2))?
            }
            ref dims => tensor(dims)?.reshape(dims)?,
        })
    }
}

impl Base {
    /// The parameter called `name`.
    pub(in crate::model) fn get(&self, name: &str) -> Result<Option<Tensor>> {
        match (self.tensors.get(name), self.tensors.get(&name_packed(name))) {
            (Some(kept), _) => Ok(Some(kept.tensor.clone())),
            (None, Some(packed)) => packed.unpacked().map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Bytes that the parameter called `name` takes, and that another in its place does, if there is one.
    pub(in crate::model) fn bytes(&self, name: &str) -> Option<u64> {
        let kept = self.tensors.get(name).or_else(|| self.tensors.get(&name_packed(name)))?;
        Some((kept.tensor.elem_count() * kept.tensor.dtype().size_in_bytes()) as u64)
    }

    /// What comes in place of the parameter called `name`: the name that layers ask for, and `tensor` in the layout in which
    /// they do.
    pub(in crate::model) fn laid_out(&self, name: &str, tensor: Tensor) -> Result<(String, Tensor)> {
        let packed = name_packed(name);
        Ok(match self.tensors.get(&packed) {
            Some(kept) => (packed, pack(&tensor, kept.shape.dims())?),
            None => (name.to_owned(), tensor),
        })
    }

    /// Another network: `changed` in place of the parameters of these names, as [`Base::laid_out`] gives them, everything
    /// else shared.
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
        if packed_name(name).is_none() && tensor.shape() != &shape {
            candle_core::bail!("{name}: expected {shape:?}, found {:?}", tensor.shape());
        }
        Ok(tensor)
    }

    /// In the type that it was given in, which need not be that of activations.
    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        let base = || self.base.tensors.get(name).map(|kept| &kept.tensor);
        match self.changed.get(name).or_else(base) {
            Some(tensor) => Ok(tensor.clone()),
            None => candle_core::bail!("{name} is missing"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.base.tensors.contains_key(name)
    }
}

/// Gives what `weights` have, and keeps it.
#[derive(Clone)]
pub(super) struct Recorder {
    weights: Weights,
    given: Arc<Mutex<HashMap<String, Kept>>>,
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

    fn keep(&self, name: &str, tensor: Tensor, shape: Shape) -> Tensor {
        let kept = Kept { tensor: tensor.clone(), shape };
        self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), kept);
        tensor
    }
}

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, init: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        Ok(self.keep(name, self.weights.get(shape.clone(), name, init, dtype, dev)?, shape))
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.weights.get_unchecked(name, dtype, device)?;
        let shape = tensor.shape().clone();
        Ok(self.keep(name, tensor, shape))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains_tensor(name)
    }
}
