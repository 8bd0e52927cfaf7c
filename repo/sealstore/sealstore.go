// Package sealstore stands in front of a store and seals the tokens on their way
// in and opens them on their way out, so that a store, its files and its backups
// hold none that could be used. infra/seal has the keys.
package sealstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// Sealer encrypts a token for one field of one device. What it sealed for
// another place it must not open. It is safe for concurrent use.
type Sealer interface {
	Seal(plain domain.Secret, device domain.DeviceID, field string) ([]byte, error)
	Open(sealed []byte, device domain.DeviceID, field string) (domain.Secret, error)
}

// Store implements repo.Store on another one. What has no tokens in it, the
// lists and pages included, goes straight through.
//
// A token that does not open, because its key is not there or somebody has
// changed it, is domain.ErrSealed and names the device and the field: the store is
// there, but what it says is of no use, and with the right key it will be again.
// Only deletions, and who reads a record for something else, go on without it.
type Store struct {
	repo.Store
	keys Sealer
	log  *slog.Logger
}

var _ repo.Store = (*Store)(nil)

// New returns a store that keeps sealed tokens in inner. Closing it closes
// inner. The log hears of tokens that were deleted unopened.
func New(inner repo.Store, keys Sealer, log *slog.Logger) *Store {
	return &Store{Store: inner, keys: keys, log: log}
}

// field is a token and the name that it is sealed under. The names are part of
// what is stored: they never change.
type field struct {
	name  string
	token *domain.Secret
}

func fields(t *domain.Tokens) []field {
	return []field{{"access_token", &t.Access}, {"refresh_token", &t.Refresh}, {"id_token", &t.ID}, {"dpop_key", &t.DPoPKey}}
}

// seal returns the tokens sealed for the device. What is empty stays so.
func (s *Store) seal(id domain.DeviceID, t domain.Tokens) (domain.Tokens, error) {
	if err := s.sealFields(id, fields(&t)); err != nil {
		return domain.Tokens{}, err
	}
	return t, nil
}

func (s *Store) sealFields(id domain.DeviceID, fields []field) error {
	for _, f := range fields {
		if f.token.Empty() {
			continue
		}
		sealed, err := s.keys.Seal(*f.token, id, f.name)
		if err != nil {
			return fmt.Errorf("device %v: %s does not seal: %w", id, f.name, err)
		}
		*f.token = domain.NewSecret(string(sealed))
	}
	return nil
}

// open opens the tokens of a record that came out of the inner store. Those
// that do not open are empty, and the error says which and why.
func (s *Store) open(r domain.Record) (domain.Record, error) {
	err := s.openFields(r.DeviceID, fields(&r.Tokens))
	return r, err
}

func (s *Store) openFields(id domain.DeviceID, fields []field) error {
	var errs []error
	for _, f := range fields {
		if f.token.Empty() {
			continue
		}
		plain, err := s.keys.Open([]byte(f.token.Reveal()), id, f.name)
		if err != nil {
			errs = append(errs, fmt.Errorf("device %v: %s: %w: %w", id, f.name, domain.ErrSealed, err))
			plain = domain.Secret{}
		}
		*f.token = plain
	}
	return errors.Join(errs...)
}

// Create implements repo.Store.
func (s *Store) Create(ctx context.Context, r domain.Record) error {
	sealed, err := s.seal(r.DeviceID, r.Tokens)
	if err != nil {
		return err
	}
	r.Tokens = sealed
	return s.Store.Create(ctx, r)
}

// Get implements repo.Store.
func (s *Store) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	r, err := s.Store.Get(ctx, id)
	if err != nil {
		return domain.Record{}, err
	}
	r, err = s.open(r)
	if err != nil {
		for _, f := range fields(&r.Tokens) {
			*f.token = domain.Secret{} // those that do open are of no use alone
		}
	}
	return r, err
}

// Overwrite implements repo.Store.
func (s *Store) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	sealed, err := s.seal(r.DeviceID, r.Tokens)
	if err != nil {
		return err
	}
	r.Tokens = sealed
	return s.Store.Overwrite(ctx, r, from)
}

// ReplaceTokens implements repo.Store.
func (s *Store) ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error {
	sealed, err := s.seal(id, t)
	if err != nil {
		return err
	}
	return s.Store.ReplaceTokens(ctx, id, leaseOwner, from, sealed, expiresAt)
}

// TakeLease implements repo.Store. A lease on tokens that do not open is given
// back: another replica may have the key.
func (s *Store) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	r, taken := s.Store.TakeLease(ctx, id, owner, ttl)
	if taken != nil && !errors.Is(taken, domain.ErrLeaseHeld) {
		return domain.Record{}, taken
	}
	r, err := s.open(r)
	if err != nil {
		_ = s.Store.ReleaseLease(ctx, id, owner) // if that fails, it runs out
		return domain.Record{}, err
	}
	return r, taken
}

// Delete implements repo.Store.
func (s *Store) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	r, err := s.Store.Delete(ctx, id, from)
	if err != nil {
		return domain.Record{}, err
	}
	return s.gone(ctx, r), nil
}

// DeleteByOwner implements repo.Store.
func (s *Store) DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	return s.allGone(ctx)(s.Store.DeleteByOwner(ctx, o, except))
}

// DeleteByEmail implements repo.Store.
func (s *Store) DeleteByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	return s.allGone(ctx)(s.Store.DeleteByEmail(ctx, email))
}

// DeleteBySID implements repo.Store.
func (s *Store) DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error) {
	return s.allGone(ctx)(s.Store.DeleteBySID(ctx, issuer, sid))
}

func (s *Store) allGone(ctx context.Context) func([]domain.Record, error) ([]domain.Record, error) {
	return func(records []domain.Record, err error) ([]domain.Record, error) {
		for i, r := range records {
			records[i] = s.gone(ctx, r)
		}
		return records, err
	}
}

// gone opens a record that was deleted, as far as it opens. It cannot fail,
// because the device is signed out already; what is lost is the chance to revoke
// its tokens at the auth server, and the log says so.
func (s *Store) gone(ctx context.Context, r domain.Record) domain.Record {
	r, err := s.open(r)
	if err != nil {
		s.log.WarnContext(ctx, "a device was deleted whose tokens do not open; they cannot be revoked",
			slog.String("device", r.DeviceID.String()), slog.Any("error", err))
	}
	return r
}
