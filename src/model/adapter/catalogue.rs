//! The adapters and embeddings that a request can name: which there are, where they lie, and whether they fit a model.

use super::embedding::Embedding;
use super::layout::Layout;
use super::{Adapter, PEFT_FILES};
use crate::prompt::{Piece, is_lora_name, pieces};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a folder of adapters is called in a place of models, and one of embeddings.
const LORAS: &str = "loras";
const EMBEDDINGS: &str = "embeddings";

const ENDING: &str = ".safetensors";

/// Where adapters and embeddings are looked for: `loras/NAME.safetensors` and `embeddings/NAME.safetensors` in the places
/// where models are kept, and single files besides. What is asked for is compared with the names of the files that there
/// are, and is never made a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalogue {
    places: Vec<PathBuf>,
    /// Adapters that lie elsewhere.
    files: BTreeMap<String, PathBuf>,
}

impl Catalogue {
    /// Of the folders in `places`, in the order of search.
    pub fn new(places: Vec<PathBuf>) -> Self {
        Self { places, files: BTreeMap::new() }
    }

    /// Adds an adapter that lies anywhere: its name, which goes before others, is the file's without the ending. None for
    /// a name that no tag can have.
    pub fn add(&mut self, path: &Path) -> Option<String> {
        let name = name(path)?;
        self.files.insert(name.clone(), path.to_owned());
        Some(name)
    }

    /// The names of all adapters, with their files.
    pub fn loras(&self) -> BTreeMap<String, PathBuf> {
        let mut found = self.found(LORAS, |path| is_file(path) || path.join(PEFT_FILES[0]).is_file());
        found.extend(self.files.clone());
        found
    }

    /// The names of all embeddings, with their files.
    pub fn embeddings(&self) -> BTreeMap<String, PathBuf> {
        self.found(EMBEDDINGS, is_file)
    }

    fn found(&self, folder: &str, is_one: impl Fn(&Path) -> bool) -> BTreeMap<String, PathBuf> {
        let entries = self.places.iter().filter_map(|place| std::fs::read_dir(place.join(folder)).ok());
        let mut paths: Vec<Vec<PathBuf>> =
            entries.map(|all| all.flatten().map(|entry| entry.path()).collect()).collect();
        // The first place that has a name decides, and so comes last into the map; in a place, the order of names does.
        paths.iter_mut().for_each(|paths| paths.sort_by(|a, b| b.cmp(a)));
        let paths = paths.into_iter().rev().flatten().filter(|path| is_one(path));
        paths.filter_map(|path| Some((name(&path)?, path))).collect()
    }
}

/// A file's name without the ending, if a tag can have it.
fn name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(ENDING).unwrap_or(name);
    (is_lora_name(name) && !name.starts_with('.')).then(|| name.to_owned())
}

fn is_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == &ENDING[1..]) && path.is_file()
}

/// A [`Catalogue`] for one model.
#[derive(Debug, Clone, Default)]
pub struct Adapters {
    catalogue: Catalogue,
    layout: Arc<Layout>,
}

/// Two are the same that give the same answers, as far as that can be told cheaply.
impl PartialEq for Adapters {
    fn eq(&self, other: &Self) -> bool {
        self.catalogue == other.catalogue && Arc::ptr_eq(&self.layout, &other.layout)
    }
}

impl Adapters {
    pub(in crate::model) fn new(catalogue: Catalogue, layout: Arc<Layout>) -> Self {
        Self { catalogue, layout }
    }

    /// What there is.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The same with an adapter that lies anywhere, and its name: see [`Catalogue::add`].
    pub fn with_file(mut self, path: &Path) -> Option<(Self, String)> {
        let name = self.catalogue.add(path)?;
        Some((self, name))
    }

    /// Why an adapter cannot be used with the model, if it cannot: naming the file, but not where it is.
    pub fn check_lora(&self, path: &Path) -> Result<(), String> {
        Adapter::read(path, &self.layout).map(drop).map_err(|error| reason(&error))
    }

    /// The vectors in a file, or why the model cannot read them.
    pub fn embedding(&self, path: &Path) -> Result<Embedding, String> {
        Embedding::open(path, &self.layout).map_err(|error| reason(&error))
    }
}

/// An embedding by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inversion {
    /// The file's name without the ending.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What stands for it in prompts: its name, and the word that the file gives it.
    pub words: Vec<String>,
}

impl Adapters {
    /// The embeddings that are named in one of `texts`; each with the reason why the model cannot read it, if it cannot.
    pub fn inversions(&self, texts: &[&str]) -> Vec<(Inversion, Option<String>)> {
        let known = self.catalogue.embeddings().into_iter().map(|(name, path)| {
            let opened = self.embedding(&path);
            let token = opened.as_ref().ok().and_then(|embedding| embedding.token().map(str::to_owned));
            (Inversion { words: [name.clone()].into_iter().chain(token).collect(), name, path }, opened.err())
        });
        let known: Vec<_> = known.collect();
        let named = |inversion: &Inversion| {
            let words: Vec<&str> = inversion.words.iter().map(String::as_str).collect();
            texts.iter().any(|text| pieces(text, &words).iter().any(|piece| matches!(piece, Piece::Name(_))))
        };
        known.into_iter().filter(|(inversion, _)| named(inversion)).collect()
    }
}

/// Where files are kept is nobody's business.
fn reason(error: &Error) -> String {
    match error {
        Error::Model { path, message } => {
            format!("{}: {message}", path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn place(files: &[&str]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for file in files {
            let path = place.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        place
    }

    #[test]
    fn what_lies_in_the_folders_is_known_by_its_name() {
        let first =
            place(&["loras/a.safetensors", "loras/b (v2).safetensors", "embeddings/e.safetensors", "c.safetensors"]);
        let second = place(&[
            "loras/a.safetensors",
            "loras/.hidden.safetensors",
            "loras/d.pt",
            "loras/e:f.safetensors",
            "loras/peft/adapter_model.safetensors",
            "loras/empty/x.txt",
            "embeddings/g.pt",
        ]);
        let places = [first.path(), Path::new("/nowhere"), second.path()].map(Path::to_owned);
        let mut catalogue = Catalogue::new(places.into());
        let names = |catalogue: &Catalogue| catalogue.loras().into_keys().collect::<Vec<_>>();
        assert_eq!(names(&catalogue), ["a", "b (v2)", "peft"]);
        assert_eq!(catalogue.loras()["a"], first.path().join("loras/a.safetensors"));
        assert_eq!(catalogue.embeddings().into_keys().collect::<Vec<_>>(), ["e"]);
        assert_eq!(catalogue.add(Path::new("elsewhere/a.safetensors")).as_deref(), Some("a"));
        assert_eq!(catalogue.loras()["a"], Path::new("elsewhere/a.safetensors"));
        assert_eq!((catalogue.add(Path::new("a:b")), catalogue.add(Path::new(".."))), (None, None));
    }
}
