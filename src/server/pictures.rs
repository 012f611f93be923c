//! What a picture file says of itself: read (`inspect`), and drawn again (`replay`).

use super::openapi::Problems;
use super::{App, Problem, blocking, body, view};
use crate::image::read_png_text;
use crate::jobs::Image;
use crate::library::Library;
use crate::pipeline::Receipt;
use crate::request::{GenerateRequest, Preprocessor, from_parameters};
use crate::{Error, Result};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::HashMap;

/// What was found in a file.
struct Found {
    request: GenerateRequest,
    /// Only files that this program wrote have one.
    receipt: Option<Receipt>,
    /// Settings that mean nothing here.
    ignored: Vec<String>,
}

/// Reads the settings in a PNG file, ours or AUTOMATIC1111's.
#[utoipa::path(post, path = "/api/v1/inspect", tag = "pictures", request_body(content = Vec<u8>, content_type = "image/png"),
    responses((status = 200, description = "source, request, receipt and what was ignored", body = Object), Problems))]
pub(super) async fn inspect(State(app): State<App>, request: Request) -> Result<Json<Value>, Problem> {
    let file = body::png(&app, request).await?;
    let inner = app.inner.clone();
    let look = move || Ok(read(&file).map(|found| found.without_unknown_model(&inner.library)));
    let found = blocking(look).await?.ok_or_else(nothing_in_it)?;
    let source = if found.receipt.is_some() { "limner" } else { "parameters" };
    Ok(Json(json!({
        "source": source,
        "request": view::request(&found.request),
        "receipt": found.receipt,
        "ignored": found.ignored,
    })))
}

impl Found {
    /// A model that is not here cannot be chosen: it is one more thing that means nothing.
    fn without_unknown_model(mut self, library: &Library) -> Self {
        let unknown = self.request.model.take_if(|name| library.get(name).is_none());
        self.ignored.extend(unknown.map(|name| format!("Model: {name}")));
        self
    }
}

fn read(file: &Bytes) -> Option<Found> {
    if let Some(receipt) = Receipt::from_png(file) {
        return Some(Found { request: receipt.request(), receipt: Some(receipt), ignored: Vec::new() });
    }
    let found = from_parameters(&read_png_text(file, "parameters")?)?;
    Some(Found { request: found.request, receipt: None, ignored: found.ignored })
}

fn nothing_in_it() -> Problem {
    let detail = "This file does not say how it was drawn: it is no PNG, or its text was removed.";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_parameters", detail)
}

/// Draws a picture of ours again and says whether the file is the same, byte for byte, or in what
/// it differs.
#[utoipa::path(post, path = "/api/v1/replay", tag = "pictures", request_body(content = Vec<u8>, content_type = "image/png"),
    responses((status = 200, description = "identical, differences and the image", body = Object), Problems))]
pub(super) async fn replay(State(app): State<App>, request: Request) -> Result<Json<Value>, Problem> {
    let file = body::png(&app, request).await?;
    let sent = file.clone();
    let receipt = blocking(move || Ok(Receipt::from_png(&sent))).await?.ok_or_else(not_ours)?;
    if receipt.needs_pictures() {
        let detail = "This picture was drawn over another one, or along others, which are not in the file: it cannot be \
                      drawn again from it.";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "needs_image", detail));
    }
    let (job, files) = app.draw(receipt.request()).await?;
    let again = job.images.first().zip(files.first());
    let (image, drawn) = again.ok_or_else(|| Error::Server("a drawn job has no picture".into()))?;
    let differences = differences(&receipt, &file, image, drawn);
    Ok(Json(json!({ "identical": *file == **drawn, "differences": differences, "image": view::image(image) })))
}

/// Shows what a ControlNet would see of a picture.
#[utoipa::path(post, path = "/api/v1/preprocess", tag = "pictures",
    request_body(content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"))),
    params(("with" = String, Query, description = "none, canny or canny:LOW:HIGH, as in control_preprocessor")),
    responses((status = 200, description = "A picture of the same size", body = Vec<u8>, content_type = "image/png"),
              Problems))]
pub(super) async fn preprocess(
    State(app): State<App>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let preprocessor = query.get("with").map_or("", String::as_str);
    let preprocessor = Preprocessor::read("with", preprocessor).map_err(Error::invalid)?;
    let file = body::picture(&app, request).await?;
    let drawn = blocking(move || {
        let picture = crate::image::read("image", &file).map_err(Error::invalid)?;
        crate::image::encode_png(&preprocessor.apply(picture), &[])
    });
    Ok(([(header::CONTENT_TYPE, "image/png")], drawn.await?).into_response())
}

fn not_ours() -> Problem {
    let detail = "There is no receipt of this program in the file, so it cannot be drawn again exactly. \
                  POST /api/v1/inspect reads what other programs write.";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_receipt", detail)
}

/// One sentence for each difference of two files.
fn differences(before: &Receipt, old: &[u8], image: &Image, new: &[u8]) -> Vec<String> {
    let now = serde_json::from_value::<Receipt>(image.receipt.clone());
    let mut told = now.map(|now| before.differences(&now)).unwrap_or_default();
    let pixels = |file: &[u8]| crate::image::read("image", file);
    match (pixels(old), pixels(new)) {
        (Ok(old), Ok(new)) if old == new => {}
        _ => told.push("the pixels differ".to_owned()),
    }
    if told.is_empty() && old != new {
        told.push("the pixels and the receipt are the same; the file holds something else besides".to_owned());
    }
    told
}

/// Says how a prompt fills the chunks that the model reads.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "choices", request_body = GenerateRequest,
    responses((status = 200, description = "count, limit and chunks", body = Object), Problems))]
pub(super) async fn tokens(State(app): State<App>, request: Request) -> Result<Json<Value>, Problem> {
    let request = GenerateRequest::from_json(&body::json(&app, request).await?)?;
    Ok(Json(app.tokens(request).await?))
}
