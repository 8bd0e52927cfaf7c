package cachestore_test

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/cachestore"
	"cloakroom/repo/memstore"
	"cloakroom/repo/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Harness{Open: func(*testing.T) repo.Store {
		return cachestore.New(memstore.New(time.Now), time.Second, 1000, time.Now)
	}})
}

// counted counts reads of the store behind the cache and hands events on.
type counted struct {
	repo.Store
	gets atomic.Int32
	// before runs before a read of the store returns.
	before atomic.Pointer[func()]

	mu   sync.Mutex
	tell func(repo.Event)
}

func (c *counted) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	c.gets.Add(1)
	r, err := c.Store.Get(ctx, id)
	if f := c.before.Load(); f != nil {
		(*f)()
	}
	return r, err
}

func (c *counted) Subscribe(ctx context.Context, f func(repo.Event)) error {
	c.mu.Lock()
	c.tell = f
	c.mu.Unlock()
	f(repo.Event{Kind: repo.Gap})
	<-ctx.Done()
	return ctx.Err()
}

func (c *counted) event(kind repo.EventKind, id domain.DeviceID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell(repo.Event{Kind: kind, DeviceID: id})
}

type fixture struct {
	*testing.T
	behind *counted
	cache  *cachestore.Store
	id     domain.DeviceID
	ahead  atomic.Int64 // of the clock
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, behind: &counted{Store: memstore.New(time.Now)}}
	now := func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }
	// A minute, so that only what a test does ends an entry.
	f.cache = cachestore.New(f.behind, time.Minute, 1000, now)
	t.Cleanup(func() { _ = f.cache.Close() })
	f.id = newID(t)
	if err := f.cache.Create(t.Context(), domain.Record{DeviceID: f.id, Name: "old"}); err != nil {
		t.Fatal(err)
	}
	f.cached()
	return f
}

func newID(t *testing.T) domain.DeviceID {
	t.Helper()
	id, err := domain.NewDeviceID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// cached reads until the record is answered from the cache.
func (f *fixture) cached() {
	f.Helper()
	for deadline := time.Now().Add(5 * time.Second); f.asks(); {
		if time.Now().After(deadline) {
			f.Fatal("the record is never answered from the cache")
		}
	}
}

func (f *fixture) get() domain.Record {
	f.Helper()
	r, err := f.cache.Get(f.Context(), f.id)
	if err != nil {
		f.Fatal(err)
	}
	return r
}

// asks reports whether the next read goes to the store.
func (f *fixture) asks() bool {
	before := f.behind.gets.Load()
	f.get()
	return f.behind.gets.Load() != before
}

func TestEntryIsTrustedForItsTime(t *testing.T) {
	f := newFixture(t)
	if f.asks() {
		t.Error("a cached record was read from the store")
	}
	f.ahead.Store(int64(time.Minute))
	if !f.asks() {
		t.Error("a record was answered from the cache after its time")
	}
}

// TestR32_EventsDropAtOnce: what another replica has ended is not served.
func TestR32_EventsDropAtOnce(t *testing.T) {
	f := newFixture(t)
	if _, err := f.behind.Store.Delete(t.Context(), f.id, repo.AnyVersion); err != nil {
		t.Fatal(err)
	}
	f.behind.event(repo.Ended, f.id)
	if _, err := f.cache.Get(t.Context(), f.id); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("Get after the event = %v, want ErrNotFound", err)
	}
}

// TestR32_WhoHearsOfAnEndFindsItGone: whoever cuts what a device has open has to
// be sure that it opens nothing anew. The cache's own subscription has not heard
// of the end yet.
func TestR32_WhoHearsOfAnEndFindsItGone(t *testing.T) {
	f := newFixture(t)
	begun, found := make(chan struct{}), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		_ = f.cache.Subscribe(ctx, func(e repo.Event) {
			switch e.Kind {
			case repo.Gap:
				close(begun)
			case repo.Ended:
				_, err := f.cache.Get(ctx, e.DeviceID)
				found <- err
			}
		})
	}()
	<-begun
	f.cached()
	if _, err := f.behind.Store.Delete(ctx, f.id, repo.AnyVersion); err != nil {
		t.Fatal(err)
	}
	f.behind.event(repo.Ended, f.id) // to the last who has subscribed
	if err := <-found; !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("Get by who hears of the end = %v, want ErrNotFound", err)
	}
}

func TestNothingIsTrustedWhileEventsAreCutOff(t *testing.T) {
	f := newFixture(t)
	f.behind.event(repo.Cut, domain.DeviceID{})
	for range 2 {
		if !f.asks() {
			t.Error("a record was answered from the cache while events were cut off")
		}
	}
	f.behind.event(repo.Gap, domain.DeviceID{})
	if !f.asks() {
		t.Error("a record from before the cut was answered from the cache")
	}
	if f.asks() {
		t.Error("the cache does not come back after the cut")
	}
}

func TestReadThatCrossesAChangeIsNotKept(t *testing.T) {
	f := newFixture(t)
	f.behind.event(repo.Changed, f.id)
	// The store has answered "old"; before that arrives, the record changes and
	// its event passes.
	change := func() {
		f.behind.before.Store(nil)
		if err := f.behind.Rename(t.Context(), f.id, "new"); err != nil {
			t.Error(err)
		}
		f.behind.event(repo.Changed, f.id)
	}
	f.behind.before.Store(&change)
	f.get()
	if got := f.get().Name; got != "new" {
		t.Errorf("the name is %q after the event, want the new one", got)
	}
}

func TestOwnWritesAreSeenAtOnce(t *testing.T) {
	f := newFixture(t)
	if err := f.cache.Rename(t.Context(), f.id, "new"); err != nil {
		t.Fatal(err)
	}
	if got := f.get().Name; got != "new" {
		t.Errorf("the name is %q, want the new one", got)
	}
	f.cached()
	if _, err := f.cache.DeleteByOwner(t.Context(), domain.Owner{Issuer: "nobody"}, domain.DeviceID{}); err != nil {
		t.Fatal(err)
	}
	if f.asks() {
		t.Error("somebody else's sign-out emptied the cache")
	}
}

func TestCacheIsBounded(t *testing.T) {
	behind := &counted{Store: memstore.New(time.Now)}
	cache := cachestore.New(behind, time.Hour, 128, time.Now)
	t.Cleanup(func() { _ = cache.Close() })
	var ids []domain.DeviceID
	for range 2000 {
		id := newID(t)
		ids = append(ids, id)
		if err := cache.Create(t.Context(), domain.Record{DeviceID: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := cache.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	before := behind.gets.Load()
	for _, id := range ids {
		if _, err := cache.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if hits := 2000 - (behind.gets.Load() - before); hits > 256 {
		t.Errorf("%d of 2000 records were in a cache of 128", hits)
	}
}
