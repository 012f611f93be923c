//! How often something is tried again, and how long is waited before that.

use crate::hub::watcher::Watcher;
use crate::{Error, Result};
use std::cell::Cell;
use std::time::Duration;

/// How a hub's bad minutes are borne.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in a row that may come to nothing.
    pub attempts: u32,
    /// The wait before the second attempt; before each further one it is twice as long.
    pub pause: Duration,
    /// The longest wait that a hub may ask for.
    pub longest: Duration,
    /// How long the other side may say nothing.
    pub stall: Duration,
}

impl Default for Patience {
    /// Five attempts with about 15 s of waiting between them, up to five minutes where the hub asks for it, and a
    /// minute of silence.
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            stall: Duration::from_secs(60),
        }
    }
}

/// Why an attempt failed, and whether there is any point in another.
#[derive(Debug)]
pub(in crate::hub) enum Trouble {
    /// Another attempt may go better.
    Again {
        error: Error,
        /// When, if the hub says so.
        after: Option<Duration>,
    },
    /// It would go the same way.
    Final(Error),
}

impl Trouble {
    pub(in crate::hub) fn again(error: Error) -> Self {
        Self::Again { error, after: None }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Patience {
    /// Calls `attempt` until it succeeds, fails for good, or has failed too often in a row. An attempt that brings
    /// `reached` further than all before it begins a new row: a bad line is borne as long as bytes come.
    pub(in crate::hub) fn retry<T>(
        &self,
        watcher: &mut Watcher<'_>,
        reached: &Cell<u64>,
        mut attempt: impl FnMut(&mut Watcher<'_>) -> Result<T, Trouble>,
    ) -> Result<T> {
        let (mut failed, mut furthest) = (0, reached.get());
        loop {
            let (error, after) = match attempt(watcher) {
                Ok(value) => return Ok(value),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Again { error, after }) => (error, after),
            };
            failed = if reached.get() > furthest { 1 } else { failed + 1 };
            furthest = furthest.max(reached.get());
            let pause = after.unwrap_or_else(|| self.pause * 2u32.saturating_pow(failed - 1));
            if failed >= self.attempts || pause > self.longest {
                return Err(error);
            }
            watcher.wait(pause)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{Fault, Phase, Progress};
    use std::sync::atomic::AtomicBool;

    fn impatient() -> Patience {
        Patience {
            attempts: 3,
            pause: Duration::from_millis(1),
            longest: Duration::from_secs(2),
            ..Patience::default()
        }
    }

    fn trouble(after: Option<Duration>) -> Trouble {
        Trouble::Again { error: Error::Hub(Fault::Unreachable("down".into())), after }
    }

    /// How many attempts were made, and the waits that were announced.
    fn attempts(mut attempt: impl FnMut(u32, &Cell<u64>) -> Result<(), Trouble>) -> (Result<()>, u32, Vec<u64>) {
        let (mut waits, mut made, reached) = (Vec::new(), 0, Cell::new(0));
        let mut on_progress = |progress: &Progress<'_>| {
            if let Phase::Waiting { seconds } = progress.phase {
                waits.push(seconds);
            }
        };
        let cancel = AtomicBool::new(false);
        let mut watcher = Watcher::new(&mut on_progress, &cancel);
        let result = impatient().retry(&mut watcher, &reached, |_| {
            made += 1;
            attempt(made, &reached)
        });
        (result, made, waits)
    }

    #[test]
    fn attempts_end_with_success_with_finality_or_when_there_were_too_many() {
        let (result, made, _) = attempts(|made, _| if made < 3 { Err(trouble(None)) } else { Ok(()) });
        assert!(result.is_ok() && made == 3);
        let (result, made, _) = attempts(|_, _| Err(trouble(None)));
        assert!(matches!(result, Err(Error::Hub(Fault::Unreachable(_)))) && made == 3);
        let (result, made, _) = attempts(|_, _| Err(Trouble::Final(Error::ShuttingDown)));
        assert!(matches!(result, Err(Error::ShuttingDown)) && made == 1);
    }

    #[test]
    fn progress_begins_a_new_row() {
        let (result, made, _) = attempts(|made, reached| {
            reached.set(u64::from(made.min(10)));
            Err(trouble(None))
        });
        assert!(result.is_err());
        assert_eq!(made, 12);
    }

    #[test]
    fn a_hub_may_ask_for_a_wait_but_not_for_any() {
        let second = Duration::from_secs(1);
        let (result, made, waits) = attempts(|made, _| if made == 1 { Err(trouble(Some(second))) } else { Ok(()) });
        assert!(result.is_ok() && made == 2 && waits == [1]);
        let (result, made, waits) = attempts(|_, _| Err(trouble(Some(second * 3))));
        assert!(result.is_err() && made == 1 && waits.is_empty());
    }
}
