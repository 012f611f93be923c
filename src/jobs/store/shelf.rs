//! What is looked up, marked and put away.

use super::super::Counts;
use super::{Id, Image, Job, Query, SELECT, SELECT_IMAGE, State, Store};
use super::{fault, id, now, read_image, read_job, text, with_images};
use crate::Result;
use crate::diffusion::diagnostics::StepFigures;
use rusqlite::{OptionalExtension, Row, params};

impl Store {
    /// How much there is of everything.
    pub(in crate::jobs) fn counts(&self) -> Result<Counts> {
        let connection = self.lock();
        let mut jobs = State::ALL.map(|state| (state, 0));
        let mut statement =
            connection.prepare_cached("SELECT state, count(*) FROM jobs GROUP BY state").map_err(fault)?;
        let found = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)));
        for row in found.map_err(fault)? {
            let (name, count) = row.map_err(fault)?;
            jobs.iter_mut().filter(|(state, _)| state.name() == name).for_each(|(_, of)| *of = count as u64);
        }
        let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| n as u64).map_err(fault);
        Ok(Counts {
            jobs: jobs.into(),
            pictures: number("SELECT count(*) FROM images WHERE deleted_at IS NULL")?,
            upload_bytes: number("SELECT coalesce(sum(bytes), 0) FROM jobs WHERE state IN ('queued', 'running')")?,
        })
    }

    /// One job.
    pub(in crate::jobs) fn get(&self, job: &Id) -> Result<Option<Job>> {
        let connection = self.lock();
        let found = connection.query_row(&format!("{SELECT} WHERE id = ?1"), [job.as_str()], read_job).optional();
        found.map_err(fault)?.map(|job| with_images(&connection, job)).transpose()
    }

    /// A page of jobs.
    pub(in crate::jobs) fn list(&self, query: &Query) -> Result<Vec<Job>> {
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

    /// Ids of all pictures, deleted ones too.
    pub(in crate::jobs) fn pictures(&self) -> Result<Vec<Id>> {
        self.ids("SELECT id FROM images")
    }

    /// Forgets the uploads of jobs that are over and have no pictures (any more): nobody can use them again.
    pub(in crate::jobs) fn forget_uploads(&self) -> Result<usize> {
        self.write(|tx| {
            let useless = "SELECT id FROM jobs WHERE state NOT IN ('queued', 'running')
                             AND NOT EXISTS (SELECT 1 FROM images WHERE job = jobs.id)";
            tx.execute(&format!("UPDATE jobs SET bytes = 0 WHERE bytes > 0 AND id IN ({useless})"), [])?;
            tx.execute(&format!("DELETE FROM uploads WHERE job IN ({useless})"), [])
        })
    }

    /// Ids of all uploads that are kept: of open jobs, and of those whose pictures are kept.
    pub(in crate::jobs) fn uploads(&self) -> Result<Vec<Id>> {
        self.ids("SELECT file FROM uploads")
    }

    /// The files that were sent with a job: their fields, and their names in the data folder.
    pub(in crate::jobs) fn uploads_of(&self, job: &Id) -> Result<Vec<(String, Id)>> {
        let connection = self.lock();
        let sql = "SELECT field, file FROM uploads WHERE job = ?1 ORDER BY field";
        let mut statement = connection.prepare_cached(sql).map_err(fault)?;
        let files = statement.query_map([job.as_str()], |row| Ok((row.get(0)?, id(row, 1)?))).map_err(fault)?;
        files.collect::<rusqlite::Result<_>>().map_err(fault)
    }

    /// One picture.
    pub(in crate::jobs) fn image(&self, image: &Id) -> Result<Option<Image>> {
        let connection = self.lock();
        let found = connection.query_row(&format!("{SELECT_IMAGE} WHERE id = ?1"), [image.as_str()], read_image);
        found.optional().map_err(fault)
    }

    /// What a picture's steps did, where that was kept.
    pub(in crate::jobs) fn steps(&self, image: &Id) -> Result<Option<Vec<StepFigures>>> {
        let read = |row: &Row<'_>| match row.get::<_, Option<String>>(0)? {
            Some(_) => text(row, 0, |json| serde_json::from_str(json).ok()),
            None => Ok(None),
        };
        let found = self.lock().query_row("SELECT steps FROM images WHERE id = ?1", [image.as_str()], read).optional();
        Ok(found.map_err(fault)?.flatten())
    }

    /// Marks a picture, or takes the mark off. False when there is none.
    pub(in crate::jobs) fn star(&self, image: &Id, starred: bool) -> Result<bool> {
        self.write(|tx| {
            let sql = "UPDATE images SET starred = ?2 WHERE id = ?1 AND deleted_at IS NULL";
            Ok(tx.execute(sql, params![image.as_str(), starred])? > 0)
        })
    }

    /// Hides a picture, or shows it again. False when there is none.
    pub(in crate::jobs) fn hide(&self, image: &Id, hidden: bool) -> Result<bool> {
        self.write(|tx| {
            let sql = "UPDATE images SET deleted_at = ?2 WHERE id = ?1";
            Ok(tx.execute(sql, params![image.as_str(), hidden.then(now)])? > 0)
        })
    }

    /// Forgets pictures that were hidden before `time`, and returns their ids.
    pub(in crate::jobs) fn forget_hidden(&self, time: i64) -> Result<Vec<Id>> {
        self.write(|tx| {
            let mut statement = tx.prepare("DELETE FROM images WHERE deleted_at < ?1 RETURNING id")?;
            let ids = statement.query_map([time], |row| id(row, 0))?;
            ids.collect()
        })
    }
}
