package mongostore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"cloakroom/domain"
	"cloakroom/repo/mongostore"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/mongostore/mongowire"
)

// The tests below have something happen between two commands of one operation.

// between runs call and holds its first command of a name, on the device of that id
// if it names one, at the server until meanwhile, which asks by another handle, has
// returned.
func between(t *testing.T, command string, of domain.DeviceID, call func(context.Context, *mongostore.Store), meanwhile func(context.Context, *mongostore.Store)) {
	t.Helper()
	server := mongotest.Double(t, mongowire.Options{})
	address := mongotest.NewDatabase(t, patient(server))
	s, other := open(t, address), open(t, address)
	defer s.Close()
	defer other.Close()
	for n := range 5 {
		if err := s.Create(t.Context(), device(n)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.TakeLease(t.Context(), id(1), "you", time.Hour); err != nil {
		t.Fatal(err)
	}
	release, arrived := make(chan struct{}), make(chan struct{}, 100)
	held := func(c bson.D) bool {
		return of.IsZero() || strings.Contains(fmt.Sprint(c), of.String())
	}
	server.Inject(mongowire.Fault{Command: command, Only: held, Hold: release})
	server.Observe(func(c bson.D) {
		if c[0].Key == command && held(c) {
			arrived <- struct{}{}
		}
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		call(t.Context(), s)
	}()
	select {
	case <-arrived:
	case <-time.After(patience):
		t.Fatalf("no %s", command)
	}
	server.Observe(nil)
	meanwhile(t.Context(), other)
	close(release)
	<-done
}

func TestALeaseThatBecomesTheCallersIsTaken(t *testing.T) {
	// The lease was another's when it was tried. Before it is read whose, it
	// becomes the caller's by another call.
	between(t, "find", domain.DeviceID{}, func(ctx context.Context, s *mongostore.Store) {
		if r, err := s.TakeLease(ctx, id(1), "me", time.Hour); err != nil || r.Lease.Owner != "me" {
			t.Errorf("TakeLease: %v, %v", r.Lease, err)
		}
	}, func(ctx context.Context, s *mongostore.Store) {
		if err := s.ReleaseLease(ctx, id(1), "you"); err != nil {
			t.Error(err)
		}
		if _, err := s.TakeLease(ctx, id(1), "me", time.Hour); err != nil {
			t.Error(err)
		}
	})
}

func TestADeletionByEmailSparesWhatHasAnotherByThen(t *testing.T) {
	between(t, "findAndModify", id(0), func(ctx context.Context, s *mongostore.Store) {
		gone, err := s.DeleteByEmail(ctx, email(0))
		if err != nil || len(gone) != 4 {
			t.Errorf("DeleteByEmail: %d went, want 4 (%v)", len(gone), err)
		}
		if versionOf(ctx, s, 0) != 2 {
			t.Error("a device went that had another address")
		}
	}, func(ctx context.Context, s *mongostore.Store) {
		next := device(0)
		next.Email = "another@example.org"
		if err := s.Overwrite(ctx, next, 1); err != nil {
			t.Error(err)
		}
	})
}

// TestADeletionOfAllLooksAgain: the first look shows one of two devices, as it
// may when a server reads an index while a device moves in it.
func TestADeletionOfAllLooksAgain(t *testing.T) {
	server := mongotest.Double(t, mongowire.Options{})
	s := open(t, mongotest.NewDatabase(t, patient(server)))
	defer s.Close()
	for n := range 2 {
		if err := s.Create(t.Context(), device(n)); err != nil {
			t.Fatal(err)
		}
	}
	server.Inject(mongowire.Fault{Command: "find", Answer: bson.D{
		{Key: "cursor", Value: bson.D{
			{Key: "id", Value: int64(0)}, {Key: "ns", Value: "any.devices"},
			{Key: "firstBatch", Value: bson.A{bson.D{{Key: "_id", Value: id(1).String()}}}},
		}},
		{Key: "ok", Value: 1.0},
	}})
	gone, err := s.DeleteByOwner(t.Context(), owner(0), domain.DeviceID{})
	if err != nil || len(gone) != 2 {
		t.Errorf("DeleteByOwner: %d went, want 2 (%v)", len(gone), err)
	}
}
