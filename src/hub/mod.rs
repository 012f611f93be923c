//! What is on a hub to models among ours: [`pull`] fetches one, checks every byte of it and only then gives it its
//! name; [`list`], [`show`] and [`remove`] are about what is there.
//!
//! ```text
//! client:   a repository's name --> listing: commit, paths, sizes, hashes
//! select:   listing --> the files this program needs
//! download: file --> HASH.part, resumed, hashed on the way --> whole file in models/.pull/NAME/tree
//! place:    tree --> models/NAME, with limner.json, by one rename
//! ```
//!
//! A revision is resolved once; everything is fetched by its commit. What is there already, in the model or of an
//! earlier attempt, is checked and not fetched again. A pull that fails leaves the model that is there as it was.

mod assembly;
mod client;
mod digest;
mod download;
mod fault;
mod place;
mod plan;
mod pulls;
mod record;
mod repository;
mod select;
mod store;
mod watcher;

pub use client::{Hub, Patience};
pub use digest::Digest;
pub use fault::Fault;
pub use pulls::{Pull, Pulls, State};
pub use record::{Record, RecordedFile, Variant};
pub use repository::Repository;
pub use store::{Entry, Shown, Unfinished, folders, list, remove, show, unfinished, writable};
pub use watcher::{Phase, Progress};

use crate::model::checkpoint::BUNDLED;
use crate::{Error, Result};
use place::Place;
use plan::Plan;
use select::Form;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use watcher::Watcher;

/// What to fetch, and what to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// From where.
    pub repository: Repository,
    /// A single file that is a whole model, by its path in the repository; else the repository's model folder.
    pub file: Option<String>,
    /// The model's name here; else the repository's, or the file's without its ending.
    pub name: Option<String>,
    /// Which weights, where there is a choice; else as last time, and half precision the first time.
    pub variant: Option<Variant>,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Pulled {
    /// The model's name.
    pub name: String,
    /// Its folder or file.
    pub path: PathBuf,
    /// How many files were missing and have come; 0 if all were there.
    pub fetched_files: usize,
    /// How many bytes were missing.
    pub fetched_bytes: u64,
    /// Where the model is from, and what it consists of.
    #[serde(flatten)]
    pub record: Record,
}

/// Fetches what `order` names from `hub` into the folder `models`. `on_progress` hears of every piece; setting `cancel`
/// ends it within a moment with [`Error::Cancelled`], also while nothing comes. What has come by then is kept, and the
/// same order goes on from there. Faults of the hub, and orders that cannot be met, are [`Error::Hub`].
pub fn pull(
    hub: &Hub,
    order: &Order,
    models: &Path,
    on_progress: &mut dyn FnMut(&Progress<'_>),
    cancel: &AtomicBool,
) -> Result<Pulled> {
    let mut watcher = Watcher::new(on_progress, cancel);
    let listing = hub.listing(&order.repository, &mut watcher)?;
    let form = select::form(&listing, order.file.as_deref())?;
    let place = Place::new(models, &name(order, &form)?, &form)?;
    let _lock = place.lock()?;
    place.open_workshop()?;
    let plan = Plan::new(order, &listing, &form, &place)?;
    let pulled = plan.carry_out(hub, &mut watcher);
    if matches!(pulled, Err(Error::Hub(Fault::Unsuitable(_)))) {
        place.clear()?;
    }
    pulled
}

/// What the model is to be called.
fn name(order: &Order, form: &Form) -> Result<String> {
    let file_stem = |path: &str| Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let own = match form {
        Form::Folder => Some(order.repository.name().to_owned()),
        Form::File(path) => file_stem(path),
    };
    let name = order.name.clone().or(own).unwrap_or_default();
    if name == BUNDLED {
        let message = format!("{BUNDLED} is the model that Limner comes with: choose another name with --name");
        return Err(Error::Hub(Fault::Taken(message)));
    }
    Ok(name)
}
