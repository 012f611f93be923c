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

/// The weight files of `folder`, in order: `STEM.safetensors` or the shards that its index lists; where there are neither,
/// those of a variant, as `STEM.fp16.safetensors`.
pub(super) fn files(folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    let present = |name: String| Some(folder.join(name)).filter(|path| path.exists());
    for variant in std::iter::once(None).chain(variants(folder, stem).into_iter().map(Some)) {
        let dotted = variant.map_or(String::new(), |variant| format!(".{variant}"));
        if let Some(path) = present(format!("{stem}{dotted}.safetensors")) {
            return Ok(vec![path]);
        }
        // The variant comes before the ending in diffusers' name for an index, hence the odd order.
        if let Some(index) = present(format!("{stem}.safetensors.index{dotted}.json")) {
            return shards(folder, &index);
        }
    }
    Err(missing(folder, stem))
}

/// The variants of `STEM` in `folder`, the usual ones first: `fp16` of `STEM.fp16.safetensors` or of
/// `STEM.safetensors.index.fp16.json`.
fn variants(folder: &Path, stem: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let variant = |name: String| {
        let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
        let index = || rest.strip_prefix("safetensors.index.")?.strip_suffix(".json");
        let variant = rest.strip_suffix(".safetensors").or_else(index)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (!variant.is_empty() && variant.chars().all(plain)).then(|| variant.to_owned())
    };
    let mut found: Vec<String> = names.filter_map(variant).collect();
    // Weights that were not averaged over training ("non_ema") are for training on.
    let rank = |name: &str| match name {
        "fp16" => 0,
        "bf16" => 1,
        "non_ema" => 3,
        _ => 2,
    };
    found.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.cmp(b)));
    found
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
