//! What is known of a job and of its pictures.

use super::Id;
use crate::request::GenerateRequest;
use serde::Serialize;
use serde_json::Value;

/// Where a job stands. It ends in exactly one of the last three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accepted, and waiting.
    Queued,
    /// Being drawn.
    Running,
    /// Its pictures are there.
    Done,
    /// It could not be drawn.
    Failed,
    /// Somebody did not want it any more.
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Done, Self::Failed, Self::Cancelled];

    /// The name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// Why a job failed, for programs and for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// A stable name.
    pub code: String,
    /// A sentence that says what to do.
    pub message: String,
}

/// A finished picture. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Image {
    /// Its id.
    pub id: Id,
    /// The job that drew it.
    pub job: Id,
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// Everything it was drawn with.
    pub receipt: Value,
    /// Whether somebody marked it.
    pub starred: bool,
    /// When it was deleted; its file stays for a while, so that this can be undone.
    pub deleted_at: Option<i64>,
    /// Whether it is known what each of its steps did.
    pub has_steps: bool,
}

/// A job as it was stored. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: Id,
    /// Where it stands.
    pub state: State,
    /// How often it was begun.
    pub attempt: u32,
    /// What was asked for, with every field explicit and the seed chosen. Without the uploads.
    pub request: GenerateRequest,
    /// The fields of the files that were sent with it and are still kept.
    pub uploads: Vec<String>,
    /// When it was accepted.
    pub created_at: i64,
    /// When its last attempt began.
    pub started_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// What a person should know about the pictures.
    pub notices: Value,
    /// Why it failed.
    pub error: Option<Failure>,
    /// What it found out, where it asked something of a picture.
    pub report: Option<Value>,
    /// Its pictures that are not deleted, in the order of their seeds.
    pub images: Vec<Image>,
}

impl Job {
    /// Whether a file was sent in this field.
    pub fn has(&self, field: &str) -> bool {
        self.uploads.iter().any(|upload| upload == field)
    }
}
