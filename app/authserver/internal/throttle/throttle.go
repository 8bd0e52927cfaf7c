// Package throttle counts attempts for each key, an account or an address, and
// says when one has had enough of them. It keeps its counts in memory: a
// restart forgives everybody, which costs a guesser's victim little beside the
// price of a write for every attempt.
package throttle

import (
	"hash/maphash"
	"sync"
	"time"
)

// maxKeys bounds the memory of a Limiter to a few megabytes.
const maxKeys = 65_536

// Limiter allows a number of attempts at once for each key, and gives them back
// evenly over its window. It is safe for concurrent use.
type Limiter struct {
	attempts int
	window   time.Duration

	mu   sync.Mutex
	seed maphash.Seed
	// full holds, for each key with attempts missing, the time at which all of
	// them will be back (the theoretical arrival time of the GCRA).
	full map[uint64]time.Time
}

// New allows the given number of attempts, at least 1, in each window.
func New(attempts int, window time.Duration) *Limiter {
	return &Limiter{attempts: attempts, window: window, seed: maphash.MakeSeed(), full: make(map[uint64]time.Time)}
}

// Take spends one attempt of the key. Where none is left it spends nothing and
// returns how long it takes until there is one; otherwise it returns zero.
//
// An attempt is taken before its outcome is known and given back by Return if
// it was a good one. Counting failures afterwards would let any number of
// guesses run side by side before the first of them counts.
func (l *Limiter) Take(key string, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := maphash.String(l.seed, key)
	full := l.full[id]
	if full.Before(now) {
		full = now
	}
	full = full.Add(l.step())
	if wait := full.Sub(now) - l.window; wait > 0 {
		return wait
	}
	if _, known := l.full[id]; !known && len(l.full) >= maxKeys {
		l.evict()
	}
	l.full[id] = full
	return 0
}

// Return gives one attempt back that Take has spent.
func (l *Limiter) Return(key string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := maphash.String(l.seed, key)
	if full := l.full[id].Add(-l.step()); full.After(now) {
		l.full[id] = full
	} else {
		delete(l.full, id)
	}
}

func (l *Limiter) step() time.Duration { return l.window / time.Duration(l.attempts) }

// evict makes room by dropping, of a few keys met at random, the one that has
// spent least. Somebody who floods the table with new keys therefore mostly
// throws out his own, and the one key that he guesses at stays.
func (l *Limiter) evict() {
	var least uint64
	var leastFull time.Time
	seen := 0
	for id, full := range l.full {
		if seen == 0 || full.Before(leastFull) {
			least, leastFull = id, full
		}
		if seen++; seen == 8 {
			break
		}
	}
	delete(l.full, least)
}
