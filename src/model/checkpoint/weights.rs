//! Weights on disk to the variables that layers ask for.

mod file;
mod shards;

use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use file::WeightFile;
use safetensors::tensor::TensorInfo;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many missing tensors are looked for, and how many numbers may stand in for them, before a model is given up.
/// Without such a bound a hostile configuration could ask for any amount of memory.
const MOST_MISSING: usize = 10_000;
const MOST_STAND_INS: usize = 1 << 26;

/// The tensors of one part of a model, still as they are on disk.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    files: Arc<Vec<WeightFile>>,
    /// Name to file and place in it.
    index: Arc<HashMap<String, (usize, TensorInfo)>>,
    faults: Arc<Mutex<Faults>>,
}

/// What was wrong with the tensors asked for so far.
#[derive(Debug, Default)]
struct Faults {
    missing: Vec<String>,
    stand_ins: usize,
    unusable: Option<Error>,
}

impl Weights {
    /// Reads `folder/STEM.safetensors`, its `fp16` variant, or the shards that `folder/STEM.safetensors.index.json` lists.
    pub(super) fn read(folder: &Path, stem: &str) -> Result<Self> {
        let paths = shards::files(folder, stem)?;
        let files = paths.into_iter().map(WeightFile::read).collect::<Result<Vec<_>>>()?;
        let tensors = files.iter().enumerate();
        let index = tensors.flat_map(|(i, file)| file.tensors().map(move |(name, info)| (name, (i, info)))).collect();
        Ok(Self { files: Arc::new(files), index: Arc::new(index), faults: Arc::default() })
    }

    /// Builds a network from these weights. Missing tensors are named together, the first five of them; tensors that the
    /// network does not ask for are ignored.
    pub(super) fn build<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(&VarBuilder<'_>) -> Result<T>,
    ) -> Result<T> {
        let built = build(&VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone()));
        match std::mem::take(&mut *self.faults()).into_error(|| self.path()) {
            Some(error) => Err(error),
            None => built.map_err(|e| Error::model(self.path(), e.to_string())),
        }
    }

    fn path(&self) -> PathBuf {
        self.files.first().map(|f| f.path.clone()).unwrap_or_default()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Option<(&WeightFile, &TensorInfo)> {
        self.index.get(name).map(|(file, info)| (&self.files[*file], info))
    }

    /// Keeps an error with its path, which candle's error type could not carry through the layers.
    fn keep<T>(&self, result: Result<T>) -> candle_core::Result<T> {
        result.map_err(|error| {
            let message = error.to_string();
            self.faults().unusable.get_or_insert(error);
            candle_core::Error::Msg(message)
        })
    }

    /// Zeros in place of a missing tensor, so that one reading of the model finds all that is missing;
    /// [`Weights::build`] then fails.
    fn stand_in(&self, shape: &Shape, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let mut faults = self.faults();
        faults.missing.push(name.to_owned());
        let numbers = shape.dims().iter().try_fold(1usize, |n, &dim| n.checked_mul(dim));
        faults.stand_ins = faults.stand_ins.saturating_add(numbers.unwrap_or(usize::MAX));
        if faults.gave_up() {
            candle_core::bail!("{name} is missing");
        }
        Tensor::zeros(shape, dtype, device)
    }
}

impl Faults {
    fn gave_up(&self) -> bool {
        self.stand_ins > MOST_STAND_INS || self.missing.len() >= MOST_MISSING
    }

    fn into_error(self, path: impl FnOnce() -> PathBuf) -> Option<Error> {
        if self.unusable.is_some() || self.missing.is_empty() {
            return self.unusable;
        }
        let count = self.missing.len();
        let least = if self.gave_up() { "at least " } else { "" };
        let are = if count == 1 { "tensor is" } else { "tensors are" };
        let names = self.missing[..count.min(5)].join(", ");
        let more = if count > 5 { format!(" and {} more", count - 5) } else { String::new() };
        Some(Error::model(path(), format!("{least}{count} {are} missing: {names}{more}")))
    }
}

/// Whether a tensor of one shape can be used as one of the other: a 1x1 convolution is a linear layer, and some
/// checkpoints store the one as the other.
fn interchangeable(a: &[usize], b: &[usize]) -> bool {
    let linear = |shape: &[usize]| matches!(shape, [_, _] | [_, _, 1, 1]);
    a == b || (linear(a) && linear(b) && a[..2] == b[..2])
}

impl SimpleBackend for Weights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some((file, info)) = self.find(name) else {
            return self.stand_in(&shape, name, dtype, device);
        };
        if !interchangeable(&info.shape, shape.dims()) {
            let message = format!("tensor {name}: expected {:?}, found {:?}", shape.dims(), info.shape);
            return self.keep(Err(Error::model(&file.path, message)));
        }
        self.keep(file.load(name, info, device))?.to_dtype(dtype)?.reshape(shape)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        match self.find(name) {
            Some((file, info)) => self.keep(file.load(name, info, device))?.to_dtype(dtype),
            None => candle_core::bail!("{name} is missing"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }
}

/// The first ten digits of a SHA-256 over the digests of all files, each of which is computed on a core of its own.
pub(super) fn hash<const N: usize>(parts: [&Weights; N]) -> String {
    use rayon::prelude::*;
    let files: Vec<&WeightFile> = parts.iter().flat_map(|w| w.files.iter()).collect();
    let digests: Vec<_> = files.par_iter().map(|file| Sha256::digest(&file.bytes)).collect();
    let whole = digests.iter().fold(Sha256::new(), |hash, digest| hash.chain_update(digest));
    whole.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}
