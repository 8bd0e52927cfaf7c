-- +goose Up

-- The default is the zero time, in milliseconds: not known.
ALTER TABLE device ADD COLUMN proved_at INTEGER NOT NULL DEFAULT -62135596800000;
