package usecase

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"cloakroom/domain"
)

// When a session is over the auth server is told to forget its pair (RFC 7009).
// Nobody who signs out waits for that, and no crash or outage makes it undone:
//
// announce puts the pair into the store's queue before the device is ended, to be
// revoked unless the device is still signed in. pursue goes after it as soon as
// the store has answered. Whoever dies between the two, or never hears the
// answer, leaves the announcement behind; it comes due after revocationHold, and
// some replica looks whether the device has ended.
const (
	// revokers is how many revocations are under way at once.
	revokers = 8
	// revocationHold is how long those that announce a revocation, or have claimed
	// it, have it alone. It is longer than the calls that end a device may take,
	// and than one of the auth server.
	revocationHold = time.Minute
	// revocationFirst and revocationLast bound the pause after a failure, which
	// doubles; up to half of it is left to chance.
	revocationFirst = time.Second
	revocationLast  = 5 * time.Minute
	// revocationPoll is how often each replica looks for what others have left.
	revocationPoll = 5 * time.Second
	// revocationsAtHand is how many this process keeps beside those in the store.
	revocationsAtHand = 4096
	// providerPauseLast bounds how long a provider that fails is left alone by
	// all revocations.
	providerPauseLast = time.Minute
	// queueWithin bounds how long a pair that nobody else has is offered to the
	// queue before it is kept in memory alone.
	queueWithin = 5 * time.Second
	// mostRevocations is repo.MostRevocations.
	mostRevocations = 128
)

// revocations is what this process knows of the queue.
type revocations struct {
	slots chan struct{} // one for each revocation under way
	wake  chan struct{} // holds at most one token: there may be something to do

	mu     sync.Mutex
	atHand []pending
	due    time.Time // when the next that this process has put back is; zero if unknown
	paused map[string]providerPause
}

// pending is a revocation that this process has at hand.
type pending struct {
	domain.Revocation
	at     time.Time // when it is to be tried
	queued bool      // the store has it too
	due    bool      // it has come due in the store
}

type providerPause struct {
	until    time.Time
	failures int // in a row
}

func newRevocations() revocations {
	return revocations{
		slots: make(chan struct{}, revokers), wake: make(chan struct{}, 1), paused: make(map[string]providerPause),
	}
}

// announce queues the pairs of devices that are about to end. A pair without a
// refresh token is left to expire. That the store does not take it is told in
// the log and keeps nobody signed in: pursue has it in memory.
func (b *Broker) announce(ctx context.Context, devices ...domain.Record) []pending {
	var all []pending
	for _, rec := range devices {
		if !rec.Tokens.Refresh.Empty() {
			p := b.newPending(rec, rec.Tokens)
			p.Unless = rec.TicketHash
			all = append(all, p)
		}
	}
	b.enqueue(ctx, all)
	return all
}

// pursue has revoked what was announced, if the device has ended: it looks, so it
// needs not be told. What went is known if the store has answered. A pair that was
// not announced is queued now; it takes the place of the announced one if it is
// of the same sign-in, refreshed in between.
func (b *Broker) pursue(ctx context.Context, announced []pending, went ...domain.Record) {
	var late []pending
	for _, rec := range went {
		if rec.Tokens.Refresh.Empty() {
			continue
		}
		at := slices.IndexFunc(announced, func(p pending) bool { return p.DeviceID == rec.DeviceID })
		if at >= 0 && announced[at].Refresh.Equal(rec.Tokens.Refresh) {
			continue
		}
		p := b.newPending(rec, rec.Tokens)
		if at >= 0 && announced[at].Unless == rec.TicketHash {
			p.ID = announced[at].ID
			announced = slices.Delete(announced, at, at+1)
		}
		late = append(late, p)
	}
	b.enqueueSurely(ctx, late)
	b.takeInHand(ctx, append(announced, late...)...)
}

// revoke queues a pair of a device whose session is over without a doubt.
func (b *Broker) revoke(ctx context.Context, of domain.Record, t domain.Tokens) {
	if t.Refresh.Empty() {
		return
	}
	all := []pending{b.newPending(of, t)}
	b.enqueueSurely(ctx, all)
	b.takeInHand(ctx, all...)
}

func (b *Broker) newPending(of domain.Record, t domain.Tokens) pending {
	now := b.now()
	return pending{at: now, Revocation: domain.Revocation{
		ID: uuid.NewString(), DeviceID: of.DeviceID, Provider: of.Provider, Owner: of.Owner, SID: of.SID,
		Refresh: t.Refresh, Access: t.Access, AccessExpiry: t.AccessExpiry,
		NotBefore: now.Add(revocationHold), ExpiresAt: t.RefreshExpiry,
	}}
}

// enqueueSurely is enqueue for pairs that nobody else has: the end of the
// caller's context does not keep them out of the queue.
func (b *Broker) enqueueSurely(ctx context.Context, all []pending) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), queueWithin)
	defer cancel()
	b.enqueue(ctx, all)
}

func (b *Broker) enqueue(ctx context.Context, all []pending) {
	for some := range slices.Chunk(all, mostRevocations) {
		list := make([]domain.Revocation, len(some))
		for i, p := range some {
			list[i] = p.Revocation
		}
		err := b.store.QueueRevocations(ctx, list)
		if err != nil {
			b.Log.ErrorContext(ctx, "revocations are not in the store's queue; as long as this process lives they are tried from memory", "count", len(some), "error", err)
		}
		for i := range some {
			some[i].queued = err == nil
		}
	}
}

// takeInHand keeps revocations in memory until they are tried. If there are too
// many, those in the store's queue are left to come due there.
func (b *Broker) takeInHand(ctx context.Context, all ...pending) {
	v := &b.revocations
	v.mu.Lock()
	givenUp := 0
	for _, p := range all {
		switch {
		case len(v.atHand) < revocationsAtHand:
			v.atHand = append(v.atHand, p)
		case p.queued:
		default:
			givenUp++
		}
	}
	v.mu.Unlock()
	for range givenUp {
		b.Metrics.Revoked(RevokeGivenUp)
		b.Log.ErrorContext(ctx, "too many revocations wait in memory; one is given up and its tokens live until they expire")
	}
	v.nudge()
}

func (v *revocations) nudge() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// take returns up to limit of those at hand that are due.
func (v *revocations) take(now time.Time, limit int) []pending {
	v.mu.Lock()
	defer v.mu.Unlock()
	var due []pending
	v.atHand = slices.DeleteFunc(v.atHand, func(p pending) bool {
		if len(due) == limit || now.Before(p.at) {
			return false
		}
		due = append(due, p)
		return true
	})
	return due
}

// pause returns how long there is nothing to do for this process, as far as it
// knows.
func (v *revocations) pause(now time.Time) time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	pause := revocationPoll/2 + rand.N(revocationPoll/2)
	if v.due.After(now) {
		pause = min(pause, v.due.Sub(now))
	}
	if len(v.slots) == revokers {
		return pause // until one of them is done
	}
	for _, p := range v.atHand {
		pause = min(pause, p.at.Sub(now))
	}
	return max(pause, time.Millisecond)
}

// putBack notes when the next is due.
func (v *revocations) putBack(now, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.due.After(now) || at.Before(v.due) {
		v.due = at
	}
}

// RevocationsPending returns how many pairs this process has at hand to be
// revoked.
func (b *Broker) RevocationsPending() int {
	b.revocations.mu.Lock()
	defer b.revocations.mu.Unlock()
	return len(b.revocations.atHand) + len(b.revocations.slots)
}

// revokeQueued works on what is at hand and on what is due in the store's queue,
// whoever put it there, until ctx ends.
func (b *Broker) revokeQueued(ctx context.Context) {
	v := &b.revocations
	var working sync.WaitGroup
	defer working.Wait()
	for {
		now := b.now()
		free := revokers - len(v.slots)
		batch := v.take(now, free)
		if more := free - len(batch); more > 0 {
			claimed, err := b.store.ClaimRevocations(ctx, now, now.Add(revocationHold), more)
			if err != nil && ctx.Err() == nil {
				b.Log.WarnContext(ctx, "looking for revocations in the store", "error", err)
			}
			for _, r := range claimed {
				batch = append(batch, pending{Revocation: r, queued: true, due: true})
			}
		}
		for _, p := range batch {
			v.slots <- struct{}{} // no other loop takes any
			working.Go(func() {
				b.try(ctx, p)
				<-v.slots
				v.nudge()
			})
		}
		wait := time.NewTimer(v.pause(b.now()))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-v.wake:
		case <-wait.C:
		}
		wait.Stop()
	}
}

// drainRevocations tries once more what is at hand, until ctx ends. What the
// store has is done by the next who runs.
func (b *Broker) drainRevocations(ctx context.Context) {
	v := &b.revocations
	for _, p := range v.take(b.now().Add(revocationLast), revocationsAtHand) {
		if ctx.Err() == nil {
			b.try(ctx, p)
		} else {
			b.takeInHand(ctx, p)
		}
	}
	for _, p := range v.take(b.now().Add(2*revocationLast), revocationsAtHand) {
		if !p.queued {
			b.Metrics.Revoked(RevokeGivenUp)
			b.Log.ErrorContext(ctx, "a revocation is given up at shutdown, because the store does not take it; its tokens live until they expire", "device", p.DeviceID)
		}
	}
}

// try tries a revocation once and sees to what follows.
func (b *Broker) try(ctx context.Context, p pending) {
	now := b.now()
	if !now.Before(p.ExpiresAt) {
		if p.Tries > 0 {
			b.Metrics.Revoked(RevokeGivenUp)
			b.Log.ErrorContext(ctx, "a revocation has not got through until its tokens were over", "device", p.DeviceID, "provider", p.Provider, "tries", p.Tries)
		}
		b.finish(ctx, p)
		return
	}
	over, err := b.over(ctx, p.Revocation)
	switch {
	case err != nil:
		b.Log.WarnContext(ctx, "looking whether a device has ended whose tokens are to be revoked", "device", p.DeviceID, "error", err)
		if !p.queued { // or else it comes due in the store
			p.Tries++
			p.at = now.Add(revocationPause(p.Tries))
			b.takeInHand(ctx, p)
		}
		return
	case !over && (p.due || !now.Before(p.NotBefore)):
		b.finish(ctx, p) // nothing came of its end, or its grant goes on
		return
	case !over:
		if !p.queued {
			p.at = p.NotBefore
			b.takeInHand(ctx, p)
		}
		return
	}
	p.Unless = domain.TicketHash{}
	switch until, paused := b.revocations.pausedUntil(now, p.Provider); {
	case paused:
		p.at = until.Add(rand.N(revocationFirst))
	case b.tellRevoked(ctx, p.Revocation):
		b.finish(ctx, p)
		return
	default:
		p.Tries++
		p.at = now.Add(revocationPause(p.Tries))
	}
	p.NotBefore, p.due = p.at, false
	if err := b.store.QueueRevocations(ctx, []domain.Revocation{p.Revocation}); err != nil {
		b.takeInHand(ctx, p) // the store may have it, and then it comes due there as well
		return
	}
	b.revocations.putBack(now, p.at)
}

// revocationPause is the pause after so many failures.
func revocationPause(tries int) time.Duration {
	pause := revocationLast
	if tries < 10 { // beyond which it is longer than the last
		pause = min(revocationFirst<<(tries-1), revocationLast)
	}
	return pause/2 + rand.N(pause/2)
}

// over reports whether the session of a pair is over, as far as that is in doubt,
// and its grant with it.
func (b *Broker) over(ctx context.Context, r domain.Revocation) (bool, error) {
	if r.Unless != (domain.TicketHash{}) {
		if cache, ok := b.store.(forgetful); ok {
			cache.Forget(r.DeviceID)
		}
		rec, err := b.read(ctx, r.DeviceID)
		switch {
		case errors.Is(err, domain.ErrNotFound):
		case err != nil, rec.TicketHash == r.Unless:
			return false, err
		}
	}
	return b.grantOver(ctx, r)
}

// grantOver reports whether no device may live by the grant that a pair is of.
// A person who signs in again while the provider's own session lasts gets tokens
// of the grant that they have, and to revoke any of them may end all (RFC 7009,
// section 2.1). A pair that is kept for that is nobody's, and ends with the last.
func (b *Broker) grantOver(ctx context.Context, r domain.Revocation) (bool, error) {
	p, known := b.providers[r.Provider]
	if !known || p.Client == "" {
		return true, nil
	}
	list, err := b.store.ListByOwner(ctx, r.Owner)
	now := b.now()
	return err == nil && !slices.ContainsFunc(list, func(rec domain.Record) bool {
		told := rec.SID != "" && r.SID != "" // of both, which session they are of
		at, known := b.providers[rec.Provider]
		return known && at.Client == p.Client && (!told || rec.SID == r.SID) && b.Lifetimes.Ended(rec, now) == domain.NotEnded
	}), err
}

// finish takes a revocation out of the queue. If that fails it comes due again,
// and the auth server is told twice, which does no harm.
func (b *Broker) finish(ctx context.Context, p pending) {
	if err := b.store.FinishRevocation(ctx, p.ID); err != nil {
		b.Log.WarnContext(ctx, "taking a revocation out of the queue", "device", p.DeviceID, "error", err)
	}
}

// tellRevoked tells the auth server and reports whether nothing is left to do.
func (b *Broker) tellRevoked(ctx context.Context, r domain.Revocation) bool {
	err := b.tell(ctx, r)
	b.revocations.answered(b.now(), r.Provider, err)
	if err != nil {
		b.Metrics.Revoked(RevokeFailed)
		b.Log.WarnContext(ctx, "revoking tokens at the auth server", "device", r.DeviceID, "provider", r.Provider, "tries", r.Tries+1, "error", err)
		return false
	}
	b.Metrics.Revoked(RevokeDone)
	return true
}

func (b *Broker) tell(ctx context.Context, r domain.Revocation) error {
	p, err := b.providerOf(domain.Record{Provider: r.Provider, Owner: r.Owner})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, b.AuthTimeout)
	defer cancel()
	access := r.Access
	if !b.now().Before(r.AccessExpiry) {
		access = domain.Secret{} // a server that checks it would refuse the call for it
	}
	if err := p.Tokens.Revoke(ctx, r.Refresh, access); !errors.Is(err, domain.ErrInvalidGrant) {
		return err
	}
	return nil // a pair that the auth server does not know any more is as good as revoked
}

func (v *revocations) pausedUntil(now time.Time, provider string) (time.Time, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	until := v.paused[provider].until
	return until, now.Before(until)
}

// answered takes the outcome of a call. A provider that fails is left alone for
// ever longer, so that the many pairs of one that is away neither hammer it nor
// take their turns from others.
func (v *revocations) answered(now time.Time, provider string, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err == nil {
		delete(v.paused, provider)
		return
	}
	p := v.paused[provider]
	p.failures++
	p.until = now.Add(min(revocationPause(p.failures)/2, providerPauseLast))
	v.paused[provider] = p
}
