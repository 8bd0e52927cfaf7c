package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/repo/mongostore/mongotest"
)

// atOnce lets n callers begin at the same moment and waits for all.
func atOnce(n int, call func(i int)) {
	var callers sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		callers.Go(func() { <-begin; call(i) })
	}
	close(begin)
	callers.Wait()
}

// TestR9_TwoHundredAtOnce lets 200 requests find one expired token, over one,
// two and three replicas that share a store, many times in a row, with auth
// servers of every speed. CLOAKROOM_TEST_LONG makes it fifty times for each.
func TestR9_TwoHundredAtOnce(t *testing.T) {
	t.Parallel()
	for name, address := range stores(t) {
		for _, c := range []struct {
			replicas int
			takes    time.Duration
			rounds   int
		}{
			{1, 300 * time.Millisecond, 3}, {2, 300 * time.Millisecond, 50}, {3, 300 * time.Millisecond, 3},
			{1, time.Second, 0}, {2, time.Second, 3}, {3, time.Second, 0},
			{1, 5 * time.Second, 0}, {2, 5 * time.Second, 0}, {3, 5 * time.Second, 1},
		} {
			if long() {
				c.rounds = 50
			}
			if c.rounds == 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%d replicas/%v", name, c.replicas, c.takes), func(t *testing.T) {
				t.Parallel()
				twoHundredAtOnce(t, address(t), c.replicas, c.takes, c.rounds)
			})
		}
	}
}

// TestR9_TwoHundredAtOnceOnFerretDB is the same on somebody else's server with
// MongoDB's protocol.
func TestR9_TwoHundredAtOnceOnFerretDB(t *testing.T) {
	t.Parallel()
	twoHundredAtOnce(t, mongotest.NewDatabase(t, mongotest.FerretDB(t)), 2, 300*time.Millisecond, 3)
}

func twoHundredAtOnce(t *testing.T, store string, replicas int, takes time.Duration, rounds int) {
	w := newWorld(t, store)
	at := w.replicas(replicas)
	w.auth.Always(authapitest.RefreshPath, slow(takes))
	for round := 1; round <= rounds && !t.Failed(); round++ {
		ticket := at[round%len(at)].expired(1)[0]
		var good atomic.Int64
		atOnce(200, func(i int) {
			if at[i%len(at)].want(ticket, http.StatusOK, "").status == http.StatusOK {
				good.Add(1)
			}
		})
		if n := good.Load(); n != 200 {
			t.Errorf("round %d: %d of 200 answered", round, n)
		}
		if n := w.granted(); n != round {
			t.Errorf("round %d: %d refreshes in all", round, n)
		}
	}
	w.noTheft()
	if n := len(w.auth.Requests(authapitest.RefreshPath)); n != rounds {
		t.Errorf("%d calls of the auth server for %d refreshes", n, rounds)
	}
}

// TestThousandDevicesExpireTogether: each is refreshed once, many at a time, over
// a bounded number of connections, and nobody is refused.
func TestThousandDevicesExpireTogether(t *testing.T) {
	t.Parallel()
	const (
		devices, each = 1000, 5
		// together have to be under way at once, or none of them is answered.
		together = 20
		// mostConns is infra/authapi's bound for refreshes, and again for sign-ins.
		mostConns = 2 * 40
	)
	for name, address := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What a store may take is not the question, and this one may be a double
			// that shares two cores with 5,000 callers.
			store := address(t)
			if strings.HasPrefix(store, "mongodb") {
				store += map[bool]string{true: "&", false: "?"}[strings.Contains(store, "?")] + "timeoutMS=60000"
			}
			w := newWorld(t, store)
			at := w.replicas(1)[0]
			tickets := at.expired(devices)
			w.auth.Always(authapitest.RefreshPath, inBatches(together))
			begun := time.Now()
			atOnce(devices*each, func(i int) { at.want(tickets[i%devices], http.StatusOK, "") })
			took := time.Since(begun)
			if n := w.granted(); n != devices {
				t.Errorf("%d refreshes, want %d", n, devices)
			}
			w.noTheft()
			if n := w.wire.most(); n > mostConns {
				t.Errorf("%d connections to the auth server at once, want %d at most", n, mostConns)
			}
			t.Logf("%d refreshes in %v, %d at once over %d connections at most", devices, took, w.auth.Peak(authapitest.RefreshPath), w.wire.most())
		})
	}
}

// inBatches is an auth server that answers n calls at a time, when all of them
// are there.
func inBatches(n int) authapitest.Behaviour {
	var mu sync.Mutex
	arrived, complete := 0, make(chan struct{})
	return func(w http.ResponseWriter, r *http.Request, work func() authapitest.Reply) {
		p := work()
		mu.Lock()
		batch := complete
		if arrived++; arrived%n == 0 {
			close(complete)
			complete = make(chan struct{})
		}
		mu.Unlock()
		select {
		case <-batch:
			p.Send(w)
		case <-r.Context().Done():
		}
	}
}

// TestNobodyWaitsUnderSteadyTraffic: tokens are refreshed behind requests that
// still use them, so that no request ever waits for the auth server. A device
// that is left alone is not refreshed.
func TestNobodyWaitsUnderSteadyTraffic(t *testing.T) {
	t.Parallel()
	const (
		lives   = 2
		longest = 64 * time.Second
	)
	w := newWorld(t, sqlite(t))
	at := w.replicas(1)[0]
	w.auth.Always(authapitest.RefreshPath, slow(100*time.Millisecond))
	// Of a token's life three twentieths are for a refresh behind a request. Where
	// the machine stands still for a good part of that, traffic is not steady: try
	// again with more time.
	for life := 8 * time.Second; ; life *= 2 {
		w.auth.Set(func(o *authapitest.Options) { o.AccessLife = life })
		waitedBefore, granted := at.metric("cloakroom_refresh_wait_seconds_count"), w.granted()
		at.want(at.signIn(), http.StatusOK, "") // the device that is left alone
		requests, pause := at.steady(at.signIn(), lives*life)
		waited, refreshes := at.metric("cloakroom_refresh_wait_seconds_count")-waitedBefore, w.granted()-granted
		t.Logf("%d requests in %v, %v apart at most, %d refreshes, %v requests waited", requests, lives*life, pause, refreshes, waited)
		if pause > life/20 && life < longest {
			continue
		}
		if waited != 0 {
			t.Errorf("%v requests waited for a refresh", waited)
		}
		// One in each life less its last quarter, for the busy device alone.
		if refreshes < lives || refreshes > lives+1 {
			t.Errorf("%d refreshes in %d lives of a token", refreshes, lives)
		}
		break
	}
	w.noTheft()
}

// steady calls with one ticket for so long, every 20 ms. It returns how often that
// was and the longest time from one call to the next.
func (r *replica) steady(ticket string, length time.Duration) (requests int, pause time.Duration) {
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	begun := time.Now()
	for last := begun; time.Since(begun) < length; requests++ {
		<-ticks.C
		pause, last = max(pause, time.Since(last)), time.Now()
		r.want(ticket, http.StatusOK, "")
	}
	return requests, pause
}
