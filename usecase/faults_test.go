package usecase_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/cachestore"
	"cloakroom/usecase"
)

// lossy is a store that works and then loses its answer, once, where it is told
// to.
type lossy struct {
	repo.Store
	takes               atomic.Int32
	onDelete, overwrite atomic.Bool
}

func (l *lossy) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	l.takes.Add(1)
	return l.Store.TakeLease(ctx, id, owner, ttl)
}

func (l *lossy) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	went, err := l.Store.Delete(ctx, id, from)
	if l.onDelete.CompareAndSwap(true, false) {
		return domain.Record{}, errDown
	}
	return went, err
}

func (l *lossy) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	err := l.Store.Overwrite(ctx, r, from)
	if l.overwrite.CompareAndSwap(true, false) {
		return errDown
	}
	return err
}

// deaf hears of nothing that others do.
type deaf struct{ repo.Store }

func (d deaf) Subscribe(ctx context.Context, f func(repo.Event)) error {
	f(repo.Event{Kind: repo.Gap})
	<-ctx.Done()
	return ctx.Err()
}

func TestNewTicketAtAReplicaWithAnOldRecordInItsCache(t *testing.T) {
	w := newWorld(t)
	cache := cachestore.New(deaf{w.store}, time.Hour, 100, w.clock.Now)
	t.Cleanup(func() { _ = cache.Close() })
	here, there := w.brokerWith(cache, 5*time.Second, w.clock.Now), w.broker()
	before, rec := w.signIn(there, email, "")
	w.eventually("the record is in the cache", func() bool {
		w.works(here, before)
		w.store.down.Store(true)
		defer w.store.down.Store(false)
		_, err := cache.Get(t.Context(), rec.DeviceID)
		return err == nil
	})
	after, _ := w.signIn(there, email, before.Ticket)
	if _, err := here.Open(t.Context(), after); err != nil {
		t.Errorf("Open with the ticket of a moment ago = %v", err)
	}
}

// TestR13_SignOutWhoseAnswerIsLostRevokes: nobody else has the pair any more.
func TestR13_SignOutWhoseAnswerIsLostRevokes(t *testing.T) {
	w := newWorld(t)
	store := &lossy{Store: w.store}
	b := w.brokerWith(store, 5*time.Second, w.clock.Now)
	_, rec := w.signIn(b, email, "")
	store.onDelete.Store(true)
	if err := b.SignOut(t.Context(), rec, rec.DeviceID); err == nil {
		t.Error("SignOut = nil, although nobody knows")
	}
	w.eventually("the pair is revoked", func() bool { return !w.auth.Valid(rec.Tokens.Access.Reveal()) })
}

func TestSecondSignInWhoseAnswerIsLost(t *testing.T) {
	w := newWorld(t)
	store := &lossy{Store: w.store}
	b := w.brokerWith(store, 5*time.Second, w.clock.Now)
	before, rec := w.signIn(b, email, "")
	store.overwrite.Store(true)
	after, _ := w.signIn(b, email, before.Ticket)
	w.works(b, after)
	w.eventually("the pair of the session before is revoked", func() bool { return !w.auth.Valid(rec.Tokens.Access.Reveal()) })
	w.works(b, after)
}

func TestRecordWithoutRefreshTokenIsNotExchanged(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	tokens := rec.Tokens
	tokens.Refresh, tokens.RefreshExpiry = domain.Secret{}, time.Time{}
	if err := w.store.Store.ReplaceTokens(t.Context(), rec.DeviceID, "a test", rec.Version, tokens, tokens.AccessExpiry); err != nil {
		t.Fatal(err)
	}
	w.clock.advance(life - 3*time.Second) // in the margin
	w.works(b, v)
	if n := w.refreshCalls(); n != 0 {
		t.Errorf("%d exchanges of no token at all", n)
	}
}

// TestLeasesLeftBehindHoldUpNobodyElse: those who wait for a dead replica's
// leases take no place from those who need not.
func TestLeasesLeftBehindHoldUpNobodyElse(t *testing.T) {
	const dead = 100 // more than may call the auth server at once
	w := newWorld(t)
	store := &lossy{Store: w.store}
	// The store's clock stands still for its leases, the broker's moves on.
	b := w.brokerWith(store, 5*time.Second, func() time.Time { return w.clock.Now().Add(life) })
	before := w.broker()
	var visits []usecase.Visit
	for range dead {
		v, rec := w.signIn(before, email, "")
		visits = append(visits, v)
		t.Cleanup(func() { _, _ = w.store.Delete(context.Background(), rec.DeviceID, repo.AnyVersion) })
		if _, err := w.store.TakeLease(t.Context(), rec.DeviceID, "a replica that died", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	free, _ := w.signIn(before, email, "")
	waiting, stop := context.WithCancel(t.Context())
	defer stop()
	for _, v := range visits {
		go func() { _, _ = b.AccessToken(waiting, v) }()
	}
	w.eventually("all wait", func() bool { return store.takes.Load() >= dead })
	if _, err := b.AccessToken(t.Context(), free); err != nil {
		t.Errorf("AccessToken of a device that nobody holds = %v", err)
	}
}

// slowLease is a store that answers TakeLease only after something else.
type slowLease struct {
	repo.Store
	after func()
}

func (s *slowLease) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	rec, err := s.Store.TakeLease(ctx, id, owner, ttl)
	if after := s.after; after != nil {
		s.after = nil
		after()
	}
	return rec, err
}

// TestLeaseThatIsOverBeforeTheCall: the store answers so late that another
// replica has had the lease and spent the token meanwhile.
func TestLeaseThatIsOverBeforeTheCall(t *testing.T) {
	w := newWorld(t)
	store := &slowLease{Store: w.store}
	slow, other := w.brokerWith(store, 5*time.Second, w.clock.Now), w.broker()
	v, _ := w.signIn(other, email, "")
	w.clock.advance(life)
	store.after = func() {
		w.clock.advance(10 * time.Second)
		w.works(other, v)
	}
	w.works(slow, v)
	if n := w.auth.Thefts(); n != 0 {
		t.Errorf("the auth server saw %d refresh tokens twice", n)
	}
	if n := w.refreshCalls(); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}
