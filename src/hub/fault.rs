//! What can go wrong between this program and a hub, each with a sentence that says what to do about it.

/// Why a model could not be fetched, shown or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The hub wants a token, or one of an account that may read this repository.
    #[error("{0}")]
    Denied(String),
    /// There is no such repository, revision, file or model.
    #[error("{0}")]
    Missing(String),
    /// What there is cannot be used by this program, or what was asked for makes no sense.
    #[error("{0}")]
    Unsuitable(String),
    /// The name is taken: by another model, or by another process that works on it now.
    #[error("{0}")]
    Taken(String),
    /// The disk has no room for it.
    #[error("{0}")]
    NoSpace(String),
    /// The hub asks for patience, more than this program has.
    #[error("{message}")]
    Busy {
        /// The sentence.
        message: String,
        /// How long the hub wants to be left alone, where it says so.
        retry_after_seconds: Option<u64>,
    },
    /// The hub cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The hub sent something else than it should have: a wrong hash, a wrong size, a path that leads elsewhere.
    #[error("{0}")]
    Broken(String),
}
