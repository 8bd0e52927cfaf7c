package usecase

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloakroom/domain"
)

const (
	// maxRefreshes call one auth server at once; more wait, holding their lease.
	// The clients have a connection for each of them and each revocation: a call
	// that had to wait for one would do so in its own time, and be given up after
	// the auth server has begun with it.
	maxRefreshes = 32
	// leaseSlack is how much longer a lease is than the call that it guards.
	leaseSlack = 2 * time.Second
	// storeRetry bounds how long a pair that the auth server has rotated is
	// offered to a store that does not take it.
	storeRetry = time.Minute
	// pollFirst and pollLast bound the pause between two looks at a record
	// that another replica refreshes, or at a store that is away.
	pollFirst = 25 * time.Millisecond
	pollLast  = 200 * time.Millisecond
	// refreshAttempts bounds how often one flight starts over because the
	// record moved under it.
	refreshAttempts = 3
	// lastWords bounds what a flight still has to tell the store, however late it
	// is.
	lastWords = 10 * time.Second
)

// refresh gets a device an access token other than stale, by the refresh token,
// exactly once however many ask: in this process by the flight, across replicas
// by the lease in the record. It returns the record with a token that works.
//
//	domain.ErrSignedOut          the device is over: by time, or refused for good
//	domain.ErrBadTicket          it was signed out meanwhile
//	domain.ErrAuthUnavailable    try later; the record is kept
//	domain.ErrAuthMisconfigured  an operator is needed; the record is kept
//	domain.ErrStore              the store could not be asked
//	ctx's error, or a deadline's the caller left; the work goes on
func (b *Broker) refresh(ctx context.Context, rec domain.Record, stale domain.Secret) (domain.Record, error) {
	if err := b.refusals.pausing(rec, b.now()); err != nil {
		return domain.Record{}, err
	}
	id := rec.DeviceID
	// Nobody waits for longer than it takes another replica to be given up and
	// a call to be made.
	ctx, cancel := context.WithTimeout(ctx, b.leaseTTL()+b.AuthTimeout)
	defer cancel()
	fl, joined := b.flights.begin(ctx, id, func(ctx context.Context) (domain.Record, error) {
		return b.fly(ctx, id, stale)
	})
	if joined {
		b.Metrics.RefreshShared()
	}
	start := b.now()
	b.Metrics.RefreshAwaited()
	defer func() { b.Metrics.RefreshWaited(b.now().Sub(start)) }()
	return fl.wait(ctx)
}

// errRefusedForGood: the auth server has refused the device's refresh token.
var errRefusedForGood = fmt.Errorf("%w: its refresh token was refused", domain.ErrSignedOut)

// errGoneMeanwhile: somebody else has ended the device. What the browser holds
// by now may be the ticket of a later sign-in.
var errGoneMeanwhile = fmt.Errorf("%w: it was signed out meanwhile", domain.ErrBadTicket)

// refreshBehind begins a refresh that nobody waits for, unless one is running,
// all slots are taken by requests that do wait, or the auth server would not be
// asked.
func (b *Broker) refreshBehind(ctx context.Context, rec domain.Record) {
	p, err := b.providerOf(rec)
	if err != nil || len(p.slots) == cap(p.slots) || p.breaker.holds(b.now(), rec.DeviceID) != nil || b.refusals.pausing(rec, b.now()) != nil {
		return
	}
	id, stale := rec.DeviceID, rec.Tokens.Access
	b.flights.begin(ctx, id, func(ctx context.Context) (domain.Record, error) {
		return b.fly(ctx, id, stale)
	})
}

// fly is one flight, counted.
func (b *Broker) fly(ctx context.Context, id domain.DeviceID, stale domain.Secret) (domain.Record, error) {
	start := b.now()
	rec, own, err := b.refreshOnce(ctx, id, stale)
	b.Metrics.Refreshed(refreshOutcome(own, err), b.now().Sub(start))
	return rec, err
}

// refreshOnce is the work of one flight: take the lease, read the record again
// under it, exchange the refresh token, store the pair. own reports that the
// token is of this exchange, and not another's.
func (b *Broker) refreshOnce(ctx context.Context, id domain.DeviceID, stale domain.Secret) (rec domain.Record, own bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.leaseTTL()+b.AuthTimeout+storeRetry)
	defer cancel()
	for range refreshAttempts {
		rec, asked, err := b.takeLease(ctx, id, stale)
		if err != nil || asked.IsZero() {
			return rec, false, err
		}
		next, err := b.exchange(ctx, rec, asked)
		b.refusals.note(rec, b.now(), err)
		switch {
		case err == nil:
			rec, err = b.keep(ctx, rec, next)
			return rec, rec.Tokens.Access.Equal(next.Access), err
		case errors.Is(err, domain.ErrInvalidGrant):
			rec, again, err := b.refused(ctx, rec, stale)
			if again {
				continue
			}
			return rec, false, err
		case errors.Is(err, domain.ErrLeaseLost):
			continue
		default:
			b.release(ctx, rec.DeviceID)
			return domain.Record{}, false, fmt.Errorf("refresh: %w", err)
		}
	}
	b.release(ctx, id)
	return domain.Record{}, false, &domain.Unavailable{
		Err:   fmt.Errorf("refresh: %w: the record kept changing", domain.ErrAuthUnavailable),
		Retry: time.Second, Why: RefreshBusy,
	}
}

// fresh reports whether a record has a token other than stale that works, so
// that nothing is left to do.
func (b *Broker) fresh(rec domain.Record, stale domain.Secret) bool {
	return !rec.Tokens.Access.Equal(stale) && b.Lifetimes.AccessUsable(rec.Tokens, b.now())
}

func (b *Broker) leaseTTL() time.Duration { return b.AuthTimeout + leaseSlack }

// takeLease returns the record under our lease and when that was asked for, or,
// if it has become fresh by another's work, without one and the zero time. It
// waits while another holds the lease.
//
// It says itself which of the two it is: whoever asked once more whether the
// record is fresh could find that it has just expired, and go on without a lease.
func (b *Broker) takeLease(ctx context.Context, id domain.DeviceID, stale domain.Secret) (rec domain.Record, asked time.Time, err error) {
	none := time.Time{}
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		asked := b.Now()
		rec, err := b.store.TakeLease(ctx, id, b.replica, b.leaseTTL())
		switch {
		case errors.Is(err, domain.ErrNotFound):
			return domain.Record{}, none, errGoneMeanwhile
		case errors.Is(err, domain.ErrLeaseHeld):
			if b.fresh(rec, stale) {
				return rec, none, nil
			}
			if err := sleep(ctx, pause); err != nil {
				return domain.Record{}, none, &domain.Unavailable{
					Err:   fmt.Errorf("refresh: %w: another replica holds the lease", domain.ErrAuthUnavailable),
					Retry: time.Second, Why: RefreshBusy,
				}
			}
			continue
		case err != nil:
			return domain.Record{}, none, storeError("take the lease", err)
		}
		switch why := b.Lifetimes.Ended(rec, b.now()); {
		case why != domain.NotEnded:
			b.endRecord(ctx, rec, string(why))
			return domain.Record{}, none, domain.ErrSignedOut
		case b.fresh(rec, stale):
			b.release(ctx, rec.DeviceID)
			return rec, none, nil
		}
		return rec, asked, nil
	}
}

// exchange calls the auth server while the lease is renewed. An answer that got
// lost is asked for once more, at once: an auth server with a reuse window gives
// the same successor again, and to one without it the token is spent in any
// case. But a process that stood still may have lost its lease meanwhile, and
// then another has that successor: domain.ErrLeaseLost. It is the same with a
// lease that was asked for long before the first call.
func (b *Broker) exchange(ctx context.Context, rec domain.Record, asked time.Time) (domain.Tokens, error) {
	p, err := b.providerOf(rec)
	if err != nil {
		b.Log.ErrorContext(ctx, "a device cannot be refreshed: check the providers in the settings; nobody is signed out", "device", rec.DeviceID, "error", err)
		return domain.Tokens{}, err
	}
	stop := b.renewLease(context.WithoutCancel(ctx), rec.DeviceID)
	defer stop()
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return domain.Tokens{}, &domain.Unavailable{Err: fmt.Errorf("%w: too many refreshes wait", domain.ErrAuthUnavailable), Retry: time.Second, Why: RefreshBusy}
	}
	// The store may have answered late, a slot been long in coming, the process
	// stood still: it must not present a token that another has spent meanwhile.
	for b.Now().Sub(asked) > b.leaseTTL()/3 {
		asked = b.Now()
		if err := b.extendLease(ctx, rec.DeviceID); err != nil {
			return domain.Tokens{}, storeError("renew the lease", err)
		}
	}
	// A time of its own: a call that is cut short because the flight has waited
	// for long may have spent the token.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*b.AuthTimeout+leaseSlack)
	defer cancel()
	next, err := b.call(ctx, p, rec)
	if lost := (*domain.Unavailable)(nil); !errors.As(err, &lost) || !lost.Lost {
		return next, err
	}
	switch err := b.extendLease(ctx, rec.DeviceID); {
	case errors.Is(err, domain.ErrLeaseLost):
		return domain.Tokens{}, fmt.Errorf("ask again for a lost answer: %w", err)
	case err != nil:
		// That it is lost is not known, and time is short.
		b.Log.WarnContext(ctx, "renewing the lease of a refresh", "device", rec.DeviceID, "error", err)
	}
	return b.call(ctx, p, rec)
}

// extendLease makes our lease last from now on. It is domain.ErrLeaseLost if it
// is not ours any more, or went with its device.
func (b *Broker) extendLease(ctx context.Context, id domain.DeviceID) error {
	err := b.store.RenewLease(ctx, id, b.replica, b.leaseTTL())
	switch {
	case errors.Is(err, domain.ErrLeaseLost):
		b.Metrics.LeaseLost()
	case errors.Is(err, domain.ErrNotFound):
		err = domain.ErrLeaseLost
	}
	return err
}

// call is one call of the auth server, if the breaker allows it. It may take
// AuthTimeout; the lease outlives it. What the answer says of lives counts from
// the call on and not from the answer's arrival: the auth server may have made
// the tokens long before.
func (b *Broker) call(ctx context.Context, p *provider, rec domain.Record) (domain.Tokens, error) {
	if err := p.breaker.allow(b.now(), rec.DeviceID); err != nil {
		return domain.Tokens{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.AuthTimeout)
	defer cancel()
	start := b.now()
	grant, err := p.Tokens.Refresh(ctx, domain.Renewal{Refresh: rec.Tokens.Refresh, Subject: rec.Owner.Subject, DPoPKey: rec.Tokens.DPoPKey})
	p.breaker.done(b.now(), rec.DeviceID, err)
	if !errors.Is(err, domain.ErrAuthUnavailable) {
		b.Metrics.AuthRefusesBroker(p.Name, errors.Is(err, domain.ErrAuthMisconfigured))
	}
	log := b.Log.With("device", rec.DeviceID, "provider", p.Name, "took", b.now().Sub(start))
	switch {
	case err == nil:
		log.InfoContext(ctx, "refreshed")
		if grant.IDDoubt != nil {
			log.WarnContext(ctx, "the refresh brought an ID token that cannot be taken; the one of before is kept", "error", grant.IDDoubt)
		}
	case errors.Is(err, domain.ErrInvalidGrant):
		log.InfoContext(ctx, "refresh refused", "error", err)
	case errors.Is(err, domain.ErrAuthMisconfigured):
		log.ErrorContext(ctx, "the auth server refuses the broker: check its address and fields in the settings; nobody is signed out", "error", err)
	default:
		log.WarnContext(ctx, "refresh did not get through", "error", err)
	}
	if err != nil {
		return domain.Tokens{}, err
	}
	return b.Lifetimes.Renewed(rec.Tokens, grant, start), nil
}

// renewLease keeps the lease alive until it is lost or stop is called.
func (b *Broker) renewLease(ctx context.Context, id domain.DeviceID) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, b.leaseTTL()/3) == nil {
			err := b.extendLease(ctx, id)
			if err != nil && ctx.Err() == nil {
				b.Log.WarnContext(ctx, "renewing the lease of a refresh", "device", id, "error", err)
			}
			if errors.Is(err, domain.ErrLeaseLost) {
				return // the work goes on: the version decides whose pair is stored
			}
		}
	}()
	return func() { cancel(); <-done }
}

// keep stores the pair that the auth server has just given. It holds the only
// refresh token that still works, so a store that fails is asked again until it
// takes the pair or says that it will never.
func (b *Broker) keep(ctx context.Context, rec domain.Record, next domain.Tokens) (domain.Record, error) {
	// A time of its own: whatever was spent on waiting and calling, the pair
	// has all of this to be stored.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeRetry)
	defer cancel()
	stop := b.renewLease(ctx, rec.DeviceID)
	defer stop()
	spent := rec.Tokens.Refresh
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		kept, err := b.replace(ctx, rec, next)
		switch {
		case err == nil:
			return kept, nil
		case errors.Is(err, domain.ErrConflict):
			var cur domain.Record
			if cur, err = b.store.Get(ctx, rec.DeviceID); err == nil {
				if cur.TicketHash != rec.TicketHash || !cur.Tokens.Refresh.Equal(spent) {
					b.release(ctx, rec.DeviceID)
					return b.overtaken(ctx, rec, cur, next), nil
				}
				// The record was written anew with the token that we have
				// spent, as when it is sealed with another key. Our pair is
				// its successor all the same.
				rec, err = cur, storeError("store refreshed tokens", domain.ErrConflict)
			}
		}
		if errors.Is(err, domain.ErrNotFound) {
			// Signed out meanwhile, and sign-out wins. The pair must not live on.
			b.revoke(ctx, rec, next)
			return domain.Record{}, errGoneMeanwhile
		}
		b.Log.WarnContext(ctx, "storing refreshed tokens, trying again", "device", rec.DeviceID, "error", err)
		if sleep(ctx, pause) != nil {
			b.Log.ErrorContext(ctx, "refreshed tokens could not be stored; the device may have to sign in again", "device", rec.DeviceID)
			return domain.Record{}, fmt.Errorf("store refreshed tokens: %w: %w", domain.ErrStore, err)
		}
	}
}

// replace stores the pair if the record is still the one that was read, and
// returns the record as it is then.
func (b *Broker) replace(ctx context.Context, rec domain.Record, next domain.Tokens) (domain.Record, error) {
	seen := rec.LastSeenAt
	rec.Tokens, rec.LastSeenAt = next, b.now() // a refresh follows from a request
	rec.ExpiresAt = b.Lifetimes.EndsAt(rec)
	err := b.store.ReplaceTokens(ctx, rec.DeviceID, b.replica, rec.Version, next, rec.ExpiresAt)
	rec.Version, rec.LastSeenAt, rec.Lease = rec.Version+1, seen, domain.Lease{}
	return rec, err
}

// overtaken sorts out a write that found cur instead of the record that it was
// based on, and returns what there is to use.
func (b *Broker) overtaken(ctx context.Context, rec, cur domain.Record, next domain.Tokens) domain.Record {
	switch {
	case cur.Tokens.Refresh.Equal(next.Refresh):
		// It was our own write whose answer got lost, or another replica was
		// given the same successor within the auth server's reuse window.
	case cur.TicketHash != rec.TicketHash:
		// The person signed in again: our pair belongs to a session that is
		// no more.
		b.revoke(ctx, rec, next)
	default:
		// Another replica refreshed the same session. Its pair and ours are
		// of one family, and revoking ours could end both.
		b.Log.WarnContext(ctx, "another replica stored its refresh first", "device", rec.DeviceID)
	}
	return cur
}

// refused handles invalid_grant. Only if the record, read again, still holds
// the token that was refused is the device over; otherwise another was first
// and what it stored is used, or the refresh starts over with it.
func (b *Broker) refused(ctx context.Context, rec domain.Record, stale domain.Secret) (cur domain.Record, again bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	cur, err = b.store.Get(ctx, rec.DeviceID)
	switch {
	case errors.Is(err, domain.ErrNotFound):
		return domain.Record{}, false, errGoneMeanwhile
	case err != nil:
		b.release(ctx, rec.DeviceID)
		return domain.Record{}, false, storeError("read the record again", err)
	case !cur.Tokens.Refresh.Equal(rec.Tokens.Refresh):
		b.release(ctx, rec.DeviceID)
		return cur, !b.fresh(cur, stale), nil
	}
	switch _, err := b.store.Delete(ctx, rec.DeviceID, cur.Version); {
	case errors.Is(err, domain.ErrConflict):
		return domain.Record{}, true, nil
	case err != nil && !errors.Is(err, domain.ErrNotFound):
		b.release(ctx, rec.DeviceID)
		return domain.Record{}, false, storeError("end the device", err)
	}
	b.logEnd(ctx, rec, endRefused)
	return domain.Record{}, false, errRefusedForGood
}

// release gives the lease back, also when the flight's time is over. If that
// fails it runs out by itself.
func (b *Broker) release(ctx context.Context, id domain.DeviceID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	if err := b.store.ReleaseLease(ctx, id, b.replica); err != nil {
		b.Log.WarnContext(ctx, "giving back the lease of a refresh", "device", id, "error", err)
	}
}

// sleep waits for d, or returns ctx's error if it ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
