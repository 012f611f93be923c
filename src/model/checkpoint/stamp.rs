//! Which content files have, as far as that can be told from outside: enough to notice that it is another now.

use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(super) length: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// Of the file that `about` is about.
    pub(crate) fn of(about: &Metadata) -> Self {
        let (seconds, nanoseconds) = (about.mtime(), about.mtime_nsec());
        Self { length: about.len(), inode: about.ino(), seconds, nanoseconds }
    }
}

/// Of several files, each with its path, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stamps(Vec<(PathBuf, Stamp)>);

impl Stamps {
    /// Looks at files, and opens none. What is not there, or is no file, leaves no trace.
    pub(crate) fn of(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let look = |file: PathBuf| {
            let about = file.metadata().ok().filter(Metadata::is_file)?;
            Some((file, Stamp::of(&about)))
        };
        let mut stamps: Vec<_> = files.into_iter().filter_map(look).collect();
        stamps.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Self(stamps)
    }

    /// Of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, stamp)| stamp.length).sum()
    }
}
