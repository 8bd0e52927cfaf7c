// Package events hands a store's events to the subscribers in the same process.
// memstore and sqlitestore stand on it; how events reach other processes is the
// business of each store.
package events

import (
	"context"
	"errors"
	"sync"

	"cloakroom/repo"
)

// ErrClosed ends the subscriptions to a hub that was closed.
var ErrClosed = errors.New("store is closed")

// pending bounds what waits for one subscriber.
const pending = 1024

// Hub hands what is published to all subscribers. Publishing never waits for
// any of them: one that has fallen behind loses what waits for it and is told so
// by a Gap. Get one from NewHub.
type Hub struct {
	mu          sync.Mutex
	subscribers map[*subscriber]struct{}
	cut         bool // the last of all Cuts and Gaps was a Cut
	closed      chan struct{}
}

type subscriber struct {
	waiting []repo.Event  // guarded by Hub.mu
	wake    chan struct{} // holds at most one token
}

// NewHub returns a hub without subscribers.
func NewHub() *Hub {
	return &Hub{subscribers: make(map[*subscriber]struct{}), closed: make(chan struct{})}
}

// Publish puts the events behind those published before. Calls made one after
// the other reach each subscriber in that order.
func (h *Hub) Publish(published ...repo.Event) {
	if len(published) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range published {
		switch e.Kind {
		case repo.Cut:
			h.cut = true
		case repo.Gap:
			h.cut = false
		}
	}
	for s := range h.subscribers {
		if len(s.waiting)+len(published) > pending {
			s.waiting = h.anew()
		} else {
			s.waiting = append(s.waiting, published...)
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// anew is what a subscriber hears that knows nothing or has missed something. It
// is called with the mutex held.
func (h *Hub) anew() []repo.Event {
	if h.cut {
		return []repo.Event{{Kind: repo.Gap}, {Kind: repo.Cut}}
	}
	return []repo.Event{{Kind: repo.Gap}}
}

// Subscribe implements repo.Store's method for events of this process: a Gap,
// then what is published from now on. It calls f on the caller's goroutine and
// ends with ctx's error, or with ErrClosed.
func (h *Hub) Subscribe(ctx context.Context, f func(repo.Event)) error {
	s := &subscriber{wake: make(chan struct{}, 1)}
	s.wake <- struct{}{}
	h.mu.Lock()
	s.waiting = h.anew()
	h.subscribers[s] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.subscribers, s)
		h.mu.Unlock()
	}()

	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.closed:
			return ErrClosed
		case <-s.wake:
		}
		h.mu.Lock()
		batch := s.waiting
		s.waiting = nil
		h.mu.Unlock()
		for _, e := range batch {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			f(e)
		}
	}
}

// Close ends all subscriptions, the present and the future ones. It is called
// once.
func (h *Hub) Close() { close(h.closed) }
