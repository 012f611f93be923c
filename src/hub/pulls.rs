//! Pulls for a server: accepted, carried out one after another by a thread of their own, and told of while they run.
//!
//! They live in memory. What a pull had fetched when the program ended lies in its workshop, and the same order goes on
//! from there.

use super::{Fault, Hub, Order, Phase, Progress, Pulled, pull, writable};
use crate::model::checkpoint::is_name;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many pulls may wait behind the one that runs.
const MOST_WAITING: usize = 8;
/// How many that are over are remembered.
const MOST_OVER: usize = 32;

/// The pulls of a server. A clone shares them.
#[derive(Clone)]
pub struct Pulls {
    inner: Arc<Inner>,
}

struct Inner {
    /// Opens the hub when it is needed: a token may have come since.
    open: Box<dyn Fn() -> Result<Hub> + Send + Sync>,
    /// Folders that models are pulled into: the first of them that can be written to.
    folders: Vec<PathBuf>,
    next: AtomicU64,
    queue: Mutex<Queue>,
    /// Told when the thread ends.
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    /// In the order of their ids.
    pulls: VecDeque<Entry>,
    /// Whether there is a thread that carries them out.
    at_work: bool,
    closed: bool,
}

struct Entry {
    seen: Pull,
    order: Order,
    cancel: Arc<AtomicBool>,
}

/// How far a pull is, as it was seen at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Pull {
    /// Counts from 1.
    pub id: u64,
    /// `OWNER/NAME@REVISION`.
    pub repository: String,
    /// The one file that was asked for, if it was one.
    pub file: Option<String>,
    /// What the model is called, or is to be called, where that is known.
    pub name: Option<String>,
    /// What has become of it.
    pub state: State,
    /// The file that is dealt with, by its path in the repository.
    pub path: String,
    /// Bytes that are dealt with in this phase.
    pub done: u64,
    /// Bytes that this phase deals with; 0 when that is not known yet.
    pub total: u64,
    /// Bytes a second since this phase began.
    pub rate: f64,
}

/// What has become of a pull.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Others come first.
    Waiting,
    /// It runs.
    Running(Phase),
    /// The model is here.
    Done(Pulled),
    /// It is not, for this reason.
    Failed(Fault),
    /// Somebody did not want it any more.
    Cancelled,
}

impl State {
    /// Whether nothing will change any more.
    pub fn is_over(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_) | Self::Cancelled)
    }
}

impl Pulls {
    /// None yet. They will come from the hub that `open` gives into the first of `folders` that can be written to.
    pub fn new(open: impl Fn() -> Result<Hub> + Send + Sync + 'static, folders: Vec<PathBuf>) -> Self {
        let inner = Inner {
            open: Box::new(open),
            folders,
            next: AtomicU64::new(1),
            queue: Mutex::default(),
            idle: Condvar::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The folders that models are pulled into, and removed from.
    pub fn folders(&self) -> &[PathBuf] {
        &self.inner.folders
    }

    /// Takes an order; one that is waiting or running already is not taken twice. Fails where too many wait, after
    /// [`Pulls::close`], and where the name that was chosen cannot be one.
    pub fn submit(&self, order: Order) -> Result<Pull> {
        if let Some(name) = order.name.as_ref().filter(|name| !is_name(name)) {
            return Err(Error::Hub(Fault::Unsuitable(format!("{name:?} cannot be a model's name"))));
        }
        let mut queue = self.inner.queue();
        if queue.closed {
            return Err(Error::ShuttingDown);
        }
        if let Some(same) = queue.pulls.iter().find(|entry| entry.order == order && !entry.seen.state.is_over()) {
            return Ok(same.seen.clone());
        }
        if queue.waiting() >= MOST_WAITING {
            let message = format!("{MOST_WAITING} pulls are waiting already");
            return Err(Error::Hub(Fault::Busy { message, retry_after_seconds: Some(60) }));
        }
        let seen = Pull::new(self.inner.next.fetch_add(1, Ordering::Relaxed), &order);
        queue.pulls.push_back(Entry { seen: seen.clone(), order, cancel: Arc::default() });
        queue.forget_old();
        if !std::mem::replace(&mut queue.at_work, true) {
            let inner = self.inner.clone();
            let thread = std::thread::Builder::new().name("pulls".to_owned()).spawn(move || inner.work());
            if let Err(error) = thread {
                queue.at_work = false;
                queue.pulls.pop_back();
                return Err(Error::Server(format!("no thread could be started: {error}")));
            }
        }
        Ok(seen)
    }

    /// All that are remembered, the newest first.
    pub fn list(&self) -> Vec<Pull> {
        self.inner.queue().pulls.iter().rev().map(|entry| entry.seen.clone()).collect()
    }

    /// One of them.
    pub fn get(&self, id: u64) -> Option<Pull> {
        self.inner.queue().find(id).map(|entry| entry.seen.clone())
    }

    /// Ends a pull that is not over within a moment; what it has fetched is kept. How it looks then, or none where there
    /// is no such pull.
    pub fn cancel(&self, id: u64) -> Option<Pull> {
        let mut queue = self.inner.queue();
        let entry = queue.find(id)?;
        entry.end();
        Some(entry.seen.clone())
    }

    /// Takes no orders any more and ends all pulls; returns when none runs.
    pub fn close(&self) {
        let mut queue = self.inner.queue();
        queue.closed = true;
        queue.pulls.iter_mut().for_each(Entry::end);
        while queue.at_work {
            queue = self.inner.idle.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Pull {
    fn new(id: u64, order: &Order) -> Self {
        Self {
            id,
            repository: format!("{}@{}", order.repository.id, order.repository.revision),
            file: order.file.clone(),
            name: order.name.clone(),
            state: State::Waiting,
            path: String::new(),
            done: 0,
            total: 0,
            rate: 0.0,
        }
    }
}

impl Entry {
    fn end(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if !self.seen.state.is_over() {
            self.seen.state = State::Cancelled;
        }
    }
}

impl Queue {
    fn find(&mut self, id: u64) -> Option<&mut Entry> {
        self.pulls.iter_mut().find(|entry| entry.seen.id == id)
    }

    fn waiting(&self) -> usize {
        self.pulls.iter().filter(|entry| entry.seen.state == State::Waiting).count()
    }

    fn forget_old(&mut self) {
        let over = self.pulls.iter().filter(|entry| entry.seen.state.is_over()).count();
        let mut surplus = over.saturating_sub(MOST_OVER);
        self.pulls.retain(|entry| {
            let goes = surplus > 0 && entry.seen.state.is_over();
            surplus -= usize::from(goes);
            !goes
        });
    }
}

impl Inner {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out what waits until nothing does.
    fn work(&self) {
        let _at_work = AtWork(self);
        while let Some((id, order, cancel)) = self.take() {
            let outcome = self.carry_out(id, &order, &cancel);
            let state = match outcome {
                Ok(pulled) => State::Done(pulled),
                Err(Error::Cancelled) => State::Cancelled,
                Err(Error::Hub(fault)) => State::Failed(fault),
                Err(error) => State::Failed(Fault::Unsuitable(error.to_string())),
            };
            match &state {
                State::Done(pulled) => tracing::info!(model = pulled.name, bytes = pulled.fetched_bytes, "pulled"),
                State::Failed(fault) => tracing::warn!(%fault, repository = order.repository.id, "a pull failed"),
                _ => {}
            }
            self.change(id, |pull| {
                if let State::Done(pulled) = &state {
                    pull.name = Some(pulled.name.clone());
                }
                pull.state = state;
            });
        }
    }

    /// The next one to carry out. Where there is none, the next order needs another thread.
    fn take(&self) -> Option<(u64, Order, Arc<AtomicBool>)> {
        let mut queue = self.queue();
        let Some(entry) = queue.pulls.iter_mut().find(|entry| entry.seen.state == State::Waiting) else {
            queue.at_work = false;
            return None;
        };
        entry.seen.state = State::Running(Phase::Listing);
        Some((entry.seen.id, entry.order.clone(), entry.cancel.clone()))
    }

    fn carry_out(&self, id: u64, order: &Order, cancel: &AtomicBool) -> Result<Pulled> {
        let (hub, models) = ((self.open)()?, writable(&self.folders)?);
        let mut phase = (Phase::Listing, Instant::now());
        pull(
            &hub,
            order,
            &models,
            &mut |progress| {
                if phase.0 != progress.phase {
                    phase = (progress.phase, Instant::now());
                }
                self.change(id, |pull| pull.show(progress, phase.1.elapsed()));
            },
            cancel,
        )
    }

    /// Changes how a pull is seen, unless it is over: then somebody has cancelled it.
    fn change(&self, id: u64, change: impl FnOnce(&mut Pull)) {
        if let Some(entry) = self.queue().find(id).filter(|entry| !entry.seen.state.is_over()) {
            change(&mut entry.seen);
        }
    }
}

impl Pull {
    fn show(&mut self, progress: &Progress<'_>, since: Duration) {
        self.state = State::Running(progress.phase);
        if self.path != progress.file {
            progress.file.clone_into(&mut self.path);
        }
        (self.done, self.total) = (progress.done, progress.total);
        self.rate = progress.done as f64 / since.as_secs_f64().max(0.001);
    }
}

/// Says so when the thread ends, also by a panic.
struct AtWork<'a>(&'a Inner);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.queue().at_work = false;
        }
        self.0.idle.notify_all();
    }
}
