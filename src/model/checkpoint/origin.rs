//! Where a model is from, as far as the record says that a pull leaves in it.

use super::file::read_json;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// What the record is called in a model folder, and what its name ends with beside a model in one file.
pub(crate) const RECORD: &str = "limner.json";

/// The fields of a record that name something.
#[derive(Deserialize)]
struct Origin {
    /// `OWNER/NAME`.
    repository: String,
    /// Of a model in one file: its path in the repository.
    #[serde(default)]
    file: Option<String>,
}

/// Where the record of the model at `path` lies, if it has one.
pub(crate) fn record(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(RECORD) } else { path.with_extension(RECORD) }
}

/// All names of the model at `path`: what it is called here, which is anybody's choice, and what its file and its
/// repository were called where it is from.
pub(super) fn names(path: &Path) -> Vec<String> {
    let origin = read_json::<Origin>(&record(path)).ok();
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let theirs = origin.map(|origin| origin.file.into_iter().chain([origin.repository]).map(|path| last(&path)));
    [super::name(path)].into_iter().chain(theirs.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_model_has_the_names_that_it_came_with() {
        let place = tempfile::tempdir().unwrap();
        let (folder, file) = (place.path().join("mine"), place.path().join("v1.5.safetensors"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "").unwrap();
        assert_eq!((names(&folder), names(&file)), (vec!["mine".to_owned()], vec!["v1.5".to_owned()]));
        fs::write(folder.join("limner.json"), r#"{ "repository": "lcm/sdxl-turbo", "files": [] }"#).unwrap();
        let record = r#"{ "repository": "a/b", "file": "x/sd_lightning.safetensors" }"#;
        fs::write(place.path().join("v1.5.limner.json"), record).unwrap();
        assert_eq!(names(&folder), ["mine", "sdxl-turbo"]);
        assert_eq!(names(&file), ["v1.5", "sd_lightning.safetensors", "b"]);
        fs::write(folder.join("limner.json"), r#"{ "repository": 7 }"#).unwrap();
        assert_eq!(names(&folder), ["mine"]);
    }
}
