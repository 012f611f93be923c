//! `POST /api/v1/generate`: JSON in; JSON with base64 pictures out, or the one picture itself.

use super::openapi::Problems;
use super::{App, Problem, body};
use crate::error::{Error, FieldError};
use crate::jobs::{Image, Job};
use crate::request::GenerateRequest;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer {
    pictures: Vec<Encoded>,
    /// What a person should know about the pictures: a code and a message each.
    #[schema(value_type = Vec<Object>)]
    notices: Value,
    /// What was found out, where the task asks something of a picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    report: Option<Value>,
    timings: Timings,
}

/// A picture and everything it was drawn with.
#[derive(Debug, Serialize, ToSchema)]
struct Encoded {
    /// The PNG file in base64.
    png: String,
    /// The seed again, for readers whose numbers are exact to 2^53 only.
    seed_text: String,
    /// Its fields stand beside the others.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    receipt: Value,
}

/// Where the time went.
#[derive(Debug, Serialize, ToSchema)]
struct Timings {
    waited_seconds: f64,
    drawn_seconds: f64,
}

/// Draws, and answers when that is done. A client that hangs up cancels it.
#[utoipa::path(post, path = "/api/v1/generate", tag = "pictures", request_body = GenerateRequest, responses(
    (status = 200, description = "The pictures; with `Accept: image/png`, the one picture as a file",
     content((Answer = "application/json"), (Vec<u8> = "image/png"))), Problems))]
pub(super) async fn generate(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let wants_file = accepts_png(request.headers());
    let request = GenerateRequest::from_json(&body::json(&app, request).await?)?;
    if wants_file && request.count.as_deref().is_some_and(|count| count.trim() != "1") {
        let message = "must be 1 when the answer is to be image/png: one file holds one picture";
        return Err(Error::invalid(FieldError::new("count", "one_picture_only", message)).into());
    }
    if wants_file && ["likelihood", "rank"].contains(&request.text("task").trim()) {
        let message = "gives no picture, so the answer cannot be image/png";
        return Err(Error::invalid(FieldError::new("task", "no_picture", message)).into());
    }
    let (job, files) = app.draw(request).await?;
    Ok(if wants_file { file(&job, files) } else { Json(answer(job, &files)).into_response() })
}

/// Whether the client asks for a PNG file and not for JSON.
fn accepts_png(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("image/png") && !accept.contains("json")
}

fn file(job: &Job, files: Vec<Vec<u8>>) -> Response {
    let seed = job.images.first().map(seed_of).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, "image/png".to_owned()),
        (header::CONTENT_DISPOSITION, format!("inline; filename=\"limner-{seed}.png\"")),
        (HeaderName::from_static("x-seed"), seed.to_string()),
    ];
    (headers, files.into_iter().next().unwrap_or_default()).into_response()
}

fn answer(job: Job, files: &[Vec<u8>]) -> Answer {
    let seconds = |from: i64, to: Option<i64>| (to.unwrap_or(from) - from) as f64 / 1000.0;
    let began = job.started_at.unwrap_or(job.created_at);
    let timings = Timings {
        waited_seconds: seconds(job.created_at, job.started_at),
        drawn_seconds: seconds(began, job.ended_at),
    };
    let encode = |(image, file): (Image, &Vec<u8>)| Encoded {
        png: STANDARD.encode(file),
        seed_text: seed_of(&image).to_string(),
        receipt: image.receipt,
    };
    let (notices, report) = (job.notices, job.report);
    Answer { pictures: job.images.into_iter().zip(files).map(encode).collect(), notices, report, timings }
}

/// The seed in a picture's receipt.
pub(super) fn seed_of(image: &Image) -> u64 {
    image.receipt["seed"].as_u64().unwrap_or_default()
}
