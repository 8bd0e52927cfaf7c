package usecase

import (
	"errors"
	"sync"
	"time"

	"cloakroom/domain"
)

const (
	// breakerFailures in a row open the breaker.
	breakerFailures = 5
	// breakerPause is how long an open breaker lets nobody through before each
	// probe. It is short, because every device whose token runs out waits for
	// it once the auth server is back; one call in half a second hurts nobody.
	breakerPause = 500 * time.Millisecond
)

// breaker stops refreshes from hammering an auth server that is down. Closed,
// it lets all through. After breakerFailures in a row it opens: one probe goes
// through every breakerPause, everybody else is told at once. The first
// success closes it for all.
//
// The zero value is closed.
type breaker struct {
	mu       sync.Mutex
	failures int       // in a row
	probe    time.Time // when open: the next probe may start then
	last     error     // the latest failure, nil after a success
}

// allow returns nil if a call may be made; every call that is made is followed
// by done. Otherwise it returns the latest failure with the time to wait.
func (b *breaker) allow(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakerFailures {
		return nil
	}
	if now.Before(b.probe) {
		return &domain.Unavailable{Err: b.last, Retry: b.probe.Sub(now), Why: RefreshBreakerOpen}
	}
	// The probe of this pause is ours. If it hangs, the next pause has another.
	b.probe = now.Add(breakerPause)
	return nil
}

// done takes the outcome of a call. A refusal is an answer, so it counts as
// success, whomever it is about: one device that the auth server dislikes must
// not stop the refreshes of all.
func (b *breaker) done(now time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !errors.Is(err, domain.ErrAuthUnavailable) {
		b.failures, b.last = 0, nil
		return
	}
	b.failures++
	b.last = err
	b.probe = now.Add(breakerPause)
}

// open reports whether calls are held back.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= breakerFailures
}

func (b *breaker) lastFailure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}
