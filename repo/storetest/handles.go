package storetest

import (
	"context"
	"reflect"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// calls has one call of every method of repo.Store, but Close, that would do
// something to r if its context were not over.
func calls(s repo.Store, ctx context.Context, r domain.Record) map[string]func() error {
	id, v := r.DeviceID, r.Version
	changed := sample(77)
	changed.DeviceID = id
	return map[string]func() error{
		"Create":        func() error { return s.Create(ctx, sample(78)) },
		"Get":           func() error { return errOf(s.Get(ctx, id)) },
		"Overwrite":     func() error { return s.Overwrite(ctx, changed, v) },
		"ReplaceTokens": func() error { return s.ReplaceTokens(ctx, id, "me", v, changed.Tokens, changed.ExpiresAt) },
		"Touch": func() error {
			return s.Touch(ctx, id, domain.Seen{At: r.LastSeenAt.Add(time.Hour), ExpiresAt: r.ExpiresAt.Add(time.Hour)})
		},
		"Rename":        func() error { return s.Rename(ctx, id, "changed") },
		"ListByOwner":   func() error { return errOf(s.ListByOwner(ctx, r.Owner)) },
		"ListByEmail":   func() error { return errOf(s.ListByEmail(ctx, r.Email)) },
		"Delete":        func() error { return errOf(s.Delete(ctx, id, repo.AnyVersion)) },
		"DeleteByOwner": func() error { return errOf(s.DeleteByOwner(ctx, r.Owner, domain.DeviceID{})) },
		"DeleteByEmail": func() error { return errOf(s.DeleteByEmail(ctx, r.Email)) },
		"DeleteBySID":   func() error { return errOf(s.DeleteBySID(ctx, r.Owner.Issuer, r.SID)) },
		"TakeLease":     func() error { return errOf(s.TakeLease(ctx, id, "me", time.Hour)) },
		"RenewLease":    func() error { return s.RenewLease(ctx, id, r.Lease.Owner, time.Hour) },
		"ReleaseLease":  func() error { return s.ReleaseLease(ctx, id, r.Lease.Owner) },
		"Page": func() error {
			_, _, err := s.Page(ctx, "", 10)
			return err
		},
		"Spend":            func() error { return s.Spend(ctx, "the key", time.Now().Add(time.Hour)) },
		"QueueRevocations": func() error { return s.QueueRevocations(ctx, revocations(1)) },
		"ClaimRevocations": func() error { return errOf(s.ClaimRevocations(ctx, epoch, epoch.Add(time.Hour), 10)) },
		"FinishRevocation": func() error { return s.FinishRevocation(ctx, revocation(5).ID) },
		"PageRevocations": func() error {
			_, _, err := s.PageRevocations(ctx, "", 10)
			return err
		},
		"Sweep":     func() error { return errOf(s.Sweep(ctx, r.ExpiresAt.Add(time.Hour), 10)) },
		"Subscribe": func() error { return s.Subscribe(ctx, func(repo.Event) {}) },
		"Ping":      func() error { return s.Ping(ctx) },
	}
}

var handleCases = []testCase{
	{"a context that is over changes nothing", func(f *fixture) {
		r := f.create(sample(1))[0]
		r.Lease = f.take(f.s, r.DeviceID, "holder", time.Hour).Lease
		f.queue(revocation(5))

		cancelled, cancel := context.WithCancel(f.Context())
		cancel()
		late, cancel := context.WithDeadline(f.Context(), time.Now().Add(-time.Second))
		defer cancel()
		for _, over := range []struct {
			ctx  context.Context
			want error
		}{{cancelled, context.Canceled}, {late, context.DeadlineExceeded}} {
			all := calls(f.s, over.ctx, r)
			for _, method := range methods() {
				call, known := all[method]
				if !known {
					f.Fatalf("storetest does not call %s", method)
				}
				// Often: what leaves it to chance who wins must not pass.
				for range 10 {
					f.outcome(method, call(), over.want)
				}
			}
		}
		f.stored(r)
		if n := len(f.pages(10, nil)); n != 1 {
			f.Errorf("there are %d records, want 1", n)
		}
		f.claimed("PageRevocations", f.allRevocations(), revocation(5))
		f.outcome("Spend after all that", f.s.Spend(f.Context(), "the key", time.Now().Add(time.Hour)), nil)
	}},

	{"a context that ends during a call leaves the record whole", func(f *fixture) {
		r := f.create(sample(1))[0]
		next := sample(2).Tokens
		for n := range 200 {
			ctx, cancel := context.WithCancel(f.Context())
			race(2, func(i int) {
				if i == 0 {
					cancel()
					return
				}
				_ = f.s.ReplaceTokens(ctx, r.DeviceID, "", r.Version, next, r.ExpiresAt)
				_, _ = f.s.Get(ctx, r.DeviceID)
			})
			got := f.get(r.DeviceID)
			if got.Version != r.Version {
				r.Version, r.Tokens = r.Version+1, next
				next = sample(3 + n).Tokens
			}
			f.same("Get", got, r)
		}
	}},

	{"Ping answers", func(f *fixture) {
		f.outcome("Ping", f.s.Ping(f.Context()), nil)
		f.outcome("Ping by the other handle", f.far.Ping(f.Context()), nil)
	}},

	{"Close ends a subscription", func(f *fixture) {
		ended := make(chan error, 1)
		begun := make(chan struct{}, 10)
		go func() {
			ended <- f.s.Subscribe(context.Background(), func(repo.Event) { begun <- struct{}{} })
		}()
		<-begun
		f.close(f.s)
		select {
		case err := <-ended:
			if err == nil {
				f.Error("Subscribe ended without an error")
			}
		case <-time.After(patience):
			f.Error("Subscribe goes on")
		}
	}},

	{"one handle closes, the others go on", func(f *fixture) {
		if f.Peer == nil {
			return
		}
		r := f.create(sample(1))[0]
		l := f.listen(f.far)
		f.close(f.s)
		f.s = f.far
		f.stored(r)
		f.outcome("Rename", f.s.Rename(f.Context(), r.DeviceID, "name"), nil)
		l.sees(r.DeviceID, repo.Changed)
	}},

	{"records outlast all handles", func(f *fixture) {
		if f.Peer == nil {
			return
		}
		all := samples(0, 10)
		f.create(all...)
		closed := f.s
		f.close(f.far)
		f.close(f.s)
		f.s = closed
		f.s = f.peer()
		f.far = f.s
		for _, r := range all {
			f.stored(asCreated(r))
		}
	}},
}

// methods returns the names of what repo.Store can do, but Close.
func methods() []string {
	var names []string
	store := reflect.TypeFor[repo.Store]()
	for i := range store.NumMethod() {
		if name := store.Method(i).Name; name != "Close" {
			names = append(names, name)
		}
	}
	return names
}
