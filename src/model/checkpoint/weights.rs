//! Weights on disk to the variables that layers ask for.

mod file;
mod shards;

pub(crate) use file::{PICKLE, is_pickle_name};

use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use file::WeightFile;
use safetensors::tensor::TensorInfo;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many missing tensors are looked for, and how many numbers may stand in for them, before a model is given up.
/// Without such a bound a hostile configuration could ask for any amount of memory.
const MOST_MISSING: usize = 10_000;
const MOST_STAND_INS: usize = 1 << 26;

/// The tensors of one part of a model, still as they are on disk.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    files: Arc<Vec<WeightFile>>,
    /// Where the tensors are, by the names that networks ask for.
    index: Arc<HashMap<String, Place>>,
    faults: Arc<Mutex<Faults>>,
    /// Bytes of the tensors that were taken into memory.
    taken: Arc<AtomicU64>,
}

/// A tensor, or a part of one, in one of the files.
#[derive(Debug, Clone)]
struct Place {
    file: usize,
    /// What the file calls it.
    stored: String,
    info: TensorInfo,
    part: Part,
}

/// Which part of a stored tensor a network asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// This third of its rows, from 0: queries, keys and values are one tensor in OpenCLIP.
    Third(usize),
    /// All of it, rows as columns: OpenCLIP multiplies its text projection from the other side.
    Transposed,
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
        Self::open(shards::files(folder, stem)?)
    }

    fn open(paths: Vec<PathBuf>) -> Result<Self> {
        let files = paths.into_iter().map(WeightFile::read).collect::<Result<Vec<_>>>()?;
        let place = |file, (stored, info): (String, TensorInfo)| {
            (stored.clone(), Place { file, stored, info, part: Part::Whole })
        };
        let tensors = files.iter().enumerate();
        let index = tensors.flat_map(|(i, file)| file.tensors().map(move |tensor| place(i, tensor))).collect();
        Ok(Self { files: Arc::new(files), index: Arc::new(index), faults: Arc::default(), taken: Arc::default() })
    }

    /// Reads the one file `path`.
    pub(super) fn read_file(path: PathBuf) -> Result<Self> {
        Self::open(vec![path])
    }

    /// The same tensors by other names: `targets` says for each stored name what it is, or holds.
    pub(super) fn renamed(&self, targets: impl Fn(&str) -> Vec<(String, Part)>) -> Self {
        let places = self.index.values().flat_map(|place| {
            let targets = targets(&place.stored).into_iter();
            targets.map(|(name, part)| (name, Place { part, ..place.clone() }))
        });
        Self {
            files: self.files.clone(),
            index: Arc::new(places.collect()),
            faults: Arc::default(),
            taken: Arc::default(),
        }
    }

    /// The shape that the tensor `name` has.
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.index.get(name).map(Place::shape)
    }

    /// Bytes of all tensors, as `dtype`.
    pub(super) fn bytes(&self, dtype: DType) -> u64 {
        let numbers = |place: &Place| place.shape().iter().map(|&dim| dim as u64).product::<u64>();
        self.index.values().map(|place| numbers(place) * dtype.size_in_bytes() as u64).sum()
    }

    /// Bytes of those that networks have taken into memory so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// What the first file says of itself under `key`.
    pub(super) fn note(&self, key: &str) -> Option<&str> {
        self.files.first()?.note(key)
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

    fn find(&self, name: &str) -> Option<(&WeightFile, &Place)> {
        self.index.get(name).map(|place| (&self.files[place.file], place))
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

impl Place {
    /// Of the part that is asked for.
    fn shape(&self) -> Vec<usize> {
        let mut shape = self.info.shape.clone();
        match self.part {
            Part::Whole => {}
            Part::Third(_) => shape.iter_mut().take(1).for_each(|rows| *rows /= 3),
            Part::Transposed => shape.reverse(),
        }
        shape
    }

    fn load(&self, file: &WeightFile, device: &Device) -> Result<Tensor> {
        let stored = file.load(&self.stored, &self.info, device)?;
        Ok(match self.part {
            Part::Whole => stored,
            Part::Third(third) => {
                let rows = stored.dim(0)? / 3;
                stored.narrow(0, third * rows, rows)?.copy()?
            }
            Part::Transposed => stored.t()?.contiguous()?,
        })
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
        let Some((file, place)) = self.find(name) else {
            return self.stand_in(&shape, name, dtype, device);
        };
        let found = place.shape();
        if !interchangeable(&found, shape.dims()) {
            let message = format!("tensor {}: expected {:?}, found {found:?}", place.stored, shape.dims());
            return self.keep(Err(Error::model(&file.path, message)));
        }
        self.taken.fetch_add((shape.elem_count() * dtype.size_in_bytes()) as u64, Ordering::Relaxed);
        self.keep(place.load(file, device))?.to_dtype(dtype)?.reshape(shape)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        match self.find(name) {
            Some((file, place)) => self.keep(place.load(file, device))?.to_dtype(dtype),
            None => candle_core::bail!("{name} is missing"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }
}

/// The first ten digits of a SHA-256: of the file where there is one, as other programs name models, else over the
/// digests of all files, each of which is computed on a core of its own.
pub(super) fn hash(parts: &[&Weights]) -> String {
    use rayon::prelude::*;
    let mut files: Vec<&WeightFile> = Vec::new();
    for file in parts.iter().flat_map(|weights| weights.files.iter()) {
        if !files.iter().any(|known| std::ptr::eq(*known, file)) {
            files.push(file);
        }
    }
    let digests: Vec<_> = files.par_iter().map(|file| Sha256::digest(&file.bytes)).collect();
    let whole = match digests.as_slice() {
        [only] => *only,
        several => several.iter().fold(Sha256::new(), |hash, digest| hash.chain_update(digest)).finalize(),
    };
    whole.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}
