package soak

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// failure is a way in which the auth server fails at refreshes.
type failure string

const (
	works         failure = ""
	answers500    failure = "auth server answers 500"
	answers503    failure = "auth server answers 503"
	answers429    failure = "auth server answers 429"
	answersPage   failure = "auth server answers a page"
	refusesBroker failure = "auth server answers invalid_client"
	cuts          failure = "auth server cuts connections"
	loses         failure = "auth server rotates and cuts the answer off"
	halves        failure = "auth server rotates and sends half of the answer"
	hangs         failure = "auth server says nothing"
	lags          failure = "auth server rotates and is slow"
)

var failures = []failure{answers500, answers503, answers429, answersPage, refusesBroker, cuts, loses, halves, hangs, lags}

// lag is how long a slow auth server takes; it is less than the broker's timeout.
const lag = 800 * time.Millisecond

// faults fails as it is told.
type faults struct {
	mu  sync.Mutex
	now failure
	// over is closed when the failure ends, which lets go of what hangs.
	over chan struct{}
}

// fail begins a failure, in place of the one before; works ends it.
func (f *faults) fail(how failure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over != nil {
		close(f.over)
	}
	f.now, f.over = how, make(chan struct{})
}

func (f *faults) current() (failure, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now, f.over
}

// answer answers a refresh. lost is called if the answer to work may not have
// arrived.
func (f *faults) answer(w http.ResponseWriter, r *http.Request, work func() (int, map[string]any), lost func()) {
	how, over := f.current()
	switch how {
	case answers500:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case answers503:
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case answers429:
		w.Header().Set("Retry-After", "2")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case answersPage:
		_, _ = w.Write([]byte("<!doctype html><title>Welcome</title>"))
		return
	case refusesBroker:
		writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return
	case cuts:
		panic(http.ErrAbortHandler)
	case loses:
		work()
		lost()
		panic(http.ErrAbortHandler)
	case halves:
		work()
		lost()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(100))
		_, _ = w.Write([]byte(`{"access_token":"`))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case hangs:
		select {
		case <-over:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case lags:
		// Rotated already: whoever is killed now takes the successor along.
		status, body := work()
		select {
		case <-time.After(lag):
			writeJSON(w, status, body)
		case <-r.Context().Done():
			lost()
			panic(http.ErrAbortHandler)
		}
		return
	}
	status, body := work()
	writeJSON(w, status, body)
	if r.Context().Err() != nil {
		lost()
	}
}

// history is the run's clock, and what has struck the replicas and when, so that
// a refresh can be judged by it.
type history struct {
	mu      sync.Mutex
	strikes []strike
}

type strike struct {
	replica    int
	begin, end time.Time // end is zero as long as it goes on
}

func (h *history) now() time.Time { return time.Now() }

// begin notes that a replica is killed or stands still; the return value ends it.
func (h *history) begin(replica int) (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.strikes = append(h.strikes, strike{replica: replica, begin: h.now()})
	i := len(h.strikes) - 1
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.strikes[i].end = h.now()
	}
}

// struck reports whether a replica was killed or stood still at any time between
// two moments.
func (h *history) struck(replica int, from, to time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.strikes {
		if s.replica == replica && s.begin.Before(to) && (s.end.IsZero() || s.end.After(from)) {
			return true
		}
	}
	return false
}
