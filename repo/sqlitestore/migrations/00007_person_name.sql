-- +goose Up

ALTER TABLE device ADD COLUMN person_name TEXT NOT NULL DEFAULT '';
