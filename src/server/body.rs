//! Request bodies, within bounds of size and time. (Bodies of unknown or false length are held to the limit while they
//! are read, by the router's `DefaultBodyLimit`.)

use super::{App, Problem};
use crate::diffusion::settings;
use crate::error::FieldError;
use crate::request::GenerateRequest;
use axum::body::Bytes;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use std::collections::HashMap;
use std::time::Duration;

/// How long a client may take to send its body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How many parts a form may have: twice as many as ours has.
const MAX_PARTS: usize = 64;

/// The body of a request that is a PNG file and nothing else.
pub(super) async fn png(app: &App, request: Request) -> Result<Bytes, Problem> {
    check_head(app, request.headers(), |kind| kind == "image/png")?;
    whole(request).await
}

/// The body of a request that is a picture file of any kind; its content decides.
pub(super) async fn picture(app: &App, request: Request) -> Result<Bytes, Problem> {
    check_head(app, request.headers(), |kind| kind.starts_with("image/"))?;
    whole(request).await
}

async fn whole(request: Request) -> Result<Bytes, Problem> {
    in_time(async {
        Bytes::from_request(request, &()).await.map_err(|refused| refusal(refused.status(), refused.body_text()))
    })
    .await
}

/// The fields of a small form without files.
pub(super) async fn fields(app: &App, request: Request) -> Result<HashMap<String, String>, Problem> {
    check_head(app, request.headers(), |kind| kind == "application/x-www-form-urlencoded")?;
    Ok(form_urlencoded::parse(&whole(request).await?).into_owned().collect())
}

/// What a form holds besides the request: what only pages need.
pub(super) type Extras = HashMap<String, String>;

/// The body of a JSON request.
pub(super) async fn json(app: &App, request: Request) -> Result<Bytes, Problem> {
    check_head(app, request.headers(), |kind| kind == "application/json" || kind.ends_with("+json"))?;
    whole(request).await
}

/// The fields of our form.
pub(super) async fn form(app: &App, request: Request) -> Result<(GenerateRequest, Extras), Problem> {
    check_head(app, request.headers(), |kind| kind == "multipart/form-data")?;
    in_time(async {
        let parts = Multipart::from_request(request, &()).await;
        let parts = parts.map_err(|refused| refusal(refused.status(), refused.body_text()))?;
        read_parts(parts).await
    })
    .await
}

async fn read_parts(mut parts: Multipart) -> Result<(GenerateRequest, Extras), Problem> {
    let (mut form, mut extras) = (GenerateRequest::default(), Extras::new());
    for _ in 0..MAX_PARTS {
        match parts.next_field().await.map_err(|error| refused_part(&error))? {
            Some(part) => read_part(part, &mut form, &mut extras).await?,
            None => {
                join_settings(&mut form, &mut extras);
                return Ok((form, extras));
            }
        }
    }
    let detail = format!("A form may have at most {MAX_PARTS} parts.");
    Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_parts", detail))
}

/// A form has a sampler's settings in a field of their own; they go behind its name, as everywhere else.
fn join_settings(form: &mut GenerateRequest, extras: &mut Extras) {
    let settings = extras.remove("sampler_settings").unwrap_or_default();
    if !settings.trim().is_empty() {
        form.set_text("sampler", settings::with(form.text("sampler"), &settings));
    }
}

async fn read_part(part: Field<'_>, form: &mut GenerateRequest, extras: &mut Extras) -> Result<(), Problem> {
    let name = part.name().unwrap_or_default().to_owned();
    let bytes = part.bytes().await.map_err(|error| refused_part(&error))?;
    if form.set_file(&name, bytes.to_vec()) {
        return Ok(());
    }
    match String::from_utf8(bytes.into()) {
        Ok(text) if form.set_text(&name, text.clone()) => {}
        Ok(text) => drop(extras.insert(name, text)),
        Err(_) => form.problems.push(FieldError::new(
            name.chars().take(60).collect::<String>(),
            "not_text",
            "is not UTF-8 text",
        )),
    }
    Ok(())
}

/// Refuses by the headers alone, so that nothing of a bad body is read (nor asked for: no `100 Continue`).
fn check_head(app: &App, headers: &HeaderMap, expected: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if !expected(&kind.trim().to_ascii_lowercase()) {
        let detail = "This address takes another kind: application/json (the API), multipart/form-data (forms) or image/png (files).";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        let detail = "Bodies must not be compressed.";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail));
    }
    let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > app.config().max_body() as u64) { Err(too_large()) } else { Ok(()) }
}

async fn in_time<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let late = || Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "The body took too long to arrive.");
    tokio::time::timeout(BODY_TIME, work).await.unwrap_or_else(|_| Err(late()))
}

fn refused_part(error: &MultipartError) -> Problem {
    refusal(error.status(), error.body_text())
}

fn refusal(status: StatusCode, detail: String) -> Problem {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        too_large()
    } else {
        Problem::new(StatusCode::BAD_REQUEST, "bad_body", detail)
    }
}

fn too_large() -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        "The body is larger than this server takes; see --max-body-mib.",
    )
}
