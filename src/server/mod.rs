//! HTTP: one page, one JSON route, two probes. Handlers extract, submit and wrap; the worker draws.

mod api;
mod body;
mod guard;
mod listen;
mod page;
mod problem;

pub use listen::serve;
pub use problem::Problem;

use crate::config::ServerConfig;
use crate::error::{Error, Result};
use crate::image;
use crate::jobs::{Draw, Drawing, Queue, Worker};
use crate::request::{Facts, GenerateRequest, Plan};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What every handler shares.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    config: ServerConfig,
    facts: Facts,
    queue: Queue,
    worker: Worker,
}

impl App {
    /// Starts the worker. `facts` are those of the model that `artist` draws with.
    pub fn start(config: ServerConfig, facts: Facts, artist: Arc<dyn Draw>) -> Result<Self> {
        if let Some(folder) = &config.data {
            let pictures = folder.join("pictures");
            std::fs::create_dir_all(&pictures).map_err(Error::io(pictures))?;
        }
        let queue = Queue::new(config.queue);
        let worker = Worker::start(queue.clone(), artist)?;
        Ok(Self { inner: Arc::new(Inner { config, facts, queue, worker }) })
    }

    /// The queue, for shutting down.
    pub fn queue(&self) -> &Queue {
        &self.inner.queue
    }

    /// The server's settings.
    pub fn config(&self) -> &ServerConfig {
        &self.inner.config
    }

    fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// The straight way from a request to files. Dropping the future cancels the job.
    async fn draw(&self, request: GenerateRequest) -> Result<(Drawing, Vec<Vec<u8>>)> {
        let inner = self.inner.clone();
        // Decoding an uploaded picture may take a while.
        let plan = blocking(move || Plan::new(&request, &inner.facts)).await?;
        let drawing = self.inner.queue.submit(plan)?.result().await?;
        let inner = self.inner.clone();
        blocking(move || {
            let files = drawing.pictures.iter().map(crate::pipeline::Picture::to_png).collect::<Result<Vec<_>>>()?;
            if let Some(folder) = &inner.config.data {
                keep(folder, &drawing, &files)?;
            }
            Ok((drawing, files))
        })
        .await
    }
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let outcome = tokio::task::spawn_blocking(work).await;
    outcome.unwrap_or_else(|error| Err(Error::Server(format!("a task has died: {error}"))))
}

fn keep(folder: &Path, drawing: &Drawing, files: &[Vec<u8>]) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    for (picture, file) in drawing.pictures.iter().zip(files) {
        image::write_file(&folder.join("pictures").join(format!("{now}-{}.png", picture.receipt.seed)), file)?;
    }
    Ok(())
}

/// All routes, with the guards before them: tests call it without a socket.
pub fn router(app: App) -> Router {
    let assets = Router::new()
        .route("/static/app.css", get(|| asset("text/css; charset=utf-8", include_str!("../../static/app.css"))))
        .route("/static/app.js", get(|| asset("text/javascript; charset=utf-8", include_str!("../../static/app.js"))))
        .route("/static/icon.svg", get(|| asset("image/svg+xml", include_str!("../../static/icon.svg"))));
    Router::new()
        .route("/", get(page::show).post(page::submit))
        .route("/api/v1/generate", post(api::generate))
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .merge(assets)
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

async fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], text)
}

/// Whether a request would be drawn now, and if not, why not.
async fn ready(State(app): State<App>) -> Response {
    let status = app.queue().status();
    if !status.open {
        return Problem::from(Error::ShuttingDown).into_response();
    }
    if !app.inner.worker.is_alive() {
        return Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_worker", "The worker has died.").into_response();
    }
    let running = status.running.map(|(done, total)| serde_json::json!({ "steps_done": done, "steps": total }));
    let facts = app.facts();
    Json(serde_json::json!({ "status": "ready", "model": facts.name, "waiting": status.waiting, "running": running }))
        .into_response()
}
