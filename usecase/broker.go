// Package usecase is what Cloakroom does, in the product's own verbs: SignIn,
// AccessToken, Devices, SignOut. It knows records, owners and tokens; it does
// not know HTTP, cookies or any database. It imports domain alone: what it
// needs of a store and of an auth server is declared below, in the size in
// which it needs it, and app/broker brings the two in.
//
// The way of one refresh is told in refresh.go; flight.go lets only one run
// per device in this process, and the lease in the record only one anywhere.
package usecase

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"cloakroom/domain"
)

// records is what the use cases need of a store. repo.Store has the contract of
// each method.
type records interface {
	Create(ctx context.Context, r domain.Record) error
	Get(ctx context.Context, id domain.DeviceID) (domain.Record, error)
	Overwrite(ctx context.Context, r domain.Record, from int64) error
	ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error
	Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error
	Rename(ctx context.Context, id domain.DeviceID, name string) error
	ListByOwner(ctx context.Context, o domain.Owner) ([]domain.Record, error)
	Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error)
	DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error)
	DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error)
	TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error)
	RenewLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) error
	ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error
	Spend(ctx context.Context, key string, until time.Time) error
	QueueRevocations(ctx context.Context, r []domain.Revocation) error
	ClaimRevocations(ctx context.Context, now, until time.Time, limit int) ([]domain.Revocation, error)
	FinishRevocation(ctx context.Context, id string) error
	Sweep(ctx context.Context, now time.Time, limit int) (int, error)
	Ping(ctx context.Context) error
}

// forgetful is a store with a cache in front that can be told to read a record
// anew.
type forgetful interface{ Forget(id domain.DeviceID) }

// anyVersion is repo.AnyVersion: delete whatever the version.
const anyVersion int64 = 0

// Config is how a Broker behaves. Every field but Metrics is needed.
type Config struct {
	// Providers are all that a device may be signed in with.
	Providers     []Provider
	Lifetimes     domain.Lifetimes
	TouchInterval time.Duration // LastSeenAt is written at most this often for one device
	AuthTimeout   time.Duration // the longest that one call of an auth server takes
	// ProofAge is how long ago somebody may have proved who they are who ends
	// other devices than the one in hand; 0 is any time.
	ProofAge time.Duration
	Now      func() time.Time
	Random   io.Reader // of device ids and tickets: crypto/rand but in tests
	Log      *slog.Logger
	Metrics  Metrics // nil: nobody counts
}

// Broker keeps devices signed in. It is safe for concurrent use.
type Broker struct {
	Config
	store records

	replica     string // who we are in a lease; new with every process
	providers   map[string]*provider
	passwords   *provider // nil if nobody signs in by password
	flights     flights
	refusals    refusals
	revocations revocations
}

// New returns a Broker. Run must be running while it is used.
func New(store records, c Config) *Broker {
	if c.Metrics == nil {
		c.Metrics = unheard{}
	}
	b := &Broker{
		Config:      c,
		store:       store,
		replica:     uuid.NewString(),
		revocations: newRevocations(),
	}
	b.providers, b.passwords = newProviders(c.Providers)
	return b
}

// Run does what happens beside requests, sweeping the store and revoking tokens
// at the auth server, until ctx ends.
func (b *Broker) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { b.sweep(ctx) })
	wg.Go(func() { b.revokeQueued(ctx) })
	wg.Wait()
}

// Drain waits until the refreshes under way have stored what they brought and
// the revocations at hand were tried once more, or are in the store. What is left
// when ctx ends is told in the log.
func (b *Broker) Drain(ctx context.Context) {
	if !b.flights.wait(ctx) {
		b.Log.ErrorContext(ctx, "refreshes did not end before the shutdown", "count", b.flights.count())
	}
	b.drainRevocations(ctx)
}

// Health is what the broker can tell about its surroundings.
type Health struct {
	Store error // nil if it can be reached
	Auth  error // the last failures of refreshes, each provider's until one is answered there
}

// Health asks the store and remembers the auth servers.
func (b *Broker) Health(ctx context.Context) Health {
	return Health{Store: storeError("ping", b.store.Ping(ctx)), Auth: b.lastFailures()}
}

// BreakerOpen reports whether refreshes at a provider are held back, because it
// has been failing.
func (b *Broker) BreakerOpen(provider string) bool {
	p, ok := b.providers[provider]
	return ok && p.breaker.open()
}

// Refreshing returns how many refreshes are under way in this process.
func (b *Broker) Refreshing() int { return b.flights.count() }

const (
	sweepEvery = time.Minute
	sweepBatch = 500
)

// sweep removes records that are over, a batch at a time so that the store is
// never held for long.
func (b *Broker) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		for {
			n, err := b.store.Sweep(ctx, b.now(), sweepBatch)
			if err != nil {
				if ctx.Err() == nil {
					b.Log.WarnContext(ctx, "sweeping the store", "error", err)
				}
				break
			}
			if n < sweepBatch {
				break
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *Broker) now() time.Time { return domain.Now(b.Now) }

// storeError names the operation and marks everything that is not an outcome
// of the contract as domain.ErrStore, so that nobody mistakes an outage for an
// answer.
func storeError(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, domain.ErrNotFound), errors.Is(err, domain.ErrExists), errors.Is(err, domain.ErrConflict),
		errors.Is(err, domain.ErrLeaseHeld), errors.Is(err, domain.ErrLeaseLost):
		return err
	}
	return fmt.Errorf("%s: %w: %w", op, domain.ErrStore, err)
}
