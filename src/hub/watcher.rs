//! Who follows a pull: is told how far it is, and may stop it at any time.

use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often somebody who waits looks whether to go on, in a pull's every wait.
pub(super) const GLANCE: Duration = Duration::from_millis(50);

/// How far a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub phase: Phase,
    /// The file this is about, by its path in the repository; empty before there is one.
    pub file: &'a str,
    /// Bytes of all files that are dealt with in this phase.
    pub done: u64,
    /// Bytes of all files that this phase deals with; 0 when that is not known yet.
    pub total: u64,
}

/// What a pull does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The hub is asked what the repository holds.
    Listing,
    /// Files that are here already are hashed.
    Checking,
    /// Missing files are fetched.
    Fetching,
    /// The hub is left alone for a while, before the next attempt.
    Waiting {
        /// How long, in all.
        seconds: u64,
    },
}

/// Carries a pull's progress to whoever follows it, and their wish to stop back.
pub(super) struct Watcher<'a> {
    on_progress: &'a mut dyn FnMut(&Progress<'_>),
    cancel: &'a AtomicBool,
    phase: Phase,
    file: String,
    total: u64,
    /// Bytes of the files before this one, and of this one.
    before: u64,
    here: u64,
}

impl<'a> Watcher<'a> {
    pub(super) fn new(on_progress: &'a mut dyn FnMut(&Progress<'_>), cancel: &'a AtomicBool) -> Self {
        Self { on_progress, cancel, phase: Phase::Listing, file: String::new(), total: 0, before: 0, here: 0 }
    }

    /// What is set once the pull is to stop.
    pub(super) fn cancel(&self) -> &'a AtomicBool {
        self.cancel
    }

    /// Begins a phase that deals with `total` bytes.
    pub(super) fn begin(&mut self, phase: Phase, total: u64) {
        (self.phase, self.total, self.before, self.here) = (phase, total, 0, 0);
        self.file.clear();
        self.report(phase);
    }

    /// Goes on to the next file.
    pub(super) fn file(&mut self, path: &str) {
        self.before += self.here;
        self.here = 0;
        path.clone_into(&mut self.file);
        self.report(self.phase);
    }

    /// Of this file, `bytes` are done. Fails once the pull is cancelled.
    pub(super) fn reach(&mut self, bytes: u64) -> Result<()> {
        self.here = bytes;
        self.report(self.phase);
        self.check()
    }

    /// Fails once the pull is cancelled.
    pub(super) fn check(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Lets time pass, and says so.
    pub(super) fn wait(&mut self, pause: Duration) -> Result<()> {
        self.report(Phase::Waiting { seconds: pause.as_secs_f64().ceil() as u64 });
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.check()?;
            std::thread::sleep(left.min(GLANCE));
        }
        self.report(self.phase);
        self.check()
    }

    fn report(&mut self, phase: Phase) {
        let done = self.before + self.here;
        (self.on_progress)(&Progress { phase, file: &self.file, done, total: self.total });
    }
}
