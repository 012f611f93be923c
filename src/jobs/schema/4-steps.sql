-- What each step of a picture did: JSON. The last column, so that whoever does not ask does not read it.
ALTER TABLE images ADD COLUMN steps TEXT;

PRAGMA user_version = 4;
