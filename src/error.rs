//! The crate's one error enum: expected states are variants, faults carry their source.

use std::path::PathBuf;

/// The result of every fallible function in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One wrong value of a request: which field, what was wrong, and the range that would be accepted.
#[derive(Debug, Clone, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The field's name as typed in JSON, in the form and (with dashes) on the command line.
    pub field: String,
    /// A stable machine-readable code, such as `out_of_range`, `not_finite`, `unknown_value`.
    pub code: &'static str,
    /// A sentence for a person, naming what was given.
    pub message: String,
    /// The smallest accepted value, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    /// The largest accepted value, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
}

impl FieldError {
    /// A field error without a numeric range.
    pub fn new(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.into(), code, message: message.into(), minimum: None, maximum: None }
    }

    /// The same error with the accepted range attached.
    #[must_use]
    pub fn range(mut self, minimum: f64, maximum: f64) -> Self {
        (self.minimum, self.maximum) = (Some(minimum), Some(maximum));
        self
    }
}

/// Everything that can go wrong between a prompt and a picture.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong: HTTP 422, exit code 2. Every wrong field is listed.
    #[error("{}", list(.0))]
    Invalid(Vec<FieldError>),
    /// The request is not JSON at all: HTTP 400.
    #[error("not valid JSON at line {line}, column {column}: {message}")]
    Syntax {
        /// Line of the first mistake, from 1.
        line: usize,
        /// Column of the first mistake, from 1.
        column: usize,
        /// What was expected or found there.
        message: String,
    },
    /// A model folder is incomplete, damaged or of an unknown kind: HTTP 422 at the door, exit code 2.
    #[error("{}: {message}", path.display())]
    Model {
        /// The file (or folder) at fault.
        path: PathBuf,
        /// What is wrong with it, naming tensor and shapes where that applies.
        message: String,
    },
    /// A model could not be fetched from a hub, shown or removed: exit code 1, or 2 where what was asked for is wrong.
    #[error(transparent)]
    Hub(#[from] crate::hub::Fault),
    /// Somebody asked to stop: not a fault.
    #[error("cancelled")]
    Cancelled,
    /// The queue is full: HTTP 429.
    #[error("the queue is full; try again in {retry_after_seconds} s")]
    Overloaded {
        /// Seconds after which a place is likely to be free.
        retry_after_seconds: u64,
    },
    /// The server is stopping: HTTP 503.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// A network returned NaN or infinity: HTTP 500 with the step named.
    #[error("{0}")]
    NonFinite(String),
    /// Training data or a training run is not as it should be: exit code 2.
    #[error("{0}")]
    Training(String),
    /// The server cannot start, or a part of it has died: exit code 1, HTTP 500.
    #[error("{0}")]
    Server(String),
    /// A job failed, as was stored with it: HTTP 500 with this code and sentence.
    #[error("{1}")]
    Failed(String, String),
    /// The database of jobs cannot be used now: HTTP 503.
    #[error("storage is not available: {0}")]
    Storage(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A tensor operation failed: a fault in this program, or memory ran out.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// An invalid request with one wrong field.
    pub fn invalid(error: FieldError) -> Self {
        Self::Invalid(vec![error])
    }

    /// Wraps an I/O error with the path it happened at: `.map_err(Error::io(&path))`.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// A model file that cannot be used.
    pub fn model(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::Model { path: path.into(), message: message.into() }
    }
}

fn list(errors: &[FieldError]) -> String {
    errors.iter().map(|e| format!("{}: {}", e.field, e.message)).collect::<Vec<_>>().join("; ")
}
