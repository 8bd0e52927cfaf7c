-- +goose Up

-- Token pairs that an auth server is still to be told to forget.
CREATE TABLE revocation (
  id            TEXT    NOT NULL PRIMARY KEY,
  device        BLOB    NOT NULL,
  provider      TEXT    NOT NULL,
  issuer        TEXT    NOT NULL,
  refresh_token BLOB    NOT NULL,
  access_token  BLOB    NOT NULL,
  access_expiry INTEGER NOT NULL,
  unless        BLOB    NOT NULL,  -- a ticket_hash
  tries         INTEGER NOT NULL,
  not_before    INTEGER NOT NULL,
  expires_at    INTEGER NOT NULL
) STRICT;

CREATE INDEX revocation_not_before ON revocation (not_before);
CREATE INDEX revocation_expires    ON revocation (expires_at);
