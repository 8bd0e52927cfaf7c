package accounts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Identity is who somebody is to a provider.
type Identity struct {
	Issuer, Subject string
	Email           string // may be empty
	EmailVerified   bool
	Name            string // may be empty
}

// ForIdentity returns the account of an identity, and makes it if there is none
// yet, with the given id. It is an account of its own, even if another has the
// same address: whoever registered that one may not be who the address belongs
// to. Nobody logs in to it by a password.
//
// What the provider says of address and name counts anew each time.
func (s *Store) ForIdentity(ctx context.Context, i Identity, newID string, now time.Time) (Account, error) {
	verified := i.EmailVerified && i.Email != ""
	var id string
	err := s.transact(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT account_id FROM identity WHERE issuer = ? AND subject = ?`, i.Issuer, i.Subject).Scan(&id)
		switch {
		case err == nil:
			if _, err := tx.ExecContext(ctx, `UPDATE account SET email = ?, name = ? WHERE id = ?`, i.Email, i.Name, id); err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, `UPDATE identity SET email_verified = ? WHERE issuer = ? AND subject = ?`, verified, i.Issuer, i.Subject)
			return err
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		id = newID
		// The key that logins are looked up by holds a space, which no address
		// and no user name has.
		_, err = tx.ExecContext(ctx, `
			INSERT INTO account (id, email, email_key, name, role, password_hash, created_at)
			VALUES (?, ?, 'identity ' || ?, ?, ?, '', ?)`,
			id, i.Email, id, i.Name, RoleUser, now.UnixMilli())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO identity (issuer, subject, account_id, email_verified) VALUES (?, ?, ?, ?)`, i.Issuer, i.Subject, id, verified)
		return err
	})
	if err != nil {
		return Account{}, fmt.Errorf("account of an identity: %w", err)
	}
	return s.ByID(ctx, id)
}
