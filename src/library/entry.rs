//! What is said of a model.

use super::stamp::Stamp;
use crate::Error;
use crate::error::FieldError;
use crate::memory::size;
use crate::model::checkpoint::{Opened, Precision};
use crate::pipeline;
use crate::request::Facts;
use std::path::PathBuf;

/// A model as lists show it.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Whether it is drawn with where a request names none.
    pub first: bool,
    /// The folder that it lies in, as long as it is there.
    pub folder: Option<PathBuf>,
    /// Of all its files.
    pub bytes_on_disk: u64,
    /// Whether it is in memory.
    pub presence: Presence,
    /// What it is, or why it cannot be used.
    pub outline: Result<Outline, String>,
}

impl Entry {
    /// Whether it lies in one of these folders.
    pub fn lies_in(&self, folders: &[PathBuf]) -> bool {
        self.folder.as_ref().is_some_and(|folder| folders.contains(folder))
    }
}

/// Where a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Only on disk.
    OnDisk,
    /// On its way into memory.
    Loading,
    /// In memory.
    Loaded {
        /// What it takes.
        bytes: u64,
        /// Whether somebody is drawing with it.
        in_use: bool,
    },
}

/// What can be said of a model without reading its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// What plans have to know.
    pub facts: Facts,
    /// Its family, in words.
    pub kind: String,
    /// What its weights will take in memory, as far as the headers of its files say.
    pub bytes: u64,
}

impl Outline {
    pub(super) fn of(opened: &Opened, precision: Precision) -> Self {
        Self { facts: pipeline::facts(opened), kind: opened.kind(), bytes: opened.bytes(precision) }
    }
}

/// A model's name and place, and what its files look like.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
}

/// Why a model cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    code: &'static str,
    pub(super) text: String,
}

impl Reason {
    /// Names the file at fault by its place in the model: where models are kept is nobody's business.
    pub(super) fn new(found: &Found, error: &Error) -> Self {
        let text = match error {
            Error::Model { path, message } => {
                let inside = path.strip_prefix(&found.path).ok().filter(|inside| !inside.as_os_str().is_empty());
                let name = inside.or(path.file_name().map(AsRef::as_ref)).unwrap_or(path);
                format!("{}: {message}", name.display())
            }
            error => error.to_string(),
        };
        Self { code: "unusable_model", text }
    }

    pub(super) fn too_large(bytes: u64, budget: u64) -> Self {
        let (needed, budget) = (size(bytes), size(budget));
        let text = format!("it needs {needed} of memory, and all models together may take {budget} (--memory-mib)");
        Self { code: "model_too_large", text }
    }

    /// As the error of a request that names the model.
    pub(super) fn error(&self, name: &str) -> Error {
        Error::invalid(FieldError::new("model", self.code, format!("{name} cannot be used: {}", self.text)))
    }
}
