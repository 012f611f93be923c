//! Jobs in SQLite: what has been committed here survives the process, and the machine.

use super::Id;
use super::job::{Failure, Image, Job, State};
use crate::request::GenerateRequest;
use crate::{Error, Result};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The schema this program writes.
const VERSION: i64 = 1;
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
    pub(super) image: Option<&'a Id>,
    pub(super) mask: Option<&'a Id>,
    pub(super) bytes: u64,
    /// A client's name for this submission, and a digest of what it submitted.
    pub(super) key: Option<(&'a str, &'a str)>,
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
    pub(super) image: Option<Id>,
    pub(super) mask: Option<Id>,
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
        if version > VERSION {
            let message = format!("{} was written by a newer limner (schema {version})", path.display());
            return Err(Error::Server(message));
        }
        // WAL with FULL: a commit survives the loss of power, not only of the process.
        connection.pragma_update(None, "journal_mode", "WAL").map_err(fault)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(fault)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(fault)?;
        if version == 0 {
            connection
                .execute_batch(&format!("BEGIN IMMEDIATE; {} COMMIT;", include_str!("schema.sql")))
                .map_err(fault)?;
        }
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// Stores a job unless its key is known or there are `most` open jobs or `most_bytes` of their uploads already.
    pub(super) fn insert(&self, new: &NewJob<'_>, most: usize, most_bytes: u64) -> Result<Inserted> {
        self.write(|tx| {
            if let Some((key, fingerprint)) = new.key {
                let known = tx.query_row("SELECT fingerprint, job FROM keys WHERE key = ?1", [key], |row| {
                    Ok((row.get::<_, String>(0)?, id(row, 1)?))
                });
                if let Some((same, job)) = known.optional()? {
                    return Ok(if same == fingerprint { Inserted::Known(job) } else { Inserted::KeyTaken });
                }
            }
            let (open, bytes): (i64, i64) = tx.query_row(
                "SELECT count(*), coalesce(sum(bytes), 0) FROM jobs WHERE state IN ('queued', 'running')",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            if open as u64 >= most as u64 || bytes as u64 + new.bytes > most_bytes {
                return Ok(Inserted::Full);
            }
            tx.execute(
                "INSERT INTO jobs (id, state, request, image, mask, bytes, created_at)
                 VALUES (?1, 'queued', ?2, ?3, ?4, ?5, ?6)",
                params![
                    new.id.as_str(),
                    new.request,
                    new.image.map(Id::as_str),
                    new.mask.map(Id::as_str),
                    new.bytes as i64,
                    now()
                ],
            )?;
            if let Some((key, fingerprint)) = new.key {
                let values = params![key, fingerprint, new.id.as_str()];
                tx.execute("INSERT INTO keys (key, fingerprint, job) VALUES (?1, ?2, ?3)", values)?;
            }
            Ok(Inserted::New)
        })
    }

    /// The oldest queued job, now running.
    pub(super) fn claim(&self) -> Result<Option<Claimed>> {
        self.write(|tx| {
            let claimed = tx.query_row(
                "UPDATE jobs SET state = 'running', attempt = attempt + 1, started_at = ?1
                 WHERE number = (SELECT min(number) FROM jobs WHERE state = 'queued')
                 RETURNING id, attempt, request, image, mask",
                [now()],
                |row| {
                    Ok(Claimed {
                        id: id(row, 0)?,
                        attempt: row.get(1)?,
                        request: request(row, 2)?,
                        image: optional_id(row, 3)?,
                        mask: optional_id(row, 4)?,
                    })
                },
            );
            claimed.optional()
        })
    }

    /// Ends an attempt with pictures. False when the job is not this attempt's any more: then nothing is stored.
    pub(super) fn finish(&self, job: &Id, attempt: u32, images: &[Image], notices: &str) -> Result<bool> {
        self.write(|tx| {
            let ended = tx.execute(
                "UPDATE jobs SET state = 'done', ended_at = ?3, notices = ?4
                 WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
                params![job.as_str(), attempt, now(), notices],
            )?;
            if ended == 0 {
                return Ok(false);
            }
            for (place, image) in images.iter().enumerate() {
                tx.execute(
                    "INSERT INTO images (id, job, place, width, height, receipt) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        image.id.as_str(),
                        job.as_str(),
                        place as i64,
                        image.width,
                        image.height,
                        image.receipt.to_string()
                    ],
                )?;
            }
            Ok(true)
        })
    }

    /// Ends an attempt without pictures: failed, or cancelled when there is no failure.
    pub(super) fn give_up(&self, job: &Id, attempt: u32, failure: Option<&Failure>) -> Result<bool> {
        let state = if failure.is_some() { State::Failed } else { State::Cancelled };
        let (code, text) = failure.map(|f| (f.code.as_str(), f.message.as_str())).unzip();
        self.write(|tx| {
            let ended = tx.execute(
                "UPDATE jobs SET state = ?3, ended_at = ?4, error_code = ?5, error_text = ?6
                 WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
                params![job.as_str(), attempt, state.name(), now(), code, text],
            )?;
            Ok(ended > 0)
        })
    }

    /// Puts a running attempt back where it was in the queue, and does not count it.
    pub(super) fn put_back(&self, job: &Id, attempt: u32) -> Result<bool> {
        self.write(|tx| {
            let changed = tx.execute(
                "UPDATE jobs SET state = 'queued', attempt = attempt - 1, started_at = NULL
                 WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
                params![job.as_str(), attempt],
            )?;
            Ok(changed > 0)
        })
    }

    /// Cancels a job that waits. False when it does not.
    pub(super) fn cancel_queued(&self, job: &Id) -> Result<bool> {
        self.write(|tx| {
            let values = params![job.as_str(), now()];
            let sql = "UPDATE jobs SET state = 'cancelled', ended_at = ?2 WHERE id = ?1 AND state = 'queued'";
            Ok(tx.execute(sql, values)? > 0)
        })
    }

    /// After a crash: what was running waits again, unless that has happened too often.
    pub(super) fn recover(&self) -> Result<usize> {
        self.write(|tx| {
            tx.execute(
                "UPDATE jobs SET state = 'failed', ended_at = ?1, error_code = 'crashed_repeatedly',
                     error_text = 'The server stopped each of the times that this was drawn. Try a smaller size or other settings.'
                 WHERE state = 'running' AND attempt >= ?2",
                params![now(), MOST_ATTEMPTS],
            )?;
            tx.execute("UPDATE jobs SET state = 'queued', started_at = NULL WHERE state = 'running'", [])
        })
    }

    /// One job.
    pub(super) fn get(&self, job: &Id) -> Result<Option<Job>> {
        let connection = self.lock();
        let found = connection.query_row(&format!("{SELECT} WHERE id = ?1"), [job.as_str()], read_job).optional();
        found.map_err(fault)?.map(|job| with_images(&connection, job)).transpose()
    }

    /// A page of jobs.
    pub(super) fn list(&self, query: &Query) -> Result<Vec<Job>> {
        let connection = self.lock();
        let sql = format!(
            "{SELECT} WHERE (?1 IS NULL OR number < (SELECT number FROM jobs WHERE id = ?1))
               AND (?2 IS NULL OR state = ?2)
               AND (?3 IS NULL OR instr(lower(json_extract(request, '$.prompt')), lower(?3)) > 0)
               AND (NOT ?4 OR EXISTS (SELECT 1 FROM images WHERE job = jobs.id AND starred AND deleted_at IS NULL))
             ORDER BY number DESC LIMIT ?5"
        );
        let mut statement = connection.prepare_cached(&sql).map_err(fault)?;
        let values = params![
            query.before.as_ref().map(Id::as_str),
            query.state.map(State::name),
            query.text,
            query.starred,
            query.limit as i64
        ];
        let jobs = statement.query_map(values, read_job).map_err(fault)?;
        let jobs = jobs.collect::<rusqlite::Result<Vec<_>>>().map_err(fault)?;
        jobs.into_iter().map(|job| with_images(&connection, job)).collect()
    }

    /// Ids of the jobs that wait, the next one first.
    pub(super) fn waiting(&self) -> Result<Vec<Id>> {
        self.ids("SELECT id FROM jobs WHERE state = 'queued' ORDER BY number")
    }

    /// Ids of all pictures, deleted ones too.
    pub(super) fn pictures(&self) -> Result<Vec<Id>> {
        self.ids("SELECT id FROM images")
    }

    /// Ids of all uploads of jobs that are not over.
    pub(super) fn uploads(&self) -> Result<Vec<Id>> {
        self.ids("SELECT image FROM jobs WHERE image IS NOT NULL UNION SELECT mask FROM jobs WHERE mask IS NOT NULL")
    }

    /// The files that were sent with a job: picture and mask.
    pub(super) fn uploads_of(&self, job: &Id) -> Result<(Option<Id>, Option<Id>)> {
        let files = |row: &Row<'_>| Ok((optional_id(row, 0)?, optional_id(row, 1)?));
        let sql = "SELECT image, mask FROM jobs WHERE id = ?1";
        let found = self.lock().query_row(sql, [job.as_str()], files).optional().map_err(fault)?;
        Ok(found.unwrap_or_default())
    }

    fn ids(&self, sql: &str) -> Result<Vec<Id>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(sql).map_err(fault)?;
        let ids = statement.query_map([], |row| id(row, 0)).map_err(fault)?;
        ids.collect::<rusqlite::Result<_>>().map_err(fault)
    }

    /// One picture.
    pub(super) fn image(&self, image: &Id) -> Result<Option<Image>> {
        let connection = self.lock();
        let found = connection.query_row(&format!("{SELECT_IMAGE} WHERE id = ?1"), [image.as_str()], read_image);
        found.optional().map_err(fault)
    }

    /// Marks a picture, or takes the mark off. False when there is none.
    pub(super) fn star(&self, image: &Id, starred: bool) -> Result<bool> {
        self.write(|tx| {
            let sql = "UPDATE images SET starred = ?2 WHERE id = ?1 AND deleted_at IS NULL";
            Ok(tx.execute(sql, params![image.as_str(), starred])? > 0)
        })
    }

    /// Hides a picture, or shows it again. False when there is none.
    pub(super) fn hide(&self, image: &Id, hidden: bool) -> Result<bool> {
        self.write(|tx| {
            let sql = "UPDATE images SET deleted_at = ?2 WHERE id = ?1";
            Ok(tx.execute(sql, params![image.as_str(), hidden.then(now)])? > 0)
        })
    }

    /// Forgets pictures that were hidden before `time`, and returns their ids.
    pub(super) fn forget_hidden(&self, time: i64) -> Result<Vec<Id>> {
        self.write(|tx| {
            let mut statement = tx.prepare("DELETE FROM images WHERE deleted_at < ?1 RETURNING id")?;
            let ids = statement.query_map([time], |row| id(row, 0))?;
            ids.collect()
        })
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

const SELECT: &str = "SELECT id, state, attempt, request, image IS NOT NULL, mask IS NOT NULL, created_at, started_at, \
                      ended_at, notices, error_code, error_text FROM jobs";
const SELECT_IMAGE: &str = "SELECT id, job, width, height, receipt, starred, deleted_at FROM images";

fn read_job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let failure = |code: String, message: Option<String>| Failure { code, message: message.unwrap_or_default() };
    Ok(Job {
        id: id(row, 0)?,
        state: text(row, 1, State::from_name)?,
        attempt: row.get(2)?,
        request: request(row, 3)?,
        has_image: row.get(4)?,
        has_mask: row.get(5)?,
        created_at: row.get(6)?,
        started_at: row.get(7)?,
        ended_at: row.get(8)?,
        notices: text(row, 9, |json| serde_json::from_str(json).ok())?,
        error: row
            .get::<_, Option<String>>(10)?
            .map(|code| Ok::<_, rusqlite::Error>(failure(code, row.get(11)?)))
            .transpose()?,
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

fn optional_id(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Id>> {
    Ok(row.get::<_, Option<String>>(column)?.and_then(|text| Id::parse(&text)))
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
