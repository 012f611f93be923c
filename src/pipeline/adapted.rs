//! The model with the adapters of a plan: made when they are not those of the plan before.

use crate::Result;
use crate::model::adapter::Applied;
use crate::model::checkpoint::{Model, Stamp};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The last model with adapters. One at a time is kept: it has a copy of every weight that they change.
#[derive(Debug, Default)]
pub(super) struct Adapted {
    kept: Mutex<Option<(Vec<Wanted>, Model)>>,
    bytes: AtomicU64,
}

/// An adapter, and what its file looked like from outside.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    applied: Applied,
    stamp: Option<Stamp>,
}

impl Adapted {
    /// `base` with `loras`, or as it is without any. Others who want a model with adapters wait until this one is made.
    pub(super) fn model(&self, base: &Model, loras: &[Applied]) -> Result<Model> {
        if loras.is_empty() {
            return Ok(base.clone());
        }
        let wanted: Vec<Wanted> = loras.iter().map(Wanted::new).collect();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, model)) = kept.as_ref().filter(|(of, _)| *of == wanted) {
            return Ok(model.clone());
        }
        // What is not wanted any more goes before there is another.
        *kept = None;
        self.bytes.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let model = base.adapted(loras)?;
        tracing::info!(model = base.name, loras = loras.len(), seconds = began.elapsed().as_secs_f64(), "adapted");
        self.bytes.store(model.bytes - base.bytes, Ordering::Relaxed);
        *kept = Some((wanted, model.clone()));
        Ok(model)
    }

    /// Bytes that it takes besides those of the model.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Wanted {
    fn new(applied: &Applied) -> Self {
        Self { stamp: applied.path.metadata().ok().map(|about| Stamp::of(&about)), applied: applied.clone() }
    }
}
