package oidc

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloakroom/domain"
)

// slowly is a document that takes ten seconds to come, counted.
func slowly(count *atomic.Int32, fail *atomic.Bool) *fetched[int] {
	return &fetched[int]{now: time.Now, timeout: 30 * time.Second, fetch: func(ctx context.Context) (int, error) {
		n := count.Add(1)
		select {
		case <-time.After(10 * time.Second):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if fail.Load() {
			return 0, &domain.Unavailable{Err: domain.ErrAuthUnavailable}
		}
		return int(n), nil
	}}
}

func TestFetchedOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count atomic.Int32
		f := slowly(&count, new(atomic.Bool))
		results := make(chan int)
		start := time.Now()
		for range 100 {
			go func() {
				v, err := f.get(t.Context())
				if err != nil {
					t.Error(err)
				}
				results <- v
			}()
		}
		// One that leaves early takes nothing from the others, even if it was
		// the first.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.get(ctx); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, domain.ErrAuthUnavailable) || time.Since(start) != time.Second {
			t.Errorf("who leaves early: %v after %v", err, time.Since(start))
		}
		for range 100 {
			if v := <-results; v != 1 {
				t.Errorf("got %d", v)
			}
		}
		if time.Since(start) != 10*time.Second || count.Load() != 1 {
			t.Errorf("it took %v and %d fetches", time.Since(start), count.Load())
		}
	})
}

func TestFetchedIsRenewedWithPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count atomic.Int32
		var fail atomic.Bool
		f := slowly(&count, &fail)
		want := func(what string, value int, fetches int32) {
			t.Helper()
			v, err := f.renew(t.Context(), f.since())
			if err != nil || v != value || count.Load() != fetches {
				t.Errorf("%s: %d, %v after %d fetches, want %d after %d", what, v, err, count.Load(), value, fetches)
			}
		}
		want("the first time", 1, 1)
		want("at once again", 1, 1)
		time.Sleep(renewPause)
		want("after the pause", 2, 2)
		if v, err := f.renew(t.Context(), time.Time{}); v != 2 || err != nil || count.Load() != 2 {
			t.Errorf("with a doubt about an older one: %d, %v, %d fetches", v, err, count.Load())
		}
		fail.Store(true)
		time.Sleep(renewPause)
		want("it fails", 2, 3)
		want("it has just failed", 2, 3)
		time.Sleep(firstBackoff)
		want("it fails again", 2, 4)
		time.Sleep(firstBackoff)
		want("the pause is longer now", 2, 4)
		time.Sleep(maxAge)
		start := time.Now()
		if v, err := f.get(t.Context()); v != 2 || err != nil || time.Since(start) != 0 {
			t.Errorf("an old one for want of a new: %d, %v after %v", v, err, time.Since(start))
		}
		fail.Store(false)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if v, err := f.get(t.Context()); v != 5 || err != nil || count.Load() != 5 {
			t.Errorf("a new one, fetched behind: %d, %v, %d fetches", v, err, count.Load())
		}
		time.Sleep(maxAge)
		start = time.Now()
		if v, err := f.get(t.Context()); v != 6 || err != nil || time.Since(start) != 10*time.Second {
			t.Errorf("an old one is not used before a new one was asked for: %d, %v after %v", v, err, time.Since(start))
		}
	})
}

func TestFetchedHasATimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := slowly(new(atomic.Int32), new(atomic.Bool))
		f.timeout = time.Second
		start := time.Now()
		if _, err := f.get(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
