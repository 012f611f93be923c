//! HTTP: the page, the JSON API, two probes. Handlers extract, submit and wrap; the worker draws.

mod access;
mod api;
mod body;
mod events;
mod guard;
mod images;
mod jobs;
mod lab;
mod listen;
mod lists;
mod metrics;
mod models;
mod openapi;
mod page;
mod pictures;
mod problem;
mod pulls;
mod steps;
mod view;

pub use listen::serve;
pub use problem::Problem;

use crate::config::ServerConfig;
use crate::error::{Error, Result};
use crate::hub::Pulls;
use crate::jobs::{Event, Id, Job, Jobs, State as JobState, Worker};
use crate::library::Library;
use crate::request::{Facts, GenerateRequest, Plan};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use metrics::Metrics;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What every handler shares.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    config: ServerConfig,
    library: Arc<Library>,
    /// Of the model that is drawn with where none is chosen, as it was at first: pages are shown whatever becomes of it.
    first_facts: Facts,
    jobs: Jobs,
    worker: Worker,
    metrics: Metrics,
    pulls: Pulls,
    stopping: CancellationToken,
}

impl App {
    /// Opens the data folder and starts the worker. `pulls` is where models come from.
    pub fn start(config: ServerConfig, folder: &Path, library: Arc<Library>, pulls: Pulls) -> Result<Self> {
        let (first_facts, jobs) = (library.facts("")?, Jobs::open(folder, config.limits())?);
        let worker = Worker::start(jobs.clone(), library.clone())?;
        Ok(Self {
            inner: Arc::new(Inner {
                config,
                library,
                first_facts,
                jobs,
                worker,
                metrics: Metrics::new(),
                pulls,
                stopping: CancellationToken::new(),
            }),
        })
    }

    /// The jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.inner.jobs
    }

    /// The server's settings.
    pub fn config(&self) -> &ServerConfig {
        &self.inner.config
    }

    /// Cancelled when the server begins to stop.
    pub fn stopping(&self) -> &CancellationToken {
        &self.inner.stopping
    }

    /// The models.
    pub fn library(&self) -> &Library {
        &self.inner.library
    }

    /// The models on their way.
    pub fn pulls(&self) -> &Pulls {
        &self.inner.pulls
    }

    /// Checks requests.
    async fn plans(&self, requests: Vec<GenerateRequest>) -> Result<Vec<(GenerateRequest, Plan)>> {
        let inner = self.inner.clone();
        let plan = move |request: GenerateRequest| inner.plan(&request).map(|plan| (request, plan));
        blocking(move || requests.into_iter().map(plan).collect()).await
    }

    /// Counts a prompt's tokens, as the model reads it that the request means.
    async fn tokens(&self, request: GenerateRequest) -> Result<serde_json::Value> {
        let inner = self.inner.clone();
        let count =
            blocking(move || inner.library.tokens(request.text("model").trim(), request.text("prompt"))).await?;
        serde_json::to_value(count).map_err(|error| Error::Server(error.to_string()))
    }

    /// Returns when nothing is being drawn.
    async fn idle(&self) {
        while self.inner.worker.is_alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Checks a request and stores it as a job.
    async fn submit(&self, request: GenerateRequest, key: Option<String>) -> Result<Id> {
        let inner = self.inner.clone();
        blocking(move || inner.accept(&request, key.as_deref())).await
    }

    /// One look at the jobs, where it may block.
    async fn ask<T: Send + 'static>(&self, look: impl FnOnce(&Jobs) -> Result<T> + Send + 'static) -> Result<T> {
        let jobs = self.inner.jobs.clone();
        blocking(move || look(&jobs)).await
    }

    /// The straight way from a request to files. Dropping the future cancels the job.
    async fn draw(&self, request: GenerateRequest) -> Result<(Job, Vec<Vec<u8>>)> {
        let inner = self.inner.clone();
        // Made where the job is: when the client goes while it is being accepted, the guard is dropped with the answer.
        let guard = blocking(move || {
            let id = inner.accept(&request, None)?;
            Ok(CancelOnDrop { jobs: inner.jobs.clone(), id, armed: true })
        });
        let guard = guard.await?;
        let job = self.ended(&guard.id).await?;
        guard.disarm();
        match job {
            Job { state: JobState::Done, .. } => {
                self.ask(move |jobs| {
                    let files = job.images.iter().map(|image| jobs.picture(&image.id)).collect::<Result<Vec<_>>>()?;
                    Ok((job, files))
                })
                .await
            }
            Job { state: JobState::Failed, error: Some(failure), .. } => {
                Err(Error::Failed(failure.code, failure.message))
            }
            _ => Err(Error::Cancelled),
        }
    }

    /// The job, once it is over.
    async fn ended(&self, id: &Id) -> Result<Job> {
        let mut listener = self.jobs().listen(id, None);
        loop {
            let wanted = id.clone();
            let job = self.ask(move |jobs| jobs.get(&wanted)).await?.ok_or(Error::Cancelled)?;
            if job.state.is_over() {
                self.jobs().stop_listening(id);
                return Ok(job);
            }
            if job.state == JobState::Queued && self.stopping().is_cancelled() {
                return Err(Error::ShuttingDown);
            }
            tokio::select! {
                _ = async { while !matches!(listener.next().await.event, Event::Ended { .. }) {} } => {}
                () = self.stopping().cancelled(), if job.state == JobState::Queued => {}
            }
        }
    }
}

impl Inner {
    /// Checks a request and stores it as a job. May block.
    fn accept(&self, request: &GenerateRequest, key: Option<&str>) -> Result<Id> {
        self.jobs.submit(request, &self.plan(request)?, key)
    }

    /// Checks a request for the model that it names. Without a model nothing else can be checked but what was wrong
    /// with the request before. May block.
    fn plan(&self, request: &GenerateRequest) -> Result<Plan> {
        match self.library.facts(request.text("model").trim()) {
            Ok(facts) => Plan::new(request, &facts),
            Err(Error::Invalid(errors)) => Err(Error::Invalid([request.problems.clone(), errors].concat())),
            Err(error) => Err(error),
        }
    }
}

/// A client that goes away takes the job that it waited for with it.
struct CancelOnDrop {
    jobs: Jobs,
    id: Id,
    armed: bool,
}

impl CancelOnDrop {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let (jobs, id) = (self.jobs.clone(), self.id.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = jobs.cancel(&id) {
                tracing::warn!(job = %id, %error, "a job that nobody waits for could not be cancelled");
            }
        });
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.unwrap_or_else(|error| Err(Error::Server(format!("a task has died: {error}"))))
}

/// All routes, with the guards before them: tests call it without a socket.
pub fn router(app: App) -> Router {
    let (programs, document) = openapi::routes().split_for_parts();
    programs
        .merge(openapi::described(document))
        .merge(page::routes())
        .route("/login", get(access::ask).post(access::enter))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this address."))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This address does not take that method.",
            )
        })
        .layer(DefaultBodyLimit::max(app.config().max_body()))
        .layer(middleware::from_fn_with_state(app.clone(), access::check))
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .layer(middleware::from_fn_with_state(app.clone(), metrics::count))
        .with_state(app)
}

/// Whether the process lives.
#[utoipa::path(get, path = "/livez", tag = "server",
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")))]
async fn alive() -> &'static str {
    "alive\n"
}

/// Whether a request would be drawn now, and if not, why not.
#[utoipa::path(get, path = "/readyz", tag = "server",
    responses((status = 200, description = "It would", body = Object), openapi::Problems))]
async fn ready(State(app): State<App>) -> Result<Response, Problem> {
    if app.stopping().is_cancelled() {
        return Err(Error::ShuttingDown.into());
    }
    if !app.inner.worker.is_alive() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_worker", "The worker has died."));
    }
    let status = app.ask(|jobs| jobs.status()).await?;
    let (name, waiting, running) = (app.library().first(), status.waiting, status.running);
    Ok(Json(serde_json::json!({ "status": "ready", "model": name, "waiting": waiting, "running": running }))
        .into_response())
}
