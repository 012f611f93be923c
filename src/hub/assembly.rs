//! What a model folder in the making begins with: the files that the model there now has already, by links, so that
//! they take neither time nor room, and nothing that belongs to neither.

use crate::image::sync_folder_of;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Removes from the folder `assembly` what is not `wanted`: an earlier attempt may have been for another variant.
pub(super) fn prune(assembly: &Path, wanted: &BTreeSet<String>) -> Result<()> {
    for path in files_below(assembly, "")?.into_iter().filter(|path| !wanted.contains(path)) {
        let path = assembly.join(path);
        fs::remove_file(&path).map_err(Error::io(&path))?;
    }
    Ok(())
}

/// Links those files of the folder `model` into `assembly` that are to be kept.
pub(super) fn carry_over(model: &Path, assembly: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
    for path in files_below(model, "")?.into_iter().filter(|path| keep(path)) {
        let (from, to) = (model.join(&path), assembly.join(&path));
        let folder = to.parent().unwrap_or(assembly);
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        if to.symlink_metadata().is_ok() {
            fs::remove_file(&to).map_err(Error::io(&to))?;
        }
        // Some file systems know no links.
        let linked = fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop));
        linked.and_then(|()| sync_folder_of(&to)).map_err(Error::io(&to))?;
    }
    Ok(())
}

/// All files and links below `folder`, by their paths from there, with slashes; none if there is no such folder.
pub(super) fn files_below(folder: &Path, prefix: &str) -> Result<Vec<String>> {
    let place: PathBuf = folder.join(prefix);
    let entries = match fs::read_dir(&place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(&place))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(&place))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        match entry.file_type().map_err(Error::io(&place))?.is_dir() {
            true => files.extend(files_below(folder, &path)?),
            false => files.push(path),
        }
    }
    files.sort();
    Ok(files)
}
