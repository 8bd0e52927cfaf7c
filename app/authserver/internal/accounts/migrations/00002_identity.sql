-- +goose Up

-- Who somebody is to a provider that they sign in with. Its issuer and subject
-- name them; an address never does.
CREATE TABLE identity (
  issuer         TEXT    NOT NULL,
  subject        TEXT    NOT NULL,
  account_id     TEXT    NOT NULL REFERENCES account(id) ON DELETE CASCADE,
  email_verified INTEGER NOT NULL,
  PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;

CREATE INDEX identity_account ON identity(account_id);
