package main

import (
	"context"
	"net/http"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/repo/redisstore/redistest"
)

// TestFirstCallerHangsUp: whoever began a refresh may leave; the others get the
// token.
func TestFirstCallerHangsUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	at := w.replicas(1)[0]
	ticket := at.expired(1)[0]
	gate := authapitest.NewGate()
	w.auth.Always(authapitest.RefreshPath, gate.After)
	ctx, hangUp := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		req, err := http.NewRequestWithContext(ctx, "GET", at.url+"/thing", nil)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Cookie", "device_id="+ticket)
		if res, err := w.http.Do(req); err == nil {
			res.Body.Close()
			t.Error("the first caller was answered before the auth server had")
		}
	}()
	<-gate.Arrived
	others := make(chan reply)
	for range 9 {
		go func() { others <- at.get(ticket) }()
	}
	if err := eventually(t.Context(), func() (bool, error) { return at.metric("cloakroom_refresh_waiters") == 10, nil }); err != nil {
		t.Fatal(err)
	}
	hangUp()
	<-left
	gate.Open()
	for range 9 {
		if a := <-others; a.status != http.StatusOK {
			t.Errorf("answered %v after the first caller has left", a)
		}
	}
	if n := w.granted(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
	w.noTheft()
}

// TestR10_RefusedForGood: the device ends, its cookie goes, and the answer says
// why.
func TestR10_RefusedForGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	at := w.replicas(1)[0]
	ticket := at.expired(1)[0]
	w.auth.Disable(somebody)
	if a := at.want(ticket, http.StatusUnauthorized, "signed_out"); !a.cleared() {
		t.Errorf("the cookie stays: %v", a.header)
	}
	at.want(ticket, http.StatusUnauthorized, "sign_in_required")
	if n := len(w.auth.Requests(authapitest.RefreshPath)); n != 1 {
		t.Errorf("%d calls of the auth server", n)
	}
	if n := at.metric(`cloakroom_refreshes_total{outcome="invalid_grant"}`); n != 1 {
		t.Errorf("%v refreshes are invalid_grant", n)
	}
}

// TestRefusalBecauseAnotherReplicaWasFirst: a replica that stood still for longer
// than its lease presents a token that another has spent since. What the other
// has stored is used; nobody is signed out.
func TestRefusalBecauseAnotherReplicaWasFirst(t *testing.T) {
	t.Parallel()
	for name, address := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, address(t), "--auth-timeout=1s", "--cache-ttl=0s")
			first, second := w.replica(), w.replica()
			ticket := first.expired(1)[0]
			// The first replica's refresh is refused only after the second has
			// rotated, as if its call had been under way all the time. The second
			// gets the lease because the first cannot renew it.
			gate := authapitest.NewGate()
			w.auth.Next(authapitest.RefreshPath, func(res http.ResponseWriter, r *http.Request, _ func() authapitest.Reply) {
				gate.Before(res, r, func() authapitest.Reply {
					return authapitest.Reply{Status: 400, Header: http.Header{"Content-Type": {"application/json"}}, Body: `{"error":"invalid_grant"}`}
				})
			})
			answered := make(chan reply, 1)
			go func() { answered <- first.get(ticket) }()
			<-gate.Arrived
			freeze(t, first)
			second.want(ticket, http.StatusOK, "") // after the lease has run out
			gate.Open()
			thaw(t, first)
			if a := <-answered; a.status != http.StatusOK {
				t.Errorf("the first replica answers %v", a)
			}
			first.want(ticket, http.StatusOK, "")
			second.want(ticket, http.StatusOK, "")
			w.noTheft()
			if n := w.granted(); n != 1 {
				t.Errorf("%d refreshes", n)
			}
		})
	}
}

// TestBrokersOwnMistakeShoutsAndSignsNobodyOut is about invalid_client.
func TestBrokersOwnMistakeShoutsAndSignsNobodyOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqlite(t))
	at := w.replicas(1)[0]
	tickets := at.expired(5)
	w.auth.Always(authapitest.RefreshPath, authapitest.Refuse("invalid_client"))
	for _, ticket := range tickets {
		if a := at.want(ticket, http.StatusBadGateway, "auth_server_misconfigured"); len(a.header.Values("Set-Cookie")) != 0 {
			t.Errorf("a cookie is set: %v", a.header)
		}
	}
	if n := at.metric(`cloakroom_auth_refuses_broker{provider="Password"}`); n != 1 {
		t.Errorf("the metric that shouts is %v", n)
	}
	at.stderr.find(t, `level=ERROR msg="(the auth server refuses the broker)`)
	w.auth.Always(authapitest.RefreshPath, nil)
	for _, ticket := range tickets { // after the pause that each has
		if err := eventually(t.Context(), func() (bool, error) { return at.get(ticket).status == http.StatusOK, nil }); err != nil {
			t.Errorf("mended: %v", err)
		}
	}
	if n := at.metric(`cloakroom_auth_refuses_broker{provider="Password"}`); n != 0 {
		t.Errorf("mended, the metric that shouts is %v", n)
	}
	w.noTheft()
}

// TestLostAnswerOfARotation cuts the connection once the auth server has rotated,
// with a reuse window and without.
func TestLostAnswerOfARotation(t *testing.T) {
	t.Parallel()
	for _, b := range []struct {
		name string
		lost authapitest.Behaviour
	}{{"lost", authapitest.Lost}, {"half", authapitest.Half}} {
		t.Run(b.name+" with a reuse window", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t))
			w.auth.Set(func(o *authapitest.Options) { o.ReuseWindow = 30 * time.Second })
			at := w.replicas(1)[0]
			ticket := at.expired(1)[0]
			w.auth.Next(authapitest.RefreshPath, b.lost)
			atOnce(10, func(int) { at.want(ticket, http.StatusOK, "") })
			if n := w.granted(); n != 1 {
				t.Errorf("%d refreshes", n)
			}
			w.noTheft()
		})
		t.Run(b.name+" without", func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t))
			at := w.replicas(1)[0]
			ticket := at.expired(1)[0]
			w.auth.Next(authapitest.RefreshPath, b.lost)
			if a := at.want(ticket, http.StatusUnauthorized, "signed_out"); !a.cleared() {
				t.Errorf("the cookie stays: %v", a.header)
			}
			for range 5 {
				at.want(ticket, http.StatusUnauthorized, "sign_in_required")
			}
			if n := len(w.auth.Requests(authapitest.RefreshPath)); n != 2 {
				t.Errorf("%d calls of the auth server, want the one and its repetition", n)
			}
			at.want(at.signIn(), http.StatusOK, "")
		})
	}
}

// TestStoreFailsAfterARotation: the pair is kept and stored when the store is
// there again, whether it stood still or was away.
func TestStoreFailsAfterARotation(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]struct {
		begin, end func(t *testing.T, n *redistest.Node)
	}{
		"stands still": {func(t *testing.T, n *redistest.Node) { n.Freeze(t) }, func(t *testing.T, n *redistest.Node) { n.Thaw(t) }},
		"is killed":    {func(t *testing.T, n *redistest.Node) { n.Kill() }, func(t *testing.T, n *redistest.Node) { n.Start(t) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Standalone(t, "--appendonly", "yes", "--appendfsync", "always")
			w := newWorld(t, redis.URL)
			at := w.replicas(2)
			ticket := at[0].expired(1)[0]
			gate := authapitest.NewGate()
			w.auth.Always(authapitest.RefreshPath, gate.After)
			answered := make(chan reply, 1)
			go func() { answered <- at[0].get(ticket) }()
			<-gate.Arrived
			fault.begin(t, redis.Nodes[0])
			gate.Open()
			at[0].stderr.find(t, `msg=(refreshed) `)
			if name == "is killed" { // a server that stands still is not noticed so soon
				at[0].stderr.find(t, `msg="(storing refreshed tokens, trying again)`)
			}
			fault.end(t, redis.Nodes[0])
			if a := <-answered; a.status != http.StatusOK {
				t.Errorf("the request that waited: %v", a)
			}
			if err := eventually(t.Context(), func() (bool, error) { return at[1].get(ticket).status == http.StatusOK, nil }); err != nil {
				t.Errorf("the other replica: %v", err)
			}
			if n := w.granted(); n != 1 {
				t.Errorf("%d refreshes", n)
			}
			w.noTheft()
		})
	}
}

// TestR13_SignOutDuringARefreshWins: the device stays gone at every replica, and
// the pair that comes late is revoked.
func TestR13_SignOutDuringARefreshWins(t *testing.T) {
	t.Parallel()
	for name, address := range stores(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, address(t))
			at := w.replicas(2)
			ticket := at[0].expired(1)[0]
			gate := authapitest.NewGate()
			w.auth.Always(authapitest.RefreshPath, gate.After)
			answered := make(chan reply, 1)
			go func() { answered <- at[0].get(ticket) }()
			<-gate.Arrived
			if a, err := at[1].send("POST", "/auth/logout", ticket, ""); err != nil || a.status != http.StatusNoContent {
				t.Fatalf("sign-out: %v %v", a, err)
			}
			gate.Open()
			if a := <-answered; a.status != http.StatusUnauthorized {
				t.Errorf("the request that waited: %v", a)
			}
			for _, r := range at {
				r.want(ticket, http.StatusUnauthorized, "sign_in_required")
			}
			if err := eventually(t.Context(), func() (bool, error) {
				for _, token := range w.auth.Issued() {
					if w.auth.Valid(token) {
						return false, nil
					}
				}
				return true, nil
			}); err != nil {
				t.Error("a token of a device that was signed out still works")
			}
			w.noTheft()
		})
	}
}
