//! One safetensors file in memory: whole, or refused with what is wrong with it.

use crate::model::checkpoint::file::read_file;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo, TensorView};
use std::path::{Path, PathBuf};

/// The bytes before the header: its length.
const PREFIX: usize = 8;

/// A file with its header read.
#[derive(Debug)]
pub(super) struct WeightFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    /// Where the tensors' bytes begin.
    start: usize,
    metadata: Metadata,
}

impl WeightFile {
    /// Reads and checks `path`; the file's name says nothing, its content decides.
    pub(super) fn read(path: PathBuf) -> Result<Self> {
        let bytes = read_file(&path, u64::MAX)?;
        match SafeTensors::read_metadata(&bytes) {
            Ok((header, metadata)) => Ok(Self { start: PREFIX + header, path, bytes, metadata }),
            Err(fault) => Err(Error::model(path, diagnosis(&bytes, &fault))),
        }
    }

    /// Names and descriptions of all tensors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, TensorInfo)> {
        self.metadata.tensors().into_iter().map(|(name, info)| (name, info.clone()))
    }

    /// What the file says of itself under `key`.
    pub(super) fn note(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The tensor that `info` describes, as it is stored. Fails for anything but floating-point numbers: weights that
    /// claim to be integers are not the weights they are called.
    pub(super) fn load(&self, name: &str, info: &TensorInfo, device: &Device) -> Result<Tensor> {
        let unusable = |message: String| Error::model(&self.path, format!("tensor {name}: {message}"));
        if !matches!(info.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
            return Err(unusable(format!("expected F16, BF16, F32 or F64 numbers, found {}", info.dtype)));
        }
        let (first, end) = info.data_offsets;
        let bytes = &self.bytes[self.start + first..self.start + end];
        let view = TensorView::new(info.dtype, info.shape.clone(), bytes).map_err(|e| unusable(e.to_string()))?;
        candle_core::safetensors::Load::load(&view, device).map_err(|e| unusable(e.to_string()))
    }
}

/// Why these bytes, in which `fault` was found, are not a whole safetensors file.
fn diagnosis(bytes: &[u8], fault: &SafeTensorError) -> String {
    // Only now that the file is known to be no safetensors file: one with a header of 640 bytes begins as pickles do.
    if let Some(kind) = other_kind(bytes) {
        return kind.to_owned();
    }
    if let Some(needed) = needed(bytes).filter(|&needed| needed != bytes.len() as u64) {
        let found = bytes.len();
        let reason = if (found as u64) < needed { "cut short, perhaps by an incomplete download" } else { "too long" };
        return format!("the file is {reason}: it has {found} bytes, its header needs {needed}");
    }
    format!("not a safetensors file: {fault} ({} bytes)", bytes.len())
}

/// Formats that are often found under a wrong name.
fn other_kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Some(PICKLE),
        [b'G', b'G', b'U', b'F', ..] => Some("a GGUF file, which this program does not read; it needs safetensors"),
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', b'h', ..] => {
            Some("a Git LFS pointer, not the file itself: fetch it with git lfs pull")
        }
        _ => None,
    }
}

/// What to say of PyTorch's own format, which is never read.
pub(crate) const PICKLE: &str = "a pickle file can run code when it is opened and is refused; load it in PyTorch, where \
    you trust it, and save it with safetensors.torch.save_file";

/// How long a file must be whose beginning is `bytes`, as far as that can be told.
fn needed(bytes: &[u8]) -> Option<u64> {
    let header = u64::from_le_bytes(*bytes.first_chunk::<PREFIX>()?);
    // A real header is JSON and below 100 MB.
    let looks_real = bytes.get(PREFIX).is_none_or(|&b| b == b'{') && (2..100_000_000).contains(&header);
    let end = looks_real.then(|| PREFIX as u64 + header)?;
    let Some(json) = bytes.get(PREFIX..end as usize) else { return Some(end) };
    let metadata: Metadata = serde_json::from_slice(json).ok()?;
    end.checked_add(metadata.data_len() as u64)
}

/// Whether this file is a pickle by its name: only ever to explain why it is not used.
pub(crate) fn is_pickle_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "bin" || e == "ckpt" || e == "pt" || e == "pth")
}
