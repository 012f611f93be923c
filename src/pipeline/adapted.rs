//! The model with the adapters of a plan: made when they are not those of the plan before.

use super::Pipeline;
use crate::model::adapter::Applied;
use crate::model::checkpoint::{Model, Stamp};
use crate::{Result, patience};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The last model with adapters. One at a time is kept: it has a copy of every weight that they change.
#[derive(Debug, Default)]
pub(super) struct Adapted {
    kept: Mutex<Option<(Vec<Wanted>, Arc<Made>)>>,
    /// Of all that were made and are still there.
    bytes: Arc<AtomicU64>,
}

/// An adapter, and what its file looked like from outside.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    applied: Applied,
    stamp: Option<Stamp>,
}

/// A model that plans draw with.
#[derive(Debug)]
pub(super) struct Made {
    model: Model,
    _claimed: Claimed,
}

/// Memory that counts as taken, from before it is until it is given back.
#[derive(Debug)]
struct Claimed {
    bytes: u64,
    of: Arc<AtomicU64>,
}

impl Adapted {
    /// Bytes that what was made takes besides those of the model.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Lets go of the model that is kept, unless one is being made just now; whoever draws with it keeps it.
    pub(super) fn forget(&self) {
        if let Some(mut kept) = patience::try_lock(&self.kept) {
            *kept = None;
        }
    }

    fn claim(&self, bytes: u64) -> Claimed {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Claimed { bytes, of: self.bytes.clone() }
    }
}

impl Pipeline {
    /// The model with `loras`, or as it is without any. Others who want one with adapters wait until this one is made. Room
    /// for the weights that they change is made before those are computed; `on_wait` is heard as long as either has to
    /// wait, and can give up.
    pub(super) fn with_loras(&self, loras: &[Applied], on_wait: &mut dyn FnMut() -> Result<()>) -> Result<Arc<Made>> {
        let (base, adapted) = (&self.model, &self.adapted);
        if loras.is_empty() {
            return Ok(Arc::new(Made { model: base.clone(), _claimed: adapted.claim(0) }));
        }
        let wanted: Vec<Wanted> = loras.iter().map(Wanted::new).collect();
        let mut kept = patience::lock(&adapted.kept, on_wait)?;
        if let Some((_, model)) = kept.as_ref().filter(|(of, _)| *of == wanted) {
            return Ok(model.clone());
        }
        // What is not wanted any more goes before there is another.
        *kept = None;
        let began = Instant::now();
        let adaptation = base.adaptation(loras)?;
        self.make_room(adaptation.bytes(), on_wait)?;
        let _claimed = adapted.claim(adaptation.bytes());
        let made = Arc::new(Made { model: adaptation.make()?, _claimed });
        tracing::info!(model = base.name, loras = loras.len(), seconds = began.elapsed().as_secs_f64(), "adapted");
        *kept = Some((wanted, made.clone()));
        Ok(made)
    }
}

impl Wanted {
    fn new(applied: &Applied) -> Self {
        Self { stamp: applied.path.metadata().ok().map(|about| Stamp::of(&about)), applied: applied.clone() }
    }
}

impl Deref for Made {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
