// Package memstore keeps records in memory, and loses them when the process
// ends. It passes the same suite as the stores that do not, so it stands in for
// them in the tests of other packages and in a broker that need not remember.
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/events"
)

// Store implements repo.Store. One mutex guards everything; lists and deletions
// by owner look at every record, which is good for some thousands of devices.
type Store struct {
	now func() time.Time
	hub *events.Hub

	mu      sync.Mutex
	records map[domain.DeviceID]domain.Record
	spent   map[string]time.Time // until when

	revocations map[string]domain.Revocation
}

var _ repo.Store = (*Store)(nil)

// New returns an empty store whose leases go by now.
func New(now func() time.Time) *Store {
	return &Store{
		now: now, hub: events.NewHub(),
		records: make(map[domain.DeviceID]domain.Record), spent: make(map[string]time.Time), revocations: make(map[string]domain.Revocation),
	}
}

// lock takes the mutex, unless ctx is over.
func (s *Store) lock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	return nil
}

// Create implements repo.Store.
func (s *Store) Create(ctx context.Context, r domain.Record) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if _, taken := s.records[r.DeviceID]; taken {
		return domain.ErrExists
	}
	s.put(r, 1)
	return nil
}

// put stores a copy of r as it is written at a sign-in.
func (s *Store) put(r domain.Record, version int64) {
	r = own(r)
	r.Tokens = cutTokens(r.Tokens)
	for _, t := range []*time.Time{&r.CreatedAt, &r.LastSeenAt, &r.AuthTime, &r.ProvedAt, &r.ExpiresAt} {
		*t = cut(*t)
	}
	r.Version, r.Lease = version, domain.Lease{}
	s.records[r.DeviceID] = r
}

func cut(t time.Time) time.Time { return domain.Now(func() time.Time { return t }) }

func cutTokens(t domain.Tokens) domain.Tokens {
	t.AccessIssued, t.AccessExpiry, t.RefreshExpiry = cut(t.AccessIssued), cut(t.AccessExpiry), cut(t.RefreshExpiry)
	return t
}

// find returns the record as it is kept; own makes it one to hand out.
func (s *Store) find(id domain.DeviceID) (domain.Record, error) {
	r, found := s.records[id]
	if !found {
		return domain.Record{}, domain.ErrNotFound
	}
	return r, nil
}

func own(r domain.Record) domain.Record {
	r.Roles, r.AMR = slices.Clone(r.Roles), slices.Clone(r.AMR)
	return r
}

func (s *Store) findAt(id domain.DeviceID, version int64) (domain.Record, error) {
	r, err := s.find(id)
	if err == nil && r.Version != version {
		return domain.Record{}, domain.ErrConflict
	}
	return r, err
}

// Get implements repo.Store.
func (s *Store) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	if err := s.lock(ctx); err != nil {
		return domain.Record{}, err
	}
	defer s.mu.Unlock()
	r, err := s.find(id)
	return own(r), err
}

// Overwrite implements repo.Store.
func (s *Store) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if _, err := s.findAt(r.DeviceID, from); err != nil {
		return err
	}
	s.put(r, from+1)
	s.publish(repo.Changed, r.DeviceID)
	return nil
}

// ReplaceTokens implements repo.Store.
func (s *Store) ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	r, err := s.findAt(id, from)
	if err != nil {
		return err
	}
	r.Tokens, r.ExpiresAt, r.Version = cutTokens(t), cut(expiresAt), from+1
	if r.Lease.Owner == leaseOwner {
		r.Lease = domain.Lease{}
	}
	s.records[id] = r
	s.publish(repo.Changed, id)
	return nil
}

// Touch implements repo.Store.
func (s *Store) Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	r, found := s.records[id]
	if !found {
		return nil
	}
	if at := cut(seen.At); at.After(r.LastSeenAt) {
		r.LastSeenAt, r.LastSeenIP = at, seen.IP
	}
	if end := cut(seen.ExpiresAt); end.After(r.ExpiresAt) {
		r.ExpiresAt = end
	}
	s.records[id] = r
	return nil
}

// Rename implements repo.Store.
func (s *Store) Rename(ctx context.Context, id domain.DeviceID, name string) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	r, err := s.find(id)
	if err != nil {
		return err
	}
	r.Name = name
	s.records[id] = r
	s.publish(repo.Changed, id)
	return nil
}

// What the records of an index key have in common. Empty keys match nothing.
func ofOwner(o domain.Owner) func(domain.Record) bool {
	return func(r domain.Record) bool { return !o.IsZero() && r.Owner == o }
}

func ofEmail(email string) func(domain.Record) bool {
	return func(r domain.Record) bool { return email != "" && r.EmailVerified && r.Email == email }
}

func ofSID(issuer, sid string) func(domain.Record) bool {
	return func(r domain.Record) bool { return sid != "" && r.SID == sid && r.Owner.Issuer == issuer }
}

// ListByOwner implements repo.Store.
func (s *Store) ListByOwner(ctx context.Context, o domain.Owner) ([]domain.Record, error) {
	return s.list(ctx, ofOwner(o))
}

// ListByEmail implements repo.Store.
func (s *Store) ListByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	return s.list(ctx, ofEmail(email))
}

func (s *Store) list(ctx context.Context, wanted func(domain.Record) bool) ([]domain.Record, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var list []domain.Record
	for _, r := range s.records {
		if wanted(r) {
			list = append(list, listed(r))
		}
	}
	slices.SortFunc(list, func(a, b domain.Record) int {
		if c := b.LastSeenAt.Compare(a.LastSeenAt); c != 0 {
			return c
		}
		return bytes.Compare(a.DeviceID[:], b.DeviceID[:])
	})
	return list, nil
}

// listed is how a record stands in lists.
func listed(r domain.Record) domain.Record {
	r = own(r)
	t := &r.Tokens
	t.Access, t.Refresh, t.ID, t.DPoPKey = domain.Secret{}, domain.Secret{}, domain.Secret{}, domain.Secret{}
	return r
}

// Delete implements repo.Store.
func (s *Store) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	if err := s.lock(ctx); err != nil {
		return domain.Record{}, err
	}
	defer s.mu.Unlock()
	r, err := s.find(id)
	if err != nil {
		return domain.Record{}, err
	}
	if from != repo.AnyVersion && from != r.Version {
		return domain.Record{}, domain.ErrConflict
	}
	s.end(id)
	return r, nil
}

func (s *Store) end(id domain.DeviceID) {
	delete(s.records, id)
	s.publish(repo.Ended, id)
}

// publish runs under the mutex, so that events keep the order of the changes.
func (s *Store) publish(kind repo.EventKind, id domain.DeviceID) {
	s.hub.Publish(repo.Event{Kind: kind, DeviceID: id})
}

// DeleteByOwner implements repo.Store.
func (s *Store) DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	wanted := ofOwner(o)
	return s.deleteAll(ctx, func(r domain.Record) bool { return wanted(r) && r.DeviceID != except })
}

// DeleteByEmail implements repo.Store.
func (s *Store) DeleteByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	return s.deleteAll(ctx, ofEmail(email))
}

// DeleteBySID implements repo.Store.
func (s *Store) DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error) {
	return s.deleteAll(ctx, ofSID(issuer, sid))
}

func (s *Store) deleteAll(ctx context.Context, wanted func(domain.Record) bool) ([]domain.Record, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var gone []domain.Record
	for id, r := range s.records {
		if wanted(r) {
			gone = append(gone, r)
			s.end(id)
		}
	}
	return gone, nil
}

// TakeLease implements repo.Store.
func (s *Store) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	if err := s.lock(ctx); err != nil {
		return domain.Record{}, err
	}
	defer s.mu.Unlock()
	r, err := s.find(id)
	if err != nil {
		return domain.Record{}, err
	}
	now := domain.Now(s.now)
	if r.Lease.HeldAt(now) && r.Lease.Owner != owner {
		return own(r), domain.ErrLeaseHeld
	}
	r.Lease = domain.Lease{Owner: owner, Until: cut(now.Add(ttl))}
	s.records[id] = r
	return own(r), nil
}

// RenewLease implements repo.Store.
func (s *Store) RenewLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	r, err := s.find(id)
	if err != nil {
		return err
	}
	now := domain.Now(s.now)
	if !r.Lease.HeldAt(now) || r.Lease.Owner != owner {
		return domain.ErrLeaseLost
	}
	r.Lease.Until = cut(now.Add(ttl))
	s.records[id] = r
	return nil
}

// ReleaseLease implements repo.Store.
func (s *Store) ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if r, found := s.records[id]; found && r.Lease.Owner == owner {
		r.Lease = domain.Lease{}
		s.records[id] = r
	}
	return nil
}

// Page implements repo.Store. It goes by device id; the cursor is the last one.
func (s *Store) Page(ctx context.Context, cursor string, limit int) ([]domain.Record, string, error) {
	var after domain.DeviceID
	if cursor != "" {
		id, err := domain.ParseDeviceID(cursor)
		if err != nil {
			return nil, "", fmt.Errorf("cursor %q: %w", cursor, domain.ErrBadInput)
		}
		after = id
	}
	if limit < 1 {
		return nil, "", fmt.Errorf("a page of %d records: %w", limit, domain.ErrBadInput)
	}
	if err := s.lock(ctx); err != nil {
		return nil, "", err
	}
	defer s.mu.Unlock()
	var ids []domain.DeviceID
	for id := range s.records {
		if cursor == "" || bytes.Compare(id[:], after[:]) > 0 {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b domain.DeviceID) int { return bytes.Compare(a[:], b[:]) })
	var next string
	if len(ids) > limit {
		ids = ids[:limit]
		next = ids[limit-1].String()
	}
	var page []domain.Record
	for _, id := range ids {
		page = append(page, listed(s.records[id]))
	}
	return page, next, nil
}

// Spend implements repo.Store.
func (s *Store) Spend(ctx context.Context, key string, until time.Time) error {
	if err := repo.CheckKey(key); err != nil {
		return err
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.spent[key].After(s.now()) {
		return domain.ErrExists
	}
	s.spent[key] = until
	return nil
}

// Sweep implements repo.Store.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	if err := s.lock(ctx); err != nil {
		return 0, err
	}
	defer s.mu.Unlock()
	swept := 0
	for id, r := range s.records {
		if swept >= limit {
			break
		}
		if !r.ExpiresAt.After(now) {
			s.end(id)
			swept++
		}
	}
	for key, until := range s.spent {
		if swept >= limit {
			break
		}
		if !until.After(now) {
			delete(s.spent, key)
			swept++
		}
	}
	for id, r := range s.revocations {
		if swept >= limit {
			break
		}
		if !r.ExpiresAt.After(now) {
			delete(s.revocations, id)
			swept++
		}
	}
	return swept, nil
}

// Subscribe implements repo.Store.
func (s *Store) Subscribe(ctx context.Context, f func(repo.Event)) error {
	return s.hub.Subscribe(ctx, f)
}

// Ping implements repo.Store.
func (s *Store) Ping(ctx context.Context) error { return ctx.Err() }

// Close implements repo.Store.
func (s *Store) Close() error {
	s.hub.Close()
	return nil
}
