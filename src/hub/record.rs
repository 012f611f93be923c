//! What is remembered of where a model came from: `limner.json` in its folder, or `NAME.limner.json` beside its file.

use super::digest::Digest;
use super::repository::is_inside;
use crate::image::write_file;
use crate::model::checkpoint::read_json;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which of a repository's weights are fetched, where it has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// Half precision: half of the bytes, and nearly the same pictures
    Fp16,
    /// Full precision, as trained
    Full,
}

/// Where a model came from, and what it consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `OWNER/NAME`.
    pub repository: String,
    /// What was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// The commit that this was; all files are of it.
    pub commit: String,
    /// What the repository says its licence is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Of a model in one file: its path in the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Of a model folder: which weights were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// All files, whole ones.
    pub files: Vec<RecordedFile>,
}

/// One of a model's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Its path from the model's folder, with slashes; of a model in one file, the file's name.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// What the hub said its content is, and it was.
    #[serde(flatten)]
    pub digest: Digest,
}

impl Record {
    /// Reads the record at `path`; none if the file is not there or is none of ours. A model folder may come from
    /// anywhere, and so may a file of this name in it.
    pub fn read(path: &Path) -> Option<Self> {
        let record: Self = read_json(path).ok()?;
        record.files.iter().all(|file| is_inside(&file.path)).then_some(record)
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| Error::Server(e.to_string()))?;
        write_file(path, (json + "\n").as_bytes())
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_one_that_leads_elsewhere_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limner.json");
        let file = |path: &str, digest| RecordedFile { path: path.into(), size: 7, digest };
        let mut record = Record {
            repository: "a/b".into(),
            revision: "main".into(),
            commit: "c".repeat(40),
            licence: None,
            file: None,
            variant: Some(Variant::Fp16),
            files: vec![file("unet/x", Digest::Sha256("ab".into())), file("y", Digest::GitSha1("cd".into()))],
        };
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path), Some(record.clone()));
        assert_eq!(record.bytes(), 14);
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["files"][0], serde_json::json!({ "path": "unet/x", "size": 7, "sha256": "ab" }));

        record.files.push(file("../z", Digest::Sha256("ab".into())));
        record.write(&path).unwrap();
        assert_eq!(Record::read(&path), None);
        assert_eq!(Record::read(folder.path()), None);
    }
}
