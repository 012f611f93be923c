//! Networks that some requests ask for beside the model: those that were used last stay in memory.

use crate::Result;
use crate::model::checkpoint::Stamps;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The last networks of one kind.
#[derive(Debug)]
pub(super) struct Recent<T> {
    most: usize,
    /// Latest first.
    used: Mutex<Vec<(Stamps, Arc<T>)>>,
}

impl<T> Recent<T> {
    /// At most `most` of them.
    pub(super) fn new(most: usize) -> Self {
        Self { most, used: Mutex::default() }
    }

    /// The one with these files, from `load` if it is not here. Two threads may load the same one; both use their own.
    pub(super) fn get(&self, stamps: &Stamps, load: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let known = self.lock().iter().find(|(other, _)| other == stamps).map(|(_, network)| network.clone());
        let network = match known {
            Some(network) => network,
            None => Arc::new(load()?),
        };
        let mut used = self.lock();
        used.retain(|(other, _)| other != stamps);
        used.insert(0, (stamps.clone(), network.clone()));
        used.truncate(self.most);
        Ok(network)
    }

    /// Lets go of those that nobody uses.
    pub(super) fn forget_unused(&self) {
        self.lock().retain(|(_, network)| Arc::strong_count(network) > 1);
    }

    /// Some number of each of them, added up.
    pub(super) fn sum(&self, of: impl Fn(&T) -> u64) -> u64 {
        self.lock().iter().map(|(_, network)| of(network)).sum()
    }

    /// Consistent between statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Vec<(Stamps, Arc<T>)>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
