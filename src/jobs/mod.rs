//! Accepted plans wait here for the one worker.
//!
//! The boundary is [`Queue::submit`] (handlers), [`Queue::claim`] and [`Queue::complete`] (worker): what lies between
//! is in memory today and may become a table tomorrow without either side noticing.

mod ticket;
mod worker;

pub use ticket::{Cancel, Ticket};
pub use worker::{Draw, Worker};

use crate::pipeline::{Notice, Picture, Progress};
use crate::request::Plan;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use ticket::Control;
use tokio::sync::oneshot;

/// What a job gave.
#[derive(Debug, Clone)]
pub struct Drawing {
    /// The pictures, in the order of their seeds.
    pub pictures: Vec<Picture>,
    /// What to know about them.
    pub notices: Vec<Notice>,
    /// Between acceptance and the worker's beginning.
    pub waited: Duration,
    /// The worker's time.
    pub drawn: Duration,
}

/// A plan that the worker has claimed.
pub struct Job {
    /// What to draw.
    pub plan: Plan,
    control: Arc<Control>,
    accepted: Instant,
    answer: oneshot::Sender<Result<Drawing>>,
}

impl Job {
    /// To be called after each step: notes progress, and fails with [`Error::Cancelled`] when nobody waits any more.
    pub fn on_step(&self, progress: &Progress<'_>) -> Result<()> {
        self.control.note(progress);
        self.control.check()
    }
}

/// A look at the queue from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Jobs that wait.
    pub waiting: usize,
    /// Steps done and in all of the job that runs.
    pub running: Option<(usize, usize)>,
    /// Whether new jobs are taken.
    pub open: bool,
}

/// A bounded first-in-first-out queue. Clones share it.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    limit: usize,
}

struct State {
    waiting: VecDeque<Job>,
    running: Option<Arc<Control>>,
    open: bool,
    /// A running mean, for telling clients when to come back.
    seconds_per_job: f64,
}

impl Queue {
    /// A queue in which `limit` jobs may wait besides the one that runs.
    pub fn new(limit: usize) -> Self {
        let state = State { waiting: VecDeque::new(), running: None, open: true, seconds_per_job: 2.0 };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), limit }) }
    }

    /// Accepts a plan. The ticket brings the result; dropping it cancels the job. Fails with [`Error::Overloaded`] or
    /// [`Error::ShuttingDown`].
    pub fn submit(&self, plan: Plan) -> Result<Ticket> {
        let mut state = self.lock();
        state.waiting.retain(|job| job.control.check().is_ok());
        if !state.open {
            return Err(Error::ShuttingDown);
        }
        let busy = state.waiting.len() + usize::from(state.running.is_some());
        if busy > self.shared.limit {
            let seconds = state.seconds_per_job * busy as f64;
            return Err(Error::Overloaded { retry_after_seconds: seconds.ceil().clamp(1.0, 600.0) as u64 });
        }
        let (answer, ticket) = Ticket::new();
        let control = ticket.control();
        state.waiting.push_back(Job { plan, control, accepted: Instant::now(), answer });
        drop(state);
        self.shared.changed.notify_all();
        Ok(ticket)
    }

    /// The next job that somebody still waits for; blocks until there is one. None when the queue is closed.
    pub fn claim(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            while let Some(job) = state.waiting.pop_front() {
                if job.control.check().is_ok() {
                    state.running = Some(job.control.clone());
                    return Some(job);
                }
            }
            if !state.open {
                return None;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands over what a claimed job gave.
    pub fn complete(&self, job: Job, began: Instant, outcome: Result<(Vec<Picture>, Vec<Notice>)>) {
        let drawn = began.elapsed();
        let waited = began.duration_since(job.accepted);
        let mut state = self.lock();
        state.running = None;
        if outcome.is_ok() {
            state.seconds_per_job = 0.7 * state.seconds_per_job + 0.3 * drawn.as_secs_f64();
        }
        drop(state);
        // The client may be gone; then nobody wants the answer.
        let _ = job.answer.send(outcome.map(|(pictures, notices)| Drawing { pictures, notices, waited, drawn }));
    }

    /// Takes no new jobs and turns away those that wait. The one that runs may finish.
    pub fn close(&self) {
        let mut state = self.lock();
        state.open = false;
        for job in state.waiting.drain(..) {
            let _ = job.answer.send(Err(Error::ShuttingDown));
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Stops the job that runs at its next step.
    pub fn cancel_running(&self) {
        if let Some(control) = &self.lock().running {
            control.cancel();
        }
    }

    /// How full the queue is and how far its work.
    pub fn status(&self) -> Status {
        let state = self.lock();
        let running = state.running.as_ref().map(|control| control.steps());
        Status { waiting: state.waiting.len(), running, open: state.open }
    }

    /// The state is consistent between statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
