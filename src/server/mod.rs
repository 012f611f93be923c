//! HTTP: the page, the JSON API, two probes. Handlers extract, submit and wrap; the worker draws.

mod api;
mod body;
mod events;
mod guard;
mod images;
mod jobs;
mod listen;
mod lists;
mod page;
mod pictures;
mod problem;
mod view;

pub use listen::serve;
pub use problem::Problem;

use crate::config::ServerConfig;
use crate::error::{Error, Result};
use crate::jobs::{Draw, Event, Id, Job, Jobs, State as JobState, Worker};
use crate::request::{Facts, GenerateRequest, Plan};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
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
    facts: Facts,
    artist: Arc<dyn Draw>,
    jobs: Jobs,
    worker: Worker,
    stopping: CancellationToken,
}

impl App {
    /// Opens the data folder and starts the worker.
    pub fn start(config: ServerConfig, folder: &Path, artist: Arc<dyn Draw>) -> Result<Self> {
        let (facts, jobs) = (artist.facts(), Jobs::open(folder, config.limits())?);
        let worker = Worker::start(jobs.clone(), artist.clone())?;
        Ok(Self { inner: Arc::new(Inner { config, facts, artist, jobs, worker, stopping: CancellationToken::new() }) })
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

    fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// Counts a prompt's tokens.
    async fn tokens(&self, prompt: String) -> Result<serde_json::Value> {
        let artist = self.inner.artist.clone();
        let count = blocking(move || artist.tokens(&prompt)).await?;
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
        blocking(move || {
            let plan = Plan::new(&request, &inner.facts)?;
            inner.jobs.submit(&request, &plan, key.as_deref())
        })
        .await
    }

    /// One look at the jobs, where it may block.
    async fn ask<T: Send + 'static>(&self, look: impl FnOnce(&Jobs) -> Result<T> + Send + 'static) -> Result<T> {
        let jobs = self.inner.jobs.clone();
        blocking(move || look(&jobs)).await
    }

    /// The straight way from a request to files. Dropping the future cancels the job.
    async fn draw(&self, request: GenerateRequest) -> Result<(Job, Vec<Vec<u8>>)> {
        let id = self.submit(request, None).await?;
        let guard = CancelOnDrop { jobs: self.jobs().clone(), id: Some(id.clone()) };
        let job = self.ended(&id).await?;
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

/// A client that goes away takes the job that it waited for with it.
struct CancelOnDrop {
    jobs: Jobs,
    id: Option<Id>,
}

impl CancelOnDrop {
    fn disarm(mut self) {
        self.id = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let (jobs, Some(id)) = (self.jobs.clone(), self.id.take()) else { return };
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
    Router::new()
        .route("/api/v1/generate", post(api::generate))
        .route("/api/v1/jobs", get(jobs::list).post(jobs::submit))
        .route("/api/v1/jobs/{id}", get(jobs::show).delete(jobs::cancel))
        .route("/api/v1/jobs/{id}/events", get(events::stream))
        .route("/api/v1/images/{id}", get(images::show).patch(images::change).delete(images::delete))
        .route("/api/v1/images/{id}/thumbnail", get(images::thumbnail))
        .route("/api/v1/images/{id}/restore", post(images::restore))
        .route("/api/v1/tokens", post(pictures::tokens))
        .route("/api/v1/inspect", post(pictures::inspect))
        .route("/api/v1/replay", post(pictures::replay))
        .route("/api/v1/models", get(lists::models))
        .route("/api/v1/samplers", get(lists::samplers))
        .route("/api/v1/schedules", get(lists::schedules))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .merge(page::routes())
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this address."))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This address does not take that method.",
            )
        })
        .layer(DefaultBodyLimit::max(app.config().max_body()))
        .layer(middleware::from_fn_with_state(app.clone(), guard::guard))
        .with_state(app)
}

/// Whether a request would be drawn now, and if not, why not.
async fn ready(State(app): State<App>) -> Result<Response, Problem> {
    if app.stopping().is_cancelled() {
        return Err(Error::ShuttingDown.into());
    }
    if !app.inner.worker.is_alive() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_worker", "The worker has died."));
    }
    let status = app.ask(|jobs| jobs.status()).await?;
    let (name, waiting, running) = (&app.facts().name, status.waiting, status.running);
    Ok(Json(serde_json::json!({ "status": "ready", "model": name, "waiting": waiting, "running": running }))
        .into_response())
}
