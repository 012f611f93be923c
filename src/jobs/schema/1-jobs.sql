CREATE TABLE jobs (
    number     INTEGER PRIMARY KEY AUTOINCREMENT, -- the order of acceptance
    id         TEXT NOT NULL UNIQUE,
    state      TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    attempt    INTEGER NOT NULL DEFAULT 0,
    request    TEXT NOT NULL,                     -- JSON, every field explicit, without the uploads
    image      TEXT,                              -- names of files in uploads/
    mask       TEXT,
    bytes      INTEGER NOT NULL,                  -- of both
    created_at INTEGER NOT NULL,                  -- all times: milliseconds since 1970
    started_at INTEGER,
    ended_at   INTEGER,
    notices    TEXT NOT NULL DEFAULT '[]',
    error_code TEXT,
    error_text TEXT
) STRICT;
CREATE INDEX jobs_open ON jobs (number) WHERE state IN ('queued', 'running');

CREATE TABLE images (
    id         TEXT PRIMARY KEY,
    job        TEXT NOT NULL REFERENCES jobs (id),
    place      INTEGER NOT NULL,
    width      INTEGER NOT NULL,
    height     INTEGER NOT NULL,
    receipt    TEXT NOT NULL,
    starred    INTEGER NOT NULL DEFAULT 0,
    deleted_at INTEGER,
    UNIQUE (job, place)                           -- one visible result for each job
) STRICT;

CREATE TABLE keys (
    key         TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    job         TEXT NOT NULL REFERENCES jobs (id)
) STRICT;

PRAGMA user_version = 1;
