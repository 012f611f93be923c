//! `/api/v1/images`: finished pictures.

use super::jobs::Known;
use super::openapi::Problems;
use super::view::ImageView;
use super::{App, Problem, blocking, jobs, view};
use crate::image::{self, Format};
use crate::jobs::Id;
use crate::{Error, Result};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::collections::HashMap;
use utoipa::ToSchema;

/// Pictures never change: their id is theirs alone. Private, since shared caches know nothing of who may see them.
pub(super) const FOR_EVER: &str = "private, max-age=31536000, immutable";

/// A picture: PNG, or JPEG or WebP where those are asked for.
#[utoipa::path(get, path = "/api/v1/images/{id}", tag = "pictures", params(("id" = String, Path, description = "32 hexadecimal digits"), ("download" = Option<String>, Query, description = "To be saved and not shown")),
    responses((status = 200, description = "PNG with its parameters; JPEG or WebP by `Accept`", content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"))), Problems))]
pub(super) async fn show(
    State(app): State<App>,
    Known(id): Known,
    Query(parameters): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let format = wanted(&headers);
    let name = id.to_string();
    let file = app.ask(move |jobs| jobs.image(&id)?.map(|_| jobs.picture(&id)).transpose()).await?;
    let file = converted(file.ok_or_else(jobs::missing)?, format).await?;
    let (kind, extension) = match format {
        Format::Png => ("image/png", "png"),
        Format::Jpeg => ("image/jpeg", "jpg"),
        Format::WebP => ("image/webp", "webp"),
    };
    let way = if parameters.contains_key("download") { "attachment" } else { "inline" };
    let headers = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CACHE_CONTROL, FOR_EVER.to_owned()),
        (header::VARY, "accept".to_owned()),
        (header::CONTENT_DISPOSITION, format!("{way}; filename=\"limner-{}.{extension}\"", &name[..8])),
    ];
    Ok((headers, file).into_response())
}

/// A small picture.
#[utoipa::path(get, path = "/api/v1/images/{id}/thumbnail", tag = "pictures", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 200, description = "A small PNG", body = Vec<u8>, content_type = "image/png"), Problems))]
pub(super) async fn thumbnail(State(app): State<App>, Known(id): Known) -> Result<Response, Problem> {
    let file = app.ask(move |jobs| jobs.image(&id)?.map(|_| jobs.thumbnail(&id)).transpose()).await?;
    let headers = [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, FOR_EVER)];
    Ok((headers, file.ok_or_else(jobs::missing)?).into_response())
}

/// What may be changed of a picture.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    starred: bool,
}

/// Marks a picture, or takes the mark off.
#[utoipa::path(patch, path = "/api/v1/images/{id}", tag = "pictures", params(("id" = String, Path, description = "32 hexadecimal digits")),
    request_body = Change, responses((status = 200, description = "The picture, changed", body = ImageView), Problems))]
pub(super) async fn change(
    State(app): State<App>,
    Known(id): Known,
    change: Result<Json<Change>, axum::extract::rejection::JsonRejection>,
) -> Result<Json<ImageView>, Problem> {
    let Json(change) = change.map_err(|refused| Problem::new(refused.status(), "bad_body", refused.body_text()))?;
    let image = app.ask(move |jobs| if jobs.star(&id, change.starred)? { jobs.image(&id) } else { Ok(None) }).await?;
    image.map(|image| Json(view::image(&image))).ok_or_else(jobs::missing)
}

/// Deletes a picture; this can be undone for a day.
#[utoipa::path(delete, path = "/api/v1/images/{id}", tag = "pictures", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 204, description = "It is hidden, and its file goes a day later"), Problems))]
pub(super) async fn delete(State(app): State<App>, Known(id): Known) -> Result<StatusCode, Problem> {
    set_deleted(&app, id, true).await
}

/// Brings a deleted picture back.
#[utoipa::path(post, path = "/api/v1/images/{id}/restore", tag = "pictures", params(("id" = String, Path, description = "32 hexadecimal digits")),
    responses((status = 204, description = "It is there again"), Problems))]
pub(super) async fn restore(State(app): State<App>, Known(id): Known) -> Result<StatusCode, Problem> {
    set_deleted(&app, id, false).await
}

async fn set_deleted(app: &App, id: Id, deleted: bool) -> Result<StatusCode, Problem> {
    let found = app.ask(move |jobs| jobs.delete(&id, deleted)).await?;
    if found { Ok(StatusCode::NO_CONTENT) } else { Err(jobs::missing()) }
}

/// The first kind of ours that a client names. Browsers name several for every picture; they get the exact one.
fn wanted(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let has = |kind: &str| accept.contains(kind);
    match () {
        () if accept.is_empty() || has("image/png") || has("*/*") || has("image/*") => Format::Png,
        () if has("image/webp") => Format::WebP,
        () if has("image/jpeg") => Format::Jpeg,
        () => Format::Png,
    }
}

async fn converted(file: Vec<u8>, format: Format) -> Result<Vec<u8>> {
    if format == Format::Png {
        return Ok(file);
    }
    blocking(move || {
        let picture = image::read("image", &file).map_err(Error::invalid)?;
        image::encode(&picture, format)
    })
    .await
}
