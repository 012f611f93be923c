//! From acceptance to the end of a job. Each function is one transaction.

use super::{Claimed, Failure, Id, Inserted, MOST_ATTEMPTS, Made, NewJob, State, Store, Waiting};
use super::{fault, id, now, request};
use crate::Result;
use rusqlite::{OptionalExtension, Row, Transaction, params};

/// A job's steps over all its pictures, in SQL.
const STEPS: &str =
    "CAST(json_extract(request, '$.steps') AS INTEGER) * CAST(json_extract(request, '$.count') AS INTEGER)";

impl Store {
    /// Stores a job unless its key is known or there are `most` open jobs or `most_bytes` of their uploads already.
    pub(in crate::jobs) fn insert(&self, new: &NewJob<'_>, most: usize, most_bytes: u64) -> Result<Inserted> {
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
                "INSERT INTO jobs (id, state, request, bytes, created_at) VALUES (?1, 'queued', ?2, ?3, ?4)",
                params![new.id.as_str(), new.request, new.bytes as i64, now()],
            )?;
            for (field, file) in new.uploads {
                let values = params![new.id.as_str(), field, file.as_str()];
                tx.execute("INSERT INTO uploads (job, field, file) VALUES (?1, ?2, ?3)", values)?;
            }
            if let Some((key, fingerprint)) = new.key {
                let values = params![key, fingerprint, new.id.as_str()];
                tx.execute("INSERT INTO keys (key, fingerprint, job) VALUES (?1, ?2, ?3)", values)?;
            }
            Ok(Inserted::New)
        })
    }

    /// The oldest queued jobs, now running: one, and those right behind it of the same size and model, up to `most` jobs
    /// and `most_pixels` of one picture each. A job that was begun before comes alone: if it brings the program down, it
    /// takes no other with it a second time.
    pub(in crate::jobs) fn claim(&self, most: usize, most_pixels: u64) -> Result<Vec<Claimed>> {
        self.write(|tx| {
            let Some(first) = next(tx)? else { return Ok(Vec::new()) };
            let most = most.min((most_pixels / (u64::from(first.width) * u64::from(first.height)).max(1)) as usize);
            let mut claimed = vec![start(tx, first.number)?];
            while claimed.len() < most
                && let Some(other) = next(tx)?
                && first.goes_with(&other)
            {
                claimed.push(start(tx, other.number)?);
            }
            Ok(claimed)
        })
    }

    /// Ends an attempt with pictures. False when the job is not this attempt's any more: then nothing is stored.
    pub(in crate::jobs) fn finish(&self, job: &Id, attempt: u32, made: &Made) -> Result<bool> {
        self.write(|tx| {
            let ended = tx.execute(
                "UPDATE jobs SET state = 'done', ended_at = ?3, notices = ?4, report = ?5
                 WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
                params![job.as_str(), attempt, now(), made.notices, made.report],
            )?;
            if ended == 0 {
                return Ok(false);
            }
            for (place, (image, steps)) in made.images.iter().enumerate() {
                tx.execute(
                    "INSERT INTO images (id, job, place, width, height, receipt, steps)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    params![
                        image.id.as_str(),
                        job.as_str(),
                        place as i64,
                        image.width,
                        image.height,
                        image.receipt.to_string(),
                        steps
                    ],
                )?;
            }
            Ok(true)
        })
    }

    /// Ends an attempt without pictures: failed, or cancelled when there is no failure.
    pub(in crate::jobs) fn give_up(&self, job: &Id, attempt: u32, failure: Option<&Failure>) -> Result<bool> {
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
    pub(in crate::jobs) fn put_back(&self, job: &Id, attempt: u32) -> Result<bool> {
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
    pub(in crate::jobs) fn cancel_queued(&self, job: &Id) -> Result<bool> {
        self.write(|tx| {
            let values = params![job.as_str(), now()];
            let sql = "UPDATE jobs SET state = 'cancelled', ended_at = ?2 WHERE id = ?1 AND state = 'queued'";
            Ok(tx.execute(sql, values)? > 0)
        })
    }

    /// After a crash: what was running waits again, unless that has happened too often.
    pub(in crate::jobs) fn recover(&self) -> Result<usize> {
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

    /// The place in the order of acceptance that the newest job has.
    pub(in crate::jobs) fn last_number(&self) -> Result<i64> {
        self.lock().query_row("SELECT coalesce(max(number), 0) FROM jobs", [], |row| row.get(0)).map_err(fault)
    }

    /// That of the job which is the next.
    pub(in crate::jobs) fn next_number(&self) -> Result<Option<i64>> {
        let sql = "SELECT min(number) FROM jobs WHERE state = 'queued'";
        self.lock().query_row(sql, [], |row| row.get(0)).map_err(fault)
    }

    /// The jobs that wait, the next one first.
    pub(in crate::jobs) fn waiting(&self) -> Result<Vec<Waiting>> {
        let connection = self.lock();
        let sql = format!("SELECT id, {STEPS} FROM jobs WHERE state = 'queued' ORDER BY number");
        let mut statement = connection.prepare_cached(&sql).map_err(fault)?;
        let waiting = statement.query_map([], |row| Ok(Waiting { id: id(row, 0)?, steps: row.get(1)? }));
        waiting.map_err(fault)?.collect::<rusqlite::Result<_>>().map_err(fault)
    }
}

/// The job at the head of the queue.
struct Next {
    number: i64,
    attempt: u32,
    width: u32,
    height: u32,
    model: Option<String>,
}

impl Next {
    fn goes_with(&self, other: &Self) -> bool {
        let begun = self.attempt > 0 || other.attempt > 0;
        !begun && (self.width, self.height, &self.model) == (other.width, other.height, &other.model)
    }
}

fn next(tx: &Transaction<'_>) -> rusqlite::Result<Option<Next>> {
    let sql = "SELECT number, attempt, CAST(json_extract(request, '$.width') AS INTEGER),
                      CAST(json_extract(request, '$.height') AS INTEGER), json_extract(request, '$.model')
               FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1";
    let read = |row: &Row<'_>| {
        let (number, attempt, width, height, model) = row.try_into()?;
        Ok(Next { number, attempt, width, height, model })
    };
    tx.prepare_cached(sql)?.query_row([], read).optional()
}

fn start(tx: &Transaction<'_>, number: i64) -> rusqlite::Result<Claimed> {
    let sql = format!(
        "UPDATE jobs SET state = 'running', attempt = attempt + 1, started_at = ?2 WHERE number = ?1
         RETURNING id, attempt, request, {STEPS}"
    );
    tx.prepare_cached(&sql)?.query_row(params![number, now()], |row| {
        Ok(Claimed { id: id(row, 0)?, attempt: row.get(1)?, request: request(row, 2)?, steps: row.get(3)? })
    })
}
