//! Room in the budget for what is loaded beside a model while it is drawn with: its ControlNets and its IP-Adapter.

use super::shelf::{Room, Shelf};
use super::{PATIENCE, drop_all, lock};
use crate::error::{FieldError, Result};
use crate::memory::size;
use crate::pipeline::Pipeline;
use crate::{Error, pipeline};
use std::sync::{Mutex, Weak};

/// A model's claim to room beside itself.
pub(super) struct Beside {
    pub(super) name: String,
    /// Where the model will stand. Weak: what stands there has this.
    pub(super) shelf: Weak<Mutex<Shelf<Pipeline>>>,
    pub(super) give_back: fn(),
}

impl Beside {
    pub(super) fn room(self) -> pipeline::Room {
        pipeline::Room::new(move |bytes| self.make(bytes))
    }

    /// Takes models out of memory until so many bytes more fit, the least recently used first; waits for those that are
    /// lent out, if that helps. Otherwise fails, and takes none out.
    fn make(&self, bytes: u64) -> Result<()> {
        while let Some(shelf) = self.shelf.upgrade() {
            let (Room { gone, enough }, needed, budget) = {
                let mut shelf = lock(&shelf);
                let needed = shelf.bytes_of(&self.name).saturating_add(bytes);
                // Nothing is called so: what goes is what was used the longest time ago.
                (shelf.make_room("", bytes), needed, shelf.budget())
            };
            drop_all(gone, self.give_back);
            if enough {
                break;
            }
            if needed > budget {
                return Err(self.too_large(needed, budget));
            }
            std::thread::sleep(PATIENCE);
        }
        Ok(())
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
