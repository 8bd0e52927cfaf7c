-- +goose Up

-- The defaults are what a record has that an older process writes. Lists read
-- the first three behind the long columns, which costs them a page now and then.
ALTER TABLE device ADD COLUMN scope    TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN acr      TEXT NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN amr      TEXT NOT NULL DEFAULT 'null'; -- a JSON array
ALTER TABLE device ADD COLUMN dpop_key BLOB NOT NULL DEFAULT x'';
