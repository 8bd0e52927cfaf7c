package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

var revocationCases = []testCase{
	{"every field of a revocation comes back", func(f *fixture) {
		want := revocation(1)
		bare := domain.Revocation{ID: "bare", Refresh: want.Refresh, NotBefore: epoch, ExpiresAt: want.ExpiresAt}
		f.queue(want, bare)
		f.claimed("PageRevocations", f.allRevocations(), want, bare)
		until := epoch.Add(24 * time.Hour)
		want.NotBefore, bare.NotBefore = until, until
		f.claimed("ClaimRevocations", f.claim(f.far, epoch.Add(time.Hour), until, 10), want, bare)
	}},

	{"a revocation takes the place of the one before of that id", func(f *fixture) {
		f.queue(revocation(1), revocation(2))
		next := revocation(3)
		next.ID = revocation(1).ID
		f.queue(next)
		f.claimed("PageRevocations", f.allRevocations(), next, revocation(2))
	}},

	{"what is not due is not given", func(f *fixture) {
		all := revocations(3)
		for i := range all {
			all[i].NotBefore = epoch.Add(time.Duration(i) * time.Millisecond)
		}
		f.queue(all...)
		until := epoch.Add(time.Hour)
		f.claimed("ClaimRevocations before any is due", f.claim(f.s, epoch.Add(-time.Millisecond), until, 10))
		got := f.claim(f.s, epoch.Add(time.Millisecond), until, 10)
		all[0].NotBefore, all[1].NotBefore = until, until
		f.claimed("ClaimRevocations", got, all[:2]...)
	}},

	{"a claim holds until it is over, and those that wait longest come first", func(f *fixture) {
		all := revocations(5)
		for i := range all {
			all[i].NotBefore = epoch.Add(-time.Duration(i) * time.Minute)
		}
		f.queue(all...)
		until := epoch.Add(time.Minute)
		for i := range all {
			all[i].NotBefore = until
		}
		f.claimed("the first claim", f.claim(f.s, epoch, until, 2), all[4], all[3])
		f.claimed("the second", f.claim(f.far, epoch, until, 2), all[2], all[1])
		f.claimed("the third", f.claim(f.s, epoch, until, 2), all[0])
		f.claimed("one too many", f.claim(f.far, until.Add(-time.Millisecond), until, 2))
		f.claimed("no limit", f.claim(f.s, until, until, 0))
		f.claimed("one when they are over", f.claim(f.far, until, until.Add(time.Minute), 10), later(all, until.Add(time.Minute))...)
	}},

	{"of many claims each revocation goes to one", func(f *fixture) {
		const n = 40
		all := revocations(n)
		f.queue(all...)
		for round := range 2 {
			now := epoch.Add(time.Duration(round) * time.Hour)
			until := now.Add(time.Hour)
			var mu sync.Mutex
			var got []domain.Revocation
			race(8, func(i int) {
				for range n {
					some, err := f.handle(i).ClaimRevocations(f.Context(), now, until, 3)
					f.outcome("ClaimRevocations", err, nil)
					mu.Lock()
					got = append(got, some...)
					enough := len(got) >= n
					mu.Unlock()
					if enough || err != nil {
						return
					}
				}
			})
			f.claimed("all claims together", got, later(all, until)...)
		}
	}},

	{"put back, a revocation waits for the time that it is given", func(f *fixture) {
		r := revocation(1)
		f.queue(r)
		got := f.claim(f.s, epoch, epoch.Add(time.Hour), 1)
		if len(got) != 1 {
			f.Fatalf("ClaimRevocations returns %d, want 1", len(got))
		}
		got[0].Tries, got[0].NotBefore = 7, epoch.Add(time.Minute)
		f.outcome("QueueRevocations", f.far.QueueRevocations(f.Context(), got), nil)
		f.claimed("too early", f.claim(f.s, epoch.Add(time.Minute-time.Millisecond), epoch.Add(time.Hour), 1))
		r.Tries, r.NotBefore = 7, epoch.Add(time.Hour)
		f.claimed("in time", f.claim(f.s, epoch.Add(time.Minute), epoch.Add(time.Hour), 1), r)
	}},

	{"a revocation that is finished is gone", func(f *fixture) {
		all := revocations(3)
		f.queue(all...)
		for _, id := range []string{all[1].ID, all[1].ID, "unknown"} {
			f.outcome("FinishRevocation", f.far.FinishRevocation(f.Context(), id), nil)
		}
		f.claimed("PageRevocations", f.allRevocations(), all[0], all[2])
		until := epoch.Add(time.Hour)
		f.claimed("ClaimRevocations", f.claim(f.s, epoch.Add(time.Minute), until, 10), later([]domain.Revocation{all[0], all[2]}, until)...)
	}},

	{"one call queues many, but not more than it may", func(f *fixture) {
		f.queue()
		all := revocations(repo.MostRevocations + 1)
		f.outcome("QueueRevocations of too many", f.s.QueueRevocations(f.Context(), all), domain.ErrBadInput)
		f.claimed("PageRevocations", f.allRevocations())
		f.queue(all[1:]...)
		f.claimed("PageRevocations", f.allRevocations(), all[1:]...)
	}},

	{"PageRevocations shows hundreds", func(f *fixture) {
		all := revocations(300) // more than Redis keeps in one block
		for some := range slices.Chunk(all, repo.MostRevocations) {
			f.queue(some...)
		}
		f.claimed("PageRevocations", f.allRevocations(), all...)
		for _, limit := range []int{0, -1} {
			_, _, err := f.s.PageRevocations(f.Context(), "", limit)
			f.outcome("PageRevocations without a limit", err, domain.ErrBadInput)
		}
	}},

	{"a revocation's times come back in UTC, cut to the millisecond", func(f *fixture) {
		r := revocation(1)
		rough := r
		for _, t := range []*time.Time{&rough.AccessExpiry, &rough.NotBefore, &rough.ExpiresAt} {
			*t = t.Add(999_999 * time.Nanosecond).In(time.FixedZone("", 3600))
		}
		f.queue(rough)
		f.claimed("PageRevocations", f.allRevocations(), r)
		until := epoch.Add(time.Hour).Add(999_999 * time.Nanosecond).In(time.FixedZone("", 3600))
		f.claimed("ClaimRevocations", f.claim(f.s, epoch, until, 1), later([]domain.Revocation{r}, epoch.Add(time.Hour))...)
	}},

	{"Sweep removes revocations that are over", func(f *fixture) {
		over, alive := revocation(1), revocation(2)
		over.ExpiresAt = alive.ExpiresAt.Add(-time.Hour)
		f.queue(over, alive)
		swept, err := f.s.Sweep(f.Context(), over.ExpiresAt, 10)
		f.outcome("Sweep", err, nil)
		want := []domain.Revocation{alive}
		if f.SweptByServer {
			want = append(want, over)
		}
		if swept != 2-len(want) {
			f.Errorf("Sweep says %d, want %d", swept, 2-len(want))
		}
		f.claimed("PageRevocations", f.allRevocations(), want...)
	}},

	{"revocations are no devices, and outlast the handle that queued them", func(f *fixture) {
		r := revocation(1)
		f.queue(r)
		if n := len(f.pages(10, nil)); n != 0 {
			f.Errorf("there are %d records, want none", n)
		}
		if f.Peer != nil {
			f.close(f.s)
			f.s = f.far
		}
		f.claimed("PageRevocations", f.allRevocations(), r)
	}},
}

// revocation returns a revocation that is due at epoch, every field of which has
// a value of its own.
func revocation(n int) domain.Revocation {
	var r domain.Revocation
	leaf := n * 1000
	fill(reflect.ValueOf(&r).Elem(), &leaf)
	r.ID, r.NotBefore = fmt.Sprintf("%04d-%s", n, strings.Repeat("x", 59)), epoch
	return r
}

func revocations(n int) []domain.Revocation {
	var all []domain.Revocation
	for i := range n {
		all = append(all, revocation(i))
	}
	return all
}

// later returns revocations as they are when they are claimed.
func later(all []domain.Revocation, until time.Time) []domain.Revocation {
	all = slices.Clone(all)
	for i := range all {
		all[i].NotBefore = until
	}
	return all
}

func (f *fixture) queue(all ...domain.Revocation) {
	f.Helper()
	if err := f.s.QueueRevocations(f.Context(), all); err != nil {
		f.Fatalf("QueueRevocations: %v", err)
	}
}

func (f *fixture) claim(s repo.Store, now, until time.Time, limit int) []domain.Revocation {
	f.Helper()
	got, err := s.ClaimRevocations(f.Context(), now, until, limit)
	if err != nil {
		f.Fatalf("ClaimRevocations: %v", err)
	}
	return got
}

// allRevocations reads all pages.
func (f *fixture) allRevocations() []domain.Revocation {
	f.Helper()
	seen := make(map[string]domain.Revocation)
	for cursor := ""; ; {
		page, next, err := f.far.PageRevocations(f.Context(), cursor, 7)
		if err != nil {
			f.Fatalf("PageRevocations: %v", err)
		}
		for _, r := range page {
			seen[r.ID] = r
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	var all []domain.Revocation
	for _, r := range seen {
		all = append(all, r)
	}
	return all
}

// claimed checks that got are the revocations wanted, whole and in any order.
func (f *fixture) claimed(what string, got []domain.Revocation, want ...domain.Revocation) {
	f.Helper()
	left := make(map[string]domain.Revocation, len(got))
	for _, r := range got {
		if _, twice := left[r.ID]; twice {
			f.Errorf("%s: %s twice", what, r.ID)
		}
		left[r.ID] = r
	}
	for _, w := range want {
		r, found := left[w.ID]
		if !found {
			f.Errorf("%s: %s is missing", what, w.ID)
			continue
		}
		var differences []string
		compare("", reflect.ValueOf(r), reflect.ValueOf(w), &differences)
		for _, d := range differences {
			f.Errorf("%s: %s", what, d)
		}
		delete(left, w.ID)
	}
	for id := range left {
		f.Errorf("%s: %s does not belong there", what, id)
	}
}
