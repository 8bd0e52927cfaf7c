package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

var eventCases = []testCase{
	{"a subscription begins with a Gap and ends with its context", func(f *fixture) {
		for _, s := range []repo.Store{f.s, f.far} {
			ctx, cancel := context.WithCancel(f.Context())
			var first repo.Event
			err := s.Subscribe(ctx, func(e repo.Event) {
				if first.Kind == 0 {
					first = e
				}
				cancel()
			})
			f.outcome("Subscribe", err, context.Canceled)
			if want := (repo.Event{Kind: repo.Gap}); first != want {
				f.Errorf("the first event is %v, want a Gap", first)
			}
		}
	}},

	{"a device's events come in order, to all replicas", func(f *fixture) {
		near, near2, far := f.listen(f.s), f.listen(f.s), f.listen(f.far)
		all := f.create(samples(0, 6)...)
		ctx := f.Context()
		changes := []func(domain.Record) error{
			func(r domain.Record) error { return f.s.Rename(ctx, r.DeviceID, "name") },
			func(r domain.Record) error {
				return f.s.ReplaceTokens(ctx, r.DeviceID, "", 1, r.Tokens, r.ExpiresAt)
			},
			func(r domain.Record) error { return f.s.Overwrite(ctx, r, 1) },
		}
		for i, r := range all {
			f.outcome("a change", changes[i%len(changes)](r), nil)
			// By the other replica: the order has to hold even so.
			f.outcome("Delete", errOf(f.far.Delete(ctx, r.DeviceID, repo.AnyVersion)), nil)
		}
		for _, l := range []*listener{near, near2, far} {
			for _, r := range all {
				l.sees(r.DeviceID, repo.Changed, repo.Ended)
			}
		}
	}},

	{"every kind of deletion ends the devices, and only those", func(f *fixture) {
		near, far := f.listen(f.s), f.listen(f.far)
		all := samples(0, 14)
		for i := range all {
			all[i].Owner, all[i].Email, all[i].SID = sample(i/2).Owner, sample(i/2).Email, sample(i/2).SID
		}
		all[8].ExpiresAt, all[9].ExpiresAt = epoch.Add(-time.Hour), epoch.Add(-time.Hour)
		f.create(all...)
		ctx := f.Context()
		f.outcome("Delete", errOf(f.s.Delete(ctx, all[0].DeviceID, repo.AnyVersion)), nil)
		f.outcome("Delete", errOf(f.s.Delete(ctx, all[1].DeviceID, 1)), nil)
		f.outcome("DeleteByOwner", errOf(f.s.DeleteByOwner(ctx, all[2].Owner, domain.DeviceID{})), nil)
		f.outcome("DeleteByEmail", errOf(f.s.DeleteByEmail(ctx, all[4].Email)), nil)
		f.outcome("DeleteBySID", errOf(f.s.DeleteBySID(ctx, all[6].Owner.Issuer, all[6].SID)), nil)
		ended := 8
		if !f.SweptByServer {
			f.outcome("Sweep", errOf(f.s.Sweep(ctx, epoch.Add(-time.Minute), 100)), nil)
			ended = 10
		}
		f.outcome("DeleteByOwner", errOf(f.s.DeleteByOwner(ctx, all[10].Owner, all[10].DeviceID)), nil)
		// The one spared is not ended; its name tells when all has arrived.
		f.outcome("Rename", f.s.Rename(ctx, all[10].DeviceID, "name"), nil)
		for _, l := range []*listener{near, far} {
			for _, r := range all[:ended] {
				l.sees(r.DeviceID, repo.Ended)
			}
			l.sees(all[11].DeviceID, repo.Ended)
			l.sees(all[10].DeviceID, repo.Changed)
		}
	}},

	{"a device that stays is not said to be ended", func(f *fixture) {
		near, far := f.listen(f.s), f.listen(f.far)
		r := f.create(sample(1))[0]
		ctx, id := f.Context(), r.DeviceID
		f.outcome("Create", f.s.Create(ctx, r), domain.ErrExists)
		f.outcome("Overwrite", f.s.Overwrite(ctx, r, 7), domain.ErrConflict)
		f.outcome("ReplaceTokens", f.s.ReplaceTokens(ctx, id, "me", 7, r.Tokens, r.ExpiresAt), domain.ErrConflict)
		f.outcome("Delete", errOf(f.s.Delete(ctx, id, 7)), domain.ErrConflict)
		f.outcome("DeleteByOwner", errOf(f.s.DeleteByOwner(ctx, r.Owner, id)), nil)
		f.outcome("Touch", f.s.Touch(ctx, id, domain.Seen{At: r.LastSeenAt.Add(time.Hour), ExpiresAt: r.ExpiresAt}), nil)
		f.take(f.s, id, "me", time.Hour)
		f.outcome("RenewLease", f.s.RenewLease(ctx, id, "me", time.Hour), nil)
		f.outcome("ReleaseLease", f.s.ReleaseLease(ctx, id, "me"), nil)
		f.outcome("Sweep", errOf(f.s.Sweep(ctx, r.ExpiresAt.Add(-time.Millisecond), 10)), nil)
		f.outcome("Rename", f.s.Rename(ctx, id, "name"), nil)
		near.sees(id, repo.Changed)
		far.sees(id, repo.Changed)
	}},

	{"who is too slow for the events is told that some are missed", func(f *fixture) {
		// More than any store keeps for one subscriber.
		const changes = 1500
		id := f.create(sample(1))[0].DeviceID
		ctx, cancel := context.WithCancel(f.Context())
		defer cancel()
		begun, awake, told := make(chan struct{}), make(chan struct{}), make(chan struct{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			gaps, ended := 0, false
			_ = f.far.Subscribe(ctx, func(e repo.Event) {
				if e.Kind == repo.Gap {
					gaps++
				}
				if gaps == 1 && e.Kind == repo.Gap {
					close(begun)
					<-awake
				}
				if gaps > 1 && !ended {
					ended = true
					close(told)
				}
			})
		}()
		<-begun
		race(crowd, func(i int) {
			for n := i; n < changes && !f.Failed(); n += crowd {
				f.outcome("Rename", f.s.Rename(f.Context(), id, "name"), nil)
			}
		})
		// Its own change is the last that the far handle waits for: by then it has
		// heard of the others.
		f.outcome("Rename", f.far.Rename(f.Context(), id, "the last"), nil)
		close(awake)
		select {
		case <-told:
		case <-time.After(patience):
			f.Error("no Gap for what was missed")
		}
		cancel()
		<-done
	}},

	{"what is told of is already so", func(f *fixture) {
		r := f.create(sample(1))[0]
		told := make(chan error, 1)
		ctx, cancel := context.WithCancel(f.Context())
		defer cancel()
		subscribed := make(chan struct{})
		begun := sync.OnceFunc(func() { close(subscribed) }) // a Gap may come again
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = f.far.Subscribe(ctx, func(e repo.Event) {
				switch e.Kind {
				case repo.Gap:
					begun()
				case repo.Ended:
					_, err := f.far.Get(ctx, e.DeviceID)
					told <- err
				}
			})
		}()
		<-subscribed
		f.outcome("Delete", errOf(f.s.Delete(f.Context(), r.DeviceID, repo.AnyVersion)), nil)
		select {
		case err := <-told:
			f.outcome("Get when told", err, domain.ErrNotFound)
		case <-time.After(patience):
			f.Error("nothing is told")
		}
		cancel()
		<-done
	}},
}

// listener gathers the events of one subscription.
type listener struct {
	f  *fixture
	mu sync.Mutex
	// by device, without repetitions
	heard map[domain.DeviceID][]repo.EventKind
	gaps  int
}

// listen subscribes until the test ends, and returns when the subscription
// stands.
func (f *fixture) listen(s repo.Store) *listener {
	l := &listener{f: f, heard: make(map[domain.DeviceID][]repo.EventKind)}
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Subscribe(ctx, l.hear) }()
	f.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			f.Errorf("Subscribe ended with %v", err)
		}
	})
	f.eventually("the first Gap", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.gaps > 0
	})
	return l
}

func (l *listener) hear(e repo.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Kind == repo.Gap {
		l.gaps++
		return
	}
	l.heard[e.DeviceID] = slices.Compact(append(l.heard[e.DeviceID], e.Kind))
}

// sees waits until the last kind has been heard of a device, and checks that it
// was these kinds and no Gap.
func (l *listener) sees(id domain.DeviceID, kinds ...repo.EventKind) {
	l.f.Helper()
	var got []repo.EventKind
	l.f.eventually("an event", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		got = slices.Clone(l.heard[id])
		return slices.Contains(got, kinds[len(kinds)-1])
	})
	if !slices.Equal(got, kinds) {
		l.f.Errorf("heard %v of a device, want %v", got, kinds)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gaps != 1 {
		l.f.Errorf("heard %d Gaps, want 1", l.gaps)
	}
}
