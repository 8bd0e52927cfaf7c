package routes

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errStopping is why an exchange is cut when the server stops.
var errStopping = errors.New("the server stops")

// hijacked are the exchanges whose connections were taken over from fasthttp,
// which does not wait for them when it shuts down. The zero value is ready.
type hijacked struct {
	mu   sync.Mutex
	open map[*exchange]struct{}
	over chan struct{} // nil until finish; then closed when none is open any more
}

// add returns false if there are to be no more.
func (s *hijacked) add(x *exchange) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return false
	}
	if s.open == nil {
		s.open = make(map[*exchange]struct{})
	}
	s.open[x] = struct{}{}
	return true
}

// remove is called once for what add has taken.
func (s *hijacked) remove(x *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, x)
	if s.over != nil && len(s.open) == 0 {
		close(s.over)
	}
}

// finish lets no more begin. The channel is closed when all that are open are
// over.
func (s *hijacked) finish() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over = make(chan struct{})
		if len(s.open) == 0 {
			close(s.over)
		}
	}
	return s.over
}

// cut ends all that are open.
func (s *hijacked) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.open {
		x.cut(errStopping)
	}
}

// CloseTunnels ends every WebSocket and the like, lets no more begin, and
// returns when the last one is over or ctx ends. They have no end of their own
// that could be waited for, and their clients connect anew.
func (h *Handlers) CloseTunnels(ctx context.Context) {
	over := h.tunnels.finish()
	h.tunnels.cut()
	select {
	case <-over:
	case <-ctx.Done():
	}
}

// cutWait is how long an answer that is cut may take to break its connection.
const cutWait = 500 * time.Millisecond

// FinishAnswers waits for the answers whose end is their connection's, and cuts
// those that are left when ctx ends: if the process ended instead, their clients
// would take what has come for all. It is called when fasthttp has shut down.
func (h *Handlers) FinishAnswers(ctx context.Context) {
	over := h.untilClose.finish()
	select {
	case <-over:
		return
	case <-ctx.Done():
	}
	h.untilClose.cut()
	select {
	case <-over:
	case <-time.After(cutWait):
	}
}
