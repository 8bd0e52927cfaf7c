package usecase_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/usecase"
)

// TestR9_OneRefreshForManyCallers lets 200 requests over two replicas find the
// same expired token.
func TestR9_OneRefreshForManyCallers(t *testing.T) {
	for name, replicas := range map[string]int{"one replica": 1, "two replicas": 2} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			var brokers []*usecase.Broker
			for range replicas {
				brokers = append(brokers, w.broker())
			}
			v, _ := w.signIn(brokers[0], email, "")
			w.clock.advance(life)

			gate := authapitest.NewGate()
			w.auth.Always(authapitest.RefreshPath, gate.Before)
			var callers sync.WaitGroup
			tokens := make(chan string, 200)
			for i := range 200 {
				callers.Go(func() {
					s, err := brokers[i%replicas].AccessToken(t.Context(), v)
					if err != nil {
						t.Errorf("AccessToken: %v", err)
					}
					tokens <- s.Record.Tokens.Access.Reveal()
				})
			}
			<-gate.Arrived
			gate.Open()
			callers.Wait()
			close(tokens)
			if n := w.refreshCalls(); n != 1 {
				t.Errorf("%d refreshes, want 1", n)
			}
			for token := range tokens {
				if !w.auth.Valid(token) {
					t.Fatal("a caller got a token that does not work")
				}
			}
			if n := w.auth.Thefts(); n != 0 {
				t.Errorf("the auth server saw %d refresh tokens twice", n)
			}
		})
	}
}

func TestRefreshOutlivesTheCallerWhoBeganIt(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, _ := w.signIn(b, email, "")
	w.clock.advance(life)
	gate := authapitest.NewGate()
	w.auth.Next(authapitest.RefreshPath, gate.Before)

	ctx, hangUp := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { _, err := b.AccessToken(ctx, v); left <- err }()
	<-gate.Arrived
	stayed := make(chan error, 1)
	go func() { _, err := b.AccessToken(t.Context(), v); stayed <- err }()
	hangUp()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller who hung up got %v", err)
	}
	gate.Open()
	if err := <-stayed; err != nil {
		t.Errorf("the caller who stayed got %v", err)
	}
	if n := w.refreshCalls(); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

// TestR10_KnownDeadRefreshTokenEndsTheDevice: a refusal is final, if the record
// still holds what was refused.
func TestR10_KnownDeadRefreshTokenEndsTheDevice(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.auth.Disable(email)
	w.clock.advance(life)
	if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrSignedOut) {
		t.Errorf("AccessToken = %v, want ErrSignedOut", err)
	}
	if !w.gone(rec.DeviceID) {
		t.Error("the record is still there")
	}
	if !strings.Contains(w.log.String(), "reason=refresh_refused") {
		t.Error("the log does not say why the device ended")
	}
}

func TestRefusalOfATokenThatAnotherReplicaHasSpentEndsNothing(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	// While our call is under way another replica, whose lease we know nothing
	// of, stores what it got; then our token is refused.
	var theirs domain.Grant
	w.auth.Next(authapitest.RefreshPath, func(rw http.ResponseWriter, r *http.Request, work func() authapitest.Reply) {
		reply := work()
		access := between(reply.Body, `"access_token":"`, `"`)
		theirs = domain.Grant{Access: domain.NewSecret(access), Refresh: domain.NewSecret(between(reply.Body, `"refresh_token":"`, `"`)), AccessLife: life}
		cur := w.record(rec.DeviceID)
		tokens := domain.Lifetimes{Refresh: time.Hour}.Tokens(theirs, w.clock.Now())
		if err := w.store.Store.ReplaceTokens(context.Background(), rec.DeviceID, "another", cur.Version, tokens, cur.ExpiresAt); err != nil {
			t.Errorf("ReplaceTokens of the other replica: %v", err)
		}
		authapitest.Refuse("invalid_grant")(rw, r, work)
	})
	got := w.works(b, v)
	if !got.Tokens.Access.Equal(theirs.Access) {
		t.Error("the other replica's token was not used")
	}
	if n := w.refreshCalls(); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

// TestR10_PassingFailureKeepsTheSession goes through everything that may pass.
func TestR10_PassingFailureKeepsTheSession(t *testing.T) {
	for name, c := range map[string]struct {
		behaviour authapitest.Behaviour
		calls     int
	}{
		"500": {authapitest.Answer(500, "oops"), 1},
		"503": {authapitest.Unavailable("7"), 1},
		"429": {authapitest.TooMany("7"), 1},
		// What may have been done is asked for once more at once.
		"garbage":         {authapitest.Garbage, 2},
		"half an answer":  {authapitest.Half, 2},
		"connection cut":  {authapitest.Cut, 2},
		"answer got lost": {authapitest.Lost, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.auth.Set(func(o *authapitest.Options) { o.ReuseWindow = time.Minute })
			b := w.broker()
			v, _ := w.signIn(b, email, "")

			w.auth.Always(authapitest.RefreshPath, c.behaviour)
			w.clock.advance(life - 3*time.Second) // in the margin: expired for us, alive for the upstream
			w.works(b, v)
			if n := w.refreshCalls(); n != c.calls {
				t.Fatalf("%d refreshes, want %d", n, c.calls)
			}

			w.clock.advance(3 * time.Second)
			_, err := b.AccessToken(t.Context(), v)
			var retry *domain.Unavailable
			if !errors.Is(err, domain.ErrAuthUnavailable) || !errors.As(err, &retry) {
				t.Errorf("AccessToken = %v, want Unavailable with ErrAuthUnavailable", err)
			}

			w.auth.Always(authapitest.RefreshPath, nil)
			w.works(b, v)
			if n := w.auth.Thefts(); n != 0 {
				t.Errorf("the auth server saw %d refresh tokens twice", n)
			}
		})
	}
}

func TestBrokersOwnMistakeSignsNobodyOut(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	w.auth.Next(authapitest.RefreshPath, authapitest.Refuse("invalid_client"))
	if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrAuthMisconfigured) {
		t.Errorf("AccessToken = %v, want ErrAuthMisconfigured", err)
	}
	if w.gone(rec.DeviceID) {
		t.Error("the device ended")
	}
	if !strings.Contains(w.log.String(), "level=ERROR") {
		t.Error("the log does not shout")
	}
	w.clock.advance(time.Second)
	w.works(b, v)
}

func TestBreakerLetsOneProbeThrough(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, _ := w.signIn(b, email, "")
	w.clock.advance(life)
	w.auth.Always(authapitest.RefreshPath, authapitest.Answer(500, ""))
	fails := func(times int) {
		t.Helper()
		for range times {
			if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrAuthUnavailable) {
				t.Fatalf("AccessToken = %v, want ErrAuthUnavailable", err)
			}
		}
	}
	fails(5)
	if b.Health(t.Context()).Auth == nil {
		t.Error("Health does not tell that the auth server fails")
	}
	// From here on a replica whose clock stands still but when it is moved.
	var at atomic.Int64
	at.Store(w.clock.Now().UnixMilli())
	frozen := w.brokerAt(func() time.Time { return time.UnixMilli(at.Load()) })
	for range 5 {
		if _, err := frozen.AccessToken(t.Context(), v); err == nil {
			t.Fatal("AccessToken went well while the auth server fails")
		}
	}
	before := w.refreshCalls()
	for range 20 {
		if _, err := frozen.AccessToken(t.Context(), v); err == nil {
			t.Fatal("AccessToken went well while the auth server fails")
		}
	}
	if n := w.refreshCalls() - before; n != 0 {
		t.Errorf("%d calls went through an open breaker", n)
	}
	at.Add(1000)
	if _, err := frozen.AccessToken(t.Context(), v); err == nil {
		t.Fatal("AccessToken went well while the auth server fails")
	}
	if n := w.refreshCalls() - before; n != 1 {
		t.Errorf("%d probes went through, want 1", n)
	}
	w.auth.Always(authapitest.RefreshPath, nil)
	at.Add(1000)
	w.works(frozen, v)
	if frozen.Health(t.Context()).Auth != nil {
		t.Error("Health still tells that the auth server fails")
	}
}

func TestSignOutDuringRefreshWins(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	gate := authapitest.NewGate()
	w.auth.Next(authapitest.RefreshPath, gate.After)
	result := make(chan error, 1)
	go func() { _, err := b.AccessToken(t.Context(), v); result <- err }()
	<-gate.Arrived
	if err := b.SignOut(t.Context(), rec, rec.DeviceID); err != nil {
		t.Fatal(err)
	}
	gate.Open()
	if err := <-result; !errors.Is(err, domain.ErrBadTicket) {
		t.Errorf("AccessToken = %v, want ErrBadTicket", err)
	}
	if !w.gone(rec.DeviceID) {
		t.Error("the refresh brought the device back")
	}
	w.eventually("the new pair is revoked as well", func() bool {
		revoked := w.auth.Revocations()
		return len(revoked) == 2 && revoked[0].Refresh != revoked[1].Refresh
	})
}

func TestRotatedPairIsKeptUntilTheStoreTakesIt(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	w.store.replace.Store(3)
	got := w.works(b, v)
	if !w.record(rec.DeviceID).Tokens.Refresh.Equal(got.Tokens.Refresh) {
		t.Error("the store does not hold the pair that was handed out")
	}
	if n := w.refreshCalls(); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

func TestLostAnswerOfTheStoreIsRecognised(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	w.store.loseAnswer.Store(true)
	w.works(b, v)
	if got := w.record(rec.DeviceID); got.Version != 2 || got.Lease.Owner != "" {
		t.Errorf("version %d and lease %v, want 2 and none", got.Version, got.Lease)
	}
	if n := len(w.auth.Revocations()); n != 0 {
		t.Errorf("%d revocations, want none", n)
	}
}

func TestAnswerThatGotLostIsAskedForAgain(t *testing.T) {
	w := newWorld(t)
	w.auth.Set(func(o *authapitest.Options) { o.ReuseWindow = time.Minute })
	b := w.broker()
	v, _ := w.signIn(b, email, "")
	w.clock.advance(life)
	w.auth.Next(authapitest.RefreshPath, authapitest.Lost)
	w.works(b, v)
	if n := w.auth.Thefts(); n != 0 {
		t.Errorf("the auth server saw %d refresh tokens twice", n)
	}
}

func TestRecordThatIsSealedAnewDuringRefreshTakesTheSuccessor(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	w.auth.Next(authapitest.RefreshPath, func(rw http.ResponseWriter, r *http.Request, work func() authapitest.Reply) {
		cur := w.record(rec.DeviceID)
		if err := w.store.Store.ReplaceTokens(context.Background(), rec.DeviceID, "a key rotation", cur.Version, cur.Tokens, cur.ExpiresAt); err != nil {
			t.Errorf("ReplaceTokens of the key rotation: %v", err)
		}
		work().Send(rw)
	})
	got := w.works(b, v)
	if stored := w.record(rec.DeviceID); !stored.Tokens.Refresh.Equal(got.Tokens.Refresh) || stored.Version != 3 {
		t.Errorf("the store has version %d and not the successor", stored.Version)
	}
}

func TestLeaseLeftBehindHoldsNobodyUpForLong(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	if _, err := w.store.TakeLease(t.Context(), rec.DeviceID, "a replica that died", 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	w.works(b, v)
}

func TestTokenThatEndsSoonIsUsedAndRefreshedBehind(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	gate := authapitest.NewGate()
	w.auth.Next(authapitest.RefreshPath, gate.Before)
	w.clock.advance(life - 20*time.Second)
	if got := w.works(b, v); !got.Tokens.Access.Equal(rec.Tokens.Access) {
		t.Error("the old token was not used")
	}
	<-gate.Arrived
	w.works(b, v) // nobody waits
	gate.Open()
	w.eventually("the new pair is stored", func() bool { return w.record(rec.DeviceID).Version == 2 })
	w.works(b, v)
	if n := w.refreshCalls(); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

// TestLifeCountsFromTheCall: an auth server that rotates at once and answers late
// hands out a token that is old when it arrives.
func TestLifeCountsFromTheCall(t *testing.T) {
	const late = time.Minute
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	gate := authapitest.NewGate()
	w.auth.Next(authapitest.RefreshPath, gate.After)
	asked := w.clock.Now()
	done := make(chan struct{})
	go func() { defer close(done); _, _ = b.AccessToken(t.Context(), v) }()
	<-gate.Arrived
	w.clock.advance(late)
	gate.Open()
	<-done
	if got := w.record(rec.DeviceID).Tokens.AccessExpiry.Sub(asked); got > life+late/2 {
		t.Errorf("the token ends %v after it was asked for, want %v", got, life)
	}
}

func TestDrainWaitsForTheRefreshUnderWay(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	gate := authapitest.NewGate()
	w.auth.Next(authapitest.RefreshPath, gate.After)
	ctx, hangUp := context.WithCancel(t.Context())
	go func() { _, _ = b.AccessToken(ctx, v) }()
	<-gate.Arrived
	hangUp()
	gate.Open()
	b.Drain(t.Context())
	if got := w.record(rec.DeviceID).Version; got != 2 {
		t.Errorf("after Drain the record has version %d, want the refreshed 2", got)
	}
}

func TestUpstreamRejectsATokenThatWeThoughtGood(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	used := rec.Tokens.Access

	// A moment after it was issued, the upstream's word leads to nothing: it
	// would reject the next one too.
	if _, ok, err := b.Rejected(t.Context(), v, used); ok || err != nil {
		t.Errorf("Rejected at once = %v, %v, want no other token", ok, err)
	}
	w.clock.advance(time.Minute)
	s, ok, err := b.Rejected(t.Context(), v, used)
	if err != nil || !ok || s.Record.Tokens.Access.Equal(used) || !w.auth.Valid(s.Record.Tokens.Access.Reveal()) {
		t.Fatalf("Rejected = %v, %v, want another token that works", ok, err)
	}
	// Somebody who comes late with the old one gets what is there.
	again, ok, err := b.Rejected(t.Context(), v, used)
	if err != nil || !ok || !again.Record.Tokens.Access.Equal(s.Record.Tokens.Access) {
		t.Errorf("Rejected for the old token = %v, %v, want the stored one", ok, err)
	}
	if n := w.refreshCalls(); n != 1 {
		t.Errorf("%d refreshes, want 1", n)
	}
}

// TestUpstreamRejectsATokenFromAReplicaWhoseClockIsAhead: to us it was issued
// just now, or later, and lives long.
func TestUpstreamRejectsATokenFromAReplicaWhoseClockIsAhead(t *testing.T) {
	w := newWorld(t)
	b, ahead := w.broker(), w.brokerAt(func() time.Time { return w.clock.Now().Add(2 * life) })
	v, rec := w.signIn(ahead, email, "")
	w.clock.advance(life) // it is over at the auth server
	s, ok, err := b.Rejected(t.Context(), v, rec.Tokens.Access)
	if err != nil || !ok || !w.auth.Valid(s.Record.Tokens.Access.Reveal()) {
		t.Errorf("Rejected = %v, %v, want a token that works", ok, err)
	}
}

// TestR30_IdleAndAbsoluteEnd lets time pass over a device.
func TestR30_IdleAndAbsoluteEnd(t *testing.T) {
	const day = 24 * time.Hour
	t.Run("idle", func(t *testing.T) {
		w := newWorld(t)
		b := w.broker()
		v, rec := w.signIn(b, email, "")
		w.clock.advance(14 * day)
		if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrSignedOut) {
			t.Errorf("AccessToken = %v, want ErrSignedOut", err)
		}
		if !w.gone(rec.DeviceID) {
			t.Error("the record is still there")
		}
		w.eventually("the pair is revoked", func() bool { return len(w.auth.Revocations()) == 1 })
	})
	t.Run("absolute", func(t *testing.T) {
		w := newWorld(t)
		b := w.broker()
		v, rec := w.signIn(b, email, "")
		for w.clock.Now().Before(rec.AuthTime.Add(89 * day)) {
			w.clock.advance(10 * day)
			if w.clock.Now().Before(rec.AuthTime.Add(90 * day)) {
				w.works(b, v)
			}
		}
		w.clock.advance(day)
		if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrSignedOut) {
			t.Errorf("AccessToken = %v, want ErrSignedOut", err)
		}
	})
}

func TestVisitIsNotedOnceInAWhile(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(90 * time.Second)
	v.IP = "192.0.2.77"
	for range 20 {
		w.works(b, v)
	}
	if n := w.store.touches.Load(); n != 1 {
		t.Errorf("20 visits were noted %d times, want once", n)
	}
	got := w.record(rec.DeviceID)
	if got.LastSeenIP != "192.0.2.77" || got.LastSeenAt.Sub(rec.LastSeenAt) < 90*time.Second || !got.ExpiresAt.After(rec.ExpiresAt) {
		t.Errorf("the visit was noted as %v from %s until %v", got.LastSeenAt, got.LastSeenIP, got.ExpiresAt)
	}
}

func TestStoreAwayIsNotSignedOut(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, _ := w.signIn(b, email, "")
	w.store.down.Store(true)
	if _, err := b.AccessToken(t.Context(), v); !errors.Is(err, domain.ErrStore) {
		t.Errorf("AccessToken = %v, want ErrStore", err)
	}
	before := len(w.auth.Requests(authapitest.LoginPath))
	if _, _, err := b.SignIn(t.Context(), usecase.SignIn{Credentials: domain.Credentials{Email: email, Password: domain.NewSecret(password)}, Ticket: v.Ticket}); !errors.Is(err, domain.ErrStore) {
		t.Errorf("SignIn = %v, want ErrStore", err)
	}
	if n := len(w.auth.Requests(authapitest.LoginPath)); n != before {
		t.Error("the auth server was asked for tokens that nobody could keep")
	}
	w.store.down.Store(false)
	w.works(b, v)
}
