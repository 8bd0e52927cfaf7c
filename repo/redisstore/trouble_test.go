package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/redisstore/redistest"
)

// through returns a store whose connections go through a proxy, and one beside
// it that sees the same records.
func through(t *testing.T) (s, beside *Store, p *proxy) {
	t.Helper()
	server := redistest.Standalone(t)
	p = newProxy(t, server.Nodes[0].Addr)
	beside, _ = open(t, server)
	s = New(connect(t, &redistest.Server{URL: "redis://" + p.addr}), beside.config)
	t.Cleanup(func() { _ = s.Close() })
	return s, beside, p
}

// An answer that is lost makes the client ask again. What was done is not done
// twice, and nobody is told that somebody else did it.
func TestALostAnswerIsNoFalseAnswer(t *testing.T) {
	s, beside, p := through(t)
	ctx := t.Context()
	for _, known := range []bool{false, true} { // whether the server has the scripts
		for n, c := range []struct {
			name, request string
			call          func(domain.Record) error
			want          func(*domain.Record)
		}{
			{"Get", "hmget",
				func(r domain.Record) error { _, err := s.Get(ctx, r.DeviceID); return err },
				func(*domain.Record) {}},
			{"Overwrite", "ticket_hash",
				func(r domain.Record) error { return s.Overwrite(ctx, r, 1) },
				func(r *domain.Record) { r.Version = 2 }},
			{"ReplaceTokens", "access_token",
				func(r domain.Record) error { return s.ReplaceTokens(ctx, r.DeviceID, "", 1, r.Tokens, r.ExpiresAt) },
				func(r *domain.Record) { r.Version = 2 }},
			{"Rename", "a name",
				func(r domain.Record) error { return s.Rename(ctx, r.DeviceID, "a name") },
				func(r *domain.Record) { r.Name = "a name" }},
			{"TakeLease", "holder",
				func(r domain.Record) error { _, err := s.TakeLease(ctx, r.DeviceID, "holder", time.Hour); return err },
				func(r *domain.Record) { r.Lease.Owner = "holder" }},
		} {
			t.Run(fmt.Sprint(c.name, ", script known: ", known), func(t *testing.T) {
				r := device(n)
				must(t, beside.Create(ctx, r))
				p.loseAnswer(c.request)
				if err := c.call(r); err != nil {
					t.Errorf("error %v", err)
				}
				if !p.lost() {
					t.Error("no answer was lost")
				}
				r.Version = 1
				c.want(&r)
				got, err := beside.Delete(ctx, r.DeviceID, repo.AnyVersion)
				must(t, err)
				if got.Version != r.Version || got.Name != r.Name || got.Lease.Owner != r.Lease.Owner {
					t.Errorf("version %d, name %q, lease of %q", got.Version, got.Name, got.Lease.Owner)
				}
			})
		}
	}

	t.Run("Create", func(t *testing.T) {
		p.loseAnswer("ticket_hash")
		must(t, s.Create(ctx, device(100)))
		if err := s.Create(ctx, device(100)); !p.lost() || !errors.Is(err, domain.ErrExists) {
			t.Errorf("lost: %v; created again: %v", p.lost(), err)
		}
	})
	t.Run("Spend", func(t *testing.T) {
		until := time.Now().Add(time.Hour)
		must(t, s.Spend(ctx, "another", until)) // so that the server has the script
		p.loseAnswer("spent:")
		must(t, s.Spend(ctx, "key", until))
		if err := s.Spend(ctx, "key", until); !p.lost() || !errors.Is(err, domain.ErrExists) {
			t.Errorf("lost: %v; spent again: %v", p.lost(), err)
		}
	})
	t.Run("revocations", func(t *testing.T) {
		now := time.Now()
		r := domain.Revocation{ID: "id", NotBefore: now, ExpiresAt: now.Add(time.Hour)}
		p.loseAnswer("expires_at")
		must(t, s.QueueRevocations(ctx, []domain.Revocation{r}))
		if !p.lost() {
			t.Error("no answer was lost")
		}
		_, err := s.ClaimRevocations(ctx, now.Add(-time.Hour), now, 10) // so that the server has the script
		must(t, err)
		// What a claim has got and nobody has heard of comes due again.
		p.loseAnswer("{revocations}")
		got, err := s.ClaimRevocations(ctx, now, now.Add(time.Minute), 10)
		if err != nil || len(got) != 0 || !p.lost() {
			t.Errorf("lost: %v; %d claimed, %v", p.lost(), len(got), err)
		}
		if got, err := s.ClaimRevocations(ctx, now.Add(time.Minute), now.Add(time.Hour), 10); err != nil || len(got) != 1 {
			t.Errorf("a minute later %d are claimed, %v", len(got), err)
		}
	})
	t.Run("Delete", func(t *testing.T) {
		// What went is lost with the answer, so it must not pass for nothing.
		r := device(101)
		must(t, s.Create(ctx, r))
		p.loseAnswer("ended ")
		_, err := s.Delete(ctx, r.DeviceID, repo.AnyVersion)
		if err == nil || errors.Is(err, domain.ErrNotFound) || !p.lost() {
			t.Errorf("lost: %v; error %v", p.lost(), err)
		}
		if _, err := beside.Get(ctx, r.DeviceID); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("Get: error %v", err)
		}
	})
	t.Run("DeleteByOwner", func(t *testing.T) {
		for n := range 3 {
			r := device(110 + n)
			r.Owner = device(110).Owner
			must(t, s.Create(ctx, r))
		}
		p.loseAnswer("ended ")
		gone, err := s.DeleteByOwner(ctx, device(110).Owner, domain.DeviceID{})
		if err == nil || !p.lost() {
			t.Errorf("lost: %v; %d went, error %v", p.lost(), len(gone), err)
		}
	})
}

// heard gathers events.
type heard struct {
	mu     sync.Mutex
	events []repo.Event
}

// listen subscribes until the test ends, and returns when the subscription stands.
func listen(t *testing.T, s *Store) *heard {
	t.Helper()
	h := &heard{}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Subscribe(ctx, func(e repo.Event) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, e)
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	eventually(t, "the first Gap", func() bool { return h.count(repo.Event{Kind: repo.Gap}) == 1 })
	return h
}

func (h *heard) count(wanted repo.Event) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e == wanted {
			n++
		}
	}
	return n
}

// hears checks that a subscription that was interrupted has said so, and works.
func (h *heard) hears(t *testing.T, s *Store) {
	t.Helper()
	eventually(t, "a Gap", func() bool { return h.count(repo.Event{Kind: repo.Gap}) > 1 })
	h.mu.Lock()
	cut, gap := slices.Index(h.events, repo.Event{Kind: repo.Cut}), slices.Index(h.events[1:], repo.Event{Kind: repo.Gap})+1
	h.mu.Unlock()
	if cut < 0 || cut > gap {
		t.Errorf("the first Cut is event %d, the second Gap event %d", cut, gap)
	}
	r := device(9999)
	must(t, s.Create(t.Context(), r))
	must(t, s.Rename(t.Context(), r.DeviceID, "name"))
	eventually(t, "an event", func() bool { return h.count(repo.Event{Kind: repo.Changed, DeviceID: r.DeviceID}) > 0 })
}

// A connection may be dead without anybody saying so.
func TestASubscriptionNoticesThatNothingComes(t *testing.T) {
	s, beside, p := through(t)
	s.beatInterval = 20 * time.Millisecond
	h := listen(t, s)
	if n := p.deafen(); n != 1 {
		t.Fatalf("%d connections are subscribed", n)
	}
	h.hears(t, beside)
}

// A server that hangs must not hold up those who have no time.
func TestACallLeavesWithItsContext(t *testing.T) {
	server := redistest.Standalone(t)
	s, _ := open(t, server)
	must(t, s.Create(t.Context(), device(1)))
	server.Nodes[0].Freeze(t)
	for name, call := range map[string]func(context.Context) error{
		"Get":         func(ctx context.Context) error { _, err := s.Get(ctx, device(1).DeviceID); return err },
		"ListByOwner": func(ctx context.Context) error { _, err := s.ListByOwner(ctx, device(1).Owner); return err },
		"Create":      func(ctx context.Context) error { return s.Create(ctx, device(2)) },
		"Ping":        func(ctx context.Context) error { return s.Ping(ctx) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		start := time.Now()
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: error %v", name, err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s took %v", name, took)
		}
		cancel()
	}
	server.Nodes[0].Thaw(t)
	if _, err := s.Get(t.Context(), device(1).DeviceID); err != nil {
		t.Errorf("Get afterwards: %v", err)
	}
}

// A server without memory takes nothing new. Who is signed in stays so, and can
// sign out.
func TestAFullServerKeepsWhatItHas(t *testing.T) {
	server := redistest.Standalone(t)
	s, _ := open(t, server)
	ctx := t.Context()
	r, other := device(1), device(2)
	must(t, s.Create(ctx, r))
	must(t, s.Create(ctx, other))
	must(t, s.client.ConfigSet(ctx, "maxmemory", "1").Err())
	keys := len(s.keys(t))
	for name, err := range map[string]error{
		"Create":    s.Create(ctx, device(3)),
		"Overwrite": s.Overwrite(ctx, r, 1),
		"Rename":    s.Rename(ctx, r.DeviceID, "name"),
		"Ping":      s.Ping(ctx),
	} {
		if err == nil || !strings.Contains(err.Error(), "OOM") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if n := len(s.keys(t)); n != keys {
		t.Errorf("there were %d keys, and now %d", keys, n)
	}
	_, err := s.TakeLease(ctx, r.DeviceID, "me", time.Minute)
	must(t, err)
	must(t, s.RenewLease(ctx, r.DeviceID, "me", time.Minute))
	must(t, s.ReplaceTokens(ctx, r.DeviceID, "me", 1, r.Tokens, r.ExpiresAt.Add(100*time.Hour)))
	must(t, s.Touch(ctx, r.DeviceID, domain.Seen{At: time.Now(), ExpiresAt: r.ExpiresAt.Add(200 * time.Hour)}))
	s.sound(t)
	if got, err := s.Delete(ctx, r.DeviceID, 2); err != nil || got.Name != "" || got.Lease.Owner != "" {
		t.Errorf("Delete: name %q, lease of %q, %v", got.Name, got.Lease.Owner, err)
	}
	if gone, err := s.DeleteByOwner(ctx, other.Owner, domain.DeviceID{}); err != nil || len(gone) != 1 {
		t.Errorf("DeleteByOwner: %d went, %v", len(gone), err)
	}
}

// as returns a store whose user has some rights, and an open one beside it.
func as(t *testing.T, rights ...string) (s, beside *Store) {
	t.Helper()
	user := append([]string{"--user", "app", "on", ">secret"}, rights...)
	server := redistest.Standalone(t, user...)
	beside, _ = open(t, server)
	limited := &redistest.Server{URL: strings.Replace(server.URL, "redis://", "redis://app:secret@", 1)}
	s = New(connect(t, limited), beside.config)
	t.Cleanup(func() { _ = s.Close() })
	return s, beside
}

// These are the rights that the error for want of rights names.
func TestTheLeastRightsAreEnough(t *testing.T) {
	s, _ := as(t, "~cloakroom:*", "&cloakroom:*", "+@all", "-@dangerous", "+info")
	h := listen(t, s)
	work := begin(t, s, s)
	work.goesOn(t, 100)
	work.end(t)
	if n := work.bad.Load(); n > 0 {
		t.Errorf("%d calls failed", n)
	}
	ctx, r := t.Context(), device(9000)
	must(t, s.Ping(ctx))
	must(t, s.Create(ctx, r))
	must(t, s.Overwrite(ctx, r, 1))
	must(t, s.Touch(ctx, r.DeviceID, domain.Seen{At: time.Now(), ExpiresAt: r.ExpiresAt.Add(48 * time.Hour)}))
	must(t, s.Rename(ctx, r.DeviceID, "name"))
	_, err := s.TakeLease(ctx, r.DeviceID, "me", time.Minute)
	must(t, err)
	_, _, err = s.Page(ctx, "", 10)
	must(t, err)
	gone, err := s.DeleteByOwner(ctx, r.Owner, domain.DeviceID{})
	if err != nil || len(gone) != 1 {
		t.Errorf("DeleteByOwner: %d went, %v", len(gone), err)
	}
	eventually(t, "an event", func() bool { return h.count(repo.Event{Kind: repo.Ended, DeviceID: r.DeviceID}) > 0 })
}

// Redis gives new users no channels. That has to come out before somebody signs
// out and no replica hears of it.
func TestAUserWithoutTheChannelIsOfNoUse(t *testing.T) {
	s, _ := as(t, "~cloakroom:*", "resetchannels", "+@all", "-@dangerous", "+info")
	if err := s.Ping(t.Context()); err == nil {
		t.Error("Ping answers")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Subscribe(ctx, func(repo.Event) {}); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Subscribe: error %v", err)
	}
}

// A server that is away gives errors, and not the answer that a device is gone.
// When it is back, everything goes on by itself.
func TestAServerGoesAndComesBack(t *testing.T) {
	server := redistest.Standalone(t, "--appendonly", "yes", "--appendfsync", "always")
	near, far := open(t, server)
	h := listen(t, far)
	work := begin(t, near, far)
	work.goesOn(t, 50)
	server.Nodes[0].Kill()
	work.stumbles(t)
	if err := near.Ping(t.Context()); err == nil {
		t.Error("Ping answers without a server")
	}
	server.Nodes[0].Start(t)
	work.goesOn(t, 50)
	work.end(t)
	must(t, near.Ping(t.Context()))
	h.hears(t, near)
	near.sound(t)
}

// A replica takes over from a master that has crashed. With WaitReplicas nothing
// is lost that was acknowledged.
func TestAMasterCrashesInTheMiddleOfWork(t *testing.T) {
	server := redistest.Sentinel(t)
	near, far := open(t, server)
	near.config.WaitReplicas, far.config.WaitReplicas = 1, 1
	h := listen(t, far)
	work := begin(t, near, far)
	work.goesOn(t, 50)
	old := server.Master(t)
	old.Kill()
	work.stumbles(t)
	eventually(t, "another master", func() bool { return server.Master(t) != old })
	work.goesOn(t, 50)
	// The old master comes back knowing nothing, and nobody may ask it.
	old.Start(t)
	work.goesOn(t, 200)
	work.end(t)
	h.hears(t, near)
	near.sound(t)
}
