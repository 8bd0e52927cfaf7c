-- +goose Up

-- Keys that are good for one use, and until when they are remembered.
CREATE TABLE spent (
  key   BLOB    NOT NULL PRIMARY KEY,
  until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX spent_until ON spent (until);
