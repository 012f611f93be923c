//! The small files of a model folder.

use crate::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// Writes indented JSON under a temporary name, then renames it.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Training(e.to_string()))?;
    write_text(path, &(text + "\n"))
}

/// Writes text under a temporary name, then renames it.
pub(super) fn write_text(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("partial");
    std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, path)).map_err(Error::io(path))
}
