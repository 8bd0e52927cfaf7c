-- +goose Up

-- Empty in what an older process has queued: nothing is known of it then that
-- could keep the pair.
ALTER TABLE revocation ADD COLUMN subject TEXT NOT NULL DEFAULT '';
ALTER TABLE revocation ADD COLUMN sid     TEXT NOT NULL DEFAULT '';
