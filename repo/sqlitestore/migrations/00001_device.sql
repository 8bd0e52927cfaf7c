-- +goose Up

-- "Cloa": whoever opens the file can tell whose it is.
PRAGMA application_id = 1131179873;

CREATE TABLE device (
  id             BLOB    NOT NULL PRIMARY KEY,  -- the 16 bytes of the UUID
  ticket_hash    BLOB    NOT NULL,
  issuer         TEXT    NOT NULL,
  subject        TEXT    NOT NULL,
  email          TEXT    NOT NULL,
  email_verified INTEGER NOT NULL,
  roles          TEXT    NOT NULL,              -- a JSON array
  provider       TEXT    NOT NULL,
  sid            TEXT    NOT NULL,
  token_type     TEXT    NOT NULL,
  access_issued  INTEGER NOT NULL,              -- times are Unix milliseconds
  access_expiry  INTEGER NOT NULL,
  refresh_expiry INTEGER NOT NULL,
  name           TEXT    NOT NULL,
  user_agent     TEXT    NOT NULL,
  persistent     INTEGER NOT NULL,
  created_at     INTEGER NOT NULL,
  created_ip     TEXT    NOT NULL,
  last_seen_at   INTEGER NOT NULL,
  last_seen_ip   TEXT    NOT NULL,
  auth_time      INTEGER NOT NULL,
  expires_at     INTEGER NOT NULL,
  version        INTEGER NOT NULL,
  lease_owner    TEXT    NOT NULL,              -- '' is a free lease
  lease_until    INTEGER NOT NULL,
  -- Last, because they are long: lists read only what stands before them.
  access_token   BLOB    NOT NULL,
  refresh_token  BLOB    NOT NULL,
  id_token       BLOB    NOT NULL
) STRICT;

CREATE INDEX device_owner   ON device (issuer, subject);
CREATE INDEX device_email   ON device (email) WHERE email_verified AND email <> '';
CREATE INDEX device_sid     ON device (issuer, sid) WHERE sid <> '';
CREATE INDEX device_expires ON device (expires_at);

-- What other processes have to hear of. The triggers write it in the same
-- transaction as the change, whoever makes that, and keep the newest ten
-- thousand. AUTOINCREMENT: a number is never used again, so that a gap shows.
CREATE TABLE event (
  seq    INTEGER PRIMARY KEY AUTOINCREMENT,
  device BLOB    NOT NULL,
  ended  INTEGER NOT NULL                       -- 1 ended, 0 changed
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER device_ended AFTER DELETE ON device BEGIN
  INSERT INTO event (device, ended) VALUES (old.id, 1);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER device_changed AFTER UPDATE OF version, name ON device BEGIN
  INSERT INTO event (device, ended) VALUES (new.id, 0);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER event_trimmed AFTER INSERT ON event WHEN new.seq % 100 = 0 BEGIN
  DELETE FROM event WHERE seq <= new.seq - 10000;
END;
-- +goose StatementEnd
