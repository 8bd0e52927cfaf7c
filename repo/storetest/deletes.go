package storetest

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

var deleteCases = []testCase{
	{"Delete returns what went, once", func(f *fixture) {
		all := f.create(sample(1), sample(2))
		got, err := f.far.Delete(f.Context(), all[0].DeviceID, repo.AnyVersion)
		f.outcome("Delete", err, nil)
		f.same("Delete", got, all[0])
		f.gone(all[0])
		for _, s := range []repo.Store{f.s, f.far} {
			f.outcome("Delete again", errOf(s.Delete(f.Context(), all[0].DeviceID, repo.AnyVersion)), domain.ErrNotFound)
		}
		f.stored(all[1])
	}},

	{"Delete with a version deletes that version alone", func(f *fixture) {
		want := f.create(sample(1))[0]
		f.outcome("ReplaceTokens", f.s.ReplaceTokens(f.Context(), want.DeviceID, "", 1, sample(2).Tokens, want.ExpiresAt), nil)
		want.Tokens, want.Version = sample(2).Tokens, 2
		for _, from := range []int64{-1, 1, 3} {
			f.outcome("Delete", errOf(f.s.Delete(f.Context(), want.DeviceID, from)), domain.ErrConflict)
		}
		f.stored(want)
		got, err := f.s.Delete(f.Context(), want.DeviceID, 2)
		f.outcome("Delete", err, nil)
		f.same("Delete", got, want)
		f.gone(want)
	}},

	{"of many that delete a device, one gets it", func(f *fixture) {
		want := f.create(sample(1))[0]
		var won atomic.Int64
		race(crowd, func(i int) {
			got, err := f.handle(i).Delete(f.Context(), want.DeviceID, repo.AnyVersion)
			if err == nil {
				won.Add(1)
				f.same("Delete", got, want)
			} else {
				f.outcome("a loser", err, domain.ErrNotFound)
			}
		})
		if won.Load() != 1 {
			f.Errorf("%d have got it", won.Load())
		}
	}},

	{"a device deleted during its refresh stays deleted", func(f *fixture) {
		want := f.create(sample(1))[0]
		want.Lease = f.take(f.s, want.DeviceID, "me", time.Hour).Lease
		got, err := f.far.Delete(f.Context(), want.DeviceID, repo.AnyVersion)
		f.outcome("Delete", err, nil)
		f.same("Delete", got, want)
		f.outcome("RenewLease", f.s.RenewLease(f.Context(), want.DeviceID, "me", time.Hour), domain.ErrNotFound)
		f.outcome("ReplaceTokens", f.s.ReplaceTokens(f.Context(), want.DeviceID, "me", 1, sample(2).Tokens, want.ExpiresAt), domain.ErrNotFound)
		f.outcome("ReleaseLease", f.s.ReleaseLease(f.Context(), want.DeviceID, "me"), nil)
		f.gone(want)
	}},

	{"a deletion that races with a refresh returns the tokens that are the last", func(f *fixture) {
		for n := range 30 {
			start := f.create(sample(n))[0]
			next := sample(1000 + n).Tokens
			var deleted domain.Record
			var refreshed error
			race(2, func(i int) {
				if i == 0 {
					refreshed = f.s.ReplaceTokens(f.Context(), start.DeviceID, "", 1, next, start.ExpiresAt)
					return
				}
				var err error
				deleted, err = f.far.Delete(f.Context(), start.DeviceID, repo.AnyVersion)
				f.outcome("Delete", err, nil)
			})
			if refreshed == nil {
				start.Tokens, start.Version = next, 2
			} else {
				f.outcome("ReplaceTokens", refreshed, domain.ErrNotFound)
			}
			f.same("Delete", deleted, start)
			f.gone(start)
		}
	}},

	{"a deletion that races with a creation takes all of the device or nothing", func(f *fixture) {
		for n := range 30 {
			r := sample(n)
			var created, deleted error
			var went domain.Record
			race(2, func(i int) {
				if i == 0 {
					created = f.s.Create(f.Context(), r)
				} else {
					went, deleted = f.far.Delete(f.Context(), r.DeviceID, repo.AnyVersion)
				}
			})
			f.outcome("Create", created, nil)
			if deleted == nil {
				f.same("Delete", went, asCreated(r))
				f.gone(r)
				continue
			}
			f.outcome("Delete", deleted, domain.ErrNotFound)
			f.stored(asCreated(r))
			if _, listed := f.lists(r)[0].byID[r.DeviceID]; !listed {
				f.Error("a device that was created is not listed")
			}
		}
	}},

	{"DeleteByOwner ends all devices of that owner, but one if told so", func(f *fixture) {
		mine := family(10, 6)
		others := strangers(mine[0])
		f.create(mine...)
		f.create(others...)
		gone, err := f.far.DeleteByOwner(f.Context(), mine[0].Owner, mine[2].DeviceID)
		f.outcome("DeleteByOwner", err, nil)
		f.exactly("DeleteByOwner", gone, slices.Concat(mine[:2], mine[3:]))
		f.gone(slices.Concat(mine[:2], mine[3:])...)
		f.stored(asCreated(mine[2]))

		gone, err = f.s.DeleteByOwner(f.Context(), mine[0].Owner, others[0].DeviceID)
		f.outcome("DeleteByOwner except another's", err, nil)
		f.exactly("DeleteByOwner except another's", gone, mine[2:3])
		gone, err = f.s.DeleteByOwner(f.Context(), mine[0].Owner, domain.DeviceID{})
		f.outcome("DeleteByOwner of nothing", err, nil)
		f.exactly("DeleteByOwner of nothing", gone, nil)

		f.create(mine...)
		gone, err = f.s.DeleteByOwner(f.Context(), mine[0].Owner, domain.DeviceID{})
		f.outcome("DeleteByOwner", err, nil)
		f.exactly("DeleteByOwner", gone, mine)
		f.gone(mine...)
		for _, r := range others {
			f.stored(asCreated(r))
		}
	}},

	{"DeleteByEmail ends all devices of that address, whoever owns them, if it is verified", func(f *fixture) {
		mine := family(10, 4)
		mine[1].Owner, mine[2].Owner.Issuer = sample(20).Owner, "another issuer"
		unverified := sample(30)
		unverified.Email, unverified.EmailVerified = mine[0].Email, false
		others := []domain.Record{sample(31), bare(32), unverified}
		others[0].Owner = mine[0].Owner
		f.create(mine...)
		f.create(others...)
		gone, err := f.far.DeleteByEmail(f.Context(), mine[0].Email)
		f.outcome("DeleteByEmail", err, nil)
		f.exactly("DeleteByEmail", gone, mine)
		for _, r := range mine {
			f.outcome("Get", errOf(f.s.Get(f.Context(), r.DeviceID)), domain.ErrNotFound)
		}
		for _, r := range others {
			f.stored(asCreated(r))
		}
		gone, err = f.s.DeleteByEmail(f.Context(), mine[0].Email)
		f.outcome("DeleteByEmail again", err, nil)
		f.exactly("DeleteByEmail again", gone, nil)
	}},

	{"DeleteBySID ends the devices of that session of that issuer", func(f *fixture) {
		mine := family(10, 3)
		for i := range mine {
			mine[i].SID = "the session"
		}
		mine[1].Owner.Subject = "another subject"
		others := family(20, 3)
		others[0].SID, others[0].Owner = "the session", domain.Owner{Issuer: "another issuer", Subject: mine[0].Owner.Subject}
		others[1].SID, others[1].Owner = "another session", mine[0].Owner
		others[2].SID, others[2].Owner = "", mine[0].Owner
		f.create(mine...)
		f.create(others...)
		gone, err := f.far.DeleteBySID(f.Context(), mine[0].Owner.Issuer, "the session")
		f.outcome("DeleteBySID", err, nil)
		f.exactly("DeleteBySID", gone, mine)
		for _, r := range mine {
			f.outcome("Get", errOf(f.s.Get(f.Context(), r.DeviceID)), domain.ErrNotFound)
		}
		for _, r := range others {
			f.stored(asCreated(r))
		}
		gone, err = f.s.DeleteBySID(f.Context(), mine[0].Owner.Issuer, "the session")
		f.outcome("DeleteBySID again", err, nil)
		f.exactly("DeleteBySID again", gone, nil)
	}},

	{"empty keys find and delete nothing", func(f *fixture) {
		keyless := bare(1)
		keyless.EmailVerified = true
		half := bare(2)
		half.Owner = domain.Owner{Issuer: "the issuer", Subject: "the subject"}
		all := f.create(keyless, half)
		listed := func(list []domain.Record, err error) {
			f.Helper()
			f.outcome("a list or deletion by an empty key", err, nil)
			f.exactly("a list or deletion by an empty key", list, nil)
		}
		listed(f.s.ListByOwner(f.Context(), domain.Owner{}))
		listed(f.s.ListByEmail(f.Context(), ""))
		listed(f.s.DeleteByOwner(f.Context(), domain.Owner{}, domain.DeviceID{}))
		listed(f.s.DeleteByEmail(f.Context(), ""))
		listed(f.s.DeleteBySID(f.Context(), "", ""))
		listed(f.s.DeleteBySID(f.Context(), "the issuer", ""))
		for _, r := range all {
			f.stored(r)
		}
	}},

	{"deletions of all at once return each device once", func(f *fixture) {
		mine := family(0, 200)
		f.createMany(mine)
		var mu sync.Mutex
		var gone []domain.Record
		race(4, func(i int) {
			var some []domain.Record
			var err error
			switch i {
			case 0, 1:
				some, err = f.handle(i).DeleteByOwner(f.Context(), mine[0].Owner, domain.DeviceID{})
			case 2:
				some, err = f.s.DeleteByEmail(f.Context(), mine[0].Email)
			case 3:
				for _, r := range mine {
					one, err := f.far.Delete(f.Context(), r.DeviceID, repo.AnyVersion)
					if err == nil {
						some = append(some, one)
					} else if !errors.Is(err, domain.ErrNotFound) {
						f.Errorf("Delete: %v", err)
					}
				}
			}
			f.outcome("a deletion", err, nil)
			mu.Lock()
			defer mu.Unlock()
			gone = append(gone, some...)
		})
		f.exactly("all deletions together", gone, mine)
	}},

	{"a deletion of all misses none that was there when it began", func(f *fixture) {
		before, during := family(0, 100), family(1000, 100)
		for i := range during {
			during[i].Owner = before[0].Owner
		}
		f.createMany(before)
		var gone []domain.Record
		race(3, func(i int) {
			if i == 0 {
				var err error
				gone, err = f.s.DeleteByOwner(f.Context(), before[0].Owner, domain.DeviceID{})
				f.outcome("DeleteByOwner", err, nil)
				return
			}
			for n := i - 1; n < len(during); n += 2 {
				f.outcome("Create", f.handle(i).Create(f.Context(), during[n]), nil)
			}
		})
		left, err := f.s.ListByOwner(f.Context(), before[0].Owner)
		f.outcome("ListByOwner", err, nil)
		f.gone(before...)
		seen := slices.Concat(gone, left)
		for i := range left {
			seen[len(gone)+i] = f.get(left[i].DeviceID)
		}
		f.exactly("what went and what is left", seen, slices.Concat(before, during))
	}},
}

// family returns n samples of one owner with one email address.
func family(first, n int) []domain.Record {
	all := samples(first, n)
	for i := range all {
		all[i].Owner, all[i].Email = all[0].Owner, all[0].Email
	}
	return all
}

// strangers returns devices that have all but one thing in common with r.
func strangers(r domain.Record) []domain.Record {
	all := samples(900, 4)
	all[0].Owner = domain.Owner{Issuer: "another issuer", Subject: r.Owner.Subject}
	all[1].Owner = domain.Owner{Issuer: r.Owner.Issuer, Subject: "another subject"}
	all[2].Owner = domain.Owner{Issuer: r.Owner.Issuer + r.Owner.Subject} // joined, the two must not look alike
	all[3].Email, all[3].SID = r.Email, r.SID
	return all
}

// exactly checks that got are the created records, whole and in any order.
func (f *fixture) exactly(what string, got, created []domain.Record) {
	f.Helper()
	left := make(map[domain.DeviceID]domain.Record, len(got))
	for _, r := range got {
		if _, twice := left[r.DeviceID]; twice {
			f.Errorf("%s: %v twice", what, r.DeviceID)
		}
		left[r.DeviceID] = r
	}
	for _, want := range created {
		r, found := left[want.DeviceID]
		if !found {
			f.Errorf("%s: %v is missing", what, want.DeviceID)
			continue
		}
		f.same(what, r, asCreated(want))
		delete(left, want.DeviceID)
	}
	for id := range left {
		f.Errorf("%s: %v does not belong there", what, id)
	}
}
