package usecase

import (
	"errors"
	"sync"
	"time"

	"cloakroom/domain"
)

const (
	// refusalFirst is how long a device whose refresh is refused, though not for
	// good, asks no more. It doubles each time up to refusalLast, which is how
	// long people may have to wait once an operator has mended what was wrong.
	refusalFirst = time.Second
	refusalLast  = 15 * time.Second
	// mostRefusals bounds how many devices are remembered.
	mostRefusals = 10_000
)

// refusals remembers the devices whose refresh has met
// domain.ErrAuthMisconfigured. That keeps the device, and may never pass: an auth
// server that answers 403 to somebody whose account is closed does so each time.
// Without a pause each of the device's requests would call it.
//
// The zero value is ready.
type refusals struct {
	mu sync.Mutex
	of map[domain.DeviceID]refusal
}

type refusal struct {
	version int64 // of the record: one that has changed since may fare better
	err     error
	times   int // in a row
	until   time.Time
}

// pausing returns the refusal that a device has met if it is too early to ask
// again, else nil.
func (r *refusals) pausing(rec domain.Record, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.of[rec.DeviceID]
	// A clock that was set back lengthens no pause.
	if wait := last.until.Sub(now); !ok || last.version != rec.Version || wait <= 0 || wait > refusalLast {
		return nil
	}
	return last.err
}

// note takes what an exchange has come to.
func (r *refusals) note(rec domain.Record, now time.Time, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(err, domain.ErrAuthMisconfigured) {
		delete(r.of, rec.DeviceID)
		return
	}
	last, known := r.of[rec.DeviceID]
	if !known && len(r.of) >= mostRefusals {
		for id, old := range r.of {
			if !now.Before(old.until) {
				delete(r.of, id)
			}
		}
		if len(r.of) >= mostRefusals {
			return
		}
	}
	if last.version != rec.Version {
		last.times = 0
	}
	if r.of == nil {
		r.of = make(map[domain.DeviceID]refusal)
	}
	pause := min(refusalFirst<<min(last.times, 10), refusalLast)
	r.of[rec.DeviceID] = refusal{version: rec.Version, err: err, times: last.times + 1, until: now.Add(pause)}
}
