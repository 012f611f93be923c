//! Waiting that can be given up: for memory that others have, and for those who are at something that is done one at a
//! time.

use crate::Result;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// How long to wait before looking again.
const PATIENCE: Duration = Duration::from_millis(10);

/// What `look` finds in the end. `on_wait` is heard before every wait, and gives up by returning an error.
pub(crate) fn wait_for<T>(
    mut look: impl FnMut() -> Result<Option<T>>,
    on_wait: &mut dyn FnMut() -> Result<()>,
) -> Result<T> {
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        on_wait()?;
        std::thread::sleep(PATIENCE);
    }
}

/// A lock of something that is consistent between statements, so that a panic elsewhere does not spoil it.
pub(crate) fn lock<'a, T>(mutex: &'a Mutex<T>, on_wait: &mut dyn FnMut() -> Result<()>) -> Result<MutexGuard<'a, T>> {
    wait_for(|| Ok(try_lock(mutex)), on_wait)
}

/// The same lock, unless somebody has it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn who_waits_is_asked_again_and_again_and_can_give_up() {
        let mutex = Mutex::new(7);
        let held = mutex.lock().unwrap();
        let mut asked = 0;
        let mut third_time = || {
            asked += 1;
            if asked < 3 { Ok(()) } else { Err(Error::Cancelled) }
        };
        assert!(matches!(lock(&mutex, &mut third_time), Err(Error::Cancelled)));
        drop(held);
        assert_eq!((asked, *lock(&mutex, &mut || panic!("nobody has it")).unwrap()), (3, 7));
    }
}
