//! Which models there are, and what is known of them without reading their weights.

use super::entry::{Found, Outline, Reason};
use super::stamp::Stamp;
use super::{Settings, lock};
use crate::Error;
use crate::error::{FieldError, Result};
use crate::model::adapter;
use crate::model::checkpoint::{self, Opened, Precision};
use crate::model::tokenizer::Tokenizer;
use crate::request::quoted;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The models on disk.
pub(super) struct Catalogue {
    places: Vec<PathBuf>,
    /// The one that is meant where none is named: its name and where it is.
    first: (String, PathBuf),
    precision: Precision,
    budget: u64,
    /// What was read, by name.
    known: Mutex<HashMap<String, Known>>,
    tokenizer: Mutex<Option<(Stamp, Arc<Tokenizer>)>>,
}

/// What was read of a model, or why that could not be used, and what its files looked like then.
#[derive(Clone)]
struct Known {
    stamp: Stamp,
    outline: Result<Outline, Reason>,
}

impl Catalogue {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            places: settings.places.clone(),
            first: (checkpoint::name(&settings.first), settings.first.clone()),
            precision: settings.precision,
            budget: settings.budget,
            known: Mutex::default(),
            tokenizer: Mutex::default(),
        }
    }

    pub(super) fn first(&self) -> &str {
        &self.first.0
    }

    /// All names, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = checkpoint::names(&self.places);
        names.push(self.first.0.clone());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Where a model is; "" means the first one, which goes before others of its name. An unknown one is an
    /// [`Error::Invalid`].
    pub(super) fn find(&self, name: &str) -> Result<Found> {
        if name.is_empty() || name == self.first.0 {
            return Ok(self.found(self.first.clone()));
        }
        let Some(path) = checkpoint::named(name, &self.places) else {
            let message = format!("must be one of {}, was {}", self.names().join(", "), quoted(name));
            return Err(Error::invalid(FieldError::new("model", "unknown_model", message)));
        };
        // A file may have been named with its ending.
        match checkpoint::name(&path) {
            name if name == self.first.0 => Ok(self.found(self.first.clone())),
            name => Ok(self.found((name, path))),
        }
    }

    fn found(&self, (name, path): (String, PathBuf)) -> Found {
        Found { name, stamp: Stamp::of(&path), path }
    }

    /// What a model is, as it was read the last time or is read now; or why it cannot be used.
    pub(super) fn outline(&self, found: &Found) -> Result<Outline, Reason> {
        let outline = match self.known(found) {
            Some(outline) => outline?,
            None => self.read(&self.open(found)?),
        };
        self.check_budget(outline.bytes).map(|()| outline)
    }

    /// A model that is about to be loaded, and the bytes that it will take. Fails at once where that was tried with these
    /// files and went wrong.
    pub(super) fn open_to_load(&self, found: &Found) -> Result<(Opened, u64), Reason> {
        if let Some(Err(reason)) = self.known(found) {
            return Err(reason);
        }
        let opened = self.open(found)?;
        let bytes = self.read(&opened).bytes;
        self.check_budget(bytes).map(|()| (opened, bytes))
    }

    /// The tokenizer of a model. The last one is kept: whoever types a prompt asks again and again.
    pub(super) fn tokenizer(&self, found: &Found) -> Result<Arc<Tokenizer>, Reason> {
        let mut last = lock(&self.tokenizer);
        if let Some((_, tokenizer)) = last.as_ref().filter(|(stamp, _)| *stamp == found.stamp) {
            return Ok(tokenizer.clone());
        }
        let tokenizer = Arc::new(self.open(found)?.into_tokenizer());
        *last = Some((found.stamp.clone(), tokenizer.clone()));
        Ok(tokenizer)
    }

    /// The reason that `error` is for not using a model. What is wrong with its files is remembered until they change.
    pub(super) fn note(&self, found: &Found, error: &Error) -> Reason {
        let reason = Reason::new(found, error);
        if matches!(error, Error::Model { .. }) {
            self.remember(found, Err(reason.clone()));
        }
        reason
    }

    /// Forgets why a model could not be used.
    pub(super) fn retry(&self, name: &str) {
        lock(&self.known).retain(|other, known| other != name || known.outline.is_ok());
    }

    /// The adapters and embeddings that models can be drawn with.
    pub(super) fn adapters(&self) -> adapter::Catalogue {
        adapter::Catalogue::new(self.places.clone())
    }

    fn open(&self, found: &Found) -> Result<Opened, Reason> {
        let opened = Opened::read(&found.path).map_err(|error| self.note(found, &error))?;
        let opened = opened.with_catalogue(self.adapters());
        self.remember(found, Ok(self.read(&opened)));
        Ok(opened)
    }

    fn read(&self, opened: &Opened) -> Outline {
        Outline::of(opened, self.precision)
    }

    fn known(&self, found: &Found) -> Option<Result<Outline, Reason>> {
        let known = lock(&self.known);
        known.get(&found.name).filter(|known| known.stamp == found.stamp).map(|known| known.outline.clone())
    }

    fn remember(&self, found: &Found, outline: Result<Outline, Reason>) {
        lock(&self.known).insert(found.name.clone(), Known { stamp: found.stamp.clone(), outline });
    }

    fn check_budget(&self, bytes: u64) -> Result<(), Reason> {
        if bytes <= self.budget { Ok(()) } else { Err(Reason::too_large(bytes, self.budget)) }
    }
}
