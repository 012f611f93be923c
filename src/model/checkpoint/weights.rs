//! Weights on disk: one safetensors file or several with an index, to the variables that layers ask for.
//!
//! Files are read into memory, not mapped: a mapped file that somebody truncates or replaces would kill the server with
//! a signal that cannot be caught.

use super::folder::read_json;
use crate::{Error, Result};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use safetensors::SafeTensors;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The tensors of one part of a model, still as they are on disk.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    files: Arc<Vec<File>>,
    /// What was wrong with the tensors asked for so far.
    faults: Arc<Mutex<Vec<Fault>>>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Fault {
    Missing(String),
    Other(PathBuf, String),
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Reads `folder/STEM.safetensors`, its `fp16` variant, or the shards that `folder/STEM.safetensors.index.json` lists.
    pub(super) fn read(folder: &Path, stem: &str) -> Result<Self> {
        let names = file_names(folder, stem)?;
        let files = names.into_iter().map(|name| File::read(folder.join(name))).collect::<Result<Vec<_>>>()?;
        Ok(Self { files: Arc::new(files), faults: Arc::default() })
    }

    /// Builds a network from these weights. Missing tensors are named together, the first five of them.
    pub(super) fn build<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(&VarBuilder<'_>) -> Result<T>,
    ) -> Result<T> {
        let vb = VarBuilder::from_backend(Box::new(self.clone()), dtype, device.clone());
        let built = build(&vb);
        let faults = std::mem::take(&mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(error) = self.explain(faults) {
            return Err(error);
        }
        built.map_err(|e| Error::model(self.path(), e.to_string()))
    }

    fn path(&self) -> PathBuf {
        self.files.first().map(|f| f.path.clone()).unwrap_or_default()
    }

    fn explain(&self, faults: Vec<Fault>) -> Option<Error> {
        let mut missing = Vec::new();
        for fault in faults {
            match fault {
                Fault::Other(path, message) => return Some(Error::model(path, message)),
                Fault::Missing(name) => missing.push(name),
            }
        }
        let count = missing.len();
        missing.truncate(5);
        let names = missing.join(", ");
        (count > 0)
            .then(|| Error::model(self.path(), format!("{count} tensors are missing, the first of them: {names}")))
    }

    fn fault(&self, fault: Fault) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    fn find(&self, name: &str) -> Option<(&File, SafeTensors<'_>)> {
        self.files.iter().find_map(|file| {
            let tensors = SafeTensors::deserialize(&file.bytes).ok()?;
            tensors.tensor(name).is_ok().then_some((file, tensors))
        })
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some((_, tensors)) = self.find(name) else {
            candle_core::bail!("{name} is missing");
        };
        let view = tensors.tensor(name).map_err(candle_core::Error::wrap)?;
        candle_core::safetensors::Load::load(&view, device)?.to_dtype(dtype)
    }
}

impl SimpleBackend for Weights {
    /// A tensor that is missing or has another shape is noted, and zeros are given in its place, so that one reading
    /// of the model finds all that is missing; [`Weights::build`] then fails.
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some((file, tensors)) = self.find(name) else {
            self.fault(Fault::Missing(name.to_owned()));
            return Tensor::zeros(shape, dtype, device);
        };
        let found = tensors.tensor(name).map(|view| view.shape().to_vec()).map_err(candle_core::Error::wrap)?;
        if found != shape.dims() {
            let message = format!("tensor {name}: expected shape {:?}, found {found:?}", shape.dims());
            self.fault(Fault::Other(file.path.clone(), message));
            return Tensor::zeros(shape, dtype, device);
        }
        self.load(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.load(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}

impl File {
    fn read(path: PathBuf) -> Result<Self> {
        let bytes = std::fs::read(&path).map_err(|e| Error::model(&path, e.to_string()))?;
        if let Some(message) = damage(&bytes) {
            return Err(Error::model(path, message));
        }
        Ok(Self { path, bytes })
    }
}

/// Why these bytes are not a whole safetensors file.
fn damage(bytes: &[u8]) -> Option<String> {
    const PICKLES: [&[u8]; 3] = [b"PK\x03\x04", b"\x80\x02", b"\x80\x04"];
    if PICKLES.iter().any(|magic| bytes.starts_with(magic)) {
        let advice = "load it in PyTorch and save it with safetensors.torch.save_file";
        return Some(format!("a pickle file can run code when it is opened and is refused; {advice}"));
    }
    let Some(length) = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
        return Some(format!("not a safetensors file: {} bytes", bytes.len()));
    };
    match SafeTensors::read_metadata(bytes) {
        Err(e) => {
            Some(format!("not a safetensors file: {e} (header of {length} bytes, file of {} bytes)", bytes.len()))
        }
        Ok((header, metadata)) => {
            let expected = 8 + header + metadata.data_len();
            let found = bytes.len();
            let message =
                format!("the file has {found} bytes, its header needs {expected}: it is incomplete or damaged");
            (expected != found).then_some(message)
        }
    }
}

fn file_names(folder: &Path, stem: &str) -> Result<BTreeSet<String>> {
    let single = [format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors")];
    if let Some(name) = single.into_iter().find(|name| folder.join(name).is_file()) {
        return Ok(BTreeSet::from([name]));
    }
    let index = folder.join(format!("{stem}.safetensors.index.json"));
    if !index.is_file() {
        let missing = folder.join(format!("{stem}.safetensors"));
        return Err(Error::model(missing, "the file is missing"));
    }
    let ShardIndex { weight_map } = read_json(&index)?;
    let shards: BTreeSet<String> = weight_map.into_values().collect();
    // A shard lies beside its index: a name with a path in it could lead anywhere.
    if let Some(name) = shards.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(Error::model(index, format!("the shard name {name:?} is not a plain file name")));
    }
    Ok(shards)
}

/// The first ten digits of a SHA-256 over the digests of all files, each of which is computed on a core of its own.
pub(super) fn hash<const N: usize>(parts: [&Weights; N]) -> String {
    use rayon::prelude::*;
    let files: Vec<&File> = parts.iter().flat_map(|w| w.files.iter()).collect();
    let digests: Vec<_> = files.par_iter().map(|file| Sha256::digest(&file.bytes)).collect();
    let whole = digests.iter().fold(Sha256::new(), |hash, digest| hash.chain_update(digest));
    whole.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}
