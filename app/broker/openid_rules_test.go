package broker_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"cloakroom/infra/oidc/oidctest"
	"cloakroom/infra/settings"
)

// TestR7_NoPasswordReachesAProvider offers passwords wherever they could be
// taken, and looks at every grant that the provider was asked for.
func TestR7_NoPasswordReachesAProvider(t *testing.T) {
	h := newHouses(t, nil)
	b := h.browser()
	b.signInAt("house", h.house, "")
	const words = `{"email":"ann@example.com","password":"hunter2hunter2"}`
	for _, path := range []string{"/auth/login", "/auth/login/house", "/auth/register", "/auth/reauthenticate"} {
		if a := b.do("POST", path, words, asJSON, asScript); len(a.Header["Set-Cookie"]) > 0 && a.StatusCode == http.StatusOK && path == "/auth/login" {
			t.Errorf("%s took a password: %s", path, a.body)
		}
	}
	for _, r := range h.house.Requests(oidctest.TokenPath) {
		if grant := r.Form.Get("grant_type"); !slices.Contains([]string{"authorization_code", "refresh_token"}, grant) || r.Form.Has("password") || r.Form.Has("username") {
			t.Errorf("the provider was asked for %q", grant)
		}
	}
}

// TestR39_LifetimesHoldTogether has a provider that says how long its tokens
// live: the session is never longer than what can be refreshed, nor than the
// absolute lifetime, which counts from the sign-in here.
func TestR39_LifetimesHoldTogether(t *testing.T) {
	for name, tt := range map[string]struct {
		absolute time.Duration
		answer   func(map[string]any)
		want     time.Duration
	}{
		"the provider's refresh token": {90 * 24 * time.Hour, func(map[string]any) {}, 30 * time.Minute},
		"no refresh token":             {90 * 24 * time.Hour, func(a map[string]any) { delete(a, "refresh_token") }, 5 * time.Minute},
		"the absolute lifetime":        {20 * time.Minute, func(map[string]any) {}, 20 * time.Minute},
	} {
		h := newHouses(t, func(s *settings.Settings) { s.AbsoluteLifetime, s.IdleTimeout = tt.absolute, tt.absolute })
		h.house.Answer(tt.answer)
		h.house.Claims(func(c map[string]any) { c["auth_time"] = time.Now().Add(-time.Hour).Unix() })
		b := h.browser()
		b.signInAt("house", h.house, "")
		var s struct {
			SignedInAt time.Time `json:"signed_in_at"`
			ProvedAt   time.Time `json:"proved_at"`
			ExpiresAt  time.Time `json:"expires_at"`
		}
		b.get("/auth/session").json(t, &s)
		if got := s.ExpiresAt.Sub(s.SignedInAt); got < tt.want-5*time.Second || got > tt.want+5*time.Second {
			t.Errorf("%s: the session lasts %v, want %v", name, got, tt.want)
		}
		if ago := s.SignedInAt.Sub(s.ProvedAt); ago < time.Hour-5*time.Second || ago > time.Hour+5*time.Second {
			t.Errorf("%s: the person proved who they are %v before, want an hour", name, ago)
		}
	}
}

// TestR23_ReturnThroughAProviderStaysHere also holds R29: what leads back is
// answered with 303.
func TestR23_ReturnThroughAProviderStaysHere(t *testing.T) {
	h := newHouses(t, nil)
	for _, target := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "/%2fevil.example", "javascript:alert(1)"} {
		a := h.browser().signInAt("house", h.house, target)
		if to := a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || to != "/" {
			t.Errorf("return_to=%s leads to %d %q, want 303 to the app", target, a.StatusCode, to)
		}
	}
}

// A subject is a name at one issuer, and upstreams have to tell two people of the
// same one apart.
func TestR25_UpstreamsTellTwoIssuersPeopleApart(t *testing.T) {
	h := newHouses(t, func(s *settings.Settings) { s.Routes[0].IdentityHeaders = []string{"user", "issuer"} })
	for name, p := range map[string]*oidctest.Server{"house": h.house, "other": h.other} {
		b := h.browser()
		b.signInAt(name, p, "/")
		b.get("/", "X-Forwarded-User: evil", "X-Forwarded-Issuer: https://evil.example").want(t, 200, "")
		user, issuer := h.seen.last().Values("X-Forwarded-User"), h.seen.last().Values("X-Forwarded-Issuer")
		if !slices.Equal(user, []string{oidctest.Subject}) || !slices.Equal(issuer, []string{p.URL}) {
			t.Errorf("%s: the upstream is told %q of %q, want %q of %q", name, user, issuer, oidctest.Subject, p.URL)
		}
	}
}
