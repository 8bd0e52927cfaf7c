package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// Create implements repo.Store.
func (s *Store) Create(ctx context.Context, r domain.Record) error {
	r.Version, r.Lease = 1, free
	args := values(r)
	return s.change(ctx, "create", true, func(ctx context.Context) error {
		created, err := exec(ctx, s.create, args...)
		if err == nil && !created {
			return domain.ErrExists
		}
		return err
	})
}

// Get implements repo.Store.
func (s *Store) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	r, err := one(scan(s.get.QueryRowContext(ctx, id[:])))
	return r, failed(ctx, "get", err)
}

// Overwrite implements repo.Store.
func (s *Store) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	r.Version, r.Lease = from+1, free
	args := append(values(r), r.DeviceID[:], from)
	return s.change(ctx, "overwrite", true, func(ctx context.Context) error {
		return s.ifFound(ctx, r.DeviceID, domain.ErrConflict, s.overwrite, args...)
	})
}

// ReplaceTokens implements repo.Store.
func (s *Store) ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error {
	return s.change(ctx, "replace tokens", true, func(ctx context.Context) error {
		return s.ifFound(ctx, id, domain.ErrConflict, s.replaceTokens,
			t.TokenType, blob(t.Access), t.AccessIssued.UnixMilli(), t.AccessExpiry.UnixMilli(),
			blob(t.Refresh), t.RefreshExpiry.UnixMilli(), blob(t.ID), expiresAt.UnixMilli(),
			leaseOwner, free.Until.UnixMilli(), id[:], from, t.Scope, blob(t.DPoPKey))
	})
}

// Touch implements repo.Store.
func (s *Store) Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error {
	return s.change(ctx, "touch", false, func(ctx context.Context) error {
		_, err := exec(ctx, s.touch, seen.At.UnixMilli(), seen.IP, seen.ExpiresAt.UnixMilli(), id[:])
		return err
	})
}

// Rename implements repo.Store.
func (s *Store) Rename(ctx context.Context, id domain.DeviceID, name string) error {
	return s.change(ctx, "rename", true, func(ctx context.Context) error {
		return s.ifFound(ctx, id, domain.ErrNotFound, s.rename, name, id[:])
	})
}

// ListByOwner implements repo.Store.
func (s *Store) ListByOwner(ctx context.Context, o domain.Owner) ([]domain.Record, error) {
	list, err := all(scanListed)(s.listByOwner.QueryContext(ctx, o.Issuer, o.Subject))
	return list, failed(ctx, "list by owner", err)
}

// ListByEmail implements repo.Store.
func (s *Store) ListByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	list, err := all(scanListed)(s.listByEmail.QueryContext(ctx, email))
	return list, failed(ctx, "list by email", err)
}

// Delete implements repo.Store.
func (s *Store) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	gone, err := write(ctx, s.writer, true, func(ctx context.Context) (domain.Record, error) {
		r, err := one(scan(s.remove.QueryRowContext(ctx, id[:], from, repo.AnyVersion)))
		if errors.Is(err, domain.ErrNotFound) {
			return domain.Record{}, s.whyNot(ctx, id, domain.ErrConflict)
		}
		return r, err
	})
	return gone, failed(ctx, "delete", err)
}

// DeleteByOwner implements repo.Store.
func (s *Store) DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	return s.deleteAll(ctx, "delete by owner", s.removeByOwner, o.Issuer, o.Subject, except[:])
}

// DeleteByEmail implements repo.Store.
func (s *Store) DeleteByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	return s.deleteAll(ctx, "delete by email", s.removeByEmail, email)
}

// DeleteBySID implements repo.Store.
func (s *Store) DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error) {
	return s.deleteAll(ctx, "delete by sid", s.removeBySID, issuer, sid)
}

func (s *Store) deleteAll(ctx context.Context, doing string, stmt *sql.Stmt, args ...any) ([]domain.Record, error) {
	gone, err := write(ctx, s.writer, true, func(ctx context.Context) ([]domain.Record, error) {
		return all(scan)(stmt.QueryContext(ctx, args...))
	})
	return gone, failed(ctx, doing, err)
}

// TakeLease implements repo.Store.
func (s *Store) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	type taken struct {
		record domain.Record
		held   bool // by another
	}
	got, err := write(ctx, s.writer, false, func(ctx context.Context) (t taken, err error) {
		now := s.now()
		t.record, err = one(scan(s.takeLease.QueryRowContext(ctx, owner, now.Add(ttl).UnixMilli(), id[:], now.UnixMilli())))
		if errors.Is(err, domain.ErrNotFound) {
			t.held = true
			t.record, err = one(scan(s.find.QueryRowContext(ctx, id[:])))
		}
		return t, err
	})
	if err == nil && got.held {
		err = domain.ErrLeaseHeld
	}
	return got.record, failed(ctx, "take lease", err)
}

// RenewLease implements repo.Store.
func (s *Store) RenewLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) error {
	return s.change(ctx, "renew lease", false, func(ctx context.Context) error {
		now := s.now()
		return s.ifFound(ctx, id, domain.ErrLeaseLost, s.renewLease, now.Add(ttl).UnixMilli(), id[:], owner, now.UnixMilli())
	})
}

// ReleaseLease implements repo.Store.
func (s *Store) ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error {
	return s.change(ctx, "release lease", false, func(ctx context.Context) error {
		_, err := exec(ctx, s.releaseLease, free.Until.UnixMilli(), id[:], owner)
		return err
	})
}

// Page implements repo.Store. It goes by device id; the cursor is the last one.
func (s *Store) Page(ctx context.Context, cursor string, limit int) ([]domain.Record, string, error) {
	after := []byte{} // before every id
	if cursor != "" {
		id, err := domain.ParseDeviceID(cursor)
		if err != nil {
			return nil, "", fmt.Errorf("cursor %q: %w", cursor, domain.ErrBadInput)
		}
		after = id[:]
	}
	if limit < 1 {
		return nil, "", fmt.Errorf("a page of %d records: %w", limit, domain.ErrBadInput)
	}
	page, err := all(scanListed)(s.page.QueryContext(ctx, after, limit))
	if err != nil || len(page) < limit {
		return page, "", failed(ctx, "page", err)
	}
	return page, page[limit-1].DeviceID.String(), nil
}

// Spend implements repo.Store.
func (s *Store) Spend(ctx context.Context, key string, until time.Time) error {
	if err := repo.CheckKey(key); err != nil {
		return err
	}
	return s.change(ctx, "spend", true, func(ctx context.Context) error {
		marked, err := exec(ctx, s.spend, []byte(key), until.UnixMilli(), s.now().UnixMilli())
		if err == nil && !marked {
			err = domain.ErrExists
		}
		return err
	})
}

// Sweep implements repo.Store.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	swept, err := write(ctx, s.writer, false, func(ctx context.Context) (int, error) {
		swept := 0
		for _, remove := range []*sql.Stmt{s.expire, s.expireSpent, s.expireRevocations} {
			result, err := remove.ExecContext(ctx, now.UnixMilli(), max(limit-swept, 0)) // below 0 is no limit to SQLite
			if err != nil {
				return 0, err
			}
			rows, err := result.RowsAffected()
			if err != nil {
				return 0, err
			}
			swept += int(rows)
		}
		return swept, nil
	})
	return swept, failed(ctx, "sweep", err)
}

// change is write for work without a result.
func (s *Store) change(ctx context.Context, doing string, durable bool, work func(context.Context) error) error {
	_, err := write(ctx, s.writer, durable, func(ctx context.Context) (struct{}, error) { return struct{}{}, work(ctx) })
	return failed(ctx, doing, err)
}

// ifFound runs a statement that changes the device, or nothing, and then the
// answer is domain.ErrNotFound, or otherwise if the device is there.
func (s *Store) ifFound(ctx context.Context, id domain.DeviceID, otherwise error, stmt *sql.Stmt, args ...any) error {
	changed, err := exec(ctx, stmt, args...)
	if err == nil && !changed {
		return s.whyNot(ctx, id, otherwise)
	}
	return err
}

func (s *Store) whyNot(ctx context.Context, id domain.DeviceID, otherwise error) error {
	if _, err := one(scan(s.find.QueryRowContext(ctx, id[:]))); err != nil {
		return err
	}
	return otherwise
}

// exec runs a statement and reports whether it changed anything.
func exec(ctx context.Context, stmt *sql.Stmt, args ...any) (bool, error) {
	result, err := stmt.ExecContext(ctx, args...)
	if err != nil {
		return false, err
	}
	rows, err := result.RowsAffected()
	return rows > 0, err
}

// one turns what scan says of no row into the outcome that it is.
func one(r domain.Record, err error) (domain.Record, error) {
	if errors.Is(err, sql.ErrNoRows) {
		err = domain.ErrNotFound
	}
	if err != nil {
		return domain.Record{}, err
	}
	return r, nil
}

// all reads all rows.
func all[T any](scan func(scanner) (T, error)) func(*sql.Rows, error) ([]T, error) {
	return func(rows *sql.Rows, err error) ([]T, error) {
		if err != nil {
			return nil, err
		}
		defer rows.Close()
		var list []T
		for rows.Next() {
			one, err := scan(rows)
			if err != nil {
				return nil, err
			}
			list = append(list, one)
		}
		return list, rows.Err()
	}
}
