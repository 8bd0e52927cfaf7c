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
	// breakerTurn is how much longer the device waits whose probe has failed, so
	// that another has its turn.
	breakerTurn = 250 * time.Millisecond
)

// breaker stops refreshes from hammering an auth server that is down. Closed,
// it lets all through. After breakerFailures in a row it opens: one probe goes
// through every breakerPause, everybody else is told at once. The first
// success closes it for all.
//
// It may be one device alone that an auth server fails over, each time. That one
// is held back by itself until another's call has failed too, and it never has
// two probes in a row where others wait for theirs.
//
// The zero value is closed.
type breaker struct {
	mu       sync.Mutex
	failures int             // in a row
	device   domain.DeviceID // whose call has failed last
	alone    bool            // all the failures in a row are of that device
	probe    time.Time       // when open: the next probe may start then
	last     error           // the latest failure, nil after a success
}

// allow returns nil if a call may be made for a device; every call that is made is
// followed by done. Otherwise it returns the latest failure with the time to wait.
func (b *breaker) allow(now time.Time, id domain.DeviceID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.held(now, id); err != nil {
		return err
	}
	// If the breaker is open the probe of this pause is ours. If it hangs, the
	// next pause has another.
	b.probe = now.Add(breakerPause)
	return nil
}

// holds returns what allow would, and lets nobody through.
func (b *breaker) holds(now time.Time, id domain.DeviceID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held(now, id)
}

func (b *breaker) held(now time.Time, id domain.DeviceID) error {
	if b.failures < breakerFailures || b.alone && id != b.device {
		return nil
	}
	wait := b.probe.Sub(now)
	if id == b.device && !b.alone {
		wait += breakerTurn
	}
	// A wait that is longer than there are any is a clock that was set back.
	if wait <= 0 || wait > breakerPause+breakerTurn {
		return nil
	}
	return &domain.Unavailable{Err: b.last, Retry: wait, Why: RefreshBreakerOpen}
}

// done takes the outcome of a device's call. A refusal is an answer, so it counts
// as success, whomever it is about: one device that the auth server dislikes must
// not stop the refreshes of all.
func (b *breaker) done(now time.Time, id domain.DeviceID, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !errors.Is(err, domain.ErrAuthUnavailable) {
		b.failures, b.last = 0, nil
		return
	}
	b.alone = b.failures == 0 || b.alone && b.device == id
	b.device = id
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
