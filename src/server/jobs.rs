//! `/api/v1/jobs`: accepted work that goes on when its client has gone.

use super::openapi::Problems;
use super::problem::Document;
use super::view::JobView;
use super::{App, Problem, body, view};
use crate::Error;
use crate::error::FieldError;
use crate::jobs::{Id, Job, Query, State as JobState};
use crate::request::GenerateRequest;
use axum::Json;
use axum::extract::{FromRequestParts, Path, Query as Parameters, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::collections::HashMap;
use utoipa::ToSchema;

/// Jobs on a page where nothing else is asked for, and the most.
const PAGE: usize = 24;
const MOST_ON_PAGE: usize = 100;
/// The longest `Idempotency-Key`.
const LONGEST_KEY: usize = 255;

/// A page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page {
    jobs: Vec<JobView>,
    /// The cursor of the next page; none on the last one.
    #[schema(value_type = Option<String>)]
    next: Option<Id>,
}

/// Accepts a job: it is drawn also when the client has gone.
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs",
    request_body(content((GenerateRequest = "application/json"), (GenerateRequest = "multipart/form-data"))),
    params(("Idempotency-Key" = Option<String>, Header, description = "A second submission with the same key is the same job")),
    responses((status = 202, description = "Stored, and so it will be drawn", body = JobView,
               headers(("Location" = String, description = "The job"))), Problems))]
pub(super) async fn submit(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let key = key(request.headers())?;
    let is_form =
        request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/"));
    let request = match is_form {
        true => body::form(&app, request).await?.0,
        false => GenerateRequest::from_json(&body::json(&app, request).await?)?,
    };
    let id = app.submit(request, key).await?;
    let location = [(header::LOCATION, format!("/api/v1/jobs/{id}"))];
    Ok((StatusCode::ACCEPTED, location, Json(described(&app, id).await?)).into_response())
}

/// A job.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 200, description = "The job", body = JobView), Problems))]
pub(super) async fn show(State(app): State<App>, Known(id): Known) -> Result<Json<JobView>, Problem> {
    Ok(Json(described(&app, id).await?))
}

/// Cancels a job.
#[utoipa::path(delete, path = "/api/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "32 hexadecimal digits")), responses(
    (status = 200, description = "It will stop within one step, if it has not", body = JobView),
    (status = 409, description = "It is over already", body = Document, content_type = "application/problem+json"), Problems))]
pub(super) async fn cancel(State(app): State<App>, Known(id): Known) -> Result<Json<JobView>, Problem> {
    let before = described(&app, id.clone()).await?;
    let wanted = id.clone();
    if app.ask(move |jobs| jobs.cancel(&wanted)).await? {
        return Ok(Json(described(&app, id).await?));
    }
    let detail = format!("This job is {} already.", before.state());
    Err(Problem::new(StatusCode::CONFLICT, "already_over", detail))
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "Jobs on a page"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
        ("q" = Option<String>, Query, description = "Text that the prompt has"),
        ("state" = Option<String>, Query, description = "queued, running, done, failed or cancelled"),
        ("starred" = Option<String>, Query, description = "1: only jobs with a starred picture"),
    ),
    responses((status = 200, description = "A page", body = Page), Problems))]
pub(super) async fn list(
    State(app): State<App>,
    Parameters(parameters): Parameters<HashMap<String, String>>,
) -> Result<Json<Page>, Problem> {
    let query = query(&parameters)?;
    let page = app.ask(move |jobs| {
        let found = jobs.list(&Query { limit: query.limit + 1, ..query.clone() })?;
        let more = found.len() > query.limit;
        let shown: Vec<Job> = found.into_iter().take(query.limit).collect();
        let next = shown.last().filter(|_| more).map(|job| job.id.clone());
        let shown = shown.iter().map(|job| view::job(jobs, job)).collect::<crate::Result<Vec<_>>>()?;
        Ok(Page { jobs: shown, next })
    });
    Ok(Json(page.await?))
}

async fn described(app: &App, id: Id) -> Result<JobView, Problem> {
    let found = app.ask(move |jobs| jobs.get(&id)?.map(|job| view::job(jobs, &job)).transpose()).await?;
    found.ok_or_else(missing)
}

/// An id in an address. What is none leads nowhere, as an id that nothing has.
pub(super) struct Known(pub(super) Id);

impl<S: Send + Sync> FromRequestParts<S> for Known {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await.map_err(|_| missing())?;
        Id::parse(&text).map(Self).ok_or_else(missing)
    }
}

pub(super) fn missing() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "There is nothing with this id.")
}

fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| !key.is_empty() && key.len() <= LONGEST_KEY);
    let wrong = || {
        let message = format!("must be 1 to {LONGEST_KEY} visible characters");
        Error::invalid(FieldError::new("Idempotency-Key", "wrong_key", message)).into()
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(wrong)
}

fn query(parameters: &HashMap<String, String>) -> Result<Query, Problem> {
    let text = |name: &str| parameters.get(name).map(|text| text.trim()).filter(|text| !text.is_empty());
    let wrong =
        |field: &str, code, message: String| Problem::from(Error::invalid(FieldError::new(field, code, message)));
    let limit = match text("limit").map(str::parse) {
        None => PAGE,
        Some(Ok(limit)) if (1..=MOST_ON_PAGE).contains(&limit) => limit,
        Some(_) => {
            return Err(wrong("limit", "out_of_range", format!("must be a whole number from 1 to {MOST_ON_PAGE}")));
        }
    };
    let state = match text("state") {
        None => None,
        Some(name) => Some(JobState::from_name(name).ok_or_else(|| {
            let names = JobState::ALL.map(JobState::name).join(", ");
            wrong("state", "unknown_value", format!("must be one of {names}"))
        })?),
    };
    let before = match text("cursor") {
        None => None,
        Some(id) => {
            Some(Id::parse(id).ok_or_else(|| wrong("cursor", "unknown_value", "is no cursor of this list".into()))?)
        }
    };
    let starred = text("starred").is_some_and(|value| value != "0");
    Ok(Query { before, limit, text: text("q").map(str::to_owned), starred, state })
}
