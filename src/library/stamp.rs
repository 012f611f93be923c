//! What the files of a model look like from outside: enough to notice that they are others now.

use crate::model::checkpoint::{self, Stamps};
use std::fs::{DirEntry, read_dir};
use std::path::{Path, PathBuf};

/// The files of a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    own: Stamps,
    /// Tiny decoders, which it may be drawn with.
    companions: Stamps,
}

impl Stamp {
    /// Looks at the folder or the file `path`: at the folder's files and at those in its folders, or at the file, its
    /// record and the autoencoder beside it. Opens none of them. What is not there leaves no trace.
    pub(super) fn of(path: &Path) -> Self {
        let record = checkpoint::record(path);
        let files = match path.is_dir() {
            true => inside(path),
            false => vec![path.to_owned(), path.with_extension("vae.safetensors"), record],
        };
        let companions = checkpoint::companions(path);
        let files_of = |path: PathBuf| if path.is_dir() { inside(&path) } else { vec![path] };
        Self { own: Stamps::of(files), companions: Stamps::of(companions.into_iter().flat_map(files_of)) }
    }

    /// Of all its own files together.
    pub(super) fn bytes(&self) -> u64 {
        self.own.bytes()
    }
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut files): (Vec<_>, Vec<_>) = entries(folder).partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| entries(folder)));
    files
}

/// What lies in a folder, hidden files aside.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let hidden = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    read_dir(folder).into_iter().flatten().flatten().filter(move |entry| !hidden(entry)).map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_change_of_any_file_shows() {
        let folder = tempfile::tempdir().unwrap();
        let unet = folder.path().join("unet");
        fs::create_dir(&unet).unwrap();
        fs::write(folder.path().join("model_index.json"), "{}").unwrap();
        let weights = unet.join("weights.safetensors");
        fs::write(&weights, "1234").unwrap();
        let first = Stamp::of(folder.path());
        assert_eq!((first.bytes(), Stamp::of(folder.path())), (6, first.clone()));
        // The same length, another time.
        let file = fs::File::options().write(true).open(&weights).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(9)).unwrap();
        let touched = Stamp::of(folder.path());
        assert_ne!(touched, first);
        fs::write(unet.join(".download"), "12").unwrap();
        assert_eq!(Stamp::of(folder.path()), touched, "a hidden file is none of the model's");
        fs::rename(&weights, unet.join("other.safetensors")).unwrap();
        assert_ne!(Stamp::of(folder.path()), touched);
        assert_eq!(Stamp::of(&folder.path().join("nothing")), Stamp::default());
    }

    #[test]
    fn an_autoencoder_beside_a_single_file_belongs_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["sd.safetensors", "sd.vae.safetensors", "sd.pruned.safetensors", "other.safetensors"] {
            fs::write(path(name), "1").unwrap();
        }
        assert_eq!(Stamp::of(&path("sd.safetensors")).bytes(), 2);
        let before = Stamp::of(&path("sd.safetensors"));
        fs::write(path("sd.limner.json"), "{}").unwrap();
        assert_ne!(Stamp::of(&path("sd.safetensors")), before, "its record says where it is from");
        assert_eq!(Stamp::of(&path("sd.pruned.safetensors")).bytes(), 1);
    }
}
