//! Accepted work. A job is in the database before anybody hears that it was accepted, and ends in exactly one of done,
//! failed and cancelled, whatever happens to this process in between.
//!
//! The boundary is [`Jobs`]: handlers submit, look, cancel and listen; the worker claims, tells and completes. Nothing
//! outside this module knows that there is SQLite, or files, behind it.

mod events;
mod folder;
mod id;
mod job;
mod store;
mod worker;

pub use events::{Event, Listener, Numbered, Step};
pub use id::Id;
pub use job::{Failure, Image, Job, State};
pub use store::Query;
pub use worker::{Draw, Drawn, Lend, Worker};

use crate::diffusion::diagnostics::StepFigures;
use crate::error::FieldError;
use crate::request::{GenerateRequest, Plan};
use crate::{Error, Result};
use events::Hub;
use folder::{Folder, Kind};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{Claimed, Inserted, NewJob, Store};

/// How long a deleted picture can be brought back.
const UNDO_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The most pixels that are drawn side by side: one picture of Stable Diffusion, whose matrices are large enough for all
/// cores and whose activations take gigabytes, or dozens of small ones.
const BATCH_PIXELS: u64 = 512 * 512;

/// How much may be open at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Jobs that wait or run.
    pub jobs: usize,
    /// Bytes of their uploads.
    pub upload_bytes: u64,
    /// Jobs that are drawn at a time, where they are small enough: each on a core of its own.
    pub batch: usize,
}

/// All jobs. Clones share them.
#[derive(Clone)]
pub struct Jobs {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    folder: Folder,
    hub: Hub,
    limits: Limits,
    desk: Mutex<Desk>,
    changed: Condvar,
}

/// What is not worth storing.
struct Desk {
    open: bool,
    running: Vec<Arc<Control>>,
    /// From one step of any job to the next of any.
    seconds_per_step: f64,
    /// Counts what was submitted, so that the worker does not sleep over what came while it looked.
    submitted: u64,
    /// Models to be brought into memory, each with the last job that was accepted before.
    loads: VecDeque<(String, i64)>,
}

/// What the worker finds.
enum Taken {
    Jobs(Vec<(Claimed, Arc<Control>)>),
    Load(String),
    Nothing { submitted: u64 },
    Closed,
}

/// How a running job hears that it should stop.
struct Control {
    job: Id,
    steps_left: AtomicU64,
    cancelled: AtomicBool,
    /// It is to be drawn later and not given up.
    put_back: AtomicBool,
}

/// What the worker has to do.
pub enum Work {
    /// To draw these jobs, at least one: all of the same size and model.
    Draw(Vec<Claim>),
    /// To bring this model into memory, and then to [forget](Jobs::forget_load) that somebody wishes it.
    Load(String),
}

/// A job that the worker has claimed.
pub struct Claim {
    /// Its id.
    pub id: Id,
    /// For the how manieth time it is begun.
    pub attempt: u32,
    /// What to draw, uploads included.
    pub request: GenerateRequest,
    control: Arc<Control>,
}

/// The files that were sent with a job, by their fields.
pub type Uploads = BTreeMap<String, Vec<u8>>;

/// How much the database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Jobs in each state.
    pub jobs: Vec<(State, u64)>,
    /// Pictures, without deleted ones.
    pub pictures: u64,
    /// Bytes of the uploads of open jobs.
    pub upload_bytes: u64,
}

/// A look at the queue from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs that are being drawn.
    pub running: usize,
    /// Whether new jobs are taken.
    pub open: bool,
}

impl Desk {
    /// Of each running job.
    fn steps_left(&self) -> impl Iterator<Item = u64> {
        self.running.iter().map(|control| control.steps_left.load(Ordering::Relaxed))
    }
}

impl Jobs {
    /// Opens the data folder, queues again what was running when the last server ended, and removes what it left behind.
    pub fn open(folder: &Path, limits: Limits) -> Result<Self> {
        let folder = Folder::open(folder)?;
        let store = Store::open(&folder.database())?;
        let again = store.recover()?;
        let forgotten = store.forget_hidden(store::now() - UNDO_TIME.as_millis() as i64)?;
        store.forget_uploads()?;
        let pictures = store.pictures()?;
        let orphans = folder.sweep(Kind::Picture, &pictures)? + folder.sweep(Kind::Upload, &store.uploads()?)?;
        folder.sweep(Kind::Thumbnail, &pictures)?;
        tracing::info!(again, orphans, forgotten = forgotten.len(), "opened the data folder");
        let desk = Mutex::new(Desk {
            open: true,
            running: Vec::new(),
            seconds_per_step: 0.1,
            submitted: 0,
            loads: VecDeque::new(),
        });
        let shared = Shared { store, folder, hub: Hub::default(), limits, desk, changed: Condvar::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Accepts a plan that was made of `request`; returns when it is stored. A `key` that came before brings the job it
    /// came with, or is an error when that was another request. Fails with [`Error::Overloaded`],
    /// [`Error::ShuttingDown`] and [`Error::Storage`]. May block: keep it off async threads.
    pub fn submit(&self, request: &GenerateRequest, plan: &Plan, key: Option<&str>) -> Result<Id> {
        if !self.desk().open {
            return Err(Error::ShuttingDown);
        }
        let id = Id::random()?;
        let uploads = self.keep(request)?;
        let fingerprint = fingerprint(request);
        let bytes = request.files().map(|(_, file)| file.len() as u64).sum();
        let (resolved, key) = (plan.request().to_json(), key.map(|key| (key, fingerprint.as_str())));
        let new = NewJob { id: &id, request: resolved, uploads: &uploads, bytes, key };
        let inserted = self.shared.store.insert(&new, self.shared.limits.jobs, self.shared.limits.upload_bytes);
        if !matches!(inserted, Ok(Inserted::New)) {
            uploads.iter().for_each(|(_, file)| self.shared.folder.remove(Kind::Upload, file));
        }
        match inserted? {
            Inserted::New => {
                self.desk().submitted += 1;
                self.shared.changed.notify_all();
                self.announce()?;
                Ok(id)
            }
            Inserted::Known(id) => Ok(id),
            Inserted::KeyTaken => {
                let message = "was used before, for another request";
                Err(Error::invalid(FieldError::new("Idempotency-Key", "key_reused", message)))
            }
            Inserted::Full => Err(Error::Overloaded { retry_after_seconds: self.retry_after() }),
        }
    }

    /// One job.
    pub fn get(&self, id: &Id) -> Result<Option<Job>> {
        self.shared.store.get(id)
    }

    /// A page of jobs, newest first.
    pub fn list(&self, query: &Query) -> Result<Vec<Job>> {
        self.shared.store.list(query)
    }

    /// A job's place in the queue, from 1, and the seconds until it begins.
    pub fn position(&self, id: &Id) -> Result<Option<(usize, f64)>> {
        Ok(self.places()?.find(|(other, ..)| other == id).map(|(_, position, eta)| (position, eta)))
    }

    /// How long steps took lately.
    pub fn seconds_per_step(&self) -> f64 {
        self.desk().seconds_per_step
    }

    /// The files that were sent with a job, as far as they are still kept.
    pub fn uploads(&self, id: &Id) -> Result<Uploads> {
        let uploads = self.shared.store.uploads_of(id)?.into_iter();
        uploads.map(|(field, file)| Ok((field, self.shared.folder.read(Kind::Upload, &file)?))).collect()
    }

    /// Where a running job stands.
    pub fn last_step(&self, id: &Id) -> Option<Step> {
        self.shared.hub.last_step(id)
    }

    /// Cancels a job: at once when it waits, within one step when it runs. False when it is over already.
    pub fn cancel(&self, id: &Id) -> Result<bool> {
        if self.shared.store.cancel_queued(id)? {
            self.shared.hub.tell(id, Event::Ended { state: State::Cancelled });
            self.announce()?;
            return Ok(true);
        }
        let desk = self.desk();
        let running = desk.running.iter().find(|control| control.job == *id);
        if let Some(control) = running {
            control.cancelled.store(true, Ordering::Relaxed);
        }
        Ok(running.is_some())
    }

    /// Hears what happens to a job, from after event `after` where that is known. Look at the job *after* this, so that
    /// nothing is missed in between.
    pub fn listen(&self, id: &Id, after: Option<u64>) -> Listener {
        self.shared.hub.listen(id, after)
    }

    /// Stops keeping events of a job that turned out to be over.
    pub fn stop_listening(&self, id: &Id) {
        self.shared.hub.close(id);
    }

    /// A picture's description.
    pub fn image(&self, id: &Id) -> Result<Option<Image>> {
        Ok(self.shared.store.image(id)?.filter(|image| image.deleted_at.is_none()))
    }

    /// What each step of a picture did. None where that was not kept.
    pub fn steps(&self, id: &Id) -> Result<Option<Vec<StepFigures>>> {
        self.shared.store.steps(id)
    }

    /// A picture's PNG file.
    pub fn picture(&self, id: &Id) -> Result<Vec<u8>> {
        self.shared.folder.read(Kind::Picture, id)
    }

    /// A small PNG file of a picture.
    pub fn thumbnail(&self, id: &Id) -> Result<Vec<u8>> {
        self.shared.folder.read(Kind::Thumbnail, id)
    }

    /// Marks a picture or takes the mark off. False when there is none.
    pub fn star(&self, id: &Id, starred: bool) -> Result<bool> {
        self.shared.store.star(id, starred)
    }

    /// Deletes a picture, or brings it back; the file stays for a day. False when there is none.
    pub fn delete(&self, id: &Id, deleted: bool) -> Result<bool> {
        self.shared.store.hide(id, deleted)
    }

    /// How much there is of everything.
    pub fn counts(&self) -> Result<Counts> {
        self.shared.store.counts()
    }

    /// How full the queue is.
    pub fn status(&self) -> Result<Status> {
        let waiting = self.shared.store.waiting()?.len();
        let desk = self.desk();
        Ok(Status { waiting, running: desk.running.len(), open: desk.open })
    }

    /// Has the worker bring a model into memory, when the jobs are drawn that wait now: nobody is overtaken.
    pub fn load(&self, model: &str) -> Result<()> {
        let mut desk = self.desk();
        if !desk.open {
            return Err(Error::ShuttingDown);
        }
        if desk.loads.iter().all(|(known, _)| known != model) {
            desk.loads.push_back((model.to_owned(), self.shared.store.last_number()?));
            desk.submitted += 1;
            self.shared.changed.notify_all();
        }
        Ok(())
    }

    /// Takes back a wish to load a model, or forgets one that was fulfilled. False when there is none.
    pub fn forget_load(&self, model: &str) -> bool {
        let mut desk = self.desk();
        let before = desk.loads.len();
        desk.loads.retain(|(known, _)| known != model);
        desk.loads.len() < before
    }

    /// The models that are to be or are being loaded, the next one first.
    pub fn loads(&self) -> Vec<String> {
        self.desk().loads.iter().map(|(model, _)| model.clone()).collect()
    }

    /// The model that a running job waits for, if it does.
    pub fn loading(&self, id: &Id) -> Option<Arc<str>> {
        self.shared.hub.loading(id)
    }

    /// What is to be done next; blocks until there is something. None when the queue was closed.
    ///
    /// Jobs of the same size and model that wait behind each other are claimed together, to be drawn side by side, each on
    /// one core: sums inside a matrix product depend on its shape, so stacking them into one tensor would change the last
    /// bits of their pictures, but they do not depend on how many cores share the work.
    pub fn claim(&self) -> Option<Work> {
        loop {
            match self.take_next() {
                Ok(Taken::Jobs(claimed)) => {
                    let begin = |(claimed, control)| self.begin(claimed, control);
                    let claims: Vec<_> = claimed.into_iter().filter_map(begin).collect();
                    if !claims.is_empty() {
                        return Some(Work::Draw(claims));
                    }
                }
                Ok(Taken::Load(model)) => return Some(Work::Load(model)),
                Ok(Taken::Nothing { submitted }) => self.wait(submitted, Duration::from_secs(60)),
                Ok(Taken::Closed) => return None,
                Err(error) => {
                    tracing::error!(%error, "no job could be claimed");
                    self.pause(Duration::from_secs(1));
                }
            }
        }
    }

    /// Claims under the desk's lock: a cancel finds a job waiting or running, and never in between.
    fn take_next(&self) -> Result<Taken> {
        let mut desk = self.desk();
        if !desk.open {
            return Ok(Taken::Closed);
        }
        if let Some((model, after)) = desk.loads.front()
            && self.shared.store.next_number()?.is_none_or(|next| next > *after)
        {
            return Ok(Taken::Load(model.clone()));
        }
        let claimed = self.shared.store.claim(self.shared.limits.batch, BATCH_PIXELS)?;
        if claimed.is_empty() {
            return Ok(Taken::Nothing { submitted: desk.submitted });
        }
        let control = |claimed: &Claimed| {
            let (steps_left, cancelled, put_back) = (AtomicU64::new(claimed.steps.into()), false.into(), false.into());
            Arc::new(Control { job: claimed.id.clone(), steps_left, cancelled, put_back })
        };
        let claimed: Vec<_> = claimed.into_iter().map(|claimed| (control(&claimed), claimed)).collect();
        desk.running.extend(claimed.iter().map(|(control, _)| control.clone()));
        Ok(Taken::Jobs(claimed.into_iter().map(|(control, claimed)| (claimed, control)).collect()))
    }

    /// Takes no new jobs and begins none. Jobs that wait stay where they are, for the next server.
    pub fn close(&self) {
        self.desk().open = false;
        self.shared.changed.notify_all();
    }

    /// Stops the jobs that run at their next step; they will be drawn from their beginning by the next server.
    pub fn put_back_running(&self) {
        for control in &self.desk().running {
            control.put_back.store(true, Ordering::Relaxed);
            control.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Loads a claimed job's uploads. A job whose uploads are gone fails.
    fn begin(&self, claimed: Claimed, control: Arc<Control>) -> Option<Claim> {
        let mut claim = Claim { id: claimed.id, attempt: claimed.attempt, request: claimed.request, control };
        match self.uploads(&claim.id) {
            Ok(uploads) => {
                for (field, bytes) in uploads {
                    claim.request.set_file(&field, bytes);
                }
                self.shared.hub.tell(&claim.id, Event::Started { attempt: claim.attempt });
                self.announce().unwrap_or_else(|error| tracing::error!(%error, "the queue cannot be read"));
                Some(claim)
            }
            Err(error) => {
                self.complete(claim, Err(error));
                None
            }
        }
    }

    /// Tells everybody who waits where they are.
    fn announce(&self) -> Result<()> {
        for (id, position, eta_seconds) in self.places()? {
            self.shared.hub.tell(&id, Event::Queued { position, eta_seconds });
        }
        Ok(())
    }

    /// Everybody who waits: their place, from 1, and the seconds until they begin, by the steps of those before them.
    fn places(&self) -> Result<impl Iterator<Item = (Id, usize, f64)>> {
        let (pace, left) = {
            let desk = self.desk();
            (desk.seconds_per_step, desk.steps_left().sum())
        };
        let waiting = self.shared.store.waiting()?;
        Ok(waiting.into_iter().zip(1..).scan(left, move |before: &mut u64, (waiting, position)| {
            let eta = pace * *before as f64;
            *before += u64::from(waiting.steps);
            Some((waiting.id, position, eta))
        }))
    }

    /// When a place is free: as soon as one of the running jobs ends, which take their steps in turn.
    fn retry_after(&self) -> u64 {
        let desk = self.desk();
        let first = desk.steps_left().min().unwrap_or(0);
        (desk.seconds_per_step * (first * desk.running.len() as u64) as f64).ceil().clamp(1.0, 600.0) as u64
    }

    /// Writes a request's files, and gives their fields and their names.
    fn keep(&self, request: &GenerateRequest) -> Result<Vec<(&'static str, Id)>> {
        let keep = |(field, bytes): (&'static str, &[u8])| {
            let id = Id::random()?;
            self.shared.folder.write(Kind::Upload, &id, bytes)?;
            Ok((field, id))
        };
        request.files().map(keep).collect()
    }

    /// Until something new was submitted, the queue closed, or the time is over.
    fn wait(&self, submitted: u64, time: Duration) {
        let nothing_new = |desk: &mut Desk| desk.open && desk.submitted == submitted;
        drop(self.shared.changed.wait_timeout_while(self.desk(), time, nothing_new));
    }

    /// For `time`, or until the queue is closed.
    fn pause(&self, time: Duration) {
        drop(self.shared.changed.wait_timeout_while(self.desk(), time, |desk| desk.open));
    }

    /// Consistent between statements, so a panic elsewhere does not spoil it.
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.shared.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same request has the same fingerprint, also when it leaves the seed to chance.
fn fingerprint(request: &GenerateRequest) -> String {
    let mut hash = Sha256::new().chain_update(request.to_json());
    for (field, bytes) in request.files() {
        hash = hash.chain_update(Sha256::digest(field)).chain_update(Sha256::digest(bytes));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
