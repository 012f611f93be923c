//! Memory for networks that are loaded beside the model while it is drawn with.

use crate::Result;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

/// Whoever keeps account of memory: asked for so many bytes, it makes room for them, or fails where there cannot be any.
#[derive(Clone)]
pub struct Room(Arc<dyn Fn(u64) -> Result<()> + Send + Sync>);

impl Room {
    /// As `make` does it.
    pub fn new(make: impl Fn(u64) -> Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }

    pub(super) fn make(&self, bytes: u64) -> Result<()> {
        (self.0)(bytes)
    }
}

/// Nobody keeps account.
impl Default for Room {
    fn default() -> Self {
        Self::new(|_| Ok(()))
    }
}

impl Debug for Room {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Room")
    }
}
