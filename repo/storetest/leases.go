package storetest

import (
	"fmt"
	"sync/atomic"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

var leaseCases = []testCase{
	{"TakeLease returns the record with the lease in it", func(f *fixture) {
		want := f.create(sample(1))[0]
		before := time.Now()
		got := f.take(f.s, want.DeviceID, "me", time.Hour)
		if got.Lease.Owner != "me" || !around(got.Lease.Until, before.Add(time.Hour)) {
			f.Errorf("the lease is %v", got.Lease)
		}
		want.Lease = got.Lease
		f.same("TakeLease", got, want)
		f.stored(want)
	}},

	{"a lease excludes others, who learn whose it is", func(f *fixture) {
		want := f.create(sample(1))[0]
		want.Lease = f.take(f.s, want.DeviceID, "me", time.Hour).Lease
		for _, s := range []repo.Store{f.s, f.far} {
			got, err := s.TakeLease(f.Context(), want.DeviceID, "you", time.Hour)
			f.outcome("TakeLease by another", err, domain.ErrLeaseHeld)
			f.same("TakeLease by another", got, want)
		}
		f.stored(want)
	}},

	{"of many that take a lease, one does", func(f *fixture) {
		want := f.create(sample(1))[0]
		owner := func(i int) string { return fmt.Sprint("owner ", i) }
		for round := range 5 {
			var won atomic.Int64
			var winner atomic.Int64
			var held [crowd]domain.Lease
			race(crowd, func(i int) {
				r, err := f.handle(i).TakeLease(f.Context(), want.DeviceID, owner(i), time.Hour)
				held[i] = r.Lease
				if err == nil {
					won.Add(1)
					winner.Store(int64(i))
				} else {
					f.outcome("a loser", err, domain.ErrLeaseHeld)
				}
			})
			if won.Load() != 1 {
				f.Fatalf("round %d: %d have won", round, won.Load())
			}
			for i, lease := range held {
				if lease != held[winner.Load()] {
					f.Errorf("caller %d was told of %v, which is not the winner's lease", i, lease)
				}
			}
			f.outcome("ReleaseLease", f.s.ReleaseLease(f.Context(), want.DeviceID, owner(int(winner.Load()))), nil)
		}
		f.stored(want)
	}},

	{"never two at once hold a lease that goes from hand to hand", func(f *fixture) {
		id := f.create(sample(1))[0].DeviceID
		var inside atomic.Int64
		race(4, func(i int) {
			owner := fmt.Sprint("owner ", i)
			for taken := 0; taken < 5 && !f.Failed(); {
				_, err := f.handle(i).TakeLease(f.Context(), id, owner, time.Hour)
				if err != nil {
					f.outcome("TakeLease", err, domain.ErrLeaseHeld)
					continue
				}
				if inside.Add(1) != 1 {
					f.Error("two are inside")
				}
				taken++
				inside.Add(-1)
				f.outcome("ReleaseLease", f.handle(i+taken).ReleaseLease(f.Context(), id, owner), nil)
			}
		})
	}},

	{"the holder takes it again and renews it", func(f *fixture) {
		want := f.create(sample(1))[0]
		want.Lease = f.take(f.s, want.DeviceID, "me", time.Hour).Lease
		before := time.Now()
		want.Lease = f.take(f.far, want.DeviceID, "me", 2*time.Hour).Lease
		if !around(want.Lease.Until, before.Add(2*time.Hour)) {
			f.Errorf("taken again, the lease is %v", want.Lease)
		}
		f.stored(want)

		before = time.Now()
		f.outcome("RenewLease", f.s.RenewLease(f.Context(), want.DeviceID, "me", 3*time.Hour), nil)
		renewed := f.get(want.DeviceID).Lease
		if renewed.Owner != "me" || !around(renewed.Until, before.Add(3*time.Hour)) {
			f.Errorf("renewed, the lease is %v", renewed)
		}
		want.Lease = renewed
		f.stored(want)
	}},

	{"a stranger neither renews nor releases it", func(f *fixture) {
		want := f.create(sample(1))[0]
		f.outcome("RenewLease of a free one", f.s.RenewLease(f.Context(), want.DeviceID, "you", time.Hour), domain.ErrLeaseLost)
		f.outcome("ReleaseLease of a free one", f.s.ReleaseLease(f.Context(), want.DeviceID, "you"), nil)
		f.stored(want)
		want.Lease = f.take(f.s, want.DeviceID, "me", time.Hour).Lease
		f.outcome("RenewLease", f.s.RenewLease(f.Context(), want.DeviceID, "you", 2*time.Hour), domain.ErrLeaseLost)
		f.outcome("ReleaseLease", f.s.ReleaseLease(f.Context(), want.DeviceID, "you"), nil)
		f.stored(want)
	}},

	{"released, it is free", func(f *fixture) {
		want := f.create(sample(1))[0]
		f.take(f.s, want.DeviceID, "me", time.Hour)
		f.outcome("ReleaseLease", f.far.ReleaseLease(f.Context(), want.DeviceID, "me"), nil)
		f.stored(want)
		f.outcome("ReleaseLease again", f.s.ReleaseLease(f.Context(), want.DeviceID, "me"), nil)
		f.outcome("RenewLease", f.s.RenewLease(f.Context(), want.DeviceID, "me", time.Hour), domain.ErrLeaseLost)
		f.take(f.s, want.DeviceID, "you", time.Hour)
	}},

	{"over, it is lost and free to take", func(f *fixture) {
		id := f.create(sample(1))[0].DeviceID
		f.runOut(id, "me")
		f.outcome("RenewLease", f.s.RenewLease(f.Context(), id, "me", time.Hour), domain.ErrLeaseLost)
		got := f.take(f.far, id, "you", time.Hour)
		if got.Lease.Owner != "you" {
			f.Errorf("taken over, the lease is %v", got.Lease)
		}
		f.outcome("TakeLease by who had it", errOf(f.s.TakeLease(f.Context(), id, "me", time.Hour)), domain.ErrLeaseHeld)
		f.outcome("RenewLease by who had it", f.s.RenewLease(f.Context(), id, "me", time.Hour), domain.ErrLeaseLost)
		f.outcome("ReleaseLease by who had it", f.s.ReleaseLease(f.Context(), id, "me"), nil)
		f.outcome("RenewLease", f.s.RenewLease(f.Context(), id, "you", time.Hour), nil)
	}},

	{"of many that take it over, one does", func(f *fixture) {
		id := f.create(sample(1))[0].DeviceID
		f.runOut(id, "me")
		var won atomic.Int64
		race(crowd, func(i int) {
			if _, err := f.handle(i).TakeLease(f.Context(), id, fmt.Sprint("owner ", i), time.Hour); err == nil {
				won.Add(1)
			} else {
				f.outcome("a loser", err, domain.ErrLeaseHeld)
			}
		})
		if won.Load() != 1 {
			f.Errorf("%d have taken it over", won.Load())
		}
	}},

	{"ReplaceTokens gives back the holder's lease and no other", func(f *fixture) {
		want := f.create(sample(1))[0]
		version := int64(0)
		replace := func(leaseOwner string) {
			f.Helper()
			version++
			next := sample(1 + int(version))
			f.outcome("ReplaceTokens", f.handle(int(version)).ReplaceTokens(f.Context(), want.DeviceID, leaseOwner, version, next.Tokens, next.ExpiresAt), nil)
			want.Tokens, want.ExpiresAt, want.Version = next.Tokens, next.ExpiresAt, version+1
			f.stored(want)
		}
		replace("me") // who does not hold it

		f.take(f.s, want.DeviceID, "me", time.Hour)
		replace("me")

		want.Lease = f.take(f.s, want.DeviceID, "you", time.Hour).Lease
		replace("me")
		replace("")
		f.outcome("RenewLease", f.s.RenewLease(f.Context(), want.DeviceID, "you", time.Hour), nil)
	}},

	{"a write that loses gives no lease back", func(f *fixture) {
		want := f.create(sample(1))[0]
		want.Lease = f.take(f.s, want.DeviceID, "me", time.Hour).Lease
		next := sample(2)
		next.DeviceID = want.DeviceID
		f.outcome("ReplaceTokens", f.s.ReplaceTokens(f.Context(), want.DeviceID, "me", 7, next.Tokens, next.ExpiresAt), domain.ErrConflict)
		f.outcome("Overwrite", f.s.Overwrite(f.Context(), next, 7), domain.ErrConflict)
		f.stored(want)
	}},

	{"ReplaceTokens needs no lease", func(f *fixture) {
		want := f.create(sample(1))[0]
		f.runOut(want.DeviceID, "me")
		next := sample(2)
		f.outcome("ReplaceTokens", f.s.ReplaceTokens(f.Context(), want.DeviceID, "me", 1, next.Tokens, next.ExpiresAt), nil)
		want.Tokens, want.ExpiresAt, want.Version = next.Tokens, next.ExpiresAt, 2
		f.stored(want)
	}},

	{"Overwrite frees it, whoever holds it", func(f *fixture) {
		was := f.create(sample(1))[0]
		f.take(f.s, was.DeviceID, "me", time.Hour)
		next := sample(2) // whose Lease says that somebody holds it
		next.DeviceID = was.DeviceID
		f.outcome("Overwrite", f.far.Overwrite(f.Context(), next, 1), nil)
		next.Version, next.Lease = 2, domain.Lease{}
		f.stored(next)
		f.outcome("RenewLease", f.s.RenewLease(f.Context(), was.DeviceID, "me", time.Hour), domain.ErrLeaseLost)
		f.take(f.s, was.DeviceID, "you", time.Hour)
	}},
}

// take takes a lease that has to be free.
func (f *fixture) take(s repo.Store, id domain.DeviceID, owner string, ttl time.Duration) domain.Record {
	f.Helper()
	r, err := s.TakeLease(f.Context(), id, owner, ttl)
	if err != nil {
		f.Fatalf("TakeLease: %v", err)
	}
	return r
}

// runOut lets owner take the lease and waits until it is over.
func (f *fixture) runOut(id domain.DeviceID, owner string) {
	f.Helper()
	r := f.take(f.s, id, owner, 20*time.Millisecond)
	over := r.Lease.Until.Add(slack)
	f.eventually("the end of the lease", func() bool { return time.Now().After(over) })
}

// slack is how far a store's clock may be from the test's, both being on one
// machine or nearly.
const slack = 50 * time.Millisecond

// around reports whether a moment that a store computed is what it should be;
// the store may take its time.
func around(got, want time.Time) bool {
	return got.After(want.Add(-slack)) && got.Before(want.Add(patience))
}
