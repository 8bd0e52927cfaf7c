package storetest

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

var keyCases = []testCase{
	{"a key is spent once, by whatever handle", func(f *fixture) {
		until := time.Now().Add(time.Hour)
		keys := []string{"key", "KEY", "key ", "the\x00key", "\xff\xfe", "clé 🧥 '*?{}[]:", strings.Repeat("k", repo.LongestKey), strings.Repeat("k", repo.LongestKey-1)}
		for i, key := range keys {
			f.outcome("Spend", f.handle(i).Spend(f.Context(), key, until), nil)
		}
		for i, key := range keys {
			for _, s := range []repo.Store{f.handle(i), f.handle(i + 1)} {
				f.outcome("Spend again", s.Spend(f.Context(), key, until.Add(time.Hour)), domain.ErrExists)
			}
		}
		if n := len(f.pages(10, nil)); n != 0 {
			f.Errorf("there are %d records, want none", n)
		}
	}},

	{"a key that is empty or too long is refused", func(f *fixture) {
		for _, key := range []string{"", strings.Repeat("k", repo.LongestKey+1)} {
			for range 2 {
				f.outcome("Spend", f.s.Spend(f.Context(), key, time.Now().Add(time.Hour)), domain.ErrBadInput)
			}
		}
	}},

	{"of many that spend a key, one does", func(f *fixture) {
		for round := range 5 {
			f.spendRace(fmt.Sprint("key ", round), time.Hour)
		}
	}},

	{"a key whose time is over is as good as new", func(f *fixture) {
		f.outcome("Spend", f.s.Spend(f.Context(), "over already", time.Now().Add(-time.Hour)), nil)
		f.spendRace("over already", time.Hour)

		until := time.Now().Add(20 * time.Millisecond)
		f.outcome("Spend", f.s.Spend(f.Context(), "over soon", until), nil)
		f.eventually("the end of the key's time", func() bool { return time.Now().After(until.Add(slack)) })
		f.spendRace("over soon", time.Hour)
	}},

	{"Sweep removes keys that are over, after records and no more than told", func(f *fixture) {
		over, alive := epoch.Add(time.Hour), epoch.Add(3*time.Hour)
		r := sample(1)
		r.ExpiresAt = over
		f.create(r)
		keys := []string{"one", "two", "three"}
		for _, key := range keys {
			f.outcome("Spend", f.s.Spend(f.Context(), key, over), nil)
		}
		f.outcome("Spend", f.s.Spend(f.Context(), "alive", alive), nil)
		for _, want := range []int{2, 2, 0} {
			if f.SweptByServer {
				want = 0
			}
			swept, err := f.far.Sweep(f.Context(), over, 2)
			f.outcome("Sweep", err, nil)
			if swept != want {
				f.Errorf("Sweep says %d, want %d", swept, want)
			}
		}
		f.outcome("Spend", f.s.Spend(f.Context(), "alive", alive), domain.ErrExists)
		// They were not over by the clock: that they can be spent again shows that
		// they had been removed.
		for _, key := range keys {
			want := error(nil)
			if f.SweptByServer {
				want = domain.ErrExists
			}
			f.outcome("Spend after Sweep", f.s.Spend(f.Context(), key, alive), want)
		}
	}},
}

// spendRace lets callers spend a key at once.
func (f *fixture) spendRace(key string, ttl time.Duration) {
	f.Helper()
	var won atomic.Int64
	race(crowd, func(i int) {
		if err := f.handle(i).Spend(f.Context(), key, time.Now().Add(ttl)); err == nil {
			won.Add(1)
		} else {
			f.outcome("a loser", err, domain.ErrExists)
		}
	})
	if won.Load() != 1 {
		f.Fatalf("%d have spent %q", won.Load(), key)
	}
}
