package mongostore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/mongostore"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/mongostore/mongowire"
)

// device returns a record of about 3 KB, of an owner with five devices.
func device(n int) domain.Record {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return domain.Record{
		DeviceID:      id(n),
		TicketHash:    domain.TicketHash{byte(n), byte(n >> 8), 1},
		Owner:         owner(n),
		Email:         email(n),
		EmailVerified: true,
		Roles:         []string{"user"},
		Provider:      "auth",
		SID:           fmt.Sprint("session ", n/5),
		UserAgent:     "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		CreatedIP:     "192.0.2.1", LastSeenIP: "192.0.2.1",
		CreatedAt: now, LastSeenAt: now, AuthTime: now, ExpiresAt: now.Add(time.Hour),
		Tokens: tokens(n),
	}
}

func id(n int) domain.DeviceID {
	var id domain.DeviceID
	binary.BigEndian.PutUint64(id[:], uint64(n+1)*0x9e3779b97f4a7c15) // all over the index
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func owner(n int) domain.Owner {
	return domain.Owner{Issuer: "auth", Subject: fmt.Sprint("subject ", n/5)}
}

func email(n int) string { return fmt.Sprintf("person%d@example.org", n/5) }

func tokens(n int) domain.Tokens {
	long := fmt.Sprint(n) + strings.Repeat("x", 1200)
	now := time.Now().UTC().Truncate(time.Millisecond)
	return domain.Tokens{
		TokenType: "bearer", AccessIssued: now, AccessExpiry: now.Add(time.Minute), RefreshExpiry: now.Add(time.Hour),
		Access: domain.NewSecret(long), Refresh: domain.NewSecret(long[:400]), ID: domain.NewSecret(long),
	}
}

// outcomes are the answers of a store that are no failures.
var outcomes = []error{domain.ErrNotFound, domain.ErrExists, domain.ErrConflict, domain.ErrLeaseHeld, domain.ErrLeaseLost, domain.ErrBadInput}

func isOutcome(err error) bool {
	for _, o := range outcomes {
		if errors.Is(err, o) {
			return true
		}
	}
	return false
}

// writes has every kind of write, with the command that it sends and a look at
// whether it was done, once.
var writes = []struct {
	name, command string
	write         func(context.Context, *mongostore.Store) error
	done          func(context.Context, *mongostore.Store) bool
}{
	{
		"Create", "insert",
		func(ctx context.Context, s *mongostore.Store) error { return s.Create(ctx, device(7)) },
		func(ctx context.Context, s *mongostore.Store) bool { return versionOf(ctx, s, 7) == 1 },
	},
	{
		"Overwrite", "update",
		func(ctx context.Context, s *mongostore.Store) error {
			next := device(2)
			next.DeviceID = id(1)
			return s.Overwrite(ctx, next, 1)
		},
		func(ctx context.Context, s *mongostore.Store) bool { return versionOf(ctx, s, 1) == 2 },
	},
	{
		"ReplaceTokens", "update",
		func(ctx context.Context, s *mongostore.Store) error {
			return s.ReplaceTokens(ctx, id(1), "me", 1, tokens(2), time.Now())
		},
		func(ctx context.Context, s *mongostore.Store) bool { return versionOf(ctx, s, 1) == 2 },
	},
	{
		"Rename", "update",
		func(ctx context.Context, s *mongostore.Store) error { return s.Rename(ctx, id(1), "name") },
		func(ctx context.Context, s *mongostore.Store) bool {
			r, _ := s.Get(ctx, id(1))
			return r.Name == "name"
		},
	},
	{
		"Touch", "update",
		func(ctx context.Context, s *mongostore.Store) error {
			return s.Touch(ctx, id(1), domain.Seen{At: time.Now().Add(time.Minute), IP: "seen"})
		},
		func(ctx context.Context, s *mongostore.Store) bool {
			r, _ := s.Get(ctx, id(1))
			return r.LastSeenIP == "seen"
		},
	},
	{
		"TakeLease", "findAndModify",
		func(ctx context.Context, s *mongostore.Store) error {
			_, err := s.TakeLease(ctx, id(1), "me", time.Hour)
			return err
		},
		func(ctx context.Context, s *mongostore.Store) bool {
			r, _ := s.Get(ctx, id(1))
			return r.Lease.Owner == "me"
		},
	},
	{
		"Spend", "update",
		func(ctx context.Context, s *mongostore.Store) error {
			return s.Spend(ctx, "key", time.Now().Add(time.Hour))
		},
		func(ctx context.Context, s *mongostore.Store) bool {
			return errors.Is(s.Spend(ctx, "key", time.Now().Add(time.Hour)), domain.ErrExists)
		},
	},
	{
		"Delete", "findAndModify",
		func(ctx context.Context, s *mongostore.Store) error {
			r, err := s.Delete(ctx, id(1), 1)
			if err == nil && !r.Tokens.Refresh.Equal(tokens(1).Refresh) {
				err = errors.New("what went came without its tokens")
			}
			return err
		},
		func(ctx context.Context, s *mongostore.Store) bool { return versionOf(ctx, s, 1) == 0 },
	},
	{
		"DeleteByOwner", "findAndModify",
		func(ctx context.Context, s *mongostore.Store) error {
			gone, err := s.DeleteByOwner(ctx, owner(1), domain.DeviceID{})
			if err == nil && len(gone) != 2 {
				err = fmt.Errorf("%d went, want 2", len(gone))
			}
			return err
		},
		func(ctx context.Context, s *mongostore.Store) bool {
			return versionOf(ctx, s, 0) == 0 && versionOf(ctx, s, 1) == 0
		},
	},
}

// versionOf returns the version of a device, 0 if it is not there and -1 if
// that is not known.
func versionOf(ctx context.Context, s *mongostore.Store, n int) int64 {
	r, err := s.Get(ctx, id(n))
	switch {
	case errors.Is(err, domain.ErrNotFound):
		return 0
	case err != nil:
		return -1
	}
	return r.Version
}

// patient is a server's address with which calls wait for it to come back, hasty
// one with which they soon give up.
func patient(s *mongowire.Server) string { return s.URI() + "/?serverSelectionTimeoutMS=10000" }
func hasty(s *mongowire.Server) string   { return s.URI() + "/?serverSelectionTimeoutMS=200" }

// TestFaultsInTheMiddleOfAWrite has something go wrong with each kind of write,
// and sees that it was done once and said so, or that nobody was told an answer
// that is not true.
func TestFaultsInTheMiddleOfAWrite(t *testing.T) {
	t.Parallel()
	always := func(string) bool { return true }
	never := func(string) bool { return false }
	for _, f := range []struct {
		name     string
		server   mongowire.Options
		fault    mongowire.Fault
		succeeds func(write string) bool
		done     func(write string) bool
	}{
		{"the answer is lost", mongowire.Options{}, mongowire.Fault{LoseAnswer: true}, always, always},
		{"the answer is lost twice", mongowire.Options{}, mongowire.Fault{LoseAnswer: true, Times: 2}, always, always},
		{"the request is lost", mongowire.Options{}, mongowire.Fault{Lose: true}, always, always},
		{"another member has become the primary", mongowire.Options{}, mongowire.Fault{Refuse: mongowire.NotPrimary()}, always, always},
		{"the server forgets what it has answered", mongowire.Options{Forgetful: true}, mongowire.Fault{LoseAnswer: true},
			// What went cannot be had a second time.
			func(write string) bool { return write != "Delete" && write != "DeleteByOwner" }, always},
		{"a standalone server's answer is lost", mongowire.Options{Standalone: true}, mongowire.Fault{LoseAnswer: true},
			// Those that leave their mark in the record.
			func(write string) bool {
				return write == "Create" || write == "Overwrite" || write == "ReplaceTokens" || write == "Rename" || write == "Spend"
			},
			always},
		{"a request to a standalone server is lost", mongowire.Options{Standalone: true}, mongowire.Fault{Lose: true}, never, never},
		{"a standalone server refuses", mongowire.Options{Standalone: true}, mongowire.Fault{Refuse: mongowire.NotPrimary()}, never, never},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			// All at once: after a fault the driver waits half a second.
			var all sync.WaitGroup
			for _, w := range writes {
				server := mongotest.Double(t, f.server)
				s := open(t, mongotest.NewDatabase(t, patient(server)))
				t.Cleanup(func() { _ = s.Close() })
				ctx := t.Context()
				for n := range 2 {
					if err := s.Create(ctx, device(n)); err != nil {
						t.Fatal(err)
					}
				}
				fault := f.fault
				fault.Command = w.command
				server.Inject(fault)
				all.Go(func() {
					err := w.write(ctx, s)
					if server.Heal() != 0 {
						t.Errorf("%s: nothing went wrong", w.name)
					}
					switch {
					case f.succeeds(w.name) && err != nil:
						t.Errorf("%s: error %v", w.name, err)
					case !f.succeeds(w.name) && err == nil && w.name != "DeleteByOwner":
						t.Errorf("%s: no error, though nobody knows", w.name)
					case !f.succeeds(w.name) && isOutcome(err) && f.server.Standalone:
						t.Errorf("%s: error %v, which nobody knows", w.name, err)
					}
					// Of many deletions, one that is under way beside the failed one is done.
					perhaps := w.name == "DeleteByOwner" && f.server.Standalone
					if done := w.done(ctx, s); done != f.done(w.name) && !perhaps {
						t.Errorf("%s: done: %v", w.name, done)
					}
				})
			}
			all.Wait()
		})
	}
}

// TestATrueConflictStaysOne: a write that bears another's mark is no success.
func TestATrueConflictStaysOne(t *testing.T) {
	t.Parallel()
	server := mongotest.Double(t, mongowire.Options{Standalone: true})
	s := open(t, mongotest.NewDatabase(t, patient(server)))
	defer s.Close()
	ctx := t.Context()
	if err := s.Create(ctx, device(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.ReplaceTokens(ctx, id(1), "me", 1, tokens(2), time.Now()); err != nil {
		t.Fatal(err)
	}
	// The same tokens, at the same version, by another call.
	if err := s.ReplaceTokens(ctx, id(1), "me", 1, tokens(2), time.Now()); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("ReplaceTokens: error %v, want %v", err, domain.ErrConflict)
	}
	if err := s.Create(ctx, device(1)); !errors.Is(err, domain.ErrExists) {
		t.Errorf("Create: error %v, want %v", err, domain.ErrExists)
	}
	// An answer that is lost where there was nothing to do.
	server.Inject(mongowire.Fault{Command: "update", LoseAnswer: true})
	if err := s.ReplaceTokens(ctx, id(1), "me", 1, tokens(3), time.Now()); err == nil || errors.Is(err, domain.ErrNotFound) {
		t.Errorf("ReplaceTokens without an answer: error %v", err)
	}
	server.Inject(mongowire.Fault{Command: "update", LoseAnswer: true})
	if err := s.Rename(ctx, id(9), "name"); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("Rename of nothing without an answer: error %v, want %v", err, domain.ErrNotFound)
	}
}

func TestTheServerGoesAndComesBack(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]mongowire.Options{"replica set": {}, "standalone": {Standalone: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := mongotest.Double(t, o)
			address := mongotest.NewDatabase(t, hasty(server))
			s, other := open(t, address), open(t, address)
			defer s.Close()
			defer other.Close()
			ctx := t.Context()
			if err := s.Create(ctx, device(1)); err != nil {
				t.Fatal(err)
			}
			heard := listen(t, s)
			heard.wait(repo.Event{Kind: repo.Gap})

			server.Stop()
			if _, err := s.Get(ctx, id(1)); err == nil || isOutcome(err) {
				t.Errorf("Get without a server: error %v", err)
			}
			if err := s.Ping(ctx); err == nil {
				t.Error("Ping without a server: no error")
			}
			if err := s.ReplaceTokens(ctx, id(1), "me", 1, tokens(2), time.Now()); err == nil || isOutcome(err) {
				t.Errorf("ReplaceTokens without a server: error %v", err)
			}
			heard.wait(repo.Event{Kind: repo.Cut})
			// Whoever subscribes now begins with a Gap and learns of the Cut.
			late := listen(t, s)
			late.wait(repo.Event{Kind: repo.Gap})
			late.wait(repo.Event{Kind: repo.Cut})

			if err := server.Restart(); err != nil {
				t.Fatal(err)
			}
			heard.wait(repo.Event{Kind: repo.Gap})
			late.wait(repo.Event{Kind: repo.Gap})
			if err := eventually(t, func() error { return other.ReplaceTokens(ctx, id(1), "me", 1, tokens(2), time.Now()) }); err != nil {
				t.Errorf("ReplaceTokens with the server back: %v", err)
			}
			heard.wait(repo.Event{Kind: repo.Changed, DeviceID: id(1)})
			if r, err := s.Get(ctx, id(1)); err != nil || r.Version != 2 {
				t.Errorf("Get with the server back: version %d, %v", r.Version, err)
			}
		})
	}
}

func TestADeadlineIsKept(t *testing.T) {
	server := mongotest.Double(t, mongowire.Options{})
	s := open(t, mongotest.NewDatabase(t, patient(server)))
	defer s.Close()
	server.Inject(mongowire.Fault{Command: "find", Delay: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Get(ctx, id(1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Get from a server that hangs: error %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestCloseEndsCallsThatAreUnderWay(t *testing.T) {
	t.Parallel()
	server := mongotest.Double(t, mongowire.Options{})
	s := open(t, mongotest.NewDatabase(t, patient(server)))
	server.Inject(mongowire.Fault{Command: "find", Delay: time.Hour})
	asked := make(chan struct{}, 1)
	server.Observe(func(command bson.D) {
		if command[0].Key == "find" {
			asked <- struct{}{}
		}
	})
	answer := make(chan error, 1)
	go func() {
		_, err := s.Get(context.Background(), id(1))
		answer <- err
	}()
	<-asked
	server.Observe(nil)
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	select {
	case err := <-answer:
		if err == nil || isOutcome(err) {
			t.Errorf("Get from a store that was closed: error %v", err)
		}
	case <-time.After(patience):
		t.Error("the call goes on")
	}
}
