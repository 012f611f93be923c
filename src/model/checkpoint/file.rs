//! Files of a model folder, which may come from anywhere: read whole or refused, with the reason.

use crate::{Error, Result};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// No configuration file is longer.
const LARGEST_CONFIG: u64 = 1 << 20;

/// Reads a JSON object from a file of at most 1 MiB.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read_file(path, LARGEST_CONFIG)?;
    let json = without_mark(&bytes);
    // serde would take a list for the fields in their order, and an empty one for all defaults.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::model(path, "not a JSON object"));
    }
    serde_json::from_slice(json).map_err(|e| Error::model(path, e.to_string()))
}

/// Reads a regular file of at most `largest` bytes.
pub(crate) fn read_file(path: &Path, largest: u64) -> Result<Vec<u8>> {
    let unusable = |message: String| Error::model(path, message);
    let file = open_file(path)?;
    let length = file.metadata().map_err(|e| unusable(e.to_string()))?.len();
    if length > largest {
        return Err(unusable(format!("{length} bytes are too many for this file, {largest} at most")));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize).map_err(|e| unusable(e.to_string()))?;
    file.take(largest).read_to_end(&mut bytes).map_err(|e| unusable(e.to_string()))?;
    Ok(bytes)
}

/// Opens a regular file.
pub(super) fn open_file(path: &Path) -> Result<File> {
    let unusable = |message: String| Error::model(path, message);
    let unreadable = |e: std::io::Error| match e.kind() {
        ErrorKind::NotFound => unusable("the file is missing".into()),
        _ => unusable(e.to_string()),
    };
    // Before it is opened: that alone could wait for ever on a pipe.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unusable("not a regular file".into()));
    }
    File::open(path).map_err(unreadable)
}

/// Without the byte order mark that some editors put in front of UTF-8.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}
