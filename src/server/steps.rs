//! `/api/v1/images/ID/steps`: how a finished picture was drawn, as numbers and as plots.

use super::images::FOR_EVER;
use super::jobs::Known;
use super::openapi::Problems;
use super::{App, Problem, jobs};
use crate::diffusion::diagnostics::StepFigures;
use crate::jobs::Id;
use crate::lab::plot;
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// How a picture was drawn.
#[derive(Serialize, ToSchema)]
pub(super) struct Steps {
    /// One entry for each step that was walked, in their order.
    steps: Vec<StepFigures>,
}

/// What each step of a picture did, in figures.
#[utoipa::path(get, path = "/api/v1/images/{id}/steps", tag = "pictures", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 200, description = "Every step", body = Steps), Problems))]
pub(super) async fn show(State(app): State<App>, Known(id): Known) -> Result<Response, Problem> {
    let steps = Json(Steps { steps: known(&app, id).await? });
    Ok(([(header::CACHE_CONTROL, FOR_EVER)], steps).into_response())
}

/// The same as a plot.
#[utoipa::path(get, path = "/api/v1/images/{id}/steps.svg", tag = "pictures", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 200, description = "A small plot for each figure", body = String, content_type = "image/svg+xml"), Problems))]
pub(super) async fn picture(State(app): State<App>, Known(id): Known) -> Result<Response, Problem> {
    let drawn = plot::steps(&known(&app, id).await?);
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "private, max-age=3600")];
    Ok((headers, drawn).into_response())
}

/// The steps of a picture that is there.
async fn known(app: &App, id: Id) -> Result<Vec<StepFigures>, Problem> {
    let found = app.ask(move |jobs| jobs.image(&id)?.map(|_| jobs.steps(&id)).transpose()).await?;
    found.ok_or_else(jobs::missing)?.ok_or_else(|| {
        let detail = "It is not known how this picture was drawn: no sampler drew it, or an older limner did.";
        Problem::new(StatusCode::NOT_FOUND, "no_steps", detail)
    })
}
