//! Errors as problem documents (RFC 9457): what a client did wrong in full, what went wrong in here not at all.

use crate::error::{Error, FieldError};
use crate::hub::Fault;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use utoipa::ToSchema;

/// What went wrong with a request, to be answered as a problem document.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// A stable name for programs.
    pub code: Cow<'static, str>,
    /// What is wrong with this request, for a person.
    pub detail: String,
    /// Every wrong field.
    pub errors: Vec<FieldError>,
    /// Line and column of wrong syntax, from 1.
    pub position: Option<(u32, u32)>,
    /// Seconds to wait before trying again.
    pub retry_after: Option<u64>,
    /// Stands in the server's log too.
    pub request: u64,
}

/// A problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// A stable name for programs.
    r#type: String,
    /// The status in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request.
    detail: &'a str,
    /// Every wrong field.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Of wrong syntax, from 1.
    line: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Of wrong syntax, from 1.
    column: Option<u32>,
    /// The number under which the server's log has more.
    request_id: String,
}

impl Problem {
    /// A problem with a code and a sentence.
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let request = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            status,
            code: code.into(),
            detail: detail.into(),
            errors: Vec::new(),
            position: None,
            retry_after: None,
            request,
        }
    }

    /// The number under which the log has more.
    pub fn request_id(&self) -> String {
        format!("{:x}-{}", std::process::id(), self.request)
    }

    /// What went wrong between this server and a hub, or with a model that it has.
    fn of_hub(fault: &Fault) -> Self {
        let (status, code) = match fault {
            Fault::Denied(_) => (StatusCode::BAD_GATEWAY, "hub_denied"),
            Fault::Missing(_) => (StatusCode::NOT_FOUND, "not_found"),
            Fault::Unsuitable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "unsuitable"),
            Fault::Taken(_) => (StatusCode::CONFLICT, "taken"),
            Fault::NoSpace(_) => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
            Fault::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            Fault::Unreachable(_) => (StatusCode::BAD_GATEWAY, "hub_unreachable"),
            Fault::Broken(_) => (StatusCode::BAD_GATEWAY, "hub_broken"),
        };
        let retry_after = match fault {
            Fault::Busy { retry_after_seconds, .. } => *retry_after_seconds,
            _ => None,
        };
        Self { retry_after, ..Self::new(status, code, fault.to_string()) }
    }

    /// A fault in here: the log gets it, the client only the number to ask about.
    fn fault(error: &Error) -> Self {
        let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something went wrong in the server.");
        tracing::error!(request_id = problem.request_id(), %error, "a request failed");
        problem
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(errors) => {
                let fields = if errors.len() == 1 { "One field is" } else { "Several fields are" };
                let detail = format!("{fields} wrong: {}", Error::Invalid(errors.clone()));
                Self { errors, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail) }
            }
            Error::Syntax { line, column, .. } => {
                let problem = Self::new(StatusCode::BAD_REQUEST, "bad_json", error.to_string());
                Self { position: Some((line as u32, column as u32)), ..problem }
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
            Error::Failed(code, detail) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail),
            Error::Storage(_) => {
                let detail = "Storage is not available at the moment.";
                let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", detail);
                tracing::error!(request_id = problem.request_id(), %error, "storage is not available");
                Self { retry_after: Some(5), ..problem }
            }
            Error::Hub(fault) => Self::of_hub(&fault),
            Error::NonFinite(detail) => {
                let problem = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "nonfinite_latents", detail);
                tracing::error!(request_id = problem.request_id(), detail = problem.detail, "a picture was not finite");
                problem
            }
            fault => Self::fault(&fault),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            r#type: format!("urn:limner:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
            line: self.position.map(|(line, _)| line),
            column: self.position.map(|(_, column)| column),
            request_id: self.request_id(),
        };
        let body = serde_json::to_string(&document).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
