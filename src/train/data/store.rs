//! Writing a data set so that nothing half-made ever stands under its final name.

use super::{CHANNELS, Index, Record};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

pub(super) const INDEX: &str = "index.json";
pub(super) const PICTURES: &str = "pictures";

/// Where a part of the data came from: for the model card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The package's (or folder's) name.
    pub name: String,
    /// Its version, where it has one.
    pub version: String,
    /// Its licence as the package states it.
    pub licence: String,
}

/// A data set in the making: a folder beside the final one, removed on drop unless [`Draft::publish`]ed.
#[derive(Debug)]
pub(super) struct Draft {
    temporary: PathBuf,
    out: PathBuf,
    size: usize,
}

impl Draft {
    /// Starts a data set that will become `out`. Without `force`, an `out` with anything in it is refused.
    pub(super) fn new(out: &Path, size: usize, force: bool) -> Result<Self> {
        if !force && !is_absent_or_empty(out)? {
            let message = format!("{} exists and is not empty; --force replaces it", out.display());
            return Err(Error::Training(message));
        }
        let name = out.file_name().ok_or_else(|| Error::Training(format!("{}: not a folder's name", out.display())))?;
        let temporary = out.with_file_name(format!(".{}.{}.partial", name.to_string_lossy(), std::process::id()));
        let pictures = temporary.join(PICTURES);
        std::fs::create_dir_all(&pictures).map_err(Error::io(&pictures))?;
        Ok(Self { temporary, out: out.to_owned(), size })
    }

    /// Writes one picture of `size * size * 3` bytes and returns the path the record refers to.
    pub(super) fn add(&self, stem: &str, rgb: &[u8]) -> Result<String> {
        debug_assert_eq!(rgb.len(), self.size * self.size * CHANNELS);
        let file = format!("{PICTURES}/{stem}.png");
        let path = self.temporary.join(&file);
        let (side, colour) = (self.size as u32, ::image::ExtendedColorType::Rgb8);
        ::image::save_buffer_with_format(&path, rgb, side, side, colour, ::image::ImageFormat::Png)
            .map_err(|e| Error::io(&path)(std::io::Error::other(e)))?;
        Ok(file)
    }

    /// Writes the index and puts the finished folder in its place.
    pub(super) fn publish(self, sources: Vec<Source>, records: Vec<Record>) -> Result<()> {
        let index = Index { size: self.size, sources, records };
        let path = self.temporary.join(INDEX);
        let text = serde_json::to_vec_pretty(&index).map_err(|e| Error::Training(e.to_string()))?;
        std::fs::write(&path, text).map_err(Error::io(&path))?;
        let aside = self.temporary.with_extension("old");
        if self.out.exists() {
            std::fs::rename(&self.out, &aside).map_err(Error::io(&self.out))?;
        }
        std::fs::rename(&self.temporary, &self.out).map_err(Error::io(&self.out))?;
        if aside.exists() {
            std::fs::remove_dir_all(&aside).map_err(Error::io(&aside))?;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.temporary.exists() {
            // Best effort: the error that led here is the one to report.
            let _ = std::fs::remove_dir_all(&self.temporary);
        }
    }
}

fn is_absent_or_empty(folder: &Path) -> Result<bool> {
    match std::fs::read_dir(folder) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(Error::io(folder)(e)),
    }
}
