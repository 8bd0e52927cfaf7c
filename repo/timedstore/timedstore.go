// Package timedstore stands in front of a store and tells how long each call
// took and whether it brought an answer. It is below cachestore, so that only
// what reaches the store is measured, and changes nothing.
package timedstore

import (
	"context"
	"errors"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// Ops are the operations that are told of. Subscribe, which never ends, and
// Close are not among them.
var Ops = []string{
	"create", "get", "overwrite", "replace_tokens", "touch", "rename", "list", "delete", "delete_many",
	"take_lease", "renew_lease", "release_lease", "page", "spend", "sweep", "ping",
}

// Tell is called at the end of each call. failed is true if the store brought no
// answer: an outcome that the contract names, such as a device that is not
// there, is one, and a call whose caller has left is no failure either.
type Tell func(op string, took time.Duration, failed bool)

// Store is a repo.Store that is measured.
type Store struct {
	repo.Store
	now  func() time.Time
	tell Tell
}

// New measures inner, by now.
func New(inner repo.Store, now func() time.Time, tell Tell) *Store {
	return &Store{Store: inner, now: now, tell: tell}
}

func (s *Store) end(ctx context.Context, op string, start time.Time, err error) {
	s.tell(op, s.now().Sub(start), !answered(err) && !errors.Is(ctx.Err(), context.Canceled))
}

func answered(err error) bool {
	for _, outcome := range []error{domain.ErrNotFound, domain.ErrExists, domain.ErrConflict, domain.ErrLeaseHeld, domain.ErrLeaseLost, domain.ErrBadInput} {
		if errors.Is(err, outcome) {
			return true
		}
	}
	return err == nil
}

// Create implements repo.Store.
func (s *Store) Create(ctx context.Context, r domain.Record) error {
	start := s.now()
	err := s.Store.Create(ctx, r)
	s.end(ctx, "create", start, err)
	return err
}

// Get implements repo.Store.
func (s *Store) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	start := s.now()
	r, err := s.Store.Get(ctx, id)
	s.end(ctx, "get", start, err)
	return r, err
}

// Overwrite implements repo.Store.
func (s *Store) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	start := s.now()
	err := s.Store.Overwrite(ctx, r, from)
	s.end(ctx, "overwrite", start, err)
	return err
}

// ReplaceTokens implements repo.Store.
func (s *Store) ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error {
	start := s.now()
	err := s.Store.ReplaceTokens(ctx, id, leaseOwner, from, t, expiresAt)
	s.end(ctx, "replace_tokens", start, err)
	return err
}

// Touch implements repo.Store.
func (s *Store) Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error {
	start := s.now()
	err := s.Store.Touch(ctx, id, seen)
	s.end(ctx, "touch", start, err)
	return err
}

// Rename implements repo.Store.
func (s *Store) Rename(ctx context.Context, id domain.DeviceID, name string) error {
	start := s.now()
	err := s.Store.Rename(ctx, id, name)
	s.end(ctx, "rename", start, err)
	return err
}

// ListByOwner implements repo.Store.
func (s *Store) ListByOwner(ctx context.Context, o domain.Owner) ([]domain.Record, error) {
	start := s.now()
	list, err := s.Store.ListByOwner(ctx, o)
	s.end(ctx, "list", start, err)
	return list, err
}

// ListByEmail implements repo.Store.
func (s *Store) ListByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	start := s.now()
	list, err := s.Store.ListByEmail(ctx, email)
	s.end(ctx, "list", start, err)
	return list, err
}

// Delete implements repo.Store.
func (s *Store) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	start := s.now()
	r, err := s.Store.Delete(ctx, id, from)
	s.end(ctx, "delete", start, err)
	return r, err
}

// DeleteByOwner implements repo.Store.
func (s *Store) DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	start := s.now()
	went, err := s.Store.DeleteByOwner(ctx, o, except)
	s.end(ctx, "delete_many", start, err)
	return went, err
}

// DeleteByEmail implements repo.Store.
func (s *Store) DeleteByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	start := s.now()
	went, err := s.Store.DeleteByEmail(ctx, email)
	s.end(ctx, "delete_many", start, err)
	return went, err
}

// DeleteBySID implements repo.Store.
func (s *Store) DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error) {
	start := s.now()
	went, err := s.Store.DeleteBySID(ctx, issuer, sid)
	s.end(ctx, "delete_many", start, err)
	return went, err
}

// TakeLease implements repo.Store.
func (s *Store) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	start := s.now()
	r, err := s.Store.TakeLease(ctx, id, owner, ttl)
	s.end(ctx, "take_lease", start, err)
	return r, err
}

// RenewLease implements repo.Store.
func (s *Store) RenewLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) error {
	start := s.now()
	err := s.Store.RenewLease(ctx, id, owner, ttl)
	s.end(ctx, "renew_lease", start, err)
	return err
}

// ReleaseLease implements repo.Store.
func (s *Store) ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error {
	start := s.now()
	err := s.Store.ReleaseLease(ctx, id, owner)
	s.end(ctx, "release_lease", start, err)
	return err
}

// Page implements repo.Store.
func (s *Store) Page(ctx context.Context, cursor string, limit int) ([]domain.Record, string, error) {
	start := s.now()
	records, next, err := s.Store.Page(ctx, cursor, limit)
	s.end(ctx, "page", start, err)
	return records, next, err
}

// Spend implements repo.Store.
func (s *Store) Spend(ctx context.Context, key string, until time.Time) error {
	start := s.now()
	err := s.Store.Spend(ctx, key, until)
	s.end(ctx, "spend", start, err)
	return err
}

// Sweep implements repo.Store.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	start := s.now()
	n, err := s.Store.Sweep(ctx, now, limit)
	s.end(ctx, "sweep", start, err)
	return n, err
}

// Ping implements repo.Store.
func (s *Store) Ping(ctx context.Context) error {
	start := s.now()
	err := s.Store.Ping(ctx)
	s.end(ctx, "ping", start, err)
	return err
}

var _ repo.Store = (*Store)(nil)
