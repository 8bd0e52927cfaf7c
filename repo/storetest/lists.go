package storetest

import (
	"slices"
	"strings"
	"sync"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

var listCases = []testCase{
	{"lists hold an owner's devices without their Secrets, the last seen first", func(f *fixture) {
		mine := family(10, 5)
		for i, minutes := range []int{3, 5, 1, 4, 2} {
			mine[i].LastSeenAt = epoch.Add(time.Duration(minutes) * time.Minute)
		}
		f.create(mine...)
		f.create(strangers(mine[0])...)
		want := []domain.Record{mine[1], mine[3], mine[0], mine[4], mine[2]}
		f.inOrder("ListByOwner", want, f.must(f.s.ListByOwner(f.Context(), mine[0].Owner)))
		f.inOrder("ListByOwner by the other handle", want, f.must(f.far.ListByOwner(f.Context(), mine[0].Owner)))

		seen := domain.Seen{At: epoch.Add(time.Hour), IP: "address", ExpiresAt: mine[2].ExpiresAt}
		f.outcome("Touch", f.s.Touch(f.Context(), mine[2].DeviceID, seen), nil)
		mine[2].LastSeenAt, mine[2].LastSeenIP = seen.At, seen.IP
		want = []domain.Record{mine[2], mine[1], mine[3], mine[0], mine[4]}
		f.inOrder("ListByOwner after Touch", want, f.must(f.s.ListByOwner(f.Context(), mine[0].Owner)))
	}},

	{"an email address is a key only if it is verified", func(f *fixture) {
		all := family(10, 4)
		all[1].Owner = domain.Owner{Issuer: "another issuer", Subject: "another subject"}
		all[2].EmailVerified = false
		f.create(all...)
		want := []domain.Record{all[3], all[1], all[0]}
		f.inOrder("ListByEmail", want, f.must(f.far.ListByEmail(f.Context(), all[0].Email)))
		f.inOrder("ListByEmail of a part", nil, f.must(f.s.ListByEmail(f.Context(), all[0].Email[1:])))
		f.inOrder("ListByEmail in capitals", nil, f.must(f.s.ListByEmail(f.Context(), strings.ToUpper(all[0].Email))))

		all[2].EmailVerified = true
		f.outcome("Overwrite", f.s.Overwrite(f.Context(), all[2], 1), nil)
		all[0].EmailVerified = false
		f.outcome("Overwrite", f.s.Overwrite(f.Context(), all[0], 1), nil)
		all[2].Version = 2
		list := f.must(f.s.ListByEmail(f.Context(), all[0].Email))
		if len(list) != 3 {
			f.Fatalf("ListByEmail: %d devices, want 3", len(list))
		}
		all[2].Lease = domain.Lease{}
		f.same("ListByEmail after Overwrite", list[1], listed(all[2]))
	}},

	{"a list of nobody's devices is empty", func(f *fixture) {
		f.create(sample(1))
		f.inOrder("ListByOwner", nil, f.must(f.s.ListByOwner(f.Context(), sample(2).Owner)))
		f.inOrder("ListByEmail", nil, f.must(f.s.ListByEmail(f.Context(), sample(2).Email)))
	}},

	{"Page of an empty store is the last", func(f *fixture) {
		records, next, err := f.s.Page(f.Context(), "", 10)
		if len(records) != 0 || next != "" || err != nil {
			f.Errorf("Page returns %d records, cursor %q, error %v", len(records), next, err)
		}
	}},

	{"Page shows each record once, in the form of lists", func(f *fixture) {
		all := samples(0, 25)
		f.create(all...)
		for _, limit := range []int{1, 7, 25, 1000} {
			seen := f.pages(limit, nil)
			if len(seen) != len(all) {
				f.Errorf("in pages of %d: %d records, want %d", limit, len(seen), len(all))
			}
			for _, r := range all {
				f.same("Page", seen[r.DeviceID], listed(asCreated(r)))
			}
		}
	}},

	{"Page refuses what it did not say", func(f *fixture) {
		f.create(samples(0, 3)...)
		for _, cursor := range []string{"x", "' OR 1", strings.Repeat("0", 5000)} {
			_, _, err := f.s.Page(f.Context(), cursor, 10)
			f.outcome("Page with a cursor of one's own", err, domain.ErrBadInput)
		}
		for _, limit := range []int{0, -1} {
			_, _, err := f.s.Page(f.Context(), "", limit)
			f.outcome("Page without a limit", err, domain.ErrBadInput)
		}
	}},

	{"Page shows ten thousand records while others come and go", func(f *fixture) {
		const many = 10_000
		staying := make([]domain.Record, many)
		for i := range staying {
			staying[i] = bare(i)
		}
		passing := samples(many, 400)
		f.createMany(append(passing[:200:200], staying...))

		stop := make(chan struct{})
		stopped := make(chan struct{})
		ended := sync.OnceFunc(func() { close(stop); <-stopped })
		defer ended() // even if a page fails the test
		go func() {
			defer close(stopped)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				leaving, coming := passing[n%400], passing[(n+200)%400]
				f.outcome("Delete", errOf(f.far.Delete(f.Context(), leaving.DeviceID, repo.AnyVersion)), nil)
				f.outcome("Create", f.far.Create(f.Context(), coming), nil)
			}
		}()
		seen := f.pages(250, staying)
		ended()
		for _, r := range staying {
			if _, found := seen[r.DeviceID]; !found {
				f.Fatalf("%v was there all the time and not shown", r.DeviceID)
			}
		}
	}},

	{"Sweep removes what is over, and no more than told", func(f *fixture) {
		now := epoch.Add(time.Hour)
		over, alive := samples(0, 10), samples(100, 3)
		for i := range over {
			over[i].ExpiresAt = now.Add(-time.Duration(i) * time.Millisecond)
		}
		for i := range alive {
			alive[i].ExpiresAt = now.Add(time.Duration(i+1) * time.Millisecond)
		}
		f.create(slices.Concat(over, alive)...)
		left := len(over)
		for i, limit := range []int{0, 4, 4, 4, 4} {
			want := min(limit, left)
			if f.SweptByServer {
				want = 0
			}
			swept, err := f.handle(i).Sweep(f.Context(), now.Add(999*time.Microsecond), limit)
			f.outcome("Sweep", err, nil)
			if swept != want {
				f.Errorf("Sweep says %d, want %d", swept, want)
			}
			left -= want
			if there := len(f.pages(100, nil)); there != left+len(alive) {
				f.Errorf("%d records are left, want %d", there, left+len(alive))
			}
		}
		if !f.SweptByServer {
			f.gone(over...)
		}
		for _, r := range alive {
			f.stored(asCreated(r))
		}
	}},

	{"Sweep goes by the end that Touch, ReplaceTokens and Overwrite have set", func(f *fixture) {
		now := epoch.Add(time.Hour)
		all := samples(0, 5)
		for i := range all {
			all[i].ExpiresAt = now
		}
		f.create(all...)
		later := now.Add(time.Minute)
		f.outcome("Touch", f.s.Touch(f.Context(), all[0].DeviceID, domain.Seen{At: all[0].LastSeenAt, ExpiresAt: later}), nil)
		f.outcome("ReplaceTokens", f.s.ReplaceTokens(f.Context(), all[1].DeviceID, "", 1, all[1].Tokens, later), nil)
		all[2].ExpiresAt = later
		f.outcome("Overwrite", f.s.Overwrite(f.Context(), all[2], 1), nil)
		swept, err := f.s.Sweep(f.Context(), now, 100)
		f.outcome("Sweep", err, nil)
		want := 2
		if f.SweptByServer {
			want = 0
		}
		if swept != want {
			f.Errorf("Sweep says %d, want %d", swept, want)
		}
		if want > 0 {
			f.gone(all[len(all)-want:]...)
		}
		for _, r := range all[:len(all)-want] {
			f.get(r.DeviceID)
		}
	}},
}

// inOrder checks a list against created records.
func (f *fixture) inOrder(what string, created []domain.Record, got []domain.Record) {
	f.Helper()
	if len(got) != len(created) {
		f.Errorf("%s: %d records, want %d", what, len(got), len(created))
		return
	}
	for i := range got {
		f.same(what, got[i], listed(asCreated(created[i])))
	}
}

// must takes a list that has to be had.
func (f *fixture) must(list []domain.Record, err error) []domain.Record {
	f.Helper()
	if err != nil {
		f.Fatalf("a list: %v", err)
	}
	return list
}

// pages reads all pages. It fails if a record is shown twice, or if a page of
// those that stay is too long.
func (f *fixture) pages(limit int, staying []domain.Record) map[domain.DeviceID]domain.Record {
	f.Helper()
	stay := make(map[domain.DeviceID]bool, len(staying))
	for _, r := range staying {
		stay[r.DeviceID] = true
	}
	seen := make(map[domain.DeviceID]domain.Record)
	for cursor := ""; ; {
		records, next, err := f.s.Page(f.Context(), cursor, limit)
		if err != nil {
			f.Fatalf("Page: %v", err)
		}
		if len(records) > limit {
			f.Errorf("Page returns %d records, want up to %d", len(records), limit)
		}
		for _, r := range records {
			// One that goes and comes again may be shown again.
			if _, twice := seen[r.DeviceID]; twice && (staying == nil || stay[r.DeviceID]) {
				f.Errorf("%v is shown twice", r.DeviceID)
			}
			seen[r.DeviceID] = r
		}
		if next == "" {
			return seen
		}
		cursor = next
	}
}

// namedList is one of the ways to come upon a device other than by its id.
type namedList struct {
	name string
	byID map[domain.DeviceID]domain.Record
}

// lists returns all lists that a record like r should stand in.
func (f *fixture) lists(r domain.Record) []namedList {
	f.Helper()
	byID := func(list []domain.Record) map[domain.DeviceID]domain.Record {
		found := make(map[domain.DeviceID]domain.Record, len(list))
		for _, r := range list {
			found[r.DeviceID] = r
		}
		return found
	}
	return []namedList{
		{"ListByOwner", byID(f.must(f.s.ListByOwner(f.Context(), r.Owner)))},
		{"ListByEmail", byID(f.must(f.s.ListByEmail(f.Context(), r.Email)))},
		{"Page", f.pages(100, nil)},
	}
}
