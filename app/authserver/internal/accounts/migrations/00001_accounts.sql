-- +goose Up

-- Times are milliseconds since 1970, UTC.

CREATE TABLE account (
  id            TEXT    NOT NULL PRIMARY KEY,  -- UUID, the "sub" of every token
  email         TEXT    NOT NULL,              -- as it was typed
  email_key     TEXT    NOT NULL UNIQUE,       -- in lower case, what is compared
  username      TEXT,
  username_key  TEXT    UNIQUE,
  name          TEXT    NOT NULL,
  role          TEXT    NOT NULL,
  password_hash TEXT    NOT NULL,              -- argon2id, PHC string
  created_at    INTEGER NOT NULL,
  disabled_at   INTEGER
) STRICT;

-- A family is what one login begins: the chain of refresh tokens of which each
-- is exchanged for the next.
CREATE TABLE family (
  id         INTEGER NOT NULL PRIMARY KEY,
  account_id TEXT    NOT NULL REFERENCES account(id) ON DELETE CASCADE,
  started_at INTEGER NOT NULL,
  ends_at    INTEGER NOT NULL,                 -- absolute: no rotation moves it
  expires_at INTEGER NOT NULL,                 -- when its newest token does: what the sweep goes by
  revoked_at INTEGER,
  revoked_by TEXT                              -- "logout" or "reuse"
) STRICT;

CREATE INDEX family_account ON family(account_id);
CREATE INDEX family_expires ON family(expires_at);

CREATE TABLE refresh_token (
  hash             BLOB    NOT NULL PRIMARY KEY,  -- SHA-256 of the token
  family_id        INTEGER NOT NULL REFERENCES family(id) ON DELETE CASCADE,
  generation       INTEGER NOT NULL,              -- 1 at the login, then up by one
  expires_at       INTEGER NOT NULL,
  used_at          INTEGER,
  sealed_successor BLOB,                          -- only while the reuse window is open
  UNIQUE (family_id, generation)
) STRICT, WITHOUT ROWID;

CREATE INDEX refresh_token_sealed ON refresh_token(used_at) WHERE sealed_successor IS NOT NULL;

CREATE TABLE signing_key (
  id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  pkcs8      BLOB    NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
