-- What jobs found out that ask something of a picture: JSON.
ALTER TABLE jobs ADD COLUMN report TEXT;

PRAGMA user_version = 3;
