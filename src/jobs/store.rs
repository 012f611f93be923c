//! Jobs in SQLite: what has been committed here survives the process, and the machine.

mod queue;
mod shelf;

use super::Id;
use super::job::{Failure, Image, Job, State};
use crate::request::GenerateRequest;
use crate::{Error, Result};
use rusqlite::{Connection, Row, Transaction, TransactionBehavior};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What makes a database of each version out of the one before, the first of nothing.
const SCHEMA: [&str; 4] = [
    include_str!("schema/1-jobs.sql"),
    include_str!("schema/2-uploads.sql"),
    include_str!("schema/3-reports.sql"),
    include_str!("schema/4-steps.sql"),
];
/// How often a job may be begun before it is held to be what brings the program down.
pub(super) const MOST_ATTEMPTS: u32 = 3;

/// The one connection. Statements are short; nobody waits long for it.
pub(super) struct Store {
    connection: Mutex<Connection>,
}

/// A job to be stored.
pub(super) struct NewJob<'a> {
    pub(super) id: &'a Id,
    pub(super) request: String,
    /// Its files: the fields they were sent in, and their names in the data folder.
    pub(super) uploads: &'a [(&'static str, Id)],
    pub(super) bytes: u64,
    /// A client's name for this submission, and a digest of what it submitted.
    pub(super) key: Option<(&'a str, &'a str)>,
}

/// What a job gave.
pub(super) struct Made {
    /// Each with what its steps did, as JSON, where that is known.
    pub(super) images: Vec<(Image, Option<String>)>,
    /// JSON.
    pub(super) notices: String,
    /// JSON, where it found something out.
    pub(super) report: Option<String>,
}

/// What became of a [`NewJob`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    New,
    /// The key was used for the same submission before: this job.
    Known(Id),
    /// The key was used for something else.
    KeyTaken,
    /// There are as many open jobs, or stored bytes of theirs, as there may be.
    Full,
}

/// What the worker needs of a job it has claimed.
pub(super) struct Claimed {
    pub(super) id: Id,
    pub(super) attempt: u32,
    pub(super) request: GenerateRequest,
    /// Over all its pictures.
    pub(super) steps: u32,
}

/// A job that waits.
pub(super) struct Waiting {
    pub(super) id: Id,
    /// Over all its pictures.
    pub(super) steps: u32,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Only jobs older than this one: where the last page ended.
    pub before: Option<Id>,
    /// How many, at most.
    pub limit: usize,
    /// Only jobs whose prompt has this text.
    pub text: Option<String>,
    /// Only jobs with a starred picture.
    pub starred: bool,
    /// Only jobs in this state.
    pub state: Option<State>,
}

impl Store {
    /// Opens or creates the database. One of a newer program is refused, untouched.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let connection = Connection::open(path).map_err(fault)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(fault)?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(|error| {
            Error::Server(format!("{} is not a database of limner ({error}); nothing was changed", path.display()))
        })?;
        if version > SCHEMA.len() as i64 {
            let message = format!("{} was written by a newer limner (schema {version})", path.display());
            return Err(Error::Server(message));
        }
        // WAL with FULL: a commit survives the loss of power, not only of the process.
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fault)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(fault)?;
        for step in &SCHEMA[version as usize..] {
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {step} COMMIT;")).map_err(fault)?;
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    fn ids(&self, sql: &str) -> Result<Vec<Id>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(sql).map_err(fault)?;
        let ids = statement.query_map([], |row| id(row, 0)).map_err(fault)?;
        ids.collect::<rusqlite::Result<_>>().map_err(fault)
    }

    /// A transaction that holds the write lock from its beginning.
    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
        let value = work(&tx).map_err(fault)?;
        tx.commit().map_err(fault)?;
        Ok(value)
    }

    /// A panic elsewhere rolls its transaction back, so the connection is sound.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SELECT: &str = "SELECT id, state, attempt, request, \
                      (SELECT json_group_array(field) FROM uploads WHERE job = jobs.id), created_at, started_at, ended_at, \
                      notices, error_code, error_text, report FROM jobs";
const SELECT_IMAGE: &str = "SELECT id, job, width, height, receipt, starred, deleted_at, steps IS NOT NULL FROM images";

fn read_job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let failure = |code: String, message: Option<String>| Failure { code, message: message.unwrap_or_default() };
    Ok(Job {
        id: id(row, 0)?,
        state: text(row, 1, State::from_name)?,
        attempt: row.get(2)?,
        request: request(row, 3)?,
        uploads: text(row, 4, |json| serde_json::from_str(json).ok())?,
        created_at: row.get(5)?,
        started_at: row.get(6)?,
        ended_at: row.get(7)?,
        notices: text(row, 8, |json| serde_json::from_str(json).ok())?,
        error: row
            .get::<_, Option<String>>(9)?
            .map(|code| Ok::<_, rusqlite::Error>(failure(code, row.get(10)?)))
            .transpose()?,
        report: row.get::<_, Option<String>>(11)?.and_then(|json| serde_json::from_str(&json).ok()),
        images: Vec::new(),
    })
}

fn with_images(connection: &Connection, mut job: Job) -> Result<Job> {
    let sql = format!("{SELECT_IMAGE} WHERE job = ?1 AND deleted_at IS NULL ORDER BY place");
    let mut statement = connection.prepare_cached(&sql).map_err(fault)?;
    let images = statement.query_map([job.id.as_str()], read_image).map_err(fault)?;
    job.images = images.collect::<rusqlite::Result<_>>().map_err(fault)?;
    Ok(job)
}

fn read_image(row: &Row<'_>) -> rusqlite::Result<Image> {
    Ok(Image {
        id: id(row, 0)?,
        job: id(row, 1)?,
        width: row.get(2)?,
        height: row.get(3)?,
        receipt: text(row, 4, |json| serde_json::from_str(json).ok())?,
        starred: row.get(5)?,
        deleted_at: row.get(6)?,
        has_steps: row.get(7)?,
    })
}

/// A text column through a reader that knows what may be there.
fn text<T>(row: &Row<'_>, column: usize, read: impl FnOnce(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    read(&text).ok_or_else(|| rusqlite::Error::InvalidColumnName(format!("column {column} holds {text:?}")))
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<Id> {
    text(row, column, Id::parse)
}

fn request(row: &Row<'_>, column: usize) -> rusqlite::Result<GenerateRequest> {
    text(row, column, |json| GenerateRequest::from_json(json.as_bytes()).ok())
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

/// The text of a database's error is for the log; a client hears that storage is not available.
#[expect(clippy::needless_pass_by_value, reason = "as map_err calls it")]
fn fault(error: rusqlite::Error) -> Error {
    Error::Storage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_first_version_keeps_its_uploads_and_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limner.db");
        let [job, image, mask, picture] = [(); 4].map(|()| Id::random().unwrap());
        let old = Connection::open(&path).unwrap();
        old.execute_batch(SCHEMA[0]).unwrap();
        let sql = "INSERT INTO jobs (id, state, request, image, mask, bytes, created_at)
                   VALUES (?1, 'queued', '{\"prompt\":\"x\"}', ?2, ?3, 7, 1)";
        old.execute(sql, [job.as_str(), image.as_str(), mask.as_str()]).unwrap();
        let sql = "INSERT INTO images (id, job, place, width, height, receipt) VALUES (?1, ?2, 0, 8, 8, '{}')";
        old.execute(sql, [picture.as_str(), job.as_str()]).unwrap();
        drop(old);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.uploads_of(&job).unwrap(), [("image".to_owned(), image), ("mask".to_owned(), mask)]);
        assert_eq!(store.get(&job).unwrap().unwrap().uploads, ["image", "mask"]);
        assert!(!store.image(&picture).unwrap().unwrap().has_steps && store.steps(&picture).unwrap().is_none());
        drop(store);
        assert_eq!(Store::open(&path).unwrap().uploads().unwrap().len(), 2);
    }
}
