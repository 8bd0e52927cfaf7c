package main

import (
	"net/http"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
)

// TestTokensThatTellTheTimeBadly: whatever an auth server says of its tokens'
// lives, and however far its clock is from ours, people work, and nobody is
// refreshed on each request whose token lives.
func TestTokensThatTellTheTimeBadly(t *testing.T) {
	t.Parallel()
	const requests = 20
	says := func(what any) func(time.Duration) any { return func(time.Duration) any { return what } }
	clock := func(ahead time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(ahead) } }
	for _, c := range []struct {
		name   string
		change func(*authapitest.Options)
		most   int // refreshes in that many requests
	}{
		{"no expires_in, opaque", func(o *authapitest.Options) { o.ExpiresIn, o.Opaque = says(nil), true }, 0},
		{"no expires_in, JWT", func(o *authapitest.Options) { o.ExpiresIn = says(nil) }, 0},
		{"no expires_in, JWT without exp", func(o *authapitest.Options) {
			o.ExpiresIn, o.Claims = says(nil), map[string]any{"exp": nil}
		}, 0},
		{"expires_in 0", func(o *authapitest.Options) { o.ExpiresIn = says(0) }, 0},
		{"expires_in 0, opaque", func(o *authapitest.Options) { o.ExpiresIn, o.Opaque = says(0), true }, 0},
		// It says that its token is worth nothing, so another is asked for.
		{"expires_in in the past", func(o *authapitest.Options) { o.ExpiresIn = says(-60) }, requests},
		{"exp in the past", func(o *authapitest.Options) {
			o.ExpiresIn, o.Claims = says(nil), map[string]any{"exp": time.Now().Add(-time.Hour).Unix(), "iat": time.Now().Add(-2 * time.Hour).Unix()}
		}, requests},
		{"expires_in absurdly long", func(o *authapitest.Options) { o.ExpiresIn = says(1e300) }, 0},
		{"exp absurdly late", func(o *authapitest.Options) {
			o.ExpiresIn, o.Claims = says(nil), map[string]any{"exp": 1e300}
		}, 0},
		{"expires_in is text", func(o *authapitest.Options) { o.ExpiresIn = says("600") }, 0},
		{"auth server 5 minutes ahead", func(o *authapitest.Options) { o.ExpiresIn, o.Now = says(nil), clock(5*time.Minute) }, 0},
		{"auth server 5 minutes behind", func(o *authapitest.Options) { o.ExpiresIn, o.Now = says(nil), clock(-5*time.Minute) }, 0},
		{"a life of 2 s", func(o *authapitest.Options) { o.AccessLife = 2 * time.Second }, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sqlite(t))
			w.auth.Set(c.change)
			at := w.replicas(1)[0]
			ticket := at.signIn()
			begun := time.Now()
			for range requests {
				at.want(ticket, http.StatusOK, "")
			}
			// Short lives may have gone by more often on a machine that is busy.
			if n, most := w.granted(), c.most+int(time.Since(begun)/time.Second); n > most {
				t.Errorf("%d refreshes in %d requests, want %d at most", n, requests, most)
			}
			w.noTheft()
		})
	}
}
