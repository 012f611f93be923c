//! Weights on disk to the variables that layers ask for.

mod base;
mod faults;
mod file;
mod hash;
mod shards;

pub(in crate::model) use base::Base;
pub(crate) use file::{PICKLE, is_pickle_name};
pub(in crate::model) use hash::Hash;

use super::precision::Precision;
use crate::model::layers::packed_name;
use crate::{Error, Result};
use base::Recorder;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use faults::Faults;
use file::WeightFile;
use safetensors::tensor::TensorInfo;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tensors of one part of a model, still as they are on disk.
#[derive(Debug, Clone)]
pub(in crate::model) struct Weights {
    files: Arc<Vec<WeightFile>>,
    /// Where the tensors are, by the names that networks ask for.
    index: Arc<HashMap<String, Place>>,
    /// Whether all of them belong to one network.
    own: bool,
    faults: Arc<Mutex<Faults>>,
    /// In which types networks get them.
    precision: Precision,
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

impl Weights {
    /// Reads `folder/STEM.safetensors`, its `fp16` variant, or the shards that `folder/STEM.safetensors.index.json` lists.
    pub(super) fn read(folder: &Path, stem: &str) -> Result<Self> {
        Ok(Self { own: true, ..Self::open(shards::files(folder, stem)?)? })
    }

    fn open(paths: Vec<PathBuf>) -> Result<Self> {
        let files = paths.into_iter().map(WeightFile::open).collect::<Result<Vec<_>>>()?;
        let place = |file, (stored, info): (String, TensorInfo)| {
            (stored.clone(), Place { file, stored, info, part: Part::Whole })
        };
        let tensors = files.iter().enumerate();
        let index = tensors.flat_map(|(i, file)| file.tensors().map(move |tensor| place(i, tensor))).collect();
        Ok(Self::of(Arc::new(files), index))
    }

    /// Of a part that a model does not have.
    pub(super) fn none() -> Self {
        Self::of(Arc::default(), HashMap::new())
    }

    /// Reads the one file `path`.
    pub(in crate::model) fn read_file(path: PathBuf) -> Result<Self> {
        Self::open(vec![path])
    }

    /// The same tensors by other names: `targets` says for each stored name what it is, or holds.
    pub(super) fn renamed(&self, targets: impl Fn(&str) -> Vec<(String, Part)>) -> Self {
        let places = self.index.values().flat_map(|place| {
            let targets = targets(&place.stored).into_iter();
            targets.map(|(name, part)| (name, Place { part, ..place.clone() }))
        });
        Self::of(self.files.clone(), places.collect())
    }

    fn of(files: Arc<Vec<WeightFile>>, index: HashMap<String, Place>) -> Self {
        Self {
            files,
            index: Arc::new(index),
            own: false,
            faults: Arc::default(),
            precision: DType::F32.into(),
            taken: Arc::default(),
        }
    }

    /// The shape that the tensor `name` has.
    pub(in crate::model) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.index.get(name).map(Place::shape)
    }

    /// Bytes of all tensors as networks would get them in `precision`.
    pub(super) fn bytes(&self, precision: Precision) -> u64 {
        let bytes = |place: &Place| {
            let numbers = place.shape().iter().fold(1u64, |n, &dim| n.saturating_mul(dim as u64));
            let kept = precision.kept(place.dtype(), place.info.shape.len(), precision.activations());
            numbers.saturating_mul(kept.size_in_bytes() as u64)
        };
        self.index.values().map(bytes).fold(0, u64::saturating_add)
    }

    /// Bytes of those that networks have taken into memory so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The type in which most of the weights are stored, as far as it can be told from the largest of them.
    pub(super) fn stored(&self) -> DType {
        let size = |place: &&Place| place.info.data_offsets.1 - place.info.data_offsets.0;
        self.index.values().max_by_key(size).map_or(DType::F32, |place| place.dtype())
    }

    /// All names.
    pub(in crate::model) fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// What the first file says of itself under `key`.
    pub(in crate::model) fn note(&self, key: &str) -> Option<&str> {
        self.files.first()?.note(key)
    }

    /// Builds a network from these weights. Missing tensors are named together, the first five of them. Tensors that the
    /// network does not ask for are passed over, with a warning where they lie in a file of its own.
    pub(super) fn build<T>(
        &self,
        precision: Precision,
        device: &Device,
        build: impl FnOnce(&VarBuilder<'_>) -> Result<T>,
    ) -> Result<T> {
        let weights = self.in_precision(precision);
        self.build_from(Box::new(weights), precision, device, build)
    }

    /// The same, and what the network was built of.
    pub(super) fn build_kept<T>(
        &self,
        precision: Precision,
        device: &Device,
        build: impl FnOnce(&VarBuilder<'_>) -> Result<T>,
    ) -> Result<(T, Base)> {
        let recorder = Recorder::new(self.in_precision(precision));
        let built = self.build_from(Box::new(recorder.clone()), precision, device, build)?;
        Ok((built, recorder.into_base(precision.activations(), device)))
    }

    fn in_precision(&self, precision: Precision) -> Self {
        Self { precision, ..self.clone() }
    }

    fn build_from<T>(
        &self,
        backend: Box<dyn SimpleBackend>,
        precision: Precision,
        device: &Device,
        build: impl FnOnce(&VarBuilder<'_>) -> Result<T>,
    ) -> Result<T> {
        let built = build(&VarBuilder::from_backend(backend, precision.activations(), device.clone()));
        let faults = std::mem::take(&mut *self.faults());
        let passed_over = faults.passed_over(self.names());
        if let Some(error) = faults.into_error(|| self.path()) {
            return Err(error);
        }
        let built = built.map_err(|e| Error::model(self.path(), e.to_string()))?;
        if let Some(what) = passed_over.filter(|_| self.own) {
            tracing::warn!("{}: {what}", self.path().display());
        }
        Ok(built)
    }

    /// The tensor `name` in f32.
    pub(in crate::model) fn numbers(&self, name: &str, device: &Device) -> Result<Tensor> {
        let missing = || Error::model(self.path(), format!("{name} is missing"));
        let (file, place) = self.find(name).ok_or_else(missing)?;
        Ok(place.load(file)?.to_dtype(DType::F32)?.to_device(device)?)
    }

    /// The first (or only) number of the tensor `name`. Unlike weights, it may be an integer.
    pub(in crate::model) fn number(&self, name: &str) -> Option<f64> {
        let (file, place) = self.find(name)?;
        file.number(&place.info)
    }

    /// The first file.
    pub(in crate::model) fn path(&self) -> PathBuf {
        self.files.first().map(|f| f.path.clone()).unwrap_or_default()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Option<(&WeightFile, &Place)> {
        let place = self.index.get(packed_name(name).unwrap_or(name));
        place.map(|place| (&self.files[place.file], place))
    }

    /// Keeps an error with its path, which candle's error type could not carry through the layers.
    fn keep<T>(&self, result: Result<T>) -> candle_core::Result<T> {
        result.map_err(|error| {
            let message = error.to_string();
            self.faults().unusable.get_or_insert(error);
            candle_core::Error::Msg(message)
        })
    }

    /// For a network with activations of type `used`.
    fn take(&self, file: &WeightFile, place: &Place, used: DType, device: &Device) -> candle_core::Result<Tensor> {
        let tensor = self.keep(place.load(file))?;
        let kept = self.precision.kept(tensor.dtype(), tensor.rank(), used);
        // Not every device has F64, and half precision is moved in half the time.
        match tensor.dtype() {
            DType::F64 => tensor.to_dtype(kept)?.to_device(device),
            _ => tensor.to_device(device)?.to_dtype(kept),
        }
    }

    /// Zeros in place of a missing tensor, so that one reading of the model finds all that is missing;
    /// [`Weights::build`] then fails.
    fn stand_in(&self, shape: &Shape, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        if self.faults().miss(name, shape) {
            candle_core::bail!("{name} is missing");
        }
        Tensor::zeros(shape, dtype, device)
    }
}

impl Place {
    /// Of the part that is asked for.
    fn shape(&self) -> Vec<usize> {
        match self.part {
            Part::Whole => self.info.shape.clone(),
            Part::Third(third) => self.third(third).shape,
            Part::Transposed => self.info.shape.iter().rev().copied().collect(),
        }
    }

    /// A third of the rows, in the file.
    fn third(&self, third: usize) -> TensorInfo {
        let TensorInfo { dtype, mut shape, data_offsets: (first, end) } = self.info.clone();
        let all = shape.first().copied().unwrap_or(0);
        let (rows, row) = (all / 3, (end - first) / all.max(1));
        shape.iter_mut().take(1).for_each(|all| *all = rows);
        let first = first + third * rows * row;
        TensorInfo { dtype, shape, data_offsets: (first, first + rows * row) }
    }

    /// The type in which it is stored; F32 for types that are refused.
    fn dtype(&self) -> DType {
        DType::try_from(self.info.dtype).unwrap_or(DType::F32)
    }

    /// On the CPU, in the type in which it is stored.
    fn load(&self, file: &WeightFile) -> Result<Tensor> {
        Ok(match self.part {
            Part::Whole => file.load(&self.stored, &self.info)?,
            Part::Third(third) => file.load(&self.stored, &self.third(third))?,
            Part::Transposed => file.load(&self.stored, &self.info)?.t()?.contiguous()?,
        })
    }

    /// In the layout of [`crate::kernels::Packed`].
    fn pack(&self, file: &WeightFile) -> Result<Tensor> {
        let packed = match self.part {
            Part::Whole => file.pack(&self.stored, &self.info),
            Part::Third(third) => file.pack(&self.stored, &self.third(third)),
            Part::Transposed => None,
        };
        packed.unwrap_or_else(|| Ok(pack(&self.load(file)?, &self.shape())?))
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
        self.faults().ask(packed_name(name).unwrap_or(name));
        let found = place.shape();
        if !interchangeable(&found, shape.dims()) {
            let message = format!("tensor {}: expected {:?}, found {found:?}", place.stored, shape.dims());
            return self.keep(Err(Error::model(&file.path, message)));
        }
        let tensor = match packed_name(name) {
            None => self.take(file, place, dtype, device)?,
            Some(_) => self.keep(place.pack(file))?,
        };
        self.taken.fetch_add((tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64, Ordering::Relaxed);
        // Of another rank, and then also contiguous; a reshape would put kernels into another order.
        let as_asked = found == shape.dims() || packed_name(name).is_some();
        if as_asked { Ok(tensor) } else { tensor.reshape(shape) }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        match self.find(name) {
            Some((file, place)) => self.take(file, place, dtype, device),
            None => candle_core::bail!("{name} is missing"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        match packed_name(name) {
            None => self.index.contains_key(name),
            Some(name) => {
                let packs = |place: &Place| matches!(place.info.shape.len(), 2 | 4);
                self.precision.packed == Some(true) && self.index.get(name).is_some_and(packs)
            }
        }
    }
}

/// A parameter as it is loaded, in the layout of [`crate::kernels::Packed`]. `dims` are those that a layer asks for.
pub(super) fn pack(tensor: &Tensor, dims: &[usize]) -> candle_core::Result<Tensor> {
    let tensor = match *dims {
        [_, _, 1, 1] | [_, _] => tensor.reshape((dims[0], dims[1]))?,
        _ => tensor.permute((0, 2, 3, 1))?.contiguous()?,
    };
    let tensor = if tensor.dtype() == DType::F64 { tensor.to_dtype(DType::F32)? } else { tensor };
    crate::kernels::pack(&tensor).map_err(|e| candle_core::Error::Msg(e.to_string()))
}
