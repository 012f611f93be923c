//! The thread that draws, away from the threads that serve, and what becomes of what it drew.

use super::events::Step;
use super::folder::Kind;
use super::store::{Made, Store};
use super::{Claim, Event, Failure, Id, Image, Jobs, State, Work};
use crate::image::{encode_png, thumbnail};
use crate::library::Library;
use crate::pipeline::{Notice, Outcome, Picture, Pipeline, Progress, Report};
use crate::request::{Facts, Plan};
use crate::{Error, Result, kernels};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The longest side of a thumbnail.
const THUMBNAIL: u32 = 256;

/// What drawing a plan gave.
#[derive(Debug, Default)]
pub struct Drawn {
    /// The pictures, in the order of their seeds.
    pub pictures: Vec<Picture>,
    /// What to know about them.
    pub notices: Vec<Notice>,
    /// What was found out, where the task asks something.
    pub report: Option<Report>,
}

/// Has models to draw with. The library does; tests put something simpler in its place.
pub trait Lend: Send + Sync {
    /// Whoever draws with the model called `model`; "" is the one that is drawn with by itself. Where that is not at hand
    /// yet, calls `on_wait` and returns when it is; calls it again as long as it waits, and gives up when that fails.
    fn lend(&self, model: &str, on_wait: &mut dyn FnMut() -> Result<()>) -> Result<Arc<dyn Draw>>;
}

impl Lend for Library {
    fn lend(&self, model: &str, on_wait: &mut dyn FnMut() -> Result<()>) -> Result<Arc<dyn Draw>> {
        Ok(Self::lend(self, model, on_wait)?)
    }
}

/// Draws a plan. The pipeline does; tests put something simpler in its place.
pub trait Draw: Send + Sync {
    /// What plans have to know.
    fn facts(&self) -> Facts;

    /// Calls `on_step` after each step, and again and again while the first has to wait; stops when that fails.
    fn draw(&self, plan: &Plan, on_step: &mut dyn FnMut(&Progress<'_>) -> Result<()>) -> Result<Drawn>;
}

impl Draw for Pipeline {
    fn facts(&self) -> Facts {
        Self::facts(self)
    }

    fn draw(&self, plan: &Plan, on_step: &mut dyn FnMut(&Progress<'_>) -> Result<()>) -> Result<Drawn> {
        let Outcome { pictures, report } = self.run(plan, on_step)?;
        Ok(Drawn { pictures, notices: self.notices(plan)?, report })
    }
}

/// The running thread.
pub struct Worker {
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts a thread that draws until the queue is closed, with what `models` lends it.
    pub fn start(jobs: Jobs, models: Arc<dyn Lend>) -> Result<Self> {
        let work = move || {
            while let Some(work) = jobs.claim() {
                match work {
                    Work::Draw(claims) => draw_all(&jobs, &*models, claims),
                    Work::Load(model) => load(&jobs, &*models, &model),
                }
            }
        };
        let thread = std::thread::Builder::new().name("worker".into()).spawn(work);
        let thread =
            thread.map_err(|error| Error::Server(format!("the worker thread could not be started: {error}")))?;
        Ok(Self { thread })
    }

    /// Whether the thread is still there.
    pub fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits for the end of the thread, which comes after [`Jobs::close`].
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

/// Loads a model because somebody wishes it, and as long as somebody does. Whoever wants to know what became of it asks the
/// library.
fn load(jobs: &Jobs, models: &dyn Lend, model: &str) {
    match guarded("loading", || models.lend(model, &mut || jobs.load_is_wanted(model))) {
        Ok(_) | Err(Error::Cancelled) => {}
        Err(error) => tracing::error!(model, %error, "a model could not be loaded"),
    }
    jobs.forget_load(model);
}

/// Draws jobs of the same model, which is loaded for them if need be. A job that is not wanted any more by then is not
/// begun, and does not wait for the others.
fn draw_all(jobs: &Jobs, models: &dyn Lend, claims: Vec<Claim>) {
    let mut claims = jobs.still_wanted(claims);
    let Some(model) = claims.first().map(|claim| claim.request.text("model").to_owned()) else { return };
    let mut told = false;
    let mut on_wait = || {
        claims = jobs.still_wanted(std::mem::take(&mut claims));
        if !std::mem::replace(&mut told, true) {
            jobs.tell_loading(&claims, &model);
        }
        if claims.is_empty() { Err(Error::Cancelled) } else { Ok(()) }
    };
    let lent = guarded("loading", || models.lend(&model, &mut on_wait));
    let claims = jobs.still_wanted(claims);
    match lent {
        Ok(artist) => draw_together(jobs, artist, claims),
        Err(Error::Cancelled) if claims.is_empty() => {}
        Err(error) => {
            let Failure { code, message } = failure(&error);
            tracing::error!(model, %error, "a model could not be loaded");
            claims
                .into_iter()
                .for_each(|claim| jobs.complete(claim, Err(Error::Failed(code.clone(), message.clone()))));
        }
    }
}

/// One job has all cores; of several, each has one. They end when they end, and do not wait for each other. A model goes
/// back before its last job is over: whoever hears of that may take it out of memory.
fn draw_together(jobs: &Jobs, artist: Arc<dyn Draw>, claims: Vec<Claim>) {
    let together = claims.len();
    let claims = Mutex::new(claims.into_iter());
    let next = || claims.lock().unwrap_or_else(PoisonError::into_inner).next();
    let draw_next = |artist: Arc<dyn Draw>| {
        let (mut share, mut claimed) = (Some(artist), next());
        while let (Some(artist), Some(claim)) = (share.take(), claimed) {
            let outcome = guarded("drawing", || draw(jobs, &*artist, &claim));
            claimed = next();
            share = claimed.is_some().then_some(artist);
            jobs.complete(claim, outcome);
        }
    };
    if together <= 1 {
        return draw_next(artist);
    }
    std::thread::scope(|scope| {
        for _ in 1..together {
            let (thread, artist) = (std::thread::Builder::new().name("worker".into()), artist.clone());
            // Without the thread, its job is drawn by those that are there.
            if let Err(error) = thread.spawn_scoped(scope, || kernels::on_this_thread(|| draw_next(artist))) {
                tracing::warn!(%error, "a thread could not be started");
            }
        }
        kernels::on_this_thread(|| draw_next(artist));
    });
}

fn draw(jobs: &Jobs, artist: &dyn Draw, claim: &Claim) -> Result<Drawn> {
    let plan = Plan::new(&claim.request, &artist.facts())?;
    let mut pace = Pace { last: Instant::now(), seconds: None };
    artist.draw(&plan, &mut |progress| jobs.on_step(claim, progress, &mut pace))
}

/// A panic is a bug, but it must cost one job and not the server.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::Server(format!("the worker panicked while {what}"))))
}

/// How long steps take, as a running mean.
struct Pace {
    last: Instant,
    seconds: Option<f64>,
}

impl Pace {
    fn step(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64();
        self.last = now;
        let mean = self.seconds.map_or(seconds, |mean| 0.8 * mean + 0.2 * seconds);
        self.seconds = Some(mean);
        mean
    }
}

impl Jobs {
    fn tell_loading(&self, claims: &[Claim], model: &str) {
        let model: Arc<str> = model.into();
        for claim in claims {
            self.shared.hub.tell(&claim.id, Event::Loading { model: model.clone() });
        }
    }

    /// Fails with [`Error::Cancelled`] when the wish to load `model` was taken back, or the queue closed.
    fn load_is_wanted(&self, model: &str) -> Result<()> {
        let desk = self.desk();
        let wished = desk.open && desk.loads.iter().any(|(wished, _)| wished == model);
        if wished { Ok(()) } else { Err(Error::Cancelled) }
    }

    /// Ends the jobs among these that were cancelled or are to be put back, and returns the others.
    fn still_wanted(&self, claims: Vec<Claim>) -> Vec<Claim> {
        let (over, wanted): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| claim.control.cancelled.load(Ordering::Relaxed));
        over.into_iter().for_each(|claim| self.complete(claim, Err(Error::Cancelled)));
        wanted
    }

    /// Fails with [`Error::Cancelled`] when the job is not wanted any more; tells of the step otherwise.
    fn on_step(&self, claim: &Claim, progress: &Progress<'_>, pace: &mut Pace) -> Result<()> {
        if claim.control.cancelled.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        if progress.is_waiting() {
            pace.last = Instant::now();
            return Ok(());
        }
        let seconds_per_step = pace.step();
        let (step, steps) = progress.overall();
        claim.control.steps_left.store((steps - step) as u64, Ordering::Relaxed);
        {
            let mut desk = self.desk();
            desk.seconds_per_step = seconds_per_step / desk.running.len().max(1) as f64;
        }
        let preview = if self.shared.hub.wants_preview(&claim.id) { preview(progress)? } else { None };
        let eta_seconds = seconds_per_step * (steps - step) as f64;
        let (picture, pictures, sigma) = (progress.picture, progress.pictures, progress.sigma);
        let event = Step { step, steps, picture, pictures, sigma, seconds_per_step, eta_seconds, preview };
        self.shared.hub.tell(&claim.id, Event::Step(event));
        Ok(())
    }

    /// Stores what became of a claimed job.
    #[expect(clippy::needless_pass_by_value, reason = "a claim is used up")]
    pub fn complete(&self, claim: Claim, outcome: Result<Drawn>) {
        let stored = match outcome.and_then(|drawn| self.store_pictures(&claim.id, &drawn)) {
            Ok(made) => {
                self.persist(&claim, |store| Ok(store.finish(&claim.id, claim.attempt, &made)?.then_some(State::Done)))
            }
            Err(Error::Cancelled) if claim.control.put_back.load(Ordering::Relaxed) => {
                self.persist(&claim, |store| store.put_back(&claim.id, claim.attempt).map(|_| None))
            }
            Err(Error::Cancelled) => self.give_up(&claim, None),
            Err(error) => {
                tracing::error!(job = %claim.id, %error, "a job failed");
                self.give_up(&claim, Some(&failure(&error)))
            }
        };
        self.desk().running.retain(|control| !Arc::ptr_eq(control, &claim.control));
        if let Some(state) = stored {
            self.shared.hub.tell(&claim.id, Event::Ended { state });
        }
    }

    fn give_up(&self, claim: &Claim, failure: Option<&Failure>) -> Option<State> {
        let state = if failure.is_some() { State::Failed } else { State::Cancelled };
        self.persist(claim, |store| Ok(store.give_up(&claim.id, claim.attempt, failure)?.then_some(state)))
    }

    /// Writes a job's end until it is written: without that no other job could be begun either. When the server stops
    /// before, the row still says that the job runs, and the next server draws it again.
    fn persist(&self, claim: &Claim, write: impl Fn(&Store) -> Result<Option<State>>) -> Option<State> {
        for attempt in 0u32.. {
            match write(&self.shared.store) {
                Ok(state) => return state,
                Err(error) => tracing::error!(job = %claim.id, %error, attempt, "a job's end could not be stored"),
            }
            if !self.desk().open {
                break;
            }
            self.pause(Duration::from_millis(50 << attempt.min(6)));
        }
        None
    }

    /// Files first, then (by the caller) the row that makes them visible: a crash in between leaves files that are swept.
    fn store_pictures(&self, job: &Id, drawn: &Drawn) -> Result<Made> {
        let images = drawn.pictures.iter().map(|picture| self.store_picture(job, picture));
        Ok(Made {
            images: images.collect::<Result<_>>()?,
            notices: serde_json::to_string(&drawn.notices).unwrap_or_default(),
            report: drawn.report.as_ref().and_then(|report| serde_json::to_string(report).ok()),
        })
    }

    /// The picture, and as JSON what its steps did.
    fn store_picture(&self, job: &Id, picture: &Picture) -> Result<(Image, Option<String>)> {
        let id = Id::random()?;
        let small = encode_png(&thumbnail(&picture.pixels, THUMBNAIL), &[])?;
        self.shared.folder.write(Kind::Thumbnail, &id, &small)?;
        self.shared.folder.write(Kind::Picture, &id, &picture.to_png()?)?;
        let (width, height) = picture.pixels.dimensions();
        let receipt = serde_json::to_value(&picture.receipt).unwrap_or_default();
        let steps = (!picture.steps.is_empty()).then(|| serde_json::to_string(&picture.steps).ok()).flatten();
        let (job, has_steps) = (job.clone(), steps.is_some());
        Ok((Image { id, job, width, height, receipt, starred: false, deleted_at: None, has_steps }, steps))
    }
}

fn preview(progress: &Progress<'_>) -> Result<Option<Arc<str>>> {
    let Some(picture) = progress.preview()? else { return Ok(None) };
    let file = encode_png(&thumbnail(&picture, THUMBNAIL), &[])?;
    Ok(Some(format!("data:image/png;base64,{}", STANDARD.encode(file)).into()))
}

/// What a person may know of a failure; the log has the rest.
fn failure(error: &Error) -> Failure {
    let (code, message) = match error {
        Error::NonFinite(message) => ("nonfinite_latents", format!("{message}. Try less guidance or another sampler.")),
        Error::Failed(code, message) => (code.as_str(), message.clone()),
        Error::Invalid(errors) if errors.iter().all(|error| error.field == "model") => {
            let [code, message] = errors.first().map_or(["", ""], |error| [error.code, &error.message]);
            (code, format!("{message}."))
        }
        Error::Invalid(_) => ("invalid_request", format!("It does not fit the model that is loaded now: {error}")),
        Error::Storage(_) | Error::Io { .. } => {
            ("storage", "The pictures could not be stored. Is the disk full?".to_owned())
        }
        _ => ("internal", "Something went wrong in the server; its log says what.".to_owned()),
    };
    Failure { code: code.into(), message }
}
