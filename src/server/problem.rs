//! Errors as problem documents (RFC 9457): what a client did wrong in full, what went wrong in here not at all.

use crate::error::{Error, FieldError};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};

/// The body of every error of the API.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    /// `urn:limner:` and a stable code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request, for a person.
    pub detail: String,
    /// Every wrong field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// Where syntax went wrong: line and column, from 1.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// Stands in the server's log too.
    pub request_id: String,
    /// Seconds to wait before trying again.
    #[serde(skip)]
    pub retry_after: Option<u64>,
}

/// A place in a JSON text.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
}

impl Problem {
    /// A problem with a code and a sentence.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            kind: format!("urn:limner:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            position: None,
            request_id: format!("{:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
            retry_after: None,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// A fault in here: the log gets it, the client only the number to ask about.
    fn fault(error: &Error) -> Self {
        let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong in the server.");
        tracing::error!(request_id = problem.request_id, %error, "a request failed");
        problem
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(errors) => {
                let fields = if errors.len() == 1 { "One field is" } else { "Several fields are" };
                let detail = format!("{fields} wrong: {}.", Error::Invalid(errors.clone()));
                Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail) }
            }
            Error::Syntax { line, column, .. } => {
                let problem = Self::new(StatusCode::BAD_REQUEST, "bad_json", error.to_string());
                Self { position: Some(Position { line, column }), ..problem }
            }
            Error::Overloaded { retry_after_seconds } => {
                let detail = format!("The queue is full. Try again in {retry_after_seconds} s.");
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", detail);
                Self { retry_after: Some(retry_after_seconds), ..problem }
            }
            Error::ShuttingDown | Error::Cancelled => {
                let problem =
                    Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "The server is shutting down.");
                Self { retry_after: Some(10), ..problem }
            }
            Error::NonFinite(detail) => {
                let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "nonfinite_latents", detail);
                tracing::error!(request_id = problem.request_id, detail = problem.detail, "a picture was not finite");
                problem
            }
            fault => Self::fault(&fault),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
