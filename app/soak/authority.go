package soak

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// life is that of an access token. The broker refreshes ahead in its last
// quarter, so that many refreshes fit into a run.
const life = 3 * time.Second

// tooEarly is how much of its token's life is left when a refresh is one too
// many. The broker refreshes in the last quarter of what it knows of the life,
// which began with its call, and a call takes its time. A second refresh for one
// expiry finds nearly all of the life left.
const tooEarly = life / 2

// authority is the auth server. Its refresh tokens are single use; one that
// comes again brings the same successor inside the family's reuse window, if
// the successor is unspent, and ends the family otherwise. It knows what it has
// granted and to whom, and what it has lost on the way, and so it is the judge of
// every refresh and of every session that ends.
type authority struct {
	clock *history
	count *counts
	faults

	mu       sync.Mutex
	families map[int]*family
	latest   map[string]*family // by email
	refresh  map[string]*refreshToken
	access   map[string]*accessToken
}

// family is everything that comes from one sign-in.
type family struct {
	id     int
	email  string
	window time.Duration // 0: none
	dead   death
}

// death is why a family is over.
type death string

const (
	alive    death = ""
	revoked  death = "revoked"  // by the broker
	byRule   death = "by rule"  // a spent token came again, and a fault had taken its successor
	needless death = "needless" // a spent token came again for no reason
)

type refreshToken struct {
	family *family
	access *accessToken // the latest that came with it

	spent     time.Time // zero: not yet
	by        int       // the replica that spent it
	lost      bool      // no answer with the successor has arrived
	successor string
}

type accessToken struct {
	family  *family
	refresh *refreshToken // that came with it
	expires time.Time
	used    bool // the upstream has seen it
}

func newAuthority(clock *history, count *counts) *authority {
	return &authority{
		clock: clock, count: count,
		families: map[int]*family{}, latest: map[string]*family{}, refresh: map[string]*refreshToken{}, access: map[string]*accessToken{},
	}
}

// serve answers the calls of a replica, each of which has a door of its own.
func (a *authority) serve(w http.ResponseWriter, r *http.Request, replica int) {
	var in struct {
		Email        string `json:"email"`
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/login":
		writeJSON(w, http.StatusOK, a.signIn(in.Email))
	case "/logout":
		a.revoke(in.RefreshToken)
		writeJSON(w, http.StatusOK, map[string]any{})
	case "/refresh":
		a.answer(w, r, func() (int, map[string]any) { return a.renew(in.RefreshToken, replica) }, func() { a.lose(in.RefreshToken) })
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func writeJSON(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// strict reports whether a device's families have no reuse window: one in four.
func strict(device int) bool { return device%4 == 0 }

func (a *authority) signIn(email string) map[string]any {
	device := -1
	_, _ = fmt.Sscanf(email, deviceEmail, &device)
	a.mu.Lock()
	defer a.mu.Unlock()
	f := &family{id: len(a.families) + 1, email: email}
	if !strict(device) {
		f.window = reuseWindow
	}
	a.families[f.id], a.latest[email] = f, f
	return a.grant(f, "")
}

// grant makes an access token, and a refresh token unless there is one already.
// It expects the lock to be held.
func (a *authority) grant(f *family, refresh string) map[string]any {
	if refresh == "" {
		refresh = rand.Text()
		a.refresh[refresh] = &refreshToken{family: f}
	}
	t := &accessToken{family: f, refresh: a.refresh[refresh], expires: a.clock.now().Add(life)}
	t.refresh.access = t
	text := rand.Text()
	a.access[text] = t
	return map[string]any{"access_token": text, "token_type": "bearer", "expires_in": life.Seconds(), "refresh_token": refresh}
}

var refusal = map[string]any{"error": "invalid_grant"}

// renew exchanges a refresh token.
func (a *authority) renew(token string, replica int) (int, map[string]any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock.now()
	t := a.refresh[token]
	switch {
	case t == nil || t.family.dead != alive:
		return http.StatusBadRequest, refusal
	case t.spent.IsZero():
		if t.access.expires.Sub(now) > tooEarly {
			a.count.note(&a.count.Needless, "device %s was refreshed %v before its token's end", t.family.email, t.access.expires.Sub(now))
		}
		t.spent, t.by = now, replica
		answer := a.grant(t.family, "")
		t.successor = answer["refresh_token"].(string)
		a.count.add(&a.count.Refreshes)
		return http.StatusOK, answer
	}

	next := a.refresh[t.successor]
	explained := !next.access.used && (t.lost || a.clock.struck(t.by, t.spent, now))
	if !explained {
		a.count.note(&a.count.Needless, "device %s: a token that replica %d spent %v before came again by replica %d; its successor was used: %t, its answer lost: %t",
			t.family.email, t.by, now.Sub(t.spent), replica, next.access.used, t.lost)
	}
	if now.Sub(t.spent) < t.family.window && next.spent.IsZero() {
		a.count.add(&a.count.Replays)
		t.by, t.lost = replica, false
		return http.StatusOK, a.grant(t.family, t.successor)
	}
	t.family.dead = needless
	if explained && t.family.window == 0 {
		t.family.dead = byRule
	}
	return http.StatusBadRequest, refusal
}

// lose notes that an answer about a token has not arrived.
func (a *authority) lose(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.refresh[token]; t != nil {
		t.lost = true
	}
}

func (a *authority) revoke(token string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.refresh[token]; t != nil && t.family.dead == alive {
		t.family.dead = revoked
	}
}

// verdict is what the upstream is told about an access token.
type verdict struct {
	family  int
	email   string
	expires time.Time
	dead    bool
}

// look tells the upstream about a token. ok is false for one that was never
// issued.
func (a *authority) look(token string) (v verdict, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.access[token]
	if t == nil {
		return verdict{}, false
	}
	t.used = true
	return verdict{family: t.family.id, email: t.family.email, expires: t.expires, dead: t.family.dead != alive}, true
}

// fate is why a device's session is over at the auth server, if it is: the one
// of a family, or, if that is 0, the device's latest.
func (a *authority) fate(id int, email string) death {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.families[id]
	if f == nil {
		f = a.latest[email]
	}
	if f == nil {
		return alive
	}
	return f.dead
}
