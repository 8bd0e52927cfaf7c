package mongostore_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/mongostore"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/mongostore/mongowire"
)

// patience bounds every wait for something that will come.
const patience = 20 * time.Second

// eventually repeats what fails until it does not.
func eventually(t *testing.T, try func() error) error {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-late:
			return err
		}
	}
}

// listener gathers the events of one subscription.
type listener struct {
	t     *testing.T
	mu    sync.Mutex
	heard []repo.Event
	taken int // by wait
}

func listen(t *testing.T, s *mongostore.Store) *listener {
	l := &listener{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Subscribe(ctx, func(e repo.Event) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.heard = append(l.heard, e)
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return l
}

// wait returns when an event has come after the one waited for before.
func (l *listener) wait(want repo.Event) {
	l.t.Helper()
	if err := eventually(l.t, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if i := slices.Index(l.heard[l.taken:], want); i >= 0 {
			l.taken += i + 1
			return nil
		}
		return errors.New("not yet")
	}); err != nil {
		l.t.Fatalf("no event %v within %v; there were %v", want, patience, l.all())
	}
}

func (l *listener) all() []repo.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.heard)
}

func ended(n int) repo.Event   { return repo.Event{Kind: repo.Ended, DeviceID: id(n)} }
func changed(n int) repo.Event { return repo.Event{Kind: repo.Changed, DeviceID: id(n)} }

// both is the two ways that events go.
var both = map[string]mongowire.Options{
	"change stream": {},
	"polling":       {Standalone: true, NoTTL: true},
}

// TestOwnChangesAreHeardAtOnceAndOnce: when a call returns, its event is with
// the subscribers of this process, and it is not told a second time.
func TestOwnChangesAreHeardAtOnceAndOnce(t *testing.T) {
	for name, o := range both {
		t.Run(name, func(t *testing.T) {
			server := mongotest.Double(t, o)
			s := open(t, mongotest.NewDatabase(t, patient(server)))
			defer s.Close()
			// So that the stream is never quicker than what comes after it.
			server.Inject(mongowire.Fault{Command: "getMore", Delay: 10 * time.Millisecond, Times: 1000})
			ctx := t.Context()
			for n := range 12 {
				if err := s.Create(ctx, device(n)); err != nil {
					t.Fatal(err)
				}
			}
			l := listen(t, s)
			l.wait(repo.Event{Kind: repo.Gap})
			steps := []func() error{
				func() error { return s.Rename(ctx, id(0), "name") },
				func() error { return s.ReplaceTokens(ctx, id(0), "me", 1, tokens(2), time.Now().Add(time.Hour)) },
				func() error { _, err := s.Delete(ctx, id(0), 2); return err },
				func() error { _, err := s.DeleteByOwner(ctx, owner(5), domain.DeviceID{}); return err },
				func() error { return s.Rename(ctx, id(11), "the last") },
			}
			for _, step := range steps {
				if err := step(); err != nil {
					t.Fatal(err)
				}
			}
			l.wait(changed(11))
			want := []repo.Event{{Kind: repo.Gap}, changed(0), changed(0), ended(0)}
			for n := 5; n < 10; n++ {
				want = append(want, ended(n))
			}
			if got := l.all(); len(got) != len(want)+1 || !slices.Equal(got[:4], want[:4]) || !sameEvents(got[4:len(want)], want[4:]) {
				t.Errorf("heard %v, want %v and a last one", got, want)
			}
		})
	}
}

func sameEvents(a, b []repo.Event) bool {
	return len(a) == len(b) && !slices.ContainsFunc(b, func(e repo.Event) bool { return !slices.Contains(a, e) })
}

// TestTheStreamCarriesNoTokens reads what replicas are sent.
func TestTheStreamCarriesNoTokens(t *testing.T) {
	server := mongotest.Double(t, mongowire.Options{})
	address := mongotest.NewDatabase(t, patient(server))
	var pipeline mongo.Pipeline
	server.Observe(func(command bson.D) {
		if stages, ok := valueOf(command, "pipeline").(bson.A); ok {
			for _, stage := range stages[1:] { // the driver puts $changeStream before them
				pipeline = append(pipeline, stage.(bson.D))
			}
		}
	})
	s := open(t, address)
	defer s.Close()
	server.Observe(nil)
	same, err := mongotest.Connect(t, address).Database(databaseName(address)).Collection("devices").Watch(t.Context(), pipeline)
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close(context.Background())
	if err := s.Create(t.Context(), device(1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Touch(t.Context(), id(1), domain.Seen{At: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := s.ReplaceTokens(t.Context(), id(1), "me", 1, tokens(2), time.Now()); err != nil {
		t.Fatal(err)
	}
	if !same.Next(t.Context()) {
		t.Fatal(same.Err())
	}
	if text := same.Current.String(); !strings.Contains(text, `"operationType": "update"`) || !strings.Contains(text, "write_id") || strings.Contains(text, "token") {
		t.Errorf("replicas are sent %s", text)
	}
}

func TestWhatTheServerExpiresEnds(t *testing.T) {
	server := mongotest.Double(t, mongowire.Options{})
	s := open(t, mongotest.NewDatabase(t, patient(server)))
	defer s.Close()
	r := device(1)
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	l := listen(t, s)
	l.wait(repo.Event{Kind: repo.Gap})
	if n := server.Expire(r.ExpiresAt.Add(repo.Grace - time.Millisecond)); n != 0 {
		t.Errorf("%d devices went within the grace", n)
	}
	if n := server.Expire(r.ExpiresAt.Add(repo.Grace)); n != 1 {
		t.Errorf("%d devices went, want 1", n)
	}
	l.wait(ended(1))
	for name, list := range map[string]func() ([]domain.Record, error){
		"ListByOwner": func() ([]domain.Record, error) { return s.ListByOwner(t.Context(), r.Owner) },
		"ListByEmail": func() ([]domain.Record, error) { return s.ListByEmail(t.Context(), r.Email) },
		"DeleteBySID": func() ([]domain.Record, error) { return s.DeleteBySID(t.Context(), r.Owner.Issuer, r.SID) },
	} {
		if got, err := list(); err != nil || len(got) != 0 {
			t.Errorf("%s: %d devices, %v", name, len(got), err)
		}
	}
}

// TestAStreamThatDoesNotShowAChangeIsNotWaitedForLong: on a sharded cluster a
// shard that sleeps holds the stream up.
func TestAStreamThatDoesNotShowAChangeIsNotWaitedForLong(t *testing.T) {
	server := mongotest.Double(t, mongowire.Options{})
	s := open(t, mongotest.NewDatabase(t, patient(server)))
	defer s.Close()
	if err := s.Create(t.Context(), device(1)); err != nil {
		t.Fatal(err)
	}
	l := listen(t, s)
	l.wait(repo.Event{Kind: repo.Gap})
	server.Inject(mongowire.Fault{Command: "getMore", Delay: time.Hour, Times: 1000})
	// The one that is under way shows this, the next one nothing any more.
	for range 2 {
		if err := s.Rename(t.Context(), id(1), "name"); err != nil {
			t.Fatal(err)
		}
		l.wait(changed(1))
	}
}

// TestAnEventThatCannotBeLeftIsLeftLater: the deletion is done and says so, and
// the other replica hears of it in the end.
func TestAnEventThatCannotBeLeftIsLeftLater(t *testing.T) {
	server := mongotest.Double(t, mongowire.Options{Standalone: true})
	address := mongotest.NewDatabase(t, patient(server))
	s, other := open(t, address), open(t, address)
	defer s.Close()
	defer other.Close()
	if err := s.Create(t.Context(), device(1)); err != nil {
		t.Fatal(err)
	}
	near, far := listen(t, s), listen(t, other)
	near.wait(repo.Event{Kind: repo.Gap})
	far.wait(repo.Event{Kind: repo.Gap})
	server.Inject(mongowire.Fault{
		Command: "update",
		Only:    func(command bson.D) bool { return command[0].Value == "events" },
		Refuse:  mongowire.NotPrimary(), Times: 2,
	})
	if _, err := s.Delete(t.Context(), id(1), repo.AnyVersion); err != nil {
		t.Errorf("Delete: %v", err)
	}
	near.wait(repo.Event{Kind: repo.Cut})
	near.wait(ended(1))
	far.wait(ended(1))
	near.wait(repo.Event{Kind: repo.Gap})
}

// TestADeletionWithoutAnAnswerIsTold: what went is not known, that it went is.
func TestADeletionWithoutAnAnswerIsTold(t *testing.T) {
	for name, o := range map[string]mongowire.Options{"change stream": {Forgetful: true}, "polling": {Standalone: true}} {
		t.Run(name, func(t *testing.T) {
			server := mongotest.Double(t, o)
			address := mongotest.NewDatabase(t, patient(server))
			s, other := open(t, address), open(t, address)
			defer s.Close()
			defer other.Close()
			if err := s.Create(t.Context(), device(1)); err != nil {
				t.Fatal(err)
			}
			far := listen(t, other)
			far.wait(repo.Event{Kind: repo.Gap})
			server.Inject(mongowire.Fault{Command: "findAndModify", LoseAnswer: true})
			if _, err := s.Delete(t.Context(), id(1), repo.AnyVersion); err == nil {
				t.Error("Delete knows what went")
			}
			far.wait(ended(1))
		})
	}
}

// TestPolledEvents writes into the collection as another replica would.
func TestPolledEvents(t *testing.T) {
	address := mongotest.NewDatabase(t, patient(mongotest.Double(t, mongowire.Options{Standalone: true})))
	events := mongotest.Connect(t, address).Database(databaseName(address)).Collection("events")
	event := func(at time.Time, device string, ended bool) any {
		return bson.D{{Key: "at", Value: at}, {Key: "device", Value: device}, {Key: "ended", Value: ended}}
	}
	leave := func(all ...any) {
		t.Helper()
		if _, err := events.InsertMany(t.Context(), all); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	leave(event(now.Add(-time.Second), id(0).String(), true)) // before anybody listens
	s := open(t, address)
	defer s.Close()
	l := listen(t, s)
	l.wait(repo.Event{Kind: repo.Gap})

	leave(event(now, id(1).String(), false))
	l.wait(changed(1))
	leave(event(now.Add(-2*time.Second), id(2).String(), true)) // held up on its way
	l.wait(ended(2))
	leave(
		event(now.Add(time.Second), "no device", true),
		event(now.Add(time.Second), id(3).String(), true), // in one millisecond, the end is the last
		event(now.Add(time.Second), id(3).String(), false),
		event(now.Add(-time.Hour), id(4).String(), true), // old ones go
	)
	l.wait(changed(3))
	l.wait(ended(3))
	if got, want := l.all(), []repo.Event{{Kind: repo.Gap}, changed(1), ended(2), changed(3), ended(3)}; !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}

	var many []any
	for n := range 6000 {
		many = append(many, event(now.Add(2*time.Minute), id(100+n).String(), false))
	}
	leave(many...)
	l.wait(repo.Event{Kind: repo.Gap})
	leave(event(now.Add(2*time.Minute+time.Millisecond), id(5).String(), true))
	l.wait(ended(5))
	if err := eventually(t, func() error {
		if n, err := events.Find(t.Context(), bson.D{{Key: "device", Value: id(4).String()}}); err != nil || n.RemainingBatchLength() > 0 {
			return errors.New("an event of an hour ago is still there")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
