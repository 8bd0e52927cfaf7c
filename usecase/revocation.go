package usecase

import (
	"context"
	"errors"
	"time"

	"cloakroom/domain"
)

const (
	// revokers is how many revocations are under way at once.
	revokers = 2
	// revocationQueue is how many wait. More are given up with a line in the
	// log: the device is signed out here in any case, and its tokens run out.
	revocationQueue = 4096
	// revocationTries and revocationPause say how often one is tried, and how
	// long the pause after the first failure is; it doubles.
	revocationTries = 6
	revocationPause = time.Second
)

// revocations is the queue of token pairs that the auth server is still to be
// told to forget. Signing out never waits for it.
type revocations struct{ queue chan revocation }

type revocation struct {
	of     domain.Record // whose tokens they are: tells whom to ask
	tokens domain.Tokens
	tries  int
}

func newRevocations() revocations {
	return revocations{queue: make(chan revocation, revocationQueue)}
}

// revoke queues a pair of a device (RFC 7009), at the provider that it is of.
// Tokens without a refresh token are left to expire.
func (b *Broker) revoke(ctx context.Context, of domain.Record, t domain.Tokens) {
	if t.Refresh.Empty() {
		return
	}
	b.queueRevocation(ctx, revocation{of: of, tokens: t})
}

func (b *Broker) queueRevocation(ctx context.Context, r revocation) {
	select {
	case b.revocations.queue <- r:
	default:
		b.Metrics.Revoked(RevokeGivenUp)
		b.Log.ErrorContext(ctx, "too many revocations wait; one is given up and its tokens live until they expire")
	}
}

// revokeQueued works on the queue until ctx ends.
func (b *Broker) revokeQueued(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-b.revocations.queue:
			for !b.revokeNow(ctx, r) {
				if r.tries++; r.tries == revocationTries {
					b.Metrics.Revoked(RevokeGivenUp)
					b.Log.ErrorContext(ctx, "a revocation is given up; its tokens live until they expire", "tries", r.tries)
					break
				}
				if sleep(ctx, revocationPause<<(r.tries-1)) != nil {
					b.queueRevocation(ctx, r) // for Drain
					return
				}
			}
		}
	}
}

// RevocationsPending returns how many pairs wait to be revoked.
func (b *Broker) RevocationsPending() int { return len(b.revocations.queue) }

// drainRevocations tries once more what is queued, until ctx ends.
func (b *Broker) drainRevocations(ctx context.Context) {
	for {
		select {
		case r := <-b.revocations.queue:
			if ctx.Err() != nil || !b.revokeNow(ctx, r) {
				b.Metrics.Revoked(RevokeGivenUp)
				b.Log.WarnContext(ctx, "a revocation is given up at shutdown; its tokens live until they expire")
			}
		default:
			return
		}
	}
}

// revokeNow tells the auth server and reports whether nothing is left to do.
func (b *Broker) revokeNow(ctx context.Context, r revocation) bool {
	p, err := b.providerOf(r.of)
	if err != nil {
		b.Log.WarnContext(ctx, "tokens cannot be revoked and live until they expire", "device", r.of.DeviceID, "error", err)
		return true
	}
	t := r.tokens
	ctx, cancel := context.WithTimeout(ctx, b.AuthTimeout)
	defer cancel()
	access := t.Access
	if !b.Lifetimes.AccessAlive(t, b.now()) {
		access = domain.Secret{} // a server that checks it would refuse the call for it
	}
	err = p.Tokens.Revoke(ctx, t.Refresh, access)
	if err != nil {
		b.Log.WarnContext(ctx, "revoking tokens at the auth server", "provider", p.Name, "error", err)
	}
	// A pair that the auth server does not know any more is as good as revoked.
	done := err == nil || errors.Is(err, domain.ErrInvalidGrant)
	if done {
		b.Metrics.Revoked(RevokeDone)
	} else {
		b.Metrics.Revoked(RevokeFailed)
	}
	return done
}
