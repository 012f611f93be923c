//! `/api/v1/lab`: the laboratory's walks as numbers and as pictures.

use super::openapi::Problems;
use super::{App, Problem, blocking};
use crate::diffusion::sampler::Sampler;
use crate::diffusion::settings;
use crate::error::{Error, FieldError, Result};
use crate::lab::{Curve, Experiment, Mixture, Walked, curves, plot};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::collections::HashMap;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

/// How many walks are made at a time: pictures go first.
static PLACES: Semaphore = Semaphore::const_new(2);

/// What was typed, by its fields' names.
pub(super) type Typed = HashMap<String, String>;

/// What a form has by itself.
const USUAL: [(&str, &str); 6] =
    [("data", "two"), ("sampler", "reverse_sde"), ("beside", "heun"), ("steps", "60"), ("points", "24"), ("seed", "1")];

/// A field as it was typed, else as it is by itself.
pub(super) fn field<'a>(typed: &'a Typed, name: &str) -> &'a str {
    let usual = USUAL.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| *value);
    typed.get(name).map(|text| text.trim()).filter(|text| !text.is_empty()).unwrap_or(usual)
}

/// The experiment that was asked for, with the sampler in the field `with`; every wrong field is named.
pub(super) fn experiment(typed: &Typed, with: &str) -> Result<Experiment> {
    let mut errors = Vec::new();
    let mut note = |field: &str, code, message: String| errors.push(FieldError::new(field, code, message));
    let mixture = Mixture::named(field(typed, "data"));
    if mixture.is_none() {
        let names: Vec<_> = Mixture::all().iter().map(|mixture| mixture.name).collect();
        note("data", "unknown_value", format!("must be one of {}", names.join(", ")));
    }
    let sampler = settings::with(field(typed, with), field(typed, &format!("{with}_settings")));
    let sampler = sampler.parse::<Sampler>().map_err(|error| note(with, "unknown_value", error.to_string())).ok();
    let mut number = |name: &str| {
        let parsed = field(typed, name).parse::<usize>();
        parsed.map_err(|_| note(name, "not_a_number", "must be a whole number".to_owned())).unwrap_or(1)
    };
    let (steps, points, seed) = (number("steps"), number("points"), number("seed") as u64);
    match (mixture, sampler) {
        (Some(mixture), Some(sampler)) if errors.is_empty() => {
            let experiment = Experiment { mixture, sampler, steps, points, seed };
            experiment.check().map(|()| experiment)
        }
        _ => Err(Error::Invalid(errors)),
    }
}

/// Works where it may block, two at a time.
async fn work<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T, Problem> {
    let _place = PLACES.acquire().await.map_err(|_| Error::ShuttingDown)?;
    Ok(blocking(work).await?)
}

impl App {
    /// Walks.
    pub(super) async fn walk(&self, experiment: Experiment) -> Result<Walked, Problem> {
        work(move || experiment.walk()).await
    }
}

/// A walk: every recorded state of every point.
#[utoipa::path(get, path = "/api/v1/lab/walk", tag = "lab", params(
    ("data" = Option<String>, Query, description = "two, three, ring, grid, spiral or uneven"),
    ("sampler" = Option<String>, Query, description = "As for pictures, with settings in brackets"),
    ("steps" = Option<u32>, Query, description = "1 to 200"),
    ("points" = Option<u32>, Query, description = "1 to 500"),
    ("seed" = Option<u64>, Query, description = "Where they start")),
    responses((status = 200, description = "sigmas, states, evaluations, moments at the end and of the data", body = Object), Problems))]
pub(super) async fn walk(State(app): State<App>, Query(typed): Query<Typed>) -> Result<Json<Walked>, Problem> {
    Ok(Json(app.walk(experiment(&typed, "sampler")?).await?))
}

/// How exact every deterministic sampler is.
#[derive(Serialize, ToSchema)]
pub(super) struct Errors {
    /// Of each, evaluations and the largest distance to the exact end.
    #[schema(value_type = Vec<Object>)]
    curves: Vec<Curve>,
}

/// Solver error against evaluations.
#[utoipa::path(get, path = "/api/v1/lab/errors", tag = "lab", params(
    ("data" = Option<String>, Query, description = "As for a walk"), ("seed" = Option<u64>, Query, description = "Where points start")),
    responses((status = 200, description = "Every deterministic sampler's", body = Errors), Problems))]
pub(super) async fn errors(Query(typed): Query<Typed>) -> Result<Json<Errors>, Problem> {
    let Experiment { mixture, seed, .. } = experiment(&typed, "sampler")?;
    Ok(Json(Errors { curves: work(move || curves(&mixture, seed)).await? }))
}

/// `GET /lab/plot.svg`: paths through a line, or one frame of a walk in the plane; with `errors=1`, errors.
pub(super) async fn picture(Query(typed): Query<Typed>) -> Result<Response, Problem> {
    let with = if typed.contains_key("second") { "beside" } else { "sampler" };
    let experiment = experiment(&typed, with)?;
    let index = typed.get("frame").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    let (field, wants_errors) = (typed.contains_key("field"), typed.contains_key("errors"));
    let drawn = work(move || {
        if wants_errors {
            return Ok(plot::errors(&curves(&experiment.mixture, experiment.seed)?));
        }
        let walked = experiment.walk()?;
        match experiment.mixture.dimensions {
            1 => plot::paths(&experiment.mixture, &walked),
            _ => plot::frame(&experiment.mixture, &walked, index, field),
        }
    });
    let headers = [(header::CONTENT_TYPE, "image/svg+xml"), (header::CACHE_CONTROL, "private, max-age=3600")];
    Ok((headers, drawn.await?).into_response())
}
