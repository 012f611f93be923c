//! npm packages as bags of files: read from tarballs, fetched by `npm pack` where none is given.

use super::Source;
use crate::{Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The files of one package that we use, by their path inside it.
#[derive(Debug)]
pub(super) struct Package {
    manifest: Manifest,
    files: BTreeMap<String, Vec<u8>>,
    origin: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    name: String,
    version: String,
    #[serde(default)]
    license: String,
}

/// The files we read of any package; a full emoji package would be 100 MB in memory.
const WANTED: [&str; 5] = ["package.json", "icons.json", "chars.json", "en/data.json", "en/messages.json"];

impl Package {
    /// Reads a `.tgz` as `npm pack` writes it.
    pub(super) fn open(tarball: &Path) -> Result<Self> {
        let damaged = |e: std::io::Error| Error::Training(format!("{}: not an npm package: {e}", tarball.display()));
        let file = std::fs::File::open(tarball).map_err(Error::io(tarball))?;
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::io::BufReader::new(file)));
        let mut files = BTreeMap::new();
        for entry in archive.entries().map_err(damaged)? {
            let mut entry = entry.map_err(damaged)?;
            let path = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
            let Some(inner) = path.strip_prefix("package/").filter(|inner| WANTED.contains(inner)) else { continue };
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(damaged)?;
            files.insert(inner.to_owned(), bytes);
        }
        let manifest = parse(&files, "package.json", tarball)?;
        Ok(Self { manifest, files, origin: tarball.to_owned() })
    }

    /// The package's name, `@scope/name`.
    pub(super) fn name(&self) -> &str {
        &self.manifest.name
    }

    /// The JSON file `inner`, parsed.
    pub(super) fn json<T: DeserializeOwned>(&self, inner: &str) -> Result<T> {
        parse(&self.files, inner, &self.origin)
    }

    /// Name, version and licence.
    pub(super) fn source(&self) -> Source {
        let Manifest { name, version, license } = &self.manifest;
        Source { name: name.clone(), version: version.clone(), licence: license.clone() }
    }
}

fn parse<T: DeserializeOwned>(files: &BTreeMap<String, Vec<u8>>, inner: &str, origin: &Path) -> Result<T> {
    let fault = |what: String| Error::Training(format!("{}: {inner}: {what}", origin.display()));
    let bytes = files.get(inner).ok_or_else(|| fault("missing from the package".to_owned()))?;
    serde_json::from_slice(bytes).map_err(|e| fault(e.to_string()))
}

/// The packages called `names`, in that order: from `tarballs` where one of them is it, otherwise by `npm pack`.
pub(super) fn collect(names: &[&str], tarballs: &[PathBuf]) -> Result<Vec<Package>> {
    let mut given = BTreeMap::new();
    for tarball in tarballs {
        let package = Package::open(tarball)?;
        if !names.contains(&package.name()) {
            let message = format!("{}: is {}, not one of {}", tarball.display(), package.name(), names.join(", "));
            return Err(Error::Training(message));
        }
        given.insert(package.name().to_owned(), package);
    }
    names.iter().map(|&name| given.remove(name).map_or_else(|| fetch(name), Ok)).collect()
}

/// Downloads a package with the npm client into a folder that is removed again.
fn fetch(name: &str) -> Result<Package> {
    let folder = std::env::temp_dir().join(format!("limner-npm-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
    let package = pack(name, &folder).and_then(|tarball| Package::open(&tarball));
    std::fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    package
}

fn pack(name: &str, folder: &Path) -> Result<PathBuf> {
    let output = Command::new("npm").args(["pack", "--silent", name]).current_dir(folder).output();
    let output = output.map_err(|e| {
        Error::Training(format!(
            "cannot run npm to fetch {name}: {e}; install Node.js, or run `npm pack {name}` elsewhere and give the file with --tarball"
        ))
    })?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Training(format!("npm pack {name} failed: {}", reason.trim())));
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    let file = printed.lines().last().unwrap_or_default().trim();
    Ok(folder.join(file))
}
