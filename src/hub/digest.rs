//! What a hub says a file's content is, and whether it is that.

use super::watcher::Watcher;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha1::Digest as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A file's hash, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Digest {
    /// Of files in the large-file storage: SHA-256 of the content.
    Sha256(String),
    /// Of small files: git's name for the content, SHA-1 of `blob SIZE\0` and the content.
    GitSha1(String),
}

impl Digest {
    /// A SHA-256, if these are 64 hexadecimal digits.
    pub(super) fn sha256(digits: &str) -> Option<Self> {
        is_hex(digits, 64).then(|| Self::Sha256(digits.to_ascii_lowercase()))
    }

    /// A git blob's name, if these are 40 hexadecimal digits.
    pub(super) fn git(digits: &str) -> Option<Self> {
        is_hex(digits, 40).then(|| Self::GitSha1(digits.to_ascii_lowercase()))
    }

    /// The digits.
    pub fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitSha1(hex) => hex,
        }
    }

    /// Starts to hash a file of `size` bytes the way this was made.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(sha2::Sha256::new()),
            Self::GitSha1(_) => Hasher::Git(sha1::Sha1::new_with_prefix(format!("blob {size}\0"))),
        }
    }

    /// Whether the file at `path` is there, has `size` bytes and this hash.
    pub(super) fn fits(&self, path: &Path, size: u64, watcher: &mut Watcher<'_>) -> Result<bool> {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() && metadata.len() == size => {}
            _ => return Ok(false),
        }
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut hasher = self.hasher(size);
        hasher.read(&mut file, path, watcher)?;
        Ok(hasher.hex() == self.hex())
    }
}

/// Whether `text` consists of `length` hexadecimal digits.
pub(super) fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A hash in the making.
#[derive(Clone)]
pub(super) enum Hasher {
    Sha256(sha2::Sha256),
    Git(sha1::Sha1),
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// Takes in the rest of `file`, and tells the watcher.
    pub(super) fn read(&mut self, file: &mut File, path: &Path, watcher: &mut Watcher<'_>) -> Result<()> {
        let (mut chunk, mut done) = (vec![0; 1 << 18], 0);
        loop {
            let n = file.read(&mut chunk).map_err(Error::io(path))?;
            if n == 0 {
                return Ok(());
            }
            self.update(&chunk[..n]);
            done += n as u64;
            watcher.reach(done)?;
        }
    }

    /// The digits of all that was taken in.
    pub(super) fn hex(self) -> String {
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => digits(&hash.finalize()),
            Self::Git(hash) => digits(&hash.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    // printf 'hello\n' > x; git hash-object x; sha256sum x
    const GIT: &str = "ce013625030ba8dba906f756967f9e9ca394464a";
    const SHA256: &str = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";

    #[test]
    fn a_file_fits_the_hash_that_git_and_sha256sum_give_it_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, "hello\n").unwrap();
        let cancel = AtomicBool::new(false);
        let fits = |digest: &Digest, path: &Path, size| {
            digest.fits(path, size, &mut Watcher::new(&mut |_| (), &cancel)).unwrap()
        };
        let (git, sha256) = (Digest::git(GIT).unwrap(), Digest::sha256(SHA256).unwrap());
        for digest in [&git, &sha256] {
            assert!(fits(digest, &path, 6) && !fits(digest, &path, 5));
            assert!(!fits(digest, folder.path(), 6) && !fits(digest, &folder.path().join("y"), 6));
        }
        std::fs::write(&path, "hellO\n").unwrap();
        assert!(!fits(&git, &path, 6) && !fits(&sha256, &path, 6));
    }

    #[test]
    fn what_is_no_hash_is_not_taken_for_one() {
        for wrong in ["", "ce01", &GIT.replace('c', "g"), &format!("{GIT}0"), SHA256] {
            assert_eq!(Digest::git(wrong), None);
        }
        assert_eq!(Digest::sha256(GIT), None);
        assert_eq!(Digest::git(&GIT.to_ascii_uppercase()).unwrap().hex(), GIT);
    }
}
