package storetest

import (
	"strings"
	"sync/atomic"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// crowd is how many callers the big races have.
const crowd = 64

var recordCases = []testCase{
	{"every field comes back", func(f *fixture) {
		f.stored(f.create(sample(1))[0])
	}},

	{"what may be missing comes back missing", func(f *fixture) {
		f.stored(f.create(bare(1))[0])
	}},

	{"long values come back", func(f *fixture) {
		r := sample(1)
		long := strings.Repeat("\x00\xff token ", 20_000)
		r.Tokens.Access, r.Tokens.Refresh = domain.NewSecret(long), domain.NewSecret(long+"2")
		r.UserAgent = strings.Repeat("agent ", 1000)
		r.Roles = strings.Fields(strings.Repeat("role ", 1000))
		f.stored(f.create(r)[0])
	}},

	{"times come back in UTC, cut to the millisecond", func(f *fixture) {
		odd := func(t time.Time) time.Time {
			return t.Add(999_999 * time.Nanosecond).In(time.FixedZone("", 3600))
		}
		r := sample(1)
		rough := r
		for _, t := range []*time.Time{
			&rough.CreatedAt, &rough.LastSeenAt, &rough.AuthTime, &rough.ProvedAt, &rough.ExpiresAt,
			&rough.Tokens.AccessIssued, &rough.Tokens.AccessExpiry, &rough.Tokens.RefreshExpiry,
		} {
			*t = odd(*t)
		}
		f.create(rough)
		f.stored(asCreated(r))

		next := sample(2).Tokens
		rough.Tokens = next
		rough.Tokens.AccessIssued, rough.Tokens.AccessExpiry, rough.Tokens.RefreshExpiry =
			odd(next.AccessIssued), odd(next.AccessExpiry), odd(next.RefreshExpiry)
		f.outcome("ReplaceTokens", f.s.ReplaceTokens(f.Context(), r.DeviceID, "", 1, rough.Tokens, rough.ExpiresAt), nil)
		r.Tokens, r.Version, r.Lease = next, 2, domain.Lease{}
		f.stored(r)

		later := domain.Seen{At: r.LastSeenAt.Add(time.Hour), IP: "address", ExpiresAt: r.ExpiresAt.Add(time.Hour)}
		f.outcome("Touch", f.s.Touch(f.Context(), r.DeviceID, domain.Seen{At: odd(later.At), IP: later.IP, ExpiresAt: odd(later.ExpiresAt)}), nil)
		r.LastSeenAt, r.LastSeenIP, r.ExpiresAt = later.At, later.IP, later.ExpiresAt
		f.stored(r)
	}},

	{"a caller's record and the store's have nothing in common", func(f *fixture) {
		spoil := func(r domain.Record) { r.Roles[0], r.AMR[0] = "spoilt", "spoilt" }
		created, overwritten := sample(1), sample(2)
		want := f.create(created)[0]
		want.Roles, want.AMR = sample(1).Roles, sample(1).AMR
		spoil(created)
		f.stored(want)

		overwritten.DeviceID = want.DeviceID
		f.outcome("Overwrite", f.s.Overwrite(f.Context(), overwritten, 1), nil)
		want = overwritten
		want.Version, want.Lease, want.Roles, want.AMR = 2, domain.Lease{}, sample(2).Roles, sample(2).AMR
		spoil(overwritten)
		f.stored(want)

		spoil(f.get(want.DeviceID))
		for _, list := range f.lists(want) {
			spoil(list.byID[want.DeviceID])
		}
		spoil(f.take(f.s, want.DeviceID, "me", time.Hour))
		_, err := f.s.TakeLease(f.Context(), want.DeviceID, "you", time.Hour)
		f.outcome("TakeLease", err, domain.ErrLeaseHeld)
		f.outcome("ReleaseLease", f.s.ReleaseLease(f.Context(), want.DeviceID, "me"), nil)
		f.stored(want)
	}},

	{"an expired record is found, changed and deleted like any other", func(f *fixture) {
		r := sample(1)
		r.ExpiresAt = time.Now().UTC().Truncate(time.Millisecond).Add(-time.Second)
		want := f.create(r)[0]
		f.stored(want)
		for _, list := range f.lists(r) {
			f.same(list.name, list.byID[r.DeviceID], listed(want))
		}
		got, err := f.s.TakeLease(f.Context(), r.DeviceID, "me", time.Minute)
		f.outcome("TakeLease", err, nil)
		want.Lease = got.Lease
		f.same("TakeLease", got, want)
		want.Tokens, want.Version, want.Lease = sample(2).Tokens, 2, domain.Lease{}
		f.outcome("ReplaceTokens", f.s.ReplaceTokens(f.Context(), r.DeviceID, "me", 1, want.Tokens, r.ExpiresAt), nil)
		got, err = f.s.Delete(f.Context(), r.DeviceID, 2)
		f.outcome("Delete", err, nil)
		f.same("Delete", got, want)
	}},

	{"Create leaves a record that is there alone", func(f *fixture) {
		want := f.create(sample(1))[0]
		leased, err := f.s.TakeLease(f.Context(), want.DeviceID, "me", time.Minute)
		f.outcome("TakeLease", err, nil)
		want.Lease = leased.Lease
		again := sample(2)
		again.DeviceID = want.DeviceID
		f.outcome("Create", f.s.Create(f.Context(), again), domain.ErrExists)
		f.outcome("Create by the other handle", f.far.Create(f.Context(), again), domain.ErrExists)
		f.stored(want)
	}},

	{"of many that create one device, one does", func(f *fixture) {
		all := samples(0, crowd)
		var winner atomic.Int64
		winner.Store(-1)
		race(crowd, func(i int) {
			all[i].DeviceID = sample(1).DeviceID
			switch err := f.handle(i).Create(f.Context(), all[i]); {
			case err == nil && !winner.CompareAndSwap(-1, int64(i)):
				f.Error("two have created it")
			case err != nil:
				f.outcome("Create", err, domain.ErrExists)
			}
		})
		f.stored(asCreated(all[max(winner.Load(), 0)]))
	}},

	{"nothing but Create brings a device into being", func(f *fixture) {
		never, deleted := sample(1), f.create(sample(2))[0]
		f.outcome("Delete", errOf(f.s.Delete(f.Context(), deleted.DeviceID, repo.AnyVersion)), nil)
		for _, r := range []domain.Record{never, deleted} {
			for _, s := range []repo.Store{f.s, f.far} {
				ctx, id := f.Context(), r.DeviceID
				f.outcome("Get", errOf(s.Get(ctx, id)), domain.ErrNotFound)
				f.outcome("Overwrite", s.Overwrite(ctx, r, 1), domain.ErrNotFound)
				f.outcome("Overwrite at 0", s.Overwrite(ctx, r, 0), domain.ErrNotFound)
				f.outcome("ReplaceTokens", s.ReplaceTokens(ctx, id, "me", 1, r.Tokens, r.ExpiresAt), domain.ErrNotFound)
				f.outcome("ReplaceTokens at 0", s.ReplaceTokens(ctx, id, "me", 0, r.Tokens, r.ExpiresAt), domain.ErrNotFound)
				f.outcome("Touch", s.Touch(ctx, id, domain.Seen{At: epoch, IP: "address", ExpiresAt: r.ExpiresAt}), nil)
				f.outcome("Rename", s.Rename(ctx, id, "name"), domain.ErrNotFound)
				f.outcome("TakeLease", errOf(s.TakeLease(ctx, id, "me", time.Minute)), domain.ErrNotFound)
				f.outcome("RenewLease", s.RenewLease(ctx, id, "me", time.Minute), domain.ErrNotFound)
				f.outcome("ReleaseLease", s.ReleaseLease(ctx, id, "me"), nil)
				f.outcome("Delete", errOf(s.Delete(ctx, id, repo.AnyVersion)), domain.ErrNotFound)
				f.outcome("Delete at 1", errOf(s.Delete(ctx, id, 1)), domain.ErrNotFound)
			}
			f.gone(r)
			f.outcome("Create after all that", f.s.Create(f.Context(), r), nil)
			f.stored(asCreated(r))
		}
	}},

	{"Overwrite replaces everything, and the keys to find it by", func(f *fixture) {
		was := f.create(sample(1))[0]
		f.outcome("TakeLease", errOf(f.s.TakeLease(f.Context(), was.DeviceID, "me", time.Minute)), nil)
		for i, next := range []domain.Record{sample(2), bare(3), sample(4)} {
			next.DeviceID = was.DeviceID
			from := int64(i + 1)
			f.outcome("Overwrite", f.handle(i).Overwrite(f.Context(), next, from), nil)
			next.Version, next.Lease = from+1, domain.Lease{}
			f.stored(next)
		}
		found := func(r domain.Record) int {
			f.Helper()
			lists := f.lists(r)
			bySID := f.must(f.s.DeleteBySID(f.Context(), r.Owner.Issuer, r.SID))
			return len(lists[0].byID) + len(lists[1].byID) + len(bySID)
		}
		if n := found(sample(1)) + found(sample(2)) + found(bare(3)); n != 0 {
			f.Errorf("it is found %d times by keys that it had before", n)
		}
		if n := found(sample(4)); n != 3 {
			f.Errorf("it is found %d times by keys that it has now, want 3", n)
		}
	}},

	{"Overwrite and ReplaceTokens change nothing at another version", func(f *fixture) {
		want := f.create(sample(1))[0]
		next := sample(2)
		next.DeviceID = want.DeviceID
		for _, from := range []int64{-1, 0, 2, 1 << 40} {
			f.outcome("Overwrite", f.s.Overwrite(f.Context(), next, from), domain.ErrConflict)
			f.outcome("ReplaceTokens", f.s.ReplaceTokens(f.Context(), want.DeviceID, "", from, next.Tokens, next.ExpiresAt), domain.ErrConflict)
		}
		f.stored(want)
	}},

	{"ReplaceTokens replaces the tokens and the end, and nothing else", func(f *fixture) {
		want := f.create(sample(1))[0]
		for i, next := range []domain.Record{sample(2), bare(3), sample(4)} {
			from := int64(i + 1)
			f.outcome("ReplaceTokens", f.handle(i).ReplaceTokens(f.Context(), want.DeviceID, "", from, next.Tokens, next.ExpiresAt), nil)
			want.Tokens, want.ExpiresAt, want.Version = next.Tokens, next.ExpiresAt, from+1
			f.stored(want)
		}
	}},

	{"of two that replace the tokens, one does", func(f *fixture) { f.replaceRace(2, 30) }},
	{"of many that replace the tokens, one does", func(f *fixture) { f.replaceRace(crowd, 3) }},

	{"of many that overwrite or replace the tokens, one does", func(f *fixture) {
		start := f.create(sample(1))[0]
		var won atomic.Int64
		race(crowd, func(i int) {
			next := sample(2 + i)
			next.DeviceID = start.DeviceID
			var err error
			if i%4 < 2 {
				err = f.handle(i).Overwrite(f.Context(), next, 1)
			} else {
				err = f.handle(i).ReplaceTokens(f.Context(), next.DeviceID, "", 1, next.Tokens, next.ExpiresAt)
			}
			if err == nil {
				won.Add(1)
			} else {
				f.outcome("a loser", err, domain.ErrConflict)
			}
		})
		if won.Load() != 1 || f.get(start.DeviceID).Version != 2 {
			f.Errorf("%d have won", won.Load())
		}
	}},

	{"Touch moves forward, never back", func(f *fixture) {
		want := f.create(sample(1))[0]
		touch := func(s repo.Store, seen domain.Seen) {
			f.Helper()
			f.outcome("Touch", s.Touch(f.Context(), want.DeviceID, seen), nil)
			f.stored(want)
		}
		seen, end := want.LastSeenAt, want.ExpiresAt
		touch(f.s, domain.Seen{At: seen, IP: "same time", ExpiresAt: end})
		touch(f.s, domain.Seen{At: seen.Add(-time.Hour), IP: "earlier", ExpiresAt: end.Add(-time.Hour)})
		touch(f.s, domain.Seen{})

		want.LastSeenAt, want.LastSeenIP = seen.Add(2*time.Hour), "later"
		touch(f.far, domain.Seen{At: want.LastSeenAt, IP: want.LastSeenIP, ExpiresAt: end.Add(-time.Hour)})
		want.ExpiresAt = end.Add(2 * time.Hour)
		touch(f.s, domain.Seen{At: seen.Add(time.Hour), IP: "late", ExpiresAt: want.ExpiresAt})
	}},

	{"Touch and Rename never undo a refresh", func(f *fixture) {
		const rounds = 60
		want := f.create(sample(1))[0]
		race(5, func(i int) {
			for n := range rounds {
				var err error
				switch s := f.handle(i); i {
				case 0:
					next := sample(2 + n)
					err = s.ReplaceTokens(f.Context(), want.DeviceID, "", int64(n+1), next.Tokens, want.ExpiresAt)
				case 1, 2:
					err = s.Touch(f.Context(), want.DeviceID, domain.Seen{
						At: want.LastSeenAt.Add(time.Duration(n+1) * time.Second), IP: "address", ExpiresAt: want.ExpiresAt,
					})
				case 3, 4:
					err = s.Rename(f.Context(), want.DeviceID, "name")
				}
				if err != nil {
					f.Errorf("caller %d, round %d: %v", i, n, err)
					return
				}
			}
		})
		want.Version, want.Tokens = rounds+1, sample(1+rounds).Tokens
		want.LastSeenAt, want.LastSeenIP, want.Name = want.LastSeenAt.Add(rounds*time.Second), "address", "name"
		f.stored(want)
	}},

	{"Rename gives a name and takes it away", func(f *fixture) {
		want := f.create(sample(1))[0]
		for i, name := range []string{"Küche 🧥", "", "'; DROP TABLE device; --", strings.Repeat("n", 1000)} {
			want.Name = name
			f.outcome("Rename", f.handle(i).Rename(f.Context(), want.DeviceID, name), nil)
			f.stored(want)
		}
	}},
}

// replaceRace lets callers replace the tokens of one version at once.
func (f *fixture) replaceRace(callers, rounds int) {
	want := f.create(sample(1))[0]
	for round := range rounds {
		from := int64(round + 1)
		var won atomic.Int64
		var winner atomic.Int64
		race(callers, func(i int) {
			next := sample(2 + i)
			err := f.handle(i).ReplaceTokens(f.Context(), want.DeviceID, "", from, next.Tokens, next.ExpiresAt)
			if err == nil {
				won.Add(1)
				winner.Store(int64(i))
			} else {
				f.outcome("a loser", err, domain.ErrConflict)
			}
		})
		if won.Load() != 1 {
			f.Fatalf("round %d: %d have won", round, won.Load())
		}
		next := sample(2 + int(winner.Load()))
		want.Tokens, want.ExpiresAt, want.Version = next.Tokens, next.ExpiresAt, from+1
		f.stored(want)
	}
}
