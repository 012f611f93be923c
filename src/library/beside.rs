//! Room in the budget for what is loaded beside a model while it is drawn with: its ControlNets and its IP-Adapter.

use super::shelf::{Room, Shelf};
use super::{drop_all, lock};
use crate::error::{FieldError, Result};
use crate::memory::size;
use crate::pipeline::Pipeline;
use crate::{Error, patience, pipeline};
use std::sync::{Mutex, Weak};

/// A model's claim to room beside itself.
pub(super) struct Beside {
    pub(super) name: String,
    /// Where the model will stand. Weak: what stands there has this.
    pub(super) shelf: Weak<Mutex<Shelf<Pipeline>>>,
}

impl Beside {
    pub(super) fn room(self) -> pipeline::Room {
        pipeline::Room::new(move |bytes, on_wait| patience::wait_for(|| self.try_make(bytes), on_wait))
    }

    /// Takes models out of memory until so many bytes more fit, the least recently used first. Otherwise takes none out:
    /// it is nothing yet where those that are lent out have to come back first, and fails where that would not help.
    fn try_make(&self, bytes: u64) -> Result<Option<()>> {
        let Some(shelf) = self.shelf.upgrade() else { return Ok(Some(())) };
        let (Room { gone, enough }, needed, budget) = {
            let mut shelf = lock(&shelf);
            let needed = shelf.bytes_of(&self.name).saturating_add(bytes);
            // Nothing is called so: what goes is what was used the longest time ago.
            (shelf.make_room("", bytes), needed, shelf.budget())
        };
        drop_all(gone);
        match enough {
            false if needed > budget => Err(self.too_large(needed, budget)),
            enough => Ok(enough.then_some(())),
        }
    }

    fn too_large(&self, needed: u64, budget: u64) -> Error {
        let (name, needed, budget) = (&self.name, size(needed), size(budget));
        let message = format!(
            "{name} with all that it is to be drawn with needs {needed} of memory, and all models together may take \
             {budget} (--memory-mib)"
        );
        Error::invalid(FieldError::new("model", "model_too_large", message))
    }
}
