//! Memory for networks that are loaded beside the model while it is drawn with, and for weights that adapters change.

use super::Pipeline;
use crate::{Error, Result};
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

/// Whoever keeps account of memory: asked for so many bytes, it makes room for them, or fails where there cannot be any.
/// What it is given besides is heard again and again as long as it waits, and makes it give up by failing.
#[derive(Clone)]
pub struct Room(Arc<Make>);

type Make = dyn Fn(u64, &mut dyn FnMut() -> Result<()>) -> Result<()> + Send + Sync;

impl Room {
    /// As `make` does it.
    pub fn new(make: impl Fn(u64, &mut dyn FnMut() -> Result<()>) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    pub(super) fn make(&self, bytes: u64, on_wait: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        (self.0)(bytes, on_wait)
    }
}

impl Pipeline {
    /// Room for so many bytes beside the model. Where there is none otherwise, what was loaded and made for earlier plans
    /// goes.
    pub(super) fn make_room(&self, bytes: u64, on_wait: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match self.room.make(bytes, on_wait) {
            Err(Error::Invalid(_)) => {
                self.nets.forget_unused();
                self.adapted.forget();
                self.room.make(bytes, on_wait)
            }
            made => made,
        }
    }
}

/// Nobody keeps account.
impl Default for Room {
    fn default() -> Self {
        Self::new(|_, _| Ok(()))
    }
}

impl Debug for Room {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Room")
    }
}
