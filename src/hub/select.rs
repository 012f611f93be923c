//! Which files of a repository make a model that this program can load: of a diffusers folder the configurations, the
//! tokenizer and one variant of the weights, or one file that holds everything. Never a pickle.

use super::repository::{Listing, RemoteFile};
use super::{Fault, Variant};
use crate::model::checkpoint::{PICKLE, REFINER, is_pickle_name};
use crate::{Error, Result};
use indicatif::HumanBytes;
use std::path::Path;

/// What a diffusers folder has at its top.
pub(super) const INDEX: &str = "model_index.json";

/// The words that a model which this program trained has learnt.
const WORDS: &str = "words.txt";

const ENDING: &str = ".safetensors";

/// A folder in a diffusers folder, and what its weights are called.
struct Component {
    folder: &'static str,
    weights: Option<&'static str>,
    required: bool,
}

/// All components that pictures are drawn with; there are more, such as a safety checker, which nothing here reads.
const COMPONENTS: [Component; 7] = [
    Component { folder: "scheduler", weights: None, required: true },
    Component { folder: "tokenizer", weights: None, required: true },
    Component { folder: "tokenizer_2", weights: None, required: false },
    Component { folder: "text_encoder", weights: Some("model"), required: true },
    Component { folder: "text_encoder_2", weights: Some("model"), required: false },
    Component { folder: "vae", weights: Some("diffusion_pytorch_model"), required: true },
    Component { folder: "unet", weights: Some("diffusion_pytorch_model"), required: true },
];

/// How a model lies in a repository, and will lie among the models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// A diffusers folder.
    Folder,
    /// This file.
    File(String),
}

/// How the model lies in the repository: in the file that was asked for, as a diffusers folder, or in the only file
/// that it can be.
pub(super) fn form(listing: &Listing, wanted: Option<&str>) -> Result<Form> {
    let has = |path: &str| listing.files.iter().any(|file| file.path == path);
    let Some(path) = wanted else {
        return if has(INDEX) { Ok(Form::Folder) } else { only_file(listing) };
    };
    if has(path) && path.ends_with(ENDING) {
        return Ok(Form::File(path.to_owned()));
    }
    if is_pickle_name(Path::new(path)) {
        return Err(unsuitable(listing, &format!("{path}: {PICKLE}")));
    }
    let message = format!("{} has no file {path:?} that can be a model; {}", listing.id, choice(listing));
    Err(Error::Hub(Fault::Missing(message)))
}

fn only_file(listing: &Listing) -> Result<Form> {
    match models(listing).as_slice() {
        [only] => Ok(Form::File(only.path.clone())),
        [] => Err(unsuitable(listing, &without_safetensors(&listing.files.iter().collect::<Vec<_>>()))),
        _ => Err(unsuitable(listing, &format!("no {INDEX}, so say which file is meant; {}", choice(listing)))),
    }
}

/// The files that could be a model of their own.
fn models(listing: &Listing) -> Vec<&RemoteFile> {
    listing.files.iter().filter(|file| file.path.ends_with(ENDING)).collect()
}

fn choice(listing: &Listing) -> String {
    let shown = |file: &&RemoteFile| format!("--file {:?} ({})", file.path, HumanBytes(file.size));
    match models(listing).iter().take(20).map(shown).collect::<Vec<_>>() {
        none if none.is_empty() => format!("it has no {ENDING} files"),
        some => format!("it has {}", some.join(", ")),
    }
}

/// What to say of files of which none can be loaded.
fn without_safetensors(files: &[&RemoteFile]) -> String {
    match files.iter().find(|file| is_pickle_name(Path::new(&file.path))) {
        Some(pickle) => format!("no {ENDING} files, only pickles such as {}: {PICKLE}", pickle.path),
        None => format!("no {ENDING} files that could be loaded"),
    }
}

/// The files to fetch, small ones that say what the others are first.
pub(super) fn files(listing: &Listing, form: &Form, variant: Variant) -> Result<Vec<RemoteFile>> {
    let chosen = |path: &str| listing.files.iter().filter(|file| file.path == path).cloned().collect::<Vec<_>>();
    match form {
        Form::File(path) => Ok(chosen(path)),
        Form::Folder if is_refiner(listing) => Err(unsuitable(listing, REFINER)),
        Form::Folder => {
            let mut parts = Vec::new();
            for component in &COMPONENTS {
                parts.extend(component.files(listing, variant)?);
            }
            parts.sort_by_key(|file| file.path.ends_with(ENDING));
            Ok([chosen(INDEX), chosen(WORDS), parts].concat())
        }
    }
}

/// SDXL's refiners have the second of its text encoders alone.
fn is_refiner(listing: &Listing) -> bool {
    let has = |folder: &str| listing.files.iter().any(|file| file.path.starts_with(folder));
    has("text_encoder_2/") && !has("text_encoder/")
}

impl Component {
    /// Its files; none, if it may be left out and is.
    fn files(&self, listing: &Listing, variant: Variant) -> Result<Vec<RemoteFile>> {
        let all: Vec<_> = listing.files.iter().filter(|file| self.name_of(file).is_some()).collect();
        if all.is_empty() && !self.required {
            return Ok(Vec::new());
        }
        let mut files: Vec<_> = all.iter().copied().filter(|file| is_configuration(&file.path)).cloned().collect();
        if files.is_empty() {
            return Err(unsuitable(
                listing,
                &format!("no configuration in {}/: not a Stable Diffusion model", self.folder),
            ));
        }
        if let Some(stem) = self.weights {
            let weights = self.weights(&all, stem, variant);
            let missing = || unsuitable(listing, &format!("in {}/, {}", self.folder, without_safetensors(&all)));
            files.extend(weights.ok_or_else(missing)?.into_iter().cloned());
        }
        Ok(files)
    }

    /// The name of a file that lies in this folder itself.
    fn name_of<'a>(&self, file: &'a RemoteFile) -> Option<&'a str> {
        let name = file.path.strip_prefix(self.folder)?.strip_prefix('/')?;
        (!name.contains('/')).then_some(name)
    }

    /// The weights in the variant that is wanted, else in another.
    fn weights<'a>(&self, all: &[&'a RemoteFile], stem: &str, variant: Variant) -> Option<Vec<&'a RemoteFile>> {
        let order = if variant == Variant::Fp16 { [".fp16", "", ".bf16"] } else { ["", ".fp16", ".bf16"] };
        order.into_iter().find_map(|infix| self.one_variant(all, stem, infix))
    }

    /// One file, or an index and all its shards.
    fn one_variant<'a>(&self, all: &[&'a RemoteFile], stem: &str, infix: &str) -> Option<Vec<&'a RemoteFile>> {
        let named = |name: String| all.iter().copied().find(|file| self.name_of(file) == Some(name.as_str()));
        if let Some(file) = named(format!("{stem}{infix}{ENDING}")) {
            return Some(vec![file]);
        }
        let index = named(format!("{stem}{ENDING}.index{infix}.json"))?;
        let count = |file: &RemoteFile| self.name_of(file).and_then(|name| shard_count(name, stem, infix));
        let shards: Vec<_> = all.iter().copied().filter(|file| count(file).is_some()).collect();
        (shards.len() == count(shards.first()?)?).then(|| [vec![index], shards].concat())
    }
}

/// Small files in text. Not the lists of shards: those belong to their weights.
fn is_configuration(path: &str) -> bool {
    (path.ends_with(".json") || path.ends_with(".txt")) && !path.contains(".index.")
}

/// The 2 of `STEM-00001-of-00002.safetensors`. diffusers has put a variant's `.fp16` behind the stem, and behind the
/// numbers.
fn shard_count(name: &str, stem: &str, infix: &str) -> Option<usize> {
    let middle = name.strip_prefix(stem)?.strip_suffix(ENDING)?;
    let plain = middle.strip_prefix(infix).or_else(|| middle.strip_suffix(infix))?;
    let (number, count) = plain.strip_prefix('-')?.split_once("-of-")?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(number) && digits(count)).then(|| count.parse().ok())?
}

fn unsuitable(listing: &Listing, message: &str) -> Error {
    Error::Hub(Fault::Unsuitable(format!("{}: {message}", listing.id)))
}

#[cfg(test)]
mod tests;
