package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/mongostore/mongowire"
	"cloakroom/repo/redisstore/redistest"
)

// killSteps is more than the messages that a refresh takes, so that the walk
// reaches its end.
const killSteps = 18

// TestKillAtEveryStep walks through a refresh. Step n kills the broker with
// kill -9 when the n-th message since the request began is on its way between it
// and the store or the auth server, before that message arrives. Another replica
// is asked from then on. With a reuse window nobody is ever signed out; without
// one only somebody whose token was rotated and whose new pair died with the
// process, and then cleanly. A lease that was left behind holds nobody up for
// longer than it lasts.
func TestKillAtEveryStep(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func(*testing.T) string{
		"redis": func(t *testing.T) string { return redistest.Any(t).URL },
		// Direct, or the driver would go round the tap. The double, because the
		// walk needs a server for each step.
		"mongodb": func(t *testing.T) string {
			uri := mongotest.NewDatabase(t, mongotest.Double(t, mongowire.Options{}).URI())
			return uri + map[bool]string{true: "&", false: "?"}[strings.Contains(uri, "?")] + "directConnection=true"
		},
	} {
		for _, window := range []time.Duration{0, 30 * time.Second} {
			t.Run(fmt.Sprintf("%s/window %v", name, window), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				seen := map[string]int{}
				t.Run("steps", func(t *testing.T) {
					for step := 1; step <= killSteps; step++ {
						t.Run(fmt.Sprint(step), func(t *testing.T) {
							t.Parallel()
							what := killAt(t, address(t), window, int64(step))
							mu.Lock()
							defer mu.Unlock()
							seen[what]++
						})
					}
				})
				t.Logf("outcomes: %v", seen)
				if t.Failed() {
					return
				}
				for _, must := range []string{"before the rotation: works", "not killed: works"} {
					if seen[must] == 0 {
						t.Errorf("no step ended with %q; the walk does not cover a refresh", must)
					}
				}
				if after := seen["rotated: works"]; window > 0 && after < 2 || window == 0 && after+seen["rotated: signed out"] < 2 {
					t.Error("no step was behind the rotation; the walk does not cover a refresh")
				}
				if window == 0 && seen["rotated: signed out"] == 0 {
					t.Error("nobody was signed out though no window lets anybody have the pair again")
				}
			})
		}
	}
}

// killAt returns what became of the device.
func killAt(t *testing.T, address string, window time.Duration, step int64) string {
	const (
		authTimeout = time.Second
		lease       = authTimeout + 2*time.Second
	)
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	store := newTap(t, u.Host)
	u.Host = store.address
	w := newWorld(t, address, "--auth-timeout="+authTimeout.String(), "--cache-ttl=0s")
	w.auth.Set(func(o *authapitest.Options) { o.ReuseWindow = window })
	first := w.replicaOn(u.String())
	second := w.replica()
	ticket := first.expired(1)[0]

	var messages atomic.Int64
	var killed atomic.Bool
	arrives := func() bool {
		if messages.Add(1) != step {
			return !killed.Load()
		}
		killed.Store(true)
		first.kill()
		return false
	}
	store.onMessage(arrives)
	w.wire.onMessage(arrives)
	_, err = first.send("GET", "/thing", ticket, "")
	store.onMessage(nil)
	w.wire.onMessage(nil)
	if died := killed.Load(); died == (err == nil) && !died {
		t.Fatalf("the broker was not killed, and the request failed: %v", err)
	}
	rotated := w.granted() > 0
	what := "before the rotation"
	switch {
	case !killed.Load():
		what = "not killed"
	case rotated:
		what = "rotated"
	}

	begun := time.Now()
	a := second.get(ticket)
	if took := time.Since(begun); took > lease+2*time.Second {
		t.Errorf("%s: the next request took %v, and a lease lasts %v", what, took, lease)
	}
	switch {
	case a.status == http.StatusOK:
		what += ": works"
		second.want(ticket, http.StatusOK, "")
		if n := w.granted(); n != 1 {
			t.Errorf("%s: %d refreshes", what, n)
		}
		w.noTheft()
	case a.status == http.StatusUnauthorized && a.code == "signed_out" && a.cleared():
		if what != "rotated" || window > 0 {
			t.Errorf("%s: signed out without need", what)
		}
		what += ": signed out"
		second.want(ticket, http.StatusUnauthorized, "sign_in_required")
		second.want(second.signIn(), http.StatusOK, "")
	default:
		t.Errorf("%s: the next request is answered %v", what, a)
	}
	return what
}
