-- Files in any field, not only a picture and a mask.
CREATE TABLE uploads (
    job   TEXT NOT NULL REFERENCES jobs (id),
    field TEXT NOT NULL,                          -- in which it was sent
    file  TEXT NOT NULL,                          -- its name in uploads/
    PRIMARY KEY (job, field)
) STRICT;
INSERT INTO uploads SELECT id, 'image', image FROM jobs WHERE image IS NOT NULL;
INSERT INTO uploads SELECT id, 'mask', mask FROM jobs WHERE mask IS NOT NULL;
ALTER TABLE jobs DROP COLUMN image;
ALTER TABLE jobs DROP COLUMN mask;

PRAGMA user_version = 2;
