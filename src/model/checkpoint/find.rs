//! Where models are: a name or a path to the folder or the file of a model.

use super::companion::is_companion;
use crate::error::FieldError;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The model that this repository ships.
pub(crate) const BUNDLED: &str = "icons";

/// What the names of models in one file end with.
const ENDING: &str = ".safetensors";

/// What the name of an autoencoder ends with that lies beside a model of the same name.
const VAE_ENDING: &str = ".vae.safetensors";

/// Where the model called `wanted` is: a name in one of the places where models are kept (`$LIMNER_MODELS`, `./models`,
/// `limner/models` among the user's data, `models` beside the program, `models` of the source tree; the first that has
/// it, as a folder or as `NAME.safetensors`), or a path to a folder or a file. Without either, the bundled model. An
/// unknown name is an [`Error::Invalid`] that lists the known ones.
pub fn find(wanted: Option<&str>) -> Result<PathBuf> {
    find_in(wanted.unwrap_or(BUNDLED), &places())
}

fn find_in(wanted: &str, places: &[PathBuf]) -> Result<PathBuf> {
    if let Some(path) = named(wanted, places) {
        return Ok(path);
    }
    let path = Path::new(wanted);
    if path.is_dir() || path.is_file() {
        return Ok(path.to_owned());
    }
    let known = names(places);
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let message = format!("no model, folder or file {wanted:?}; known models: {list}");
    Err(Error::invalid(FieldError::new("model", "unknown_model", message)))
}

/// All models that [`find`] finds by name, in the order of their names: each name, and where it leads.
pub(crate) fn all() -> Vec<(String, PathBuf)> {
    let places = places();
    let found = |name: String| named(&name, &places).map(|path| (name, path));
    names(&places).into_iter().filter_map(found).collect()
}

/// Where the model called `name` is in `places`: in the first that has it, as a folder or as `NAME.safetensors`. Text
/// that is no plain name is the name of none.
pub(crate) fn named(name: &str, places: &[PathBuf]) -> Option<PathBuf> {
    let candidates = |place: &PathBuf| [place.join(name), place.join(format!("{name}{ENDING}"))];
    let find = || places.iter().flat_map(candidates).find(|path| is_model(path));
    is_name(name).then(find).flatten()
}

/// Names of all models that [`named`] finds, in order.
pub(crate) fn names(places: &[PathBuf]) -> Vec<String> {
    let entries = places.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten();
    let models = entries.filter(|e| is_model(&e.path())).map(|e| e.file_name().to_string_lossy().into_owned());
    let names = models.map(|name| name.strip_suffix(ENDING).map_or(name.clone(), str::to_owned));
    names.filter(|name| is_name(name)).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Where models are kept, in the order of search.
pub fn places() -> Vec<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models")));
    let named = std::env::var_os("LIMNER_MODELS").map(PathBuf::from);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    named.into_iter().chain([PathBuf::from("models")]).chain(users_folder()).chain(beside).chain([source]).collect()
}

/// The folder of a user's own models, among the user's data.
pub(crate) fn users_folder() -> Option<PathBuf> {
    Some(dirs::data_dir()?.join("limner/models"))
}

/// A plain file name: nothing that could lead out of the folder it is looked for in.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !text.is_empty() && text.len() <= 100 && !text.starts_with('.') && text.chars().all(plain)
}

/// Whether this is a model by its name, and by what is in it if it is a folder.
pub(crate) fn is_model(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_part = name.ends_with(VAE_ENDING) || is_companion(&name);
    let is_file = || name.ends_with(ENDING) && !is_part && path.is_file();
    path.join("model_index.json").is_file() || is_file()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn place(models: &[&str]) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for model in models {
            fs::create_dir(place.path().join(model)).unwrap();
            fs::write(place.path().join(model).join("model_index.json"), "{}").unwrap();
        }
        place
    }

    #[test]
    fn a_name_is_looked_for_in_all_places_in_order() {
        let (first, second) = (place(&["b"]), place(&["b", "a.1", "has space"]));
        let places = [first.path().to_owned(), PathBuf::from("/nowhere"), second.path().to_owned()];
        assert_eq!(find_in("b", &places).unwrap(), first.path().join("b"));
        assert_eq!(find_in("a.1", &places).unwrap(), second.path().join("a.1"));
        let error = find_in("c", &places).unwrap_err().to_string();
        assert_eq!(error, "model: no model, folder or file \"c\"; known models: a.1, b");
    }

    #[test]
    fn a_model_in_one_file_is_found_by_its_name_and_an_autoencoder_beside_it_is_none() {
        let place = place(&["folder"]);
        let file = place.path().join("v1-5.safetensors");
        for name in ["v1-5.safetensors", "v1-5.vae.safetensors", "notes.txt", "taesdxl_decoder.safetensors"] {
            fs::write(place.path().join(name), "").unwrap();
        }
        let places = [place.path().to_owned()];
        assert_eq!(find_in("v1-5", &places).unwrap(), file);
        assert_eq!(find_in("v1-5.safetensors", &places).unwrap(), file);
        assert_eq!(find_in(file.to_str().unwrap(), &[]).unwrap(), file);
        for other in ["v1-5.vae", "v1-5.vae.safetensors", "notes.txt"] {
            let error = find_in(other, &places).unwrap_err().to_string();
            assert_eq!(error, format!("model: no model, folder or file {other:?}; known models: folder, v1-5"));
        }
    }

    #[test]
    fn names_cannot_lead_out_of_their_place() {
        let inner = place(&["model"]);
        let places = [inner.path().join("model")];
        for hostile in ["..", "../model", "./../model", ".", "", "a/../../model", "model\0", "..\\model"] {
            let found = find_in(hostile, &places);
            let outside = found.as_ref().is_ok_and(|path| path.starts_with(inner.path()));
            assert!(!outside && !is_name(hostile), "{hostile:?} found {found:?}");
        }
        assert!(!is_name(&"a".repeat(101)));
    }

    #[test]
    fn a_folder_can_be_given_as_it_is() {
        let inner = place(&["model"]);
        let path = inner.path().join("model");
        assert_eq!(find_in(path.to_str().unwrap(), &[]).unwrap(), path);
        assert_eq!(
            find_in("nothing", &[]).unwrap_err().to_string(),
            "model: no model, folder or file \"nothing\"; known models: none"
        );
    }
}
