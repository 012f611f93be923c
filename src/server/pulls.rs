//! `/api/v1/pulls`: models on their way from a hub.

use super::openapi::Problems;
use super::problem::Document;
use super::{App, Problem, blocking, body};
use crate::error::{Error, FieldError};
use crate::hub::{Fault, Order, Phase, Pull, Repository, State as PullState, Variant};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::time::Duration;
use utoipa::ToSchema;

/// Time between two events of a stream.
const PACE: Duration = Duration::from_millis(250);
/// Time between the comments that keep proxies from closing a quiet stream.
const PING: Duration = Duration::from_secs(15);

/// What to fetch.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// OWNER/NAME or OWNER/NAME@REVISION.
    pub(super) repository: String,
    /// One file that is a whole model, instead of the repository's model folder.
    #[serde(default)]
    pub(super) file: Option<String>,
    /// What to call the model here, instead of its own name.
    #[serde(default)]
    pub(super) name: Option<String>,
    /// fp16 or full, where there is a choice; as last time, and fp16 the first time.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(super) variant: Option<Variant>,
}

/// A model on its way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PullView {
    pub(super) id: u64,
    /// OWNER/NAME@REVISION.
    pub(super) repository: String,
    /// The one file that was asked for, if it was one.
    pub(super) file: Option<String>,
    /// What the model is called, where that is known.
    pub(super) name: Option<String>,
    /// waiting, listing, checking, fetching, patient (the hub is left alone for a while), done, failed or cancelled.
    pub(super) state: &'static str,
    /// Whether nothing will change any more.
    pub(super) over: bool,
    /// The file that is dealt with.
    pub(super) path: String,
    /// Bytes dealt with in this state.
    pub(super) done_bytes: u64,
    /// Bytes to deal with in this state; 0 when that is not known yet.
    pub(super) total_bytes: u64,
    pub(super) bytes_per_second: f64,
    /// Why it failed.
    pub(super) error: Option<Failure>,
}

/// Why a pull failed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Failure {
    /// A stable name for programs.
    pub(super) code: String,
    /// A sentence for a person.
    pub(super) message: String,
}

/// All that are remembered, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List {
    pulls: Vec<PullView>,
}

impl Wanted {
    /// The order, or what is wrong with it. Fields left empty count as not there.
    pub(super) fn order(self) -> Result<Order, Problem> {
        let given = |text: Option<String>| text.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let repository = Repository::parse(self.repository.trim())
            .map_err(|error| Error::invalid(FieldError::new("repository", "unknown_value", error.to_string())))?;
        Ok(Order { repository, file: given(self.file), name: given(self.name), variant: self.variant })
    }
}

impl From<Pull> for PullView {
    fn from(pull: Pull) -> Self {
        let state = match &pull.state {
            PullState::Waiting => "waiting",
            PullState::Running(Phase::Listing) => "listing",
            PullState::Running(Phase::Checking) => "checking",
            PullState::Running(Phase::Fetching) => "fetching",
            PullState::Running(Phase::Waiting { .. }) => "patient",
            PullState::Done(_) => "done",
            PullState::Failed(_) => "failed",
            PullState::Cancelled => "cancelled",
        };
        let error = match &pull.state {
            PullState::Failed(fault) => Some(Failure::of(fault)),
            _ => None,
        };
        Self {
            id: pull.id,
            repository: pull.repository,
            file: pull.file,
            name: pull.name,
            state,
            over: pull.state.is_over(),
            path: pull.path,
            done_bytes: pull.done,
            total_bytes: pull.total,
            bytes_per_second: pull.rate.round(),
            error,
        }
    }
}

impl Failure {
    fn of(fault: &Fault) -> Self {
        Self { code: Problem::from(Error::Hub(fault.clone())).code.into_owned(), message: fault.to_string() }
    }
}

impl App {
    /// Refuses where models may not be fetched or removed.
    pub(super) fn check_may_pull(&self) -> Result<(), Problem> {
        if self.config().may_pull() {
            return Ok(());
        }
        let detail = "This server does not let models be fetched or removed: it was started with --no-pull, or without \
                      a token on an address that others can reach.";
        Err(Problem::new(StatusCode::FORBIDDEN, "pull_forbidden", detail))
    }

    /// Takes an order.
    pub(super) async fn pull(&self, wanted: Wanted) -> Result<PullView, Problem> {
        self.check_may_pull()?;
        let (order, pulls) = (wanted.order()?, self.pulls().clone());
        Ok(blocking(move || pulls.submit(order)).await?.into())
    }

    /// Ends a pull.
    pub(super) fn cancel_pull(&self, id: u64) -> Result<PullView, Problem> {
        self.check_may_pull()?;
        self.pulls().cancel(id).map(PullView::from).ok_or_else(missing)
    }

    fn pull_of(&self, id: u64) -> Result<PullView, Problem> {
        self.pulls().get(id).map(PullView::from).ok_or_else(missing)
    }
}

/// Fetches a model from a hub. It goes on when its client has gone; one runs, others wait.
#[utoipa::path(post, path = "/api/v1/pulls", tag = "models", request_body = Wanted, responses(
    (status = 202, description = "It will be fetched; the same order again is the same pull", body = PullView,
     headers(("Location" = String, description = "The pull"))),
    (status = 403, description = "Models may not be fetched here", body = Document, content_type = "application/problem+json"),
    (status = 429, description = "Too many are waiting", body = Document, content_type = "application/problem+json"), Problems))]
pub(super) async fn submit(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let wanted = serde_json::from_slice(&body::json(&app, request).await?).map_err(|error| wrong(&error))?;
    let pull = app.pull(wanted).await?;
    let location = [(header::LOCATION, format!("/api/v1/pulls/{}", pull.id))];
    Ok((StatusCode::ACCEPTED, location, Json(pull)).into_response())
}

/// The models on their way, and those that came lately or did not.
#[utoipa::path(get, path = "/api/v1/pulls", tag = "models",
    responses((status = 200, description = "The newest first", body = List), Problems))]
pub(super) async fn list(State(app): State<App>) -> Json<List> {
    Json(List { pulls: app.pulls().list().into_iter().map(PullView::from).collect() })
}

/// How far a pull is.
#[utoipa::path(get, path = "/api/v1/pulls/{id}", tag = "models", params(("id" = u64, Path, description = "As in the list")),
    responses((status = 200, description = "The pull", body = PullView), Problems))]
pub(super) async fn show(State(app): State<App>, id: Numbered) -> Result<Json<PullView>, Problem> {
    Ok(Json(app.pull_of(known(id)?)?))
}

/// Ends a pull within a moment. What it has fetched is kept: the same order goes on from there.
#[utoipa::path(delete, path = "/api/v1/pulls/{id}", tag = "models", params(("id" = u64, Path, description = "As in the list")),
    responses((status = 200, description = "It is over", body = PullView), Problems))]
pub(super) async fn cancel(State(app): State<App>, id: Numbered) -> Result<Json<PullView>, Problem> {
    Ok(Json(app.cancel_pull(known(id)?)?))
}

/// How far a pull is, as server-sent events: `progress` (the pull) four times a second, and at the end `done`, `failed` or
/// `cancelled` (the pull).
#[utoipa::path(get, path = "/api/v1/pulls/{id}/events", tag = "models", params(("id" = u64, Path, description = "As in the list")),
    responses((status = 200, description = "The stream", body = String, content_type = "text/event-stream"), Problems))]
pub(super) async fn events(State(app): State<App>, id: Numbered) -> Result<Response, Problem> {
    let id = known(id)?;
    app.pull_of(id)?;
    let events = stream::unfold((app, id, None::<bool>), |(app, id, over)| async move {
        match over {
            Some(true) => return None,
            Some(false) => tokio::select! {
                () = tokio::time::sleep(PACE) => {}
                () = app.stopping().cancelled() => return None,
            },
            None => {}
        }
        let pull = app.pull_of(id).ok()?;
        let name = if pull.over { pull.state } else { "progress" };
        let event = Event::default().event(name).data(serde_json::to_string(&pull).unwrap_or_default());
        Some((Ok::<_, Infallible>(event), (app, id, Some(pull.over))))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(PING)).into_response())
}

/// An id in an address.
pub(super) type Numbered = Result<Path<u64>, PathRejection>;

/// What is no number leads nowhere, as a number that no pull has.
pub(super) fn known(id: Numbered) -> Result<u64, Problem> {
    id.map(|Path(id)| id).map_err(|_| missing())
}

fn missing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "There is no pull with this id.")
}

/// What is wrong with a body: no JSON, or not what was asked for.
fn wrong(error: &serde_json::Error) -> Problem {
    let (line, column, message) = (error.line(), error.column(), error.to_string());
    if error.is_data() {
        return Error::invalid(FieldError::new("body", "wrong_type", message)).into();
    }
    Error::Syntax { line, column, message }.into()
}
