//! What a client holds while its job waits and runs.

use super::Drawing;
use crate::pipeline::Progress;
use crate::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::oneshot;

/// Shared between the ticket and the job.
#[derive(Debug, Default)]
pub(super) struct Control {
    cancelled: AtomicBool,
    done: AtomicUsize,
    total: AtomicUsize,
}

impl Control {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    pub(super) fn note(&self, progress: &Progress<'_>) {
        let (done, total) = progress.overall();
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub(super) fn steps(&self) -> (usize, usize) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// Cancels a job when dropped: a client that goes away takes its job with it.
#[derive(Debug)]
pub struct Cancel(Arc<Control>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// A place in the queue.
#[derive(Debug)]
pub struct Ticket {
    cancel: Cancel,
    answer: oneshot::Receiver<Result<Drawing>>,
}

impl Ticket {
    pub(super) fn new() -> (oneshot::Sender<Result<Drawing>>, Self) {
        let (sender, answer) = oneshot::channel();
        (sender, Self { cancel: Cancel(Arc::default()), answer })
    }

    pub(super) fn control(&self) -> Arc<Control> {
        self.cancel.0.clone()
    }

    /// Waits for the pictures. Dropping the future cancels the job within one step.
    pub async fn result(self) -> Result<Drawing> {
        let Self { cancel, answer } = self;
        let outcome = answer.await.unwrap_or_else(|_| Err(Error::Server("the worker has died".into())));
        drop(cancel);
        outcome
    }
}
