//! The models that can be drawn with: which there are, which are in memory, and which has to go when another needs its
//! place.
//!
//! Everything goes by names here. A model is described from its small files and the headers of its large ones, so that
//! requests for it can be checked before it is loaded; it is loaded when it is lent out for the first time, and stays in
//! memory until another needs the room. What is lent out stays in any case.

mod beside;
mod catalogue;
mod entry;
mod shelf;
mod stamp;

pub use entry::{Entry, Outline, Presence};

use crate::Error;
use crate::error::Result;
use crate::model::adapter;
use crate::model::checkpoint::Precision;
use crate::pipeline::{Pipeline, TokenCount, count_tokens};
use crate::request::Facts;
use crate::{memory, patience};
use beside::Beside;
use candle_core::Device;
use catalogue::Catalogue;
use entry::{Found, Reason};
use shelf::{Room, Shelf, Taken, Weigh};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
}

/// The models.
pub struct Library {
    settings: Settings,
    catalogue: Catalogue,
    shelf: Arc<Mutex<Shelf<Pipeline>>>,
    /// Held by whoever loads: one at a time.
    turn: Mutex<()>,
    loading: Mutex<Option<String>>,
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
            catalogue: Catalogue::new(&settings),
            shelf: Arc::new(Mutex::new(Shelf::new(settings.budget))),
            turn: Mutex::default(),
            loading: Mutex::default(),
            settings,
        }
    }

    /// The name of the model that is drawn with where a request names none.
    pub fn first(&self) -> &str {
        self.catalogue.first()
    }

    /// What a plan has to know of a model; "" means the one that comes first. Reads small files and headers where they
    /// are not as they were the last time. An unknown model, one that cannot be used and one that is larger than the
    /// budget are [`Error::Invalid`], with the reason.
    pub fn facts(&self, name: &str) -> Result<Facts> {
        let found = self.catalogue.find(name)?;
        self.catalogue.outline(&found).map(|outline| outline.facts).map_err(|reason| reason.error(&found.name))
    }

    /// A share in a model, which is loaded if need be and stays in memory as long as the share lives. Waits for others who
    /// load, and where there is no room otherwise, until what is lent out comes back. `on_wait` is heard before the model is
    /// loaded, and again and again as long as it waits; it gives up by returning an error. Fails as [`Library::facts`].
    pub fn lend(&self, name: &str, on_wait: &mut dyn FnMut() -> Result<()>) -> Result<Arc<Pipeline>> {
        let _turn = patience::lock(&self.turn, on_wait)?;
        let found = self.catalogue.find(name)?;
        if let Some(held) = lock(&self.shelf).get(&found.name, &found.stamp) {
            return Ok(held);
        }
        let _loading = Loading::begin(&self.loading, &found.name);
        let began = Instant::now();
        let pipeline = self.load(&found, on_wait)?;
        let bytes = pipeline.bytes();
        // It may have taken more than its headers said.
        if !self.try_make_room(&found.name, bytes) {
            tracing::warn!(model = found.name, mib = bytes >> 20, "the models in memory take more than they may");
        }
        tracing::info!(model = found.name, mib = bytes >> 20, seconds = began.elapsed().as_secs_f64(), "loaded");
        Ok(lock(&self.shelf).put(found.name, found.stamp, pipeline))
    }

    /// Takes a model out of memory, unless it is in use.
    pub fn unload(&self, name: &str) -> Unloaded {
        let taken = lock(&self.shelf).take(name);
        match taken {
            Taken::Gone(held) => {
                drop_all(vec![held]);
                Unloaded::Done
            }
            Taken::InUse => Unloaded::InUse,
            Taken::NotHere => Unloaded::NotLoaded,
        }
    }

    /// Forgets why a model could not be used, so that it is tried again although its files have not changed.
    pub fn retry(&self, name: &str) {
        self.catalogue.retry(name);
    }

    /// Counts the tokens of a prompt as a model reads it, which need not be in memory for that.
    pub fn tokens(&self, name: &str, prompt: &str) -> Result<TokenCount> {
        let found = self.catalogue.find(name)?;
        let held = lock(&self.shelf).peek(&found.name, &found.stamp);
        if let Some(pipeline) = held {
            return pipeline.tokens(prompt);
        }
        let reason = |reason: Reason| reason.error(&found.name);
        let facts = self.catalogue.outline(&found).map_err(reason)?.facts;
        count_tokens(&*self.catalogue.tokenizer(&found).map_err(reason)?, &facts, prompt)
    }

    /// All models, by name.
    pub fn list(&self) -> Vec<Entry> {
        let held = lock(&self.shelf).held().iter().map(|held| held.name.clone()).collect();
        let mut names: Vec<String> = [self.catalogue.names(), held].concat();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| self.entry(name)).collect()
    }

    /// One of them, unless there is none of that name.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.catalogue.find(name).ok().map(|found| self.entry(found.name))
    }

    /// The models in memory, with the bytes that they take.
    pub fn loaded(&self) -> Vec<(String, u64)> {
        lock(&self.shelf).held().iter().map(|held| (held.name.clone(), held.bytes())).collect()
    }

    /// Bytes that all of them may take together.
    pub fn budget(&self) -> u64 {
        self.settings.budget
    }

    /// The adapters and embeddings that models can be drawn with.
    pub fn adapters(&self) -> adapter::Catalogue {
        self.catalogue.adapters()
    }

    fn load(&self, found: &Found, on_wait: &mut dyn FnMut() -> Result<()>) -> Result<Pipeline> {
        let reason = |reason: Reason| reason.error(&found.name);
        let (opened, bytes) = self.catalogue.open_to_load(found).map_err(reason)?;
        on_wait()?;
        patience::wait_for(|| Ok(self.try_make_room(&found.name, bytes).then_some(())), on_wait)?;
        let pipeline = Pipeline::new(opened, &self.settings.device, self.settings.precision);
        let pipeline = pipeline.map_err(|error| match error {
            Error::Model { .. } => reason(self.catalogue.note(found, &error)),
            error => error,
        })?;
        let (name, shelf) = (found.name.clone(), Arc::downgrade(&self.shelf));
        Ok(pipeline.within(Beside { name, shelf }.room()))
    }

    /// False when there is no room for so many bytes before something comes back that is lent out.
    fn try_make_room(&self, name: &str, bytes: u64) -> bool {
        let Room { gone, enough } = lock(&self.shelf).make_room(name, bytes);
        drop_all(gone);
        enough
    }

    fn entry(&self, name: String) -> Entry {
        let (bytes_on_disk, folder, outline) = match self.catalogue.find(&name) {
            Ok(found) => {
                let outline = self.catalogue.outline(&found).map_err(|reason| reason.text);
                (found.stamp.bytes(), found.path.parent().map(Path::to_owned), outline)
            }
            Err(_) => (0, None, Err("its files are gone".to_owned())),
        };
        Entry { first: name == self.first(), folder, presence: self.presence(&name), bytes_on_disk, outline, name }
    }

    fn presence(&self, name: &str) -> Presence {
        let shelf = lock(&self.shelf);
        match shelf.held().iter().find(|held| held.name == name) {
            Some(held) => Presence::Loaded { bytes: held.bytes(), in_use: held.in_use() },
            None if lock(&self.loading).as_deref() == Some(name) => Presence::Loading,
            None => Presence::OnDisk,
        }
    }
}

fn drop_all(gone: Vec<shelf::Held<Pipeline>>) {
    if gone.is_empty() {
        return;
    }
    for held in gone {
        tracing::info!(model = held.name, mib = held.bytes() >> 20, "unloaded");
    }
    memory::give_back();
}

impl Weigh for Pipeline {
    fn bytes(&self) -> u64 {
        Self::bytes(self)
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
