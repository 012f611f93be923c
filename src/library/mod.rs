//! The models that can be drawn with: which there are, which are in memory, and which has to go when another needs its
//! place.
//!
//! Everything goes by names here. A model is described from its small files and the headers of its large ones, so that
//! requests for it can be checked before it is loaded; it is loaded when it is lent out for the first time, and stays in
//! memory until another needs the room. What is lent out stays in any case.

mod entry;
mod shelf;
mod stamp;

pub use entry::{Entry, Outline, Presence};

use crate::Error;
use crate::error::{FieldError, Result};
use crate::model::checkpoint::{self, Opened, Precision};
use crate::pipeline::{Pipeline, TokenCount};
use crate::request::{Facts, quoted};
use candle_core::Device;
use entry::{Found, Reason};
use shelf::{Room, Shelf, Taken};
use stamp::Stamp;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long to wait before looking again whether something that was lent out has come back.
const PATIENCE: Duration = Duration::from_millis(10);

/// Where models come from and how much they may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folders in which models are kept, in the order of search.
    pub places: Vec<PathBuf>,
    /// The model that is drawn with where a request names none. It need not lie in one of the places.
    pub first: PathBuf,
    /// Where to compute,
    pub device: Device,
    /// and in which types.
    pub precision: Precision,
    /// Bytes that the weights of all models in memory may take together.
    pub budget: u64,
    /// Called when memory was freed, to give it back to the system.
    pub give_back: fn(),
}

/// The models.
pub struct Library {
    settings: Settings,
    first: String,
    /// What was read of models on disk, by name.
    known: Mutex<HashMap<String, Known>>,
    shelf: Mutex<Shelf<Pipeline>>,
    /// Held by whoever loads: one at a time.
    turn: Mutex<()>,
    loading: Mutex<Option<String>>,
}

/// What was read of a model, or why that could not be used, and what its files looked like then.
#[derive(Clone)]
struct Known {
    stamp: Stamp,
    outline: Result<Outline, Reason>,
}

/// What became of the wish to have a model out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unloaded {
    /// It is, and its memory was given back.
    Done,
    /// It was not there.
    NotLoaded,
    /// It is being drawn with.
    InUse,
}

impl Library {
    /// Loads nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            first: checkpoint::name(&settings.first),
            known: Mutex::default(),
            shelf: Mutex::new(Shelf::new(settings.budget)),
            turn: Mutex::default(),
            loading: Mutex::default(),
            settings,
        }
    }

    /// The name of the model that is drawn with where a request names none.
    pub fn first(&self) -> &str {
        &self.first
    }

    /// What a plan has to know of a model; "" means the one that comes first. Reads small files and headers where they
    /// are not as they were the last time. An unknown model, one that cannot be used and one that is larger than the
    /// budget are [`Error::Invalid`], with the reason.
    pub fn facts(&self, name: &str) -> Result<Facts> {
        let found = self.find(name)?;
        self.outline(&found).map(|outline| outline.facts).map_err(|reason| reason.error(&found.name))
    }

    /// A share in a model, which is loaded if need be and stays in memory as long as the share lives. Says `on_load`
    /// before it loads; waits until what is lent out comes back where there is no room otherwise. Fails as
    /// [`Library::facts`].
    pub fn lend(&self, name: &str, on_load: &mut dyn FnMut()) -> Result<Arc<Pipeline>> {
        let _turn = lock(&self.turn);
        let found = self.find(name)?;
        if let Some(held) = lock(&self.shelf).get(&found.name, &found.stamp) {
            return Ok(held);
        }
        let _loading = Loading::begin(&self.loading, &found.name);
        let began = Instant::now();
        let pipeline = self.load(&found, on_load)?;
        let bytes = pipeline.bytes();
        // What was needed only to load it.
        (self.settings.give_back)();
        // It may have taken more than its headers said.
        if !self.try_make_room(&found.name, bytes) {
            tracing::warn!(model = found.name, mib = bytes >> 20, "the models in memory take more than they may");
        }
        tracing::info!(model = found.name, mib = bytes >> 20, seconds = began.elapsed().as_secs_f64(), "loaded");
        Ok(lock(&self.shelf).put(found.name, found.stamp, bytes, pipeline))
    }

    /// Takes a model out of memory, unless it is in use.
    pub fn unload(&self, name: &str) -> Unloaded {
        let taken = lock(&self.shelf).take(name);
        match taken {
            Taken::Gone(held) => {
                self.drop_all(vec![held]);
                Unloaded::Done
            }
            Taken::InUse => Unloaded::InUse,
            Taken::NotHere => Unloaded::NotLoaded,
        }
    }

    /// Forgets why a model could not be used, so that it is tried again although its files have not changed.
    pub fn retry(&self, name: &str) {
        lock(&self.known).retain(|other, known| other != name || known.outline.is_ok());
    }

    /// Counts the tokens of a prompt as a model reads it that is in memory.
    pub fn tokens(&self, name: &str, prompt: &str) -> Result<TokenCount> {
        let found = self.find(name)?;
        let pipeline = lock(&self.shelf).peek(&found.name);
        let not_loaded = || {
            let message = format!("{} is not in memory; the tokens of its prompts are counted when it is", found.name);
            Error::invalid(FieldError::new("model", "not_loaded", message))
        };
        pipeline.ok_or_else(not_loaded)?.tokens(prompt)
    }

    /// All models, by name.
    pub fn list(&self) -> Vec<Entry> {
        let held = lock(&self.shelf).held().iter().map(|held| held.name.clone()).collect();
        let mut names: Vec<String> = [self.names(), held].concat();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| self.entry(name)).collect()
    }

    /// One of them, unless there is none of that name.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.find(name).ok().map(|found| self.entry(found.name))
    }

    /// The models in memory, with the bytes that they take.
    pub fn loaded(&self) -> Vec<(String, u64)> {
        lock(&self.shelf).held().iter().map(|held| (held.name.clone(), held.bytes)).collect()
    }

    /// Bytes that all of them may take together.
    pub fn budget(&self) -> u64 {
        self.settings.budget
    }

    fn names(&self) -> Vec<String> {
        checkpoint::names(&self.settings.places).into_iter().chain([self.first.clone()]).collect()
    }

    /// Where a model is. The first one goes before others of its name.
    fn find(&self, name: &str) -> Result<Found> {
        let elsewhere = checkpoint::named(name, &self.settings.places).map(|path| (checkpoint::name(&path), path));
        match elsewhere {
            _ if name.is_empty() || name == self.first => Ok(self.found_first()),
            Some((name, _)) if name == self.first => Ok(self.found_first()),
            Some((name, path)) => Ok(Found { name, stamp: Stamp::of(&path), path }),
            None => {
                let mut names = self.names();
                names.sort_unstable();
                names.dedup();
                let message = format!("must be one of {}, was {}", names.join(", "), quoted(name));
                Err(Error::invalid(FieldError::new("model", "unknown_model", message)))
            }
        }
    }

    fn found_first(&self) -> Found {
        let path = self.settings.first.clone();
        Found { name: self.first.clone(), stamp: Stamp::of(&path), path }
    }

    /// What a model is, as it was read the last time or is read now; or why it cannot be used.
    fn outline(&self, found: &Found) -> Result<Outline, Reason> {
        let known = lock(&self.known).get(&found.name).filter(|known| known.stamp == found.stamp).cloned();
        let outline = match known {
            Some(known) => known.outline?,
            None => self.read(&self.open(found)?),
        };
        self.check_budget(outline.bytes).map(|()| outline)
    }

    fn read(&self, opened: &Opened) -> Outline {
        Outline::of(opened, self.settings.precision)
    }

    fn open(&self, found: &Found) -> Result<Opened, Reason> {
        let opened = Opened::read(&found.path).map_err(|error| self.note(found, &error))?;
        self.remember(found, Ok(self.read(&opened)));
        Ok(opened)
    }

    /// The reason that `error` is for not using a model. What is wrong with its files is remembered until they change.
    fn note(&self, found: &Found, error: &Error) -> Reason {
        let reason = Reason::new(found, error);
        if matches!(error, Error::Model { .. }) {
            self.remember(found, Err(reason.clone()));
        }
        reason
    }

    fn remember(&self, found: &Found, outline: Result<Outline, Reason>) {
        lock(&self.known).insert(found.name.clone(), Known { stamp: found.stamp.clone(), outline });
    }

    fn check_budget(&self, bytes: u64) -> Result<(), Reason> {
        let budget = self.settings.budget;
        if bytes <= budget { Ok(()) } else { Err(Reason::too_large(bytes, budget)) }
    }

    fn load(&self, found: &Found, on_load: &mut dyn FnMut()) -> Result<Pipeline> {
        let reason = |reason: Reason| reason.error(&found.name);
        let opened = self.open(found).map_err(reason)?;
        let bytes = self.read(&opened).bytes;
        self.check_budget(bytes).map_err(reason)?;
        on_load();
        while !self.try_make_room(&found.name, bytes) {
            std::thread::sleep(PATIENCE);
        }
        Pipeline::new(opened, &self.settings.device, self.settings.precision).map_err(|error| match error {
            Error::Model { .. } => reason(self.note(found, &error)),
            error => error,
        })
    }

    /// False when there is no room for so many bytes before something comes back that is lent out.
    fn try_make_room(&self, name: &str, bytes: u64) -> bool {
        let Room { gone, enough } = lock(&self.shelf).make_room(name, bytes);
        self.drop_all(gone);
        enough
    }

    fn drop_all(&self, gone: Vec<shelf::Held<Pipeline>>) {
        if gone.is_empty() {
            return;
        }
        for held in gone {
            tracing::info!(model = held.name, mib = held.bytes >> 20, "unloaded");
        }
        (self.settings.give_back)();
    }

    fn entry(&self, name: String) -> Entry {
        let (bytes_on_disk, outline) = match self.find(&name) {
            Ok(found) => (found.stamp.bytes(), self.outline(&found).map_err(|reason| reason.text)),
            Err(_) => (0, Err("its files are gone".to_owned())),
        };
        Entry { first: name == self.first, presence: self.presence(&name), bytes_on_disk, outline, name }
    }

    fn presence(&self, name: &str) -> Presence {
        let shelf = lock(&self.shelf);
        match shelf.held().iter().find(|held| held.name == name) {
            Some(held) => Presence::Loaded { bytes: held.bytes, in_use: held.in_use() },
            None if lock(&self.loading).as_deref() == Some(name) => Presence::Loading,
            None => Presence::OnDisk,
        }
    }
}

/// As long as it lives, a model is being loaded.
struct Loading<'a>(&'a Mutex<Option<String>>);

impl<'a> Loading<'a> {
    fn begin(place: &'a Mutex<Option<String>>, name: &str) -> Self {
        *lock(place) = Some(name.to_owned());
        Self(place)
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        *lock(self.0) = None;
    }
}

/// What is behind these locks is consistent between statements, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
