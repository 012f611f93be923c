//! Where models are: a name or a folder to the folder of a model.

use crate::error::FieldError;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The model that this repository ships.
const BUNDLED: &str = "icons";

/// The folder of the model called `wanted`: a path to a folder, or a name in one of the places where models are kept
/// (`$LIMNER_MODELS`, `./models`, `models` beside the program, `models` of the source tree). Without a name, the
/// bundled model. An unknown name is an [`Error::Invalid`] that lists the known ones.
pub fn find(wanted: Option<&str>) -> Result<PathBuf> {
    let wanted = wanted.unwrap_or(BUNDLED);
    if is_name(wanted) {
        let found = places().into_iter().map(|place| place.join(wanted)).find(|path| is_model(path));
        if let Some(path) = found {
            return Ok(path);
        }
    }
    let path = Path::new(wanted);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    let known = known();
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let message = format!("no model or folder {wanted:?}; known models: {list}");
    Err(Error::invalid(FieldError::new("model", "unknown_model", message)))
}

/// Names of all models that [`find`] finds by name.
fn known() -> Vec<String> {
    let entries = places().into_iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
    let mut names: Vec<String> =
        entries.filter(|e| is_model(&e.path())).map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.dedup();
    names
}

fn places() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models")));
    let named = std::env::var_os("LIMNER_MODELS").map(PathBuf::from);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    named.into_iter().chain([PathBuf::from("models")]).chain(beside).chain([source]).collect()
}

/// A plain file name: nothing that could lead out of the folder it is looked for in.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.len() <= 100 && !text.starts_with('.') && text.chars().all(plain)
}

fn is_model(path: &Path) -> bool {
    path.join("model_index.json").is_file()
}
