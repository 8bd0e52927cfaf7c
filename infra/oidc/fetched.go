package oidc

import (
	"context"
	"sync"
	"time"
)

const (
	// maxAge is how long a document of the provider is used before it is asked
	// for again. A key that the provider has withdrawn is trusted for no longer.
	maxAge = time.Hour
	// renewPause is the least time between two looks that somebody's doubt
	// brings about. Anybody can send a token with a key id that nobody knows.
	renewPause = 10 * time.Second
	// firstBackoff and lastBackoff bound the pause after failures in a row.
	firstBackoff = time.Second
	lastBackoff  = 30 * time.Second
)

// fetched is a document that is fetched when it is first needed and kept. One
// fetch runs at a time, apart from whoever began it; all who wait have its
// result, and each leaves with its own context. After a failure the old document
// serves on, whatever its age, the next try waits, longer each time, and nobody
// waits for it.
type fetched[T any] struct {
	fetch   func(context.Context) (T, error)
	now     func() time.Time
	timeout time.Duration // of a fetch

	mu       sync.Mutex
	value    T
	have     bool
	at       time.Time     // when value came
	next     time.Time     // no fetch before, but for the first
	failures int           // in a row
	err      error         // of the latest fetch
	flight   chan struct{} // closed when the fetch under way ends; nil without one
}

// get returns the document, not older than maxAge if that can be had.
func (f *fetched[T]) get(ctx context.Context) (T, error) {
	f.mu.Lock()
	if f.have && f.now().Before(f.at.Add(maxAge)) {
		defer f.mu.Unlock()
		return f.value, nil
	}
	flight := f.join()
	if f.have && f.failures > 0 {
		flight = nil
	}
	return f.wait(ctx, flight)
}

// renew returns a document that may be newer than the one that came at at,
// which did not do. It may be that one again: fetches have a pause between them.
func (f *fetched[T]) renew(ctx context.Context, at time.Time) (T, error) {
	f.mu.Lock()
	if f.have && f.at.After(at) {
		defer f.mu.Unlock()
		return f.value, nil
	}
	return f.wait(ctx, f.join())
}

// since returns when the document came, or the zero time.
func (f *fetched[T]) since() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

// join returns the fetch under way, begun if it is time for one; nil if not. The
// mutex is held.
func (f *fetched[T]) join() chan struct{} {
	if f.flight != nil || f.now().Before(f.next) {
		return f.flight
	}
	done := make(chan struct{})
	f.flight = done
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), f.timeout)
		defer cancel()
		value, err := f.fetch(ctx)
		f.mu.Lock()
		defer f.mu.Unlock()
		now := f.now()
		if f.err = err; err == nil {
			f.value, f.have, f.at, f.failures = value, true, now, 0
			f.next = now.Add(renewPause)
		} else {
			f.next = now.Add(min(firstBackoff<<min(f.failures, 10), lastBackoff))
			f.failures++
		}
		f.flight = nil
		close(done)
	}()
	return done
}

// wait gives the mutex back, waits for the flight if there is one, and returns
// what there is then.
func (f *fetched[T]) wait(ctx context.Context, flight chan struct{}) (T, error) {
	f.mu.Unlock()
	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			var none T
			return none, gaveUp(ctx)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.have {
		return f.value, nil
	}
	return f.value, retryIn(f.err, f.next.Sub(f.now()))
}
