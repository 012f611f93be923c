//! One file of a repository to a whole, checked file on disk, going on where an earlier attempt ended.

use super::Fault;
use super::client::{Answer, Hub, Trouble};
use super::digest::Hasher;
use super::repository::{RemoteFile, Repository};
use super::watcher::Watcher;
use crate::{Error, Result};
use std::cell::Cell;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;

/// Fetches `file` of the repository at `commit` into `path`, on from what is there. Whole, with the right hash and on
/// the disk, when it returns; after a fault, `path` keeps what may be of use to the next attempt.
pub(super) fn fetch(
    hub: &Hub,
    repository: &Repository,
    commit: &str,
    file: &RemoteFile,
    path: &Path,
    watcher: &mut Watcher<'_>,
) -> Result<()> {
    let mut part = Part::open(path, file, watcher)?;
    let reached = Cell::new(part.length);
    hub.patience().retry(watcher, &reached, |watcher| {
        let resumed = part.length > 0;
        if part.length < file.size {
            let answer = hub.file(repository, commit, &file.path, part.length, watcher.cancel())?;
            let filled = part.fill(answer, watcher);
            reached.set(part.length);
            filled?;
        }
        part.check(resumed)
    })?;
    part.to_disk.sync_all().map_err(Error::io(path))
}

/// The beginning of a file: on disk, and in a hash.
struct Part<'a> {
    file: &'a RemoteFile,
    path: &'a Path,
    to_disk: File,
    hasher: Hasher,
    length: u64,
}

impl<'a> Part<'a> {
    /// Takes up what an earlier attempt left.
    fn open(path: &'a Path, file: &'a RemoteFile, watcher: &mut Watcher<'_>) -> Result<Self> {
        let options = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let to_disk = options.map_err(Error::io(path))?;
        let length = to_disk.metadata().map_err(Error::io(path))?.len();
        let mut part = Self { file, path, to_disk, hasher: file.digest.hasher(file.size), length };
        if length > file.size {
            part.restart()?;
        }
        part.hasher.read(&mut part.to_disk, path, watcher)?;
        Ok(part)
    }

    /// Throws away what is there.
    fn restart(&mut self) -> Result<()> {
        self.to_disk.set_len(0).and_then(|()| self.to_disk.rewind()).map_err(Error::io(self.path))?;
        self.hasher = self.file.digest.hasher(self.file.size);
        self.length = 0;
        Ok(())
    }

    /// Appends the answer's body. Never more than the file's size: a body without an end must not fill the disk.
    fn fill(&mut self, mut answer: Answer, watcher: &mut Watcher<'_>) -> Result<(), Trouble> {
        let from = answer.first_byte();
        if from != Some(self.length) {
            // All of the file, or some other part of it: what is here is of no use then.
            self.restart()?;
        }
        if from != Some(self.length) {
            return Err(Trouble::again(self.broken("the hub sends another part of it than was asked for")));
        }
        while let Some(chunk) = answer.next(watcher.cancel())? {
            if chunk.len() as u64 > self.file.size - self.length {
                self.restart()?;
                return Err(self.broken(&format!("the hub sends more than its {} bytes", self.file.size)).into());
            }
            self.to_disk.write_all(&chunk).map_err(Error::io(self.path))?;
            self.hasher.update(&chunk);
            self.length += chunk.len() as u64;
            watcher.reach(self.length)?;
        }
        if self.length < self.file.size {
            let what = format!("the hub sent {} of its {} bytes", self.length, self.file.size);
            return Err(Trouble::again(self.broken(&what)));
        }
        Ok(())
    }

    /// Whether all of it is what the hub said it is. If not, it begins anew: once more at once where the fault may be
    /// in what an earlier attempt left.
    fn check(&mut self, resumed: bool) -> Result<(), Trouble> {
        let (found, expected) = (self.hasher.clone().hex(), self.file.digest.hex());
        if found == expected {
            return Ok(());
        }
        let message = format!("its hash is {found}, but the hub says {expected}: it was damaged or changed on the way");
        let error = self.broken(&message);
        self.restart()?;
        if resumed { Err(Trouble::again(error)) } else { Err(error.into()) }
    }

    fn broken(&self, what: &str) -> Error {
        Error::Hub(Fault::Broken(format!("{}: {what}", self.file.path)))
    }
}

impl Answer {
    /// Where in the file the body begins.
    fn first_byte(&self) -> Option<u64> {
        if self.head.status == 206 {
            return self.header("content-range")?.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok();
        }
        self.head.status.is_success().then_some(0)
    }
}
