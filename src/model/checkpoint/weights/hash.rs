//! What weights are known by: a SHA-256 over their files, computed when somebody asks for it, and remembered on disk.

use super::Weights;
use super::file::WeightFile;
use crate::model::checkpoint::Stamp;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Smaller files are read again sooner than they are looked up.
const WORTH_REMEMBERING: u64 = 16 << 20;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// What is said where the files are not any more what was loaded.
const UNKNOWN: &str = "unknown";

/// The hash of a model's weights.
#[derive(Debug)]
pub(in crate::model) struct Hash {
    files: Vec<Arc<Vec<WeightFile>>>,
    value: OnceLock<String>,
}

impl Hash {
    pub(in crate::model) fn of<'a>(parts: impl IntoIterator<Item = &'a Weights>) -> Self {
        let mut files: Vec<Arc<Vec<WeightFile>>> = Vec::new();
        for weights in parts {
            // The parts of a single file share it.
            if !files.iter().any(|known| Arc::ptr_eq(known, &weights.files)) {
                files.push(weights.files.clone());
            }
        }
        Self { files, value: OnceLock::new() }
    }

    /// The first ten digits of a SHA-256: of the file where there is one, as other programs name models, else over the
    /// digests of all files. The first call reads files that are not known yet, each on a core of its own; `unknown`
    /// where one was changed after it was loaded.
    pub(in crate::model) fn get(&self) -> &str {
        self.value.get_or_init(|| {
            let memory = dirs::cache_dir().map(|folder| folder.join("limner").join("hashes.json"));
            let digits = self.compute(memory.as_deref());
            digits.unwrap_or_else(|error| {
                tracing::warn!("the model's hash is not known: {error}");
                UNKNOWN.to_owned()
            })
        })
    }

    fn compute(&self, memory: Option<&Path>) -> Result<String> {
        use rayon::prelude::*;
        let files: Vec<&WeightFile> = self.files.iter().flat_map(|files| files.iter()).collect();
        let digest = |file: &&WeightFile| digest(file, memory).map_err(|e| Error::model(&file.path, e.to_string()));
        let digests = files.par_iter().map(digest).collect::<Result<Vec<_>>>()?;
        let whole = match digests.as_slice() {
            [only] => *only,
            several => several.iter().fold(Sha256::new(), |hash, digest| hash.chain_update(digest)).finalize().into(),
        };
        Ok(digits(&whole[..5]))
    }
}

type Sha = [u8; 32];

/// Of the content that `file` was opened with.
fn digest(file: &WeightFile, memory: Option<&Path>) -> io::Result<Sha> {
    let memory = memory.filter(|_| file.stamp.length >= WORTH_REMEMBERING).map(Memory);
    if let Some(known) = memory.and_then(|memory| memory.recall(file)) {
        return unchanged(file).map(|()| known);
    }
    let mut hash = Sha256::new();
    let (mut bytes, mut at) = (vec![0; CHUNK], 0);
    while at < file.stamp.length {
        let part = &mut bytes[..(file.stamp.length - at).min(CHUNK as u64) as usize];
        file.file.read_exact_at(part, at)?;
        hash.update(&part);
        at += part.len() as u64;
    }
    unchanged(file)?;
    let digest = hash.finalize().into();
    if let Some(memory) = memory {
        memory.keep(file, &digest);
    }
    Ok(digest)
}

fn unchanged(file: &WeightFile) -> io::Result<()> {
    match Stamp::of(&file.file.metadata()?) == file.stamp {
        true => Ok(()),
        false => Err(io::Error::other("the file was changed after it was loaded")),
    }
}

/// The file in which digests are remembered. It is never needed: what goes wrong with it is not said.
#[derive(Clone, Copy)]
struct Memory<'a>(&'a Path);

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    stamp: Stamp,
    sha256: String,
}

type Entries = BTreeMap<PathBuf, Entry>;

impl Memory<'_> {
    fn read(self) -> Entries {
        fs::read(self.0).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn recall(self, file: &WeightFile) -> Option<Sha> {
        let entry = self.read().remove(&file.path.canonicalize().ok()?)?;
        let bytes = (0..32).map(|i| u8::from_str_radix(entry.sha256.get(2 * i..2 * i + 2)?, 16).ok());
        let digest = bytes.collect::<Option<Vec<_>>>()?.try_into().ok()?;
        (entry.stamp == file.stamp).then_some(digest)
    }

    /// Of two programs that write at the same time one is forgotten, which costs no more than a second.
    fn keep(self, file: &WeightFile, digest: &Sha) {
        let Ok(path) = file.path.canonicalize() else { return };
        let mut entries = self.read();
        entries.retain(|path, _| path.exists());
        entries.insert(path, Entry { stamp: file.stamp, sha256: digits(digest) });
        let new = self.0.with_extension(format!("{}.part", std::process::id()));
        let folder = self.0.parent().unwrap_or(Path::new("."));
        let write = || -> io::Result<()> {
            fs::create_dir_all(folder)?;
            fs::write(&new, serde_json::to_vec_pretty(&entries)?)?;
            fs::rename(&new, self.0)
        };
        let _ = write();
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `length` bytes after its header.
    fn weights(path: &Path, length: usize, fill: u8) -> Hash {
        let json = format!(r#"{{"x":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
        let bytes = [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &vec![fill; length]].concat();
        fs::write(path, bytes).unwrap();
        Hash::of([&Weights::read_file(path.to_owned()).unwrap()])
    }

    fn expected(path: &Path) -> String {
        digits(&Sha256::digest(fs::read(path).unwrap())[..5])
    }

    #[test]
    fn a_digest_is_remembered_for_as_long_as_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, memory) = (folder.path().join("x.safetensors"), folder.path().join("cache/hashes.json"));
        let hash = weights(&path, 17 << 20, 1);
        assert_eq!(hash.compute(Some(&memory)).unwrap(), expected(&path));

        // Where something else is remembered, that is believed, so it must have been read.
        let mut entries: Entries = serde_json::from_slice(&fs::read(&memory).unwrap()).unwrap();
        entries.values_mut().for_each(|entry| entry.sha256.replace_range(..10, "0123456789"));
        fs::write(&memory, serde_json::to_vec(&entries).unwrap()).unwrap();
        assert_eq!(hash.compute(Some(&memory)).unwrap(), "0123456789");

        let changed = weights(&path, 17 << 20, 2);
        assert_eq!(changed.compute(Some(&memory)).unwrap(), expected(&path));
        assert!(hash.compute(Some(&memory)).is_err(), "the file was overwritten");
        for broken in ["", "[]", "{\"a\":1}", "\u{0}"] {
            fs::write(&memory, broken).unwrap();
            assert_eq!(changed.compute(Some(&memory)).unwrap(), expected(&path));
        }
    }

    #[test]
    fn small_files_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (path, memory) = (folder.path().join("x.safetensors"), folder.path().join("hashes.json"));
        assert_eq!(weights(&path, 100, 1).compute(Some(&memory)).unwrap(), expected(&path));
        assert!(!memory.exists());
    }

    #[test]
    fn weights_that_were_changed_after_they_were_loaded_have_no_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let hash = weights(&path, 100, 1);
        fs::write(&path, b"other").unwrap();
        assert_eq!(hash.get(), UNKNOWN);
    }
}
