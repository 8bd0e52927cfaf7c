package usecase_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/repo"
	"cloakroom/repo/memstore"
	"cloakroom/usecase"
)

// frozen starts a replica whose clock is life later than the world's and stands
// still but when it is moved.
func (w *world) frozen() (b *usecase.Broker, move func(time.Duration)) {
	w.Helper()
	var at atomic.Int64
	at.Store(w.clock.Now().Add(life).UnixMilli())
	return w.brokerAt(func() time.Time { return time.UnixMilli(at.Load()) }), func(d time.Duration) { at.Add(d.Milliseconds()) }
}

// TestRefusedDeviceDoesNotCallWithEachRequest: an answer that is neither a token
// nor the end of one keeps the device, and may never change.
func TestRefusedDeviceDoesNotCallWithEachRequest(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	other, _ := w.signIn(b, email, "")
	b, move := w.frozen()
	w.auth.Always(authapitest.RefreshPath, authapitest.Answer(http.StatusForbidden, `{"detail":"This account is closed."}`))
	refused := func() {
		t.Helper()
		for range 20 {
			if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrAuthMisconfigured) {
				t.Fatalf("AccessToken = %v, want ErrAuthMisconfigured", err)
			}
		}
	}
	for calls, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second} {
		refused()
		if n := w.refreshCalls(); n != calls+1 {
			t.Fatalf("%d calls of the auth server, want %d", n, calls+1)
		}
		move(pause - time.Millisecond)
		refused()
		if n := w.refreshCalls(); n != calls+1 {
			t.Fatalf("%d calls of the auth server before the pause of %v was over, want %d", n, pause, calls+1)
		}
		move(time.Millisecond)
	}
	refused()
	if got := w.record(rec.DeviceID); got.Lease.Owner != "" {
		t.Error("the lease was not given back")
	}
	w.auth.Always(authapitest.RefreshPath, nil)
	w.works(b, other) // another device waits for nobody's pause
	move(15 * time.Second)
	w.works(b, v)
}

// TestRefusedDeviceRefreshesNotBehindEachRequest is the same while the old token
// lives.
func TestRefusedDeviceRefreshesNotBehindEachRequest(t *testing.T) {
	w := newWorld(t)
	v, rec := w.signIn(w.broker(), email, "")
	b, move := w.frozen()
	move(-20 * time.Second)
	w.auth.Always(authapitest.RefreshPath, authapitest.Refuse("invalid_client"))
	for range 20 {
		if _, err := b.AccessToken(t.Context(), v); err != nil {
			t.Fatalf("AccessToken with a token that lives = %v", err)
		}
		b.Drain(t.Context())
	}
	if n := w.refreshCalls(); n != 1 {
		t.Errorf("%d calls of the auth server in 20 requests, want 1", n)
	}
	if w.gone(rec.DeviceID) {
		t.Error("the device ended")
	}
}

// TestSignInEndsThePauseOfARefusal: what was refused was another token.
func TestSignInEndsThePauseOfARefusal(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, _ := w.signIn(b, email, "")
	w.clock.advance(life)
	w.auth.Next(authapitest.RefreshPath, authapitest.Refuse("invalid_client"))
	if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrAuthMisconfigured) {
		t.Fatalf("AccessToken = %v, want ErrAuthMisconfigured", err)
	}
	w.auth.Set(func(o *authapitest.Options) { o.AccessLife = time.Millisecond })
	v, _ = w.signIn(b, email, v.Ticket)
	w.auth.Set(func(o *authapitest.Options) { o.AccessLife = life })
	w.clock.advance(time.Millisecond)
	w.works(b, v)
}

// TestOneDeviceOpensTheBreakerForItselfAlone: an auth server may fail over one
// person each time, and their browser ask on and on.
func TestOneDeviceOpensTheBreakerForItselfAlone(t *testing.T) {
	w := newWorld(t)
	before := w.broker()
	sick, _ := w.signIn(before, email, "")
	well, _ := w.signIn(before, email, "")
	b, move := w.frozen()
	fails := func(v usecase.Visit, calls int) {
		t.Helper()
		w.auth.Always(authapitest.RefreshPath, authapitest.Answer(http.StatusInternalServerError, ""))
		had := w.refreshCalls()
		if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrAuthUnavailable) {
			t.Fatalf("AccessToken = %v, want ErrAuthUnavailable", err)
		}
		w.auth.Always(authapitest.RefreshPath, nil)
		if n := w.refreshCalls() - had; n != calls {
			t.Fatalf("%d calls of the auth server, want %d", n, calls)
		}
	}
	for range 5 {
		fails(sick, 1)
	}
	fails(sick, 0)
	fails(well, 1) // now it is not one device alone
	fails(well, 0)
	fails(sick, 0)
	move(500 * time.Millisecond)
	fails(sick, 1)
	move(500 * time.Millisecond)
	fails(sick, 0) // it is another's turn
	w.works(b, well)
	for range 5 {
		fails(sick, 1)
	}
	fails(sick, 0)
	next, _ := w.signIn(before, email, "")
	w.works(b, next)
}

// TestOpenBreakerOutlivesNoClockThatIsSetBack, nor are people held up until it has
// caught up.
func TestOpenBreakerOutlivesNoClockThatIsSetBack(t *testing.T) {
	w := newWorld(t)
	v, _ := w.signIn(w.broker(), email, "")
	b, move := w.frozen()
	move(2 * time.Hour)
	w.auth.Always(authapitest.RefreshPath, authapitest.Answer(http.StatusInternalServerError, ""))
	for range 6 {
		if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrAuthUnavailable) {
			t.Fatalf("AccessToken = %v, want ErrAuthUnavailable", err)
		}
	}
	w.auth.Always(authapitest.RefreshPath, nil)
	move(-time.Hour)
	w.works(b, v)
}

// steady is a token server that always takes its time, and says when it is given
// up.
type steady struct {
	takes   time.Duration
	calls   atomic.Int32
	givenUp atomic.Int32
}

func (s *steady) Refresh(ctx context.Context, r domain.Renewal) (domain.Grant, error) {
	s.calls.Add(1)
	select {
	case <-time.After(s.takes):
		return domain.Grant{Access: domain.NewSecret("new"), AccessLife: time.Hour, Refresh: domain.NewSecret(r.Refresh.Reveal() + "'")}, nil
	case <-ctx.Done():
		s.givenUp.Add(1)
		return domain.Grant{}, &domain.Unavailable{Err: domain.ErrAuthUnavailable, Lost: true}
	}
}

func (s *steady) Revoke(context.Context, domain.Secret, domain.Secret) error { return nil }

// expired makes a device whose access token is over, at the provider "slow".
func expired(t *testing.T, store repo.Store, subject string) usecase.Visit {
	t.Helper()
	id, err := domain.NewDeviceID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := domain.NewTicket(id, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rec := domain.Record{
		DeviceID: id, TicketHash: ticket.Hash(), Owner: domain.Owner{Issuer: issuer, Subject: subject}, Provider: "slow", Version: 1,
		Tokens:    domain.Tokens{Access: domain.NewSecret("old"), AccessExpiry: time.Now(), Refresh: domain.NewSecret(subject), RefreshExpiry: time.Now().Add(time.Hour)},
		CreatedAt: time.Now(), LastSeenAt: time.Now(), AuthTime: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}
	if err := store.Create(t.Context(), rec); err != nil {
		t.Fatal(err)
	}
	return usecase.Visit{Ticket: ticket.Reveal()}
}

// robbed is a store where every lease is another's by the time it is renewed.
type robbed struct {
	repo.Store
	renewals atomic.Int32
}

func (r *robbed) RenewLease(context.Context, domain.DeviceID, string, time.Duration) error {
	r.renewals.Add(1)
	return domain.ErrLeaseLost
}

// TestLostLeaseIsNotRenewedAgain: it is lost once, and counts once.
func TestLostLeaseIsNotRenewedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 10 * time.Second
		store := &robbed{Store: memstore.New(time.Now)}
		w := &world{T: t, log: &syncBuffer{}}
		b := usecase.New(store, w.config(timeout, time.Now, usecase.Provider{Name: "slow", Issuer: issuer, Tokens: &steady{takes: timeout - time.Second}}))
		if _, err := b.AccessToken(t.Context(), expired(t, store, "somebody")); err != nil {
			t.Errorf("AccessToken = %v, although the version decides", err)
		}
		if n := store.renewals.Load(); n != 1 {
			t.Errorf("the lease was to be renewed %d times, want 1", n)
		}
	})
}

// TestNoCallIsCutShort: a flight that has waited for its turn until its time is
// nearly over calls the auth server with the time that a call has, or not at
// all, and leaves no lease behind.
func TestNoCallIsCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const (
			devices = 40 * 12
			timeout = 10 * time.Second
		)
		store := memstore.New(time.Now)
		auth := &steady{takes: timeout - time.Second}
		w := &world{T: t, log: &syncBuffer{}}
		b := usecase.New(store, w.config(timeout, time.Now, usecase.Provider{Name: "slow", Issuer: issuer, Tokens: auth}))
		ended := make(chan struct{}, devices)
		for i := range devices {
			visit := expired(t, store, fmt.Sprint(i))
			go func() {
				_, _ = b.AccessToken(t.Context(), visit)
				ended <- struct{}{}
			}()
		}
		for range devices {
			<-ended
		}
		b.Drain(context.WithoutCancel(t.Context()))
		if n := auth.givenUp.Load(); n != 0 {
			t.Errorf("%d calls of %d were given up", n, auth.calls.Load())
		}
		if n := auth.calls.Load(); n < 32 || n == devices {
			t.Errorf("%d calls for %d devices: nobody's time was over", n, devices)
		}
		for cursor := ""; ; {
			page, next, err := store.Page(t.Context(), cursor, 200)
			if err != nil {
				t.Fatal(err)
			}
			for _, rec := range page {
				if rec.Lease.HeldAt(time.Now()) {
					t.Fatal("a lease was left behind")
				}
			}
			if cursor = next; cursor == "" {
				break
			}
		}
	})
}

// TestCallsWaitForNoConnection: an auth server that takes nearly as long as a call
// may is slow and not away, however many devices expire together.
func TestCallsWaitForNoConnection(t *testing.T) {
	t.Parallel()
	const (
		devices = 64
		timeout = 5 * time.Second
	)
	w := newWorld(t)
	b := w.brokerWith(w.store, timeout, w.clock.Now)
	visits := make([]usecase.Visit, devices)
	for i := range visits {
		visits[i], _ = w.signIn(b, email, "")
	}
	w.clock.advance(life)
	w.auth.Always(authapitest.RefreshPath, func(rw http.ResponseWriter, r *http.Request, work func() authapitest.Reply) {
		reply := work()
		select {
		case <-time.After(timeout/2 + timeout/20): // two of them are longer than the timeout
			reply.Send(rw)
		case <-r.Context().Done():
		}
	})
	answers := make(chan error, devices)
	for _, v := range visits {
		go func() { _, err := b.AccessToken(t.Context(), v); answers <- err }()
	}
	for range devices {
		if err := <-answers; err != nil {
			t.Errorf("AccessToken = %v", err)
		}
	}
	if n := w.refreshCalls(); n != devices {
		t.Errorf("%d calls for %d devices", n, devices)
	}
}
