// Package cachestore keeps the records that were read last in front of a store,
// so that the usual request costs no round trip. It stands in front of
// sealstore: what it holds is opened, and lives in this process alone.
//
// Three things keep it honest. An entry is trusted for a short time only. The
// store's events, from this replica and the others, drop entries at once. And
// while the events are cut off, nothing is trusted until they have caught up.
package cachestore

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// shards spreads the lock. Device ids are random, so a byte of them does.
const shards = 64

// Store is a repo.Store with a cache in front. Records that Get returns share
// their Roles and AMR with the cache: they are for reading.
type Store struct {
	repo.Store
	ttl   time.Duration
	now   func() time.Time
	limit int // entries of one shard

	trusted atomic.Bool // the events are heard
	shards  [shards]shard

	stop context.CancelFunc
	done chan struct{}
}

type shard struct {
	mu      sync.Mutex
	entries map[domain.DeviceID]entry
	// drops counts what was dropped. A read that began before a drop and ends
	// after it may bring the record as it was before, which is not to be kept.
	drops uint64
}

type entry struct {
	record domain.Record
	until  time.Time
}

// New puts a cache of at most limit records in front of inner, which it closes.
// An entry is trusted for ttl at most; ttl bounds how long a device that was
// ended elsewhere can live on if its event is lost.
func New(inner repo.Store, ttl time.Duration, limit int, now func() time.Time) *Store {
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{Store: inner, ttl: ttl, now: now, limit: max(1, limit/shards), stop: stop, done: make(chan struct{})}
	for i := range s.shards {
		s.shards[i].entries = make(map[domain.DeviceID]entry)
	}
	go s.listen(ctx)
	return s
}

// resubscribeAfter is the pause before a subscription that failed is made anew.
const resubscribeAfter = 100 * time.Millisecond

func (s *Store) listen(ctx context.Context) {
	defer close(s.done)
	for {
		_ = s.Store.Subscribe(ctx, s.hear) // that it ended is all there is to know
		s.trusted.Store(false)
		select {
		case <-ctx.Done():
			return
		case <-time.After(resubscribeAfter):
		}
	}
}

func (s *Store) hear(e repo.Event) {
	switch e.Kind {
	case repo.Cut:
		s.trusted.Store(false)
	case repo.Gap:
		// Nothing that was read before now is trusted; what is read from now
		// on is followed by its events.
		s.clear()
		s.trusted.Store(true)
	default:
		s.drop(e.DeviceID)
	}
}

// Subscribe implements repo.Store. Whoever hears of an event finds nothing in the
// cache from before it: the cache's own subscription may be a moment behind, and
// a client whose stream is cut comes back at once.
func (s *Store) Subscribe(ctx context.Context, f func(repo.Event)) error {
	return s.Store.Subscribe(ctx, func(e repo.Event) {
		switch e.Kind {
		case repo.Cut:
		case repo.Gap:
			s.clear()
		default:
			s.drop(e.DeviceID)
		}
		f(e)
	})
}

// Close implements repo.Store.
func (s *Store) Close() error {
	s.stop()
	err := s.Store.Close()
	<-s.done
	return err
}

// Get implements repo.Store.
func (s *Store) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	if !s.trusted.Load() || ctx.Err() != nil {
		return s.Store.Get(ctx, id)
	}
	sh := s.shard(id)
	began := s.now()
	r, found, drops := sh.get(id, began)
	if found {
		return r, nil
	}
	r, err := s.Store.Get(ctx, id)
	if err == nil {
		// The time counts from before the read: that is how old it may be.
		sh.put(id, entry{r, began.Add(s.ttl)}, drops, s.limit)
	}
	return r, err
}

// Forget makes the next Get of a device ask the store.
func (s *Store) Forget(id domain.DeviceID) { s.drop(id) }

// What changes a record drops it here before it returns, whether or not it went
// well: after an error nobody knows what the store holds. The store's own event
// says the same a moment later, to the other replicas too.

// Overwrite implements repo.Store.
func (s *Store) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	defer s.drop(r.DeviceID)
	return s.Store.Overwrite(ctx, r, from)
}

// ReplaceTokens implements repo.Store.
func (s *Store) ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error {
	defer s.drop(id)
	return s.Store.ReplaceTokens(ctx, id, leaseOwner, from, t, expiresAt)
}

// Touch implements repo.Store.
func (s *Store) Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error {
	defer s.drop(id)
	return s.Store.Touch(ctx, id, seen)
}

// Rename implements repo.Store.
func (s *Store) Rename(ctx context.Context, id domain.DeviceID, name string) error {
	defer s.drop(id)
	return s.Store.Rename(ctx, id, name)
}

// Delete implements repo.Store.
func (s *Store) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	defer s.drop(id)
	return s.Store.Delete(ctx, id, from)
}

// TakeLease implements repo.Store.
func (s *Store) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	defer s.drop(id)
	return s.Store.TakeLease(ctx, id, owner, ttl)
}

// RenewLease implements repo.Store.
func (s *Store) RenewLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) error {
	defer s.drop(id)
	return s.Store.RenewLease(ctx, id, owner, ttl)
}

// ReleaseLease implements repo.Store.
func (s *Store) ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error {
	defer s.drop(id)
	return s.Store.ReleaseLease(ctx, id, owner)
}

// DeleteByOwner implements repo.Store.
func (s *Store) DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	return s.gone(func() ([]domain.Record, error) { return s.Store.DeleteByOwner(ctx, o, except) })
}

// DeleteByEmail implements repo.Store.
func (s *Store) DeleteByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	return s.gone(func() ([]domain.Record, error) { return s.Store.DeleteByEmail(ctx, email) })
}

// DeleteBySID implements repo.Store.
func (s *Store) DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error) {
	return s.gone(func() ([]domain.Record, error) { return s.Store.DeleteBySID(ctx, issuer, sid) })
}

// Sweep implements repo.Store. It does not say what went.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	n, err := s.Store.Sweep(ctx, now, limit)
	if n > 0 || err != nil {
		s.clear()
	}
	return n, err
}

// gone drops what a deletion has removed, or everything if that is not known.
func (s *Store) gone(remove func() ([]domain.Record, error)) ([]domain.Record, error) {
	went, err := remove()
	if err != nil {
		s.clear()
		return went, err
	}
	for _, r := range went {
		s.drop(r.DeviceID)
	}
	return went, nil
}

func (s *Store) shard(id domain.DeviceID) *shard { return &s.shards[id[0]%shards] }

func (s *Store) drop(id domain.DeviceID) { s.shard(id).drop(id) }

func (s *Store) clear() {
	for i := range s.shards {
		s.shards[i].clear()
	}
}

// get returns what is kept, or the number of drops to hand to put.
func (sh *shard) get(id domain.DeviceID, now time.Time) (r domain.Record, found bool, drops uint64) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e, ok := sh.entries[id]
	if ok && now.Before(e.until) {
		return e.record, true, 0
	}
	return domain.Record{}, false, sh.drops
}

// put keeps what was read after get returned drops, unless something was
// dropped since. A full shard lets any one go: entries live for a second or so,
// and which one goes hardly matters.
func (sh *shard) put(id domain.DeviceID, e entry, drops uint64, limit int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.drops != drops {
		return
	}
	if _, there := sh.entries[id]; !there && len(sh.entries) >= limit {
		for other := range sh.entries {
			delete(sh.entries, other)
			break
		}
	}
	sh.entries[id] = e
}

func (sh *shard) drop(id domain.DeviceID) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	delete(sh.entries, id)
	sh.drops++
}

func (sh *shard) clear() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	clear(sh.entries)
	sh.drops++
}
