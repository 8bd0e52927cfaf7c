package usecase_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/repo"
	"cloakroom/repo/memstore"
	"cloakroom/usecase"
)

const (
	issuer   = "https://auth.test"
	email    = "ada@example.com"
	password = "correct horse"
	life     = 10 * time.Minute // of an access token
)

// clock runs like the real one, some time ahead of it.
type clock struct{ ahead atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// world is an auth server, a store, and the broker's replicas between them.
type world struct {
	*testing.T
	clock *clock
	auth  *authapitest.Server
	store *faultyStore
	log   *syncBuffer

	brokers []*usecase.Broker // that run
}

// syncBuffer collects what is logged, for tests that look into it.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// faultyStore is a store that can be made to fail.
type faultyStore struct {
	repo.Store
	down       atomic.Bool // every method of the contract that the tests use fails
	replace    atomic.Int32
	loseAnswer atomic.Bool // the next ReplaceTokens works and reports a failure
	touches    atomic.Int32
	// sidFailures is how often DeleteBySID is still to fail.
	sidFailures atomic.Int32
}

var errDown = errors.New("connection refused")

func (s *faultyStore) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	if s.down.Load() {
		return domain.Record{}, errDown
	}
	return s.Store.Get(ctx, id)
}

func (s *faultyStore) ReplaceTokens(ctx context.Context, id domain.DeviceID, owner string, from int64, t domain.Tokens, end time.Time) error {
	if s.replace.Add(-1) >= 0 {
		return errDown
	}
	err := s.Store.ReplaceTokens(ctx, id, owner, from, t, end)
	if err == nil && s.loseAnswer.CompareAndSwap(true, false) {
		return errDown
	}
	return err
}

func (s *faultyStore) DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error) {
	if s.sidFailures.Add(-1) >= 0 {
		return nil, errDown
	}
	return s.Store.DeleteBySID(ctx, issuer, sid)
}

func (s *faultyStore) Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error {
	s.touches.Add(1)
	return s.Store.Touch(ctx, id, seen)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, clock: &clock{}, log: &syncBuffer{}}
	w.auth = authapitest.New(t)
	w.auth.Set(func(o *authapitest.Options) { o.Now, o.AccessLife = w.clock.Now, life })
	w.auth.AddAccount(email, password)
	w.store = &faultyStore{Store: memstore.New(w.clock.Now)}
	return w
}

// broker starts another replica.
func (w *world) broker() *usecase.Broker { return w.brokerAt(w.clock.Now) }

// brokerAt starts another replica, which goes by a clock of its own.
func (w *world) brokerAt(now func() time.Time) *usecase.Broker {
	w.Helper()
	return w.brokerWith(w.store, 5*time.Second, now)
}

// brokerOf starts another replica that knows further providers.
func (w *world) brokerOf(more ...usecase.Provider) *usecase.Broker {
	w.Helper()
	return w.brokerWith(w.store, 5*time.Second, w.clock.Now, more...)
}

// brokerWith starts another replica with a store, a timeout for calls of the
// auth server and a clock of its own.
func (w *world) brokerWith(store repo.Store, timeout time.Duration, now func() time.Time, more ...usecase.Provider) *usecase.Broker {
	w.Helper()
	b := w.newBroker(store, timeout, now, more...)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })
	w.Cleanup(func() { cancel(); running.Wait() })
	w.brokers = append(w.brokers, b)
	return b
}

// deadBroker makes a replica that answers requests and does nothing behind them,
// like one that is killed just after.
func (w *world) deadBroker(store repo.Store) *usecase.Broker {
	w.Helper()
	return w.newBroker(store, 5*time.Second, w.clock.Now)
}

func (w *world) newBroker(store repo.Store, timeout time.Duration, now func() time.Time, more ...usecase.Provider) *usecase.Broker {
	w.Helper()
	client := w.client(w.auth, timeout)
	own := usecase.Provider{Name: "password", Issuer: issuer, Tokens: client, Passwords: client}
	return usecase.New(store, w.config(timeout, now, append([]usecase.Provider{own}, more...)...))
}

func (w *world) config(timeout time.Duration, now func() time.Time, providers ...usecase.Provider) usecase.Config {
	return usecase.Config{
		Providers:     providers,
		TouchInterval: time.Minute, AuthTimeout: timeout,
		Lifetimes: domain.Lifetimes{
			Access: 15 * time.Minute, Refresh: 30 * 24 * time.Hour, Idle: 14 * 24 * time.Hour, Absolute: 90 * 24 * time.Hour,
			Margin: 5 * time.Second, Ahead: 30 * time.Second,
		},
		Now: now, Random: rand.Reader, Log: slog.New(slog.NewTextHandler(w.log, nil)),
	}
}

func (w *world) client(auth *authapitest.Server, timeout time.Duration) *authapi.Client {
	w.Helper()
	base, err := url.Parse(auth.URL)
	if err != nil {
		w.Fatal(err)
	}
	client := authapi.New(authapi.Config{
		BaseURL: base, RegisterPath: authapitest.RegisterPath, LoginPath: authapitest.LoginPath,
		RefreshPath: authapitest.RefreshPath, RevokePath: authapitest.RevokePath, Timeout: timeout,
	})
	w.Cleanup(client.Close)
	return client
}

// signIn signs in with a browser that brings along a ticket, or "".
func (w *world) signIn(b *usecase.Broker, who, ticket string) (visit usecase.Visit, rec domain.Record) {
	w.Helper()
	got, rec, err := b.SignIn(w.Context(), usecase.SignIn{
		Credentials: domain.Credentials{Email: who, Password: domain.NewSecret(password), IP: "192.0.2.1"},
		IP:          "192.0.2.1",
		Ticket:      ticket,
		UserAgent:   "test",
	})
	if err != nil {
		w.Fatalf("sign in as %s: %v", who, err)
	}
	return usecase.Visit{Ticket: got.Reveal(), IP: "192.0.2.1"}, rec
}

// record returns what the store keeps of a device.
func (w *world) record(id domain.DeviceID) domain.Record {
	w.Helper()
	rec, err := w.store.Store.Get(w.Context(), id)
	if err != nil {
		w.Fatalf("the record is not there: %v", err)
	}
	return rec
}

func (w *world) gone(id domain.DeviceID) bool {
	_, err := w.store.Store.Get(context.Background(), id)
	return errors.Is(err, domain.ErrNotFound)
}

func (w *world) refreshCalls() int { return len(w.auth.Requests(authapitest.RefreshPath)) }

// eventually waits for something that is to become true.
func (w *world) eventually(what string, ok func() bool) {
	w.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain until %s", what)
		}
		for _, b := range w.brokers {
			b.LookForRevocations()
		}
		<-time.After(time.Millisecond)
	}
}

// works checks that a token can be had and that the auth server holds it good.
func (w *world) works(b *usecase.Broker, v usecase.Visit) domain.Record {
	w.Helper()
	s, err := b.AccessToken(w.Context(), v)
	if err != nil {
		w.Fatalf("AccessToken: %v", err)
	}
	if !w.auth.Valid(s.Record.Tokens.Access.Reveal()) {
		w.Fatal("AccessToken gave a token that does not work")
	}
	return s.Record
}
