//! The models that are here: listed, shown, removed. Names and places are those of [`crate::model::checkpoint::find`].

use super::assembly::files_below;
use super::place::{self, Place};
use super::select::Form;
use super::{Fault, Record};
use crate::model::checkpoint::{self, BUNDLED, is_name};
use crate::{Error, Result};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

/// A model that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// What it is called.
    pub name: String,
    /// Its folder or file.
    pub path: PathBuf,
    /// Bytes on disk.
    pub bytes: u64,
    /// Whether it is the one that Limner comes with.
    pub bundled: bool,
    /// `OWNER/NAME`, if it was pulled.
    pub repository: Option<String>,
    /// The commit that was pulled.
    pub commit: Option<String>,
    /// What the repository said its licence is.
    pub licence: Option<String>,
}

/// A model that is on its way: begun, and perhaps not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unfinished {
    /// What it will be called.
    pub name: String,
    /// `OWNER/NAME`, if that is known: what to pull again to go on.
    pub repository: Option<String>,
    /// Of which revision.
    pub revision: Option<String>,
    /// Of a model in one file: its path in the repository.
    pub file: Option<String>,
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes that it will have.
    pub total: Option<u64>,
}

/// All about one model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// What the list says.
    #[serde(flatten)]
    pub entry: Entry,
    /// What is remembered of its pull.
    pub record: Option<Record>,
    /// What has gone wrong with its files since.
    pub faults: Vec<String>,
}

/// The folders that models are pulled into: `$LIMNER_MODELS`, and `limner/models` among the user's data.
pub fn folders() -> Vec<PathBuf> {
    let named = std::env::var_os("LIMNER_MODELS").filter(|value| !value.is_empty()).map(PathBuf::from);
    named.into_iter().chain(checkpoint::users_folder()).collect()
}

/// The first of `folders` that can be written to. It is made if it is missing.
pub fn writable(folders: &[PathBuf]) -> Result<PathBuf> {
    let tried: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let can_be = |folder: &&PathBuf| fs::create_dir_all(folder).is_ok() && try_to_write(folder).is_ok();
    folders.iter().find(can_be).cloned().ok_or_else(|| {
        let message =
            format!("no folder for models can be written to ({}); name one in LIMNER_MODELS", tried.join(", "));
        Error::Hub(Fault::NoSpace(message))
    })
}

/// Whether files can be made there, by making one.
fn try_to_write(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".{}.try", std::process::id()));
    fs::File::create(&path)?;
    fs::remove_file(&path)
}

/// All models that can be used by name.
pub fn list() -> Vec<Entry> {
    checkpoint::all().into_iter().map(|(name, path)| entry(name, path).0).collect()
}

/// All models in `folders` that are on their way.
pub fn unfinished(folders: &[PathBuf]) -> Vec<Unfinished> {
    folders
        .iter()
        .flat_map(|models| place::workshops(models).into_iter().map(|name| on_its_way(models, name)))
        .collect()
}

fn on_its_way(models: &Path, name: String) -> Unfinished {
    let workshop = place::workshop(models, &name);
    let record = Record::read(&workshop.join(checkpoint::RECORD));
    let total = record.as_ref().map(Record::bytes);
    let (repository, revision, file) =
        record.map(|record| (Some(record.repository), Some(record.revision), record.file)).unwrap_or_default();
    Unfinished { name, repository, revision, file, bytes: bytes_of(&workshop), total }
}

/// All about the model called `name`.
pub fn show(name: &str) -> Result<Shown> {
    let known = checkpoint::all();
    let Some((name, path)) = known.iter().find(|(known, _)| known == name).cloned() else {
        return Err(unknown(name, &known));
    };
    let (entry, record) = entry(name, path);
    let root = if entry.path.is_dir() { entry.path.as_path() } else { entry.path.parent().unwrap_or(&entry.path) };
    let faults = record.iter().flat_map(|record| &record.files).filter_map(|file| {
        let found = fs::metadata(root.join(&file.path)).ok().map(|metadata| metadata.len());
        match found {
            Some(size) if size == file.size => None,
            Some(size) => Some(format!("{} has {size} bytes instead of {}", file.path, file.size)),
            None => Some(format!("{} is missing", file.path)),
        }
    });
    let faults = faults.collect();
    Ok(Shown { entry, record, faults })
}

/// Removes the model called `name` from the first of `folders` that has it, whole or on its way; says what that was.
/// Nothing outside of `folders` is ever removed, nor the bundled model.
pub fn remove(name: &str, folders: &[PathBuf]) -> Result<PathBuf> {
    if name == BUNDLED {
        let message = format!("{BUNDLED} is the model that Limner comes with and stays");
        return Err(Error::Hub(Fault::Unsuitable(message)));
    }
    if !is_name(name) {
        return Err(Error::Hub(Fault::Unsuitable(format!("{name:?} is not a model's name: paths are not removed"))));
    }
    for models in folders {
        if let Some(removed) = remove_from(models, name)? {
            return Ok(removed);
        }
    }
    let known = checkpoint::all();
    match known.iter().find(|(known, _)| known == name) {
        None => Err(unknown(name, &known)),
        Some((_, path)) => {
            let message = format!("{} was not put there by limner pull: remove it by hand", path.display());
            Err(Error::Hub(Fault::Unsuitable(message)))
        }
    }
}

/// What was removed: the model as a folder or as a file, else what was on its way.
fn remove_from(models: &Path, name: &str) -> Result<Option<PathBuf>> {
    let forms = [Form::Folder, Form::File(String::new())];
    let places = forms.iter().map(|form| Place::new(models, name, form)).collect::<Result<Vec<_>>>()?;
    let whole = places.iter().find(|place| checkpoint::is_model(&place.model()) || place.record().is_file());
    let begun = places.iter().find(|place| place.workshop().is_dir());
    let Some(place) = whole.or(begun) else { return Ok(None) };
    let _lock = place.lock()?;
    let path = if whole.is_some() { place.model() } else { place.workshop() };
    place.remove()?;
    Ok(Some(path))
}

/// A model for the list, and what is remembered of it.
fn entry(name: String, path: PathBuf) -> (Entry, Option<Record>) {
    let record = Record::read(&checkpoint::record(&path));
    let entry = Entry {
        bundled: name == BUNDLED,
        bytes: bytes_of(&path),
        repository: record.as_ref().map(|record| record.repository.clone()),
        commit: record.as_ref().map(|record| record.commit.clone()),
        licence: record.as_ref().and_then(|record| record.licence.clone()),
        name,
        path,
    };
    (entry, record)
}

/// Bytes of a file, or of all files below a folder.
fn bytes_of(path: &Path) -> u64 {
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    match path.is_dir() {
        true => files_below(path, "").unwrap_or_default().into_iter().map(|file| size(path.join(file))).sum(),
        false => size(path.to_owned()),
    }
}

fn unknown(name: &str, known: &[(String, PathBuf)]) -> Error {
    let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
    let message = format!("there is no model {name:?}; there are: {}", names.join(", "));
    Error::Hub(Fault::Missing(message))
}
