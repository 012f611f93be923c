//! `POST /api/v1/generate`: JSON in; JSON with base64 pictures out, or the one picture itself.

use super::{App, Problem, body};
use crate::error::{Error, FieldError};
use crate::jobs::Drawing;
use crate::pipeline::{Notice, Receipt};
use crate::request::GenerateRequest;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    pictures: Vec<Encoded>,
    notices: Vec<Notice>,
    timings: Timings,
}

/// A picture and everything it was drawn with.
#[derive(Debug, Serialize)]
struct Encoded {
    /// The PNG file in base64.
    png: String,
    /// The seed again, for readers whose numbers are exact to 2^53 only.
    seed_text: String,
    #[serde(flatten)]
    receipt: Receipt,
}

#[derive(Debug, Serialize)]
struct Timings {
    waited_seconds: f64,
    drawn_seconds: f64,
}

pub(super) async fn generate(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let wants_file = accepts_png(request.headers());
    let request = GenerateRequest::from_json(&body::json(&app, request).await?)?;
    if wants_file && request.count.as_deref().is_some_and(|count| count.trim() != "1") {
        let message = "must be 1 when the answer is to be image/png: one file holds one picture";
        return Err(Error::invalid(FieldError::new("count", "one_picture_only", message)).into());
    }
    let (drawing, files) = app.draw(request).await?;
    Ok(if wants_file { file(&drawing, files) } else { Json(answer(drawing, &files)).into_response() })
}

/// Whether the client asks for a PNG file and not for JSON.
fn accepts_png(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    accept.contains("image/png") && !accept.contains("json")
}

fn file(drawing: &Drawing, files: Vec<Vec<u8>>) -> Response {
    let seed = drawing.pictures.first().map_or(0, |picture| picture.receipt.seed);
    let headers = [
        (header::CONTENT_TYPE, "image/png".to_owned()),
        (header::CONTENT_DISPOSITION, format!("inline; filename=\"limner-{seed}.png\"")),
        (HeaderName::from_static("x-seed"), seed.to_string()),
    ];
    (headers, files.into_iter().next().unwrap_or_default()).into_response()
}

fn answer(drawing: Drawing, files: &[Vec<u8>]) -> Answer {
    let timings = Timings { waited_seconds: drawing.waited.as_secs_f64(), drawn_seconds: drawing.drawn.as_secs_f64() };
    let encode = |(picture, file): (crate::pipeline::Picture, &Vec<u8>)| Encoded {
        png: STANDARD.encode(file),
        seed_text: picture.receipt.seed.to_string(),
        receipt: picture.receipt,
    };
    Answer {
        pictures: drawing.pictures.into_iter().zip(files).map(encode).collect(),
        notices: drawing.notices,
        timings,
    }
}
