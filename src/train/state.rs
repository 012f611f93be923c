//! A training run's state on disk: one safetensors file, complete or absent.

use crate::kernels::Products;
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;

/// What a run goes on from.
pub(super) struct Saved {
    pub(super) tensors: HashMap<String, Tensor>,
    pub(super) progress: Progress,
}

/// How far a run has come, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Updates so far.
    pub(super) steps: usize,
    /// The loss at some of them.
    pub(super) history: Vec<(usize, f64)>,
    /// In what its layers multiply. States from before there was a choice do not say.
    #[serde(default)]
    pub(super) products: Products,
}

/// Reads the state, if the file is there.
pub(super) fn load(path: &Path) -> Result<Option<Saved>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let damaged = |e: &dyn std::fmt::Display| Error::Training(format!("{}: {e}", path.display()));
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(&e))?;
    let header = metadata.metadata().as_ref().and_then(|m| m.get("limner"));
    let header = header.ok_or_else(|| damaged(&"not a saved training state"))?;
    let progress = serde_json::from_str(header).map_err(|e| damaged(&e))?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
    Ok(Some(Saved { tensors, progress }))
}

/// Writes to a temporary name, syncs, renames: an interrupted save leaves the previous state.
pub(super) fn save(path: &Path, tensors: &HashMap<String, Tensor>, progress: &Progress) -> Result<()> {
    let header = serde_json::to_string(progress).map_err(|e| Error::Training(e.to_string()))?;
    write(path, tensors, Some(HashMap::from([("limner".to_owned(), header)])))
}

/// Writes tensors as safetensors under `path`, which appears complete or not at all.
pub(super) fn write(
    path: &Path,
    tensors: &HashMap<String, Tensor>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let bytes = safetensors::serialize(tensors, metadata).map_err(|e| Error::Training(e.to_string()))?;
    let temporary = path.with_extension("partial");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&temporary)?;
        std::io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(Error::io(path))
}
