//! The data folder: pictures and uploads as files, each under an id of ours, and a lock, so that one server has it.

use super::Id;
use crate::image::write_file;
use crate::{Error, Result};
use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// An open data folder. The lock goes with the process, however it ends.
pub(super) struct Folder {
    root: PathBuf,
    _lock: File,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Picture,
    Thumbnail,
    Upload,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Picture, Self::Thumbnail, Self::Upload];

    fn folder(self) -> &'static str {
        match self {
            Self::Picture => "pictures",
            Self::Thumbnail => "thumbnails",
            Self::Upload => "uploads",
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Picture | Self::Thumbnail => "png",
            Self::Upload => "upload",
        }
    }
}

impl Folder {
    /// Creates what is missing and takes the lock. A folder that another server has is refused, and that server named.
    pub(super) fn open(root: &Path) -> Result<Self> {
        for kind in Kind::ALL {
            let folder = root.join(kind.folder());
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        }
        let lock = lock(&root.join("lock"))?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub(super) fn database(&self) -> PathBuf {
        self.root.join("limner.db")
    }

    /// The only place where a path inside the folder is made.
    pub(super) fn path(&self, kind: Kind, id: &Id) -> PathBuf {
        self.root.join(kind.folder()).join(format!("{id}.{}", kind.extension()))
    }

    /// Writes under a temporary name, syncs, renames.
    pub(super) fn write(&self, kind: Kind, id: &Id, bytes: &[u8]) -> Result<()> {
        write_file(&self.path(kind, id), bytes)
    }

    pub(super) fn read(&self, kind: Kind, id: &Id) -> Result<Vec<u8>> {
        let path = self.path(kind, id);
        fs::read(&path).map_err(Error::io(path))
    }

    /// A file that is gone already is as good as removed.
    pub(super) fn remove(&self, kind: Kind, id: &Id) {
        let path = self.path(kind, id);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a file could not be removed");
        }
    }

    /// Removes what a crash left: files without a row in the database, and half-written ones.
    pub(super) fn sweep(&self, kind: Kind, known: &[Id]) -> Result<usize> {
        let folder = self.root.join(kind.folder());
        let known: HashSet<PathBuf> = known.iter().map(|id| self.path(kind, id)).collect();
        let entries = fs::read_dir(&folder).map_err(Error::io(&folder))?;
        let orphans = entries.flatten().map(|entry| entry.path()).filter(|path| !known.contains(path));
        Ok(orphans.filter(|path| fs::remove_file(path).is_ok()).count())
    }
}

fn lock(path: &Path) -> Result<File> {
    let options = || File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = options().map_err(Error::io(path))?;
    match file.try_lock() {
        Ok(()) => {
            let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
            written.map_err(Error::io(path))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut other = String::new();
            let _ = file.read_to_string(&mut other);
            let folder = path.parent().unwrap_or(path).display();
            let message = format!("{folder} is in use by another limner (process {other}); choose another with --data");
            Err(Error::Server(message))
        }
        Err(TryLockError::Error(error)) => Err(Error::Io { path: path.to_owned(), source: error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_refused_and_the_first_named() {
        let root = tempfile::tempdir().unwrap();
        let first = Folder::open(root.path()).unwrap();
        let error = Folder::open(root.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Folder::open(root.path()).unwrap();
    }

    #[test]
    fn files_without_a_row_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(root.path()).unwrap();
        let (kept, orphan) = (Id::random().unwrap(), Id::random().unwrap());
        for id in [&kept, &orphan] {
            folder.write(Kind::Picture, id, b"png").unwrap();
        }
        fs::write(root.path().join("pictures/.half.part"), b"p").unwrap();
        assert_eq!(folder.sweep(Kind::Picture, std::slice::from_ref(&kept)).unwrap(), 2);
        assert_eq!(folder.read(Kind::Picture, &kept).unwrap(), b"png");
        assert!(folder.read(Kind::Picture, &orphan).is_err());
    }
}
