//! `GET /api/v1/jobs/{id}/events`: what happens to a job, as server-sent events.

use super::jobs::Known;
use super::openapi::Problems;
use super::{App, Problem, jobs, view};
use crate::jobs::{Event, Id, Listener, Numbered};
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time between the comments that keep proxies from closing a quiet stream.
const PING: Duration = Duration::from_secs(15);

/// Tells this process's events from those of one before it, whose numbers mean nothing here.
static PROCESS: LazyLock<String> = LazyLock::new(|| {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}", started.as_micros())
});

/// A stream that has begun.
struct Watch {
    app: App,
    id: Id,
    listener: Listener,
    previews: bool,
    /// What to send before the next event.
    first: VecDeque<Sent>,
    over: bool,
}

/// What happens to a job, as server-sent events: a `snapshot` (the job) first, then `queued`, `started`, `loading` (where its
/// model has to be loaded), `step`, and at the end `done`, `failed` or `cancelled` (the job).
#[utoipa::path(get, path = "/api/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "32 hexadecimal digits"),
           ("preview" = Option<String>, Query, description = "0: without previews"),
           ("Last-Event-ID" = Option<String>, Header, description = "Goes on after this event, without a gap")),
    responses((status = 200, description = "The stream", body = String, content_type = "text/event-stream"), Problems))]
pub(super) async fn stream(
    State(app): State<App>,
    Known(id): Known,
    Query(parameters): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let listener = app.jobs().listen(&id, last_event(&headers));
    // Looked at after listening began: nothing falls in between.
    let wanted = id.clone();
    let look = move |jobs: &crate::jobs::Jobs| {
        let Some(job) = jobs.get(&wanted)? else { return Ok(None) };
        Ok(Some((view::job(jobs, &job)?, job.state)))
    };
    let Some((job, state)) = app.ask(look).await? else {
        app.jobs().stop_listening(&id);
        return Err(jobs::missing());
    };
    let over = state.is_over();
    if over {
        app.jobs().stop_listening(&id);
    }
    let mut first = VecDeque::new();
    if !listener.resumed() || over {
        first.push_back(sent(listener.heard(), "snapshot", &job));
    }
    if over {
        first.push_back(sent(listener.heard(), state.name(), &job));
    }
    let previews = parameters.get("preview").is_none_or(|value| value != "0");
    let watch = Watch { app, id, listener, previews, first, over };
    let events = stream::unfold(watch, |watch| watch.next());
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(PING)).into_response())
}

impl Watch {
    async fn next(mut self) -> Option<(Result<Sent, Infallible>, Self)> {
        if let Some(first) = self.first.pop_front() {
            return Some((Ok(first), self));
        }
        if self.over {
            return None;
        }
        let stopping = self.app.stopping().clone();
        let numbered = tokio::select! {
            numbered = self.listener.next() => numbered,
            () = stopping.cancelled() => return None,
        };
        let sent = self.told(numbered).await?;
        Some((Ok(sent), self))
    }

    async fn told(&mut self, Numbered { number, event }: Numbered) -> Option<Sent> {
        let event = match event {
            Event::Ended { .. } => {
                self.over = true;
                let id = self.id.clone();
                let look = move |jobs: &crate::jobs::Jobs| {
                    let Some(job) = jobs.get(&id)? else { return Ok(None) };
                    Ok(Some((job.state, view::job(jobs, &job)?)))
                };
                let (state, job) = self.app.ask(look).await.ok()??;
                return Some(sent(number, state.name(), &job));
            }
            Event::Step(mut step) if !self.previews => {
                step.preview = None;
                Event::Step(step)
            }
            event => event,
        };
        let name = match &event {
            Event::Queued { .. } => "queued",
            Event::Started { .. } => "started",
            Event::Loading { .. } => "loading",
            Event::Step(_) | Event::Ended { .. } => "step",
        };
        Some(sent(number, name, &event))
    }
}

fn sent(number: u64, name: &str, data: &impl Serialize) -> Sent {
    let data = serde_json::to_string(data).unwrap_or_default();
    Sent::default().id(format!("{}-{number}", *PROCESS)).event(name).data(data)
}

/// The number of the last event this client has, if it was this process that sent it.
fn last_event(headers: &HeaderMap) -> Option<u64> {
    let (process, number) = headers.get("last-event-id")?.to_str().ok()?.split_once('-')?;
    if process == *PROCESS { number.parse().ok() } else { None }
}
