//! Which files hold the weights of one part of a model.

use super::file::{PICKLE, is_pickle_name};
use crate::model::checkpoint::file::read_json;
use crate::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// No model has more.
const MOST_SHARDS: usize = 1000;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The weight files of `folder`, in order: `STEM.safetensors`, its `fp16` variant, or the shards that an index lists.
pub(super) fn files(folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    let found = |names: [String; 2]| names.map(|name| folder.join(name)).into_iter().find(|path| path.exists());
    if let Some(path) = found([format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors")]) {
        return Ok(vec![path]);
    }
    // The variant comes before the ending in diffusers' name for an index, hence the odd order.
    match found([format!("{stem}.safetensors.index.json"), format!("{stem}.safetensors.index.fp16.json")]) {
        Some(index) => shards(folder, &index),
        None => Err(missing(folder, stem)),
    }
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let ShardIndex { weight_map } = read_json(index)?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    if names.is_empty() || names.len() > MOST_SHARDS {
        return Err(Error::model(index, format!("it lists {} shards, not 1 to {MOST_SHARDS}", names.len())));
    }
    // A shard lies beside its index: a name with a path in it could lead anywhere.
    let plain = |name: &String| Path::new(name).file_name() == Some(name.as_ref()) && !name.contains('\\');
    match names.iter().find(|name| !plain(name)) {
        Some(name) => Err(Error::model(index, format!("the shard name {name:?} is not a plain file name"))),
        None => Ok(names.into_iter().map(|name| folder.join(name)).collect()),
    }
}

fn missing(folder: &Path, stem: &str) -> Error {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let pickle = entries.map(|e| e.path()).filter(|path| is_pickle_name(path)).min();
    match pickle {
        Some(path) => Error::model(path, PICKLE),
        None => Error::model(folder.join(format!("{stem}.safetensors")), "the file is missing"),
    }
}
