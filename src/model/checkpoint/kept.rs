//! Parts of one kind among the models: a folder of their own in each place where models are kept, and beside a model.

use super::Stamps;
use super::find::{is_name, places};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What the names of parts in one file end with.
const ENDING: &str = ".safetensors";

/// Where parts of one kind are kept, by their names. What is put there later is seen, too.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Kept {
    folders: Vec<PathBuf>,
}

impl Kept {
    /// In the folder `folder` of the usual places, and of the place where the model at `model` lies.
    pub(super) fn among_models(folder: &str, model: &Path) -> Self {
        let beside = model.parent().map(Path::to_owned);
        Self { folders: places().into_iter().chain(beside).map(|place| place.join(folder)).collect() }
    }

    /// The folders, in the order of search.
    pub(super) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// All names, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = self.folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
        let parts = entries.filter(|entry| is_part(&entry.path()));
        let names = parts.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let names = names.map(|name| name.strip_suffix(ENDING).map_or(name.clone(), str::to_owned));
        names.filter(|name| is_name(name)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Where the part called `name` is: in the first folder that has it, as a folder or as `NAME.safetensors`.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let candidates = |folder: &PathBuf| [folder.join(name), folder.join(format!("{name}{ENDING}"))];
        is_name(name).then(|| self.folders.iter().flat_map(candidates).find(|path| is_part(path))).flatten()
    }

    /// Which files the part called `name` has now.
    pub(super) fn stamps(&self, name: &str) -> Stamps {
        let path = self.path(name);
        let inside = path.iter().filter_map(|path| std::fs::read_dir(path).ok()).flatten().flatten();
        Stamps::of(inside.map(|entry| entry.path()).chain(path.clone()))
    }

    /// A sentence that says that there is no `name`, and that there are `names`.
    pub(super) fn none(kind: &str, folder: &str, name: &str, names: &[String]) -> String {
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("no {kind} {name:?} in the folder {folder} of the models; known are: {known}")
    }
}

/// A folder with a description, or a file.
fn is_part(path: &Path) -> bool {
    let is_file = || path.extension().is_some_and(|ending| ending == "safetensors") && path.is_file();
    path.join("config.json").is_file() || is_file()
}
