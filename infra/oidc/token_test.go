package oidc_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
	"cloakroom/infra/oidc"
	"cloakroom/infra/oidc/oidctest"
)

func TestRefresh(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	r := domain.Renewal{Refresh: domain.NewSecret("refresh-0"), Subject: oidctest.Subject}
	g, err := p.Refresh(t.Context(), r)
	if err != nil || g.Access.Empty() || g.Refresh.Empty() || g.Refresh.Equal(r.Refresh) || g.ID.Empty() || g.AccessLife != 5*time.Minute || g.RefreshLife != 30*time.Minute {
		t.Errorf("Refresh = %+v, %v", g, err)
	}
	form := s.Requests(oidctest.TokenPath)[0].Form
	if form.Get("grant_type") != "refresh_token" || form.Get("refresh_token") != "refresh-0" || len(form) != 2 {
		t.Errorf("it was asked with %v", form)
	}

	for name, c := range map[string]struct {
		change        func(map[string]any)
		refresh, id   bool
		life, reflife time.Duration
	}{
		"no new refresh token": {change: func(a map[string]any) { delete(a, "refresh_token") }, id: true, life: 5 * time.Minute, reflife: 30 * time.Minute},
		"null instead of one":  {change: func(a map[string]any) { a["refresh_token"] = nil }, id: true, life: 5 * time.Minute, reflife: 30 * time.Minute},
		"no ID token":          {change: func(a map[string]any) { delete(a, "id_token") }, refresh: true, life: 5 * time.Minute, reflife: 30 * time.Minute},
		"lives as texts":       {change: func(a map[string]any) { a["expires_in"], a["refresh_expires_in"] = "300", "1800" }, refresh: true, id: true, life: 5 * time.Minute, reflife: 30 * time.Minute},
		"no lives":             {change: func(a map[string]any) { delete(a, "expires_in"); delete(a, "refresh_expires_in") }, refresh: true, id: true},
		"Google's own name":    {change: func(a map[string]any) { delete(a, "refresh_expires_in"); a["refresh_token_expires_in"] = 60 }, refresh: true, id: true, life: 5 * time.Minute, reflife: time.Minute},
		"a refresh life of 0":  {change: func(a map[string]any) { a["refresh_expires_in"] = 0 }, refresh: true, id: true, life: 5 * time.Minute},
	} {
		s.Answer(c.change)
		g, err := p.Refresh(t.Context(), r)
		if err != nil || g.Refresh.Empty() == c.refresh || g.ID.Empty() == c.id || g.AccessLife != c.life || g.RefreshLife != c.reflife {
			t.Errorf("%s: %+v, %v", name, g, err)
		}
	}
}

// TestRefreshOutcomes is the table in error.go.
func TestRefreshOutcomes(t *testing.T) {
	s := oidctest.New(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a refresh token was sent on to elsewhere")
	}))
	t.Cleanup(elsewhere.Close)
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	code := func(code string) string { return `{"error":"` + code + `"}` }
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    error
		kind    authcall.Kind
		lost    bool
	}{
		"invalid_grant":              {answer(400, code("invalid_grant")), domain.ErrInvalidGrant, authcall.InvalidGrant, false},
		"invalid_grant with 401":     {answer(401, code("invalid_grant")), domain.ErrInvalidGrant, authcall.InvalidGrant, false},
		"invalid_grant with 200":     {answer(200, code("invalid_grant")), domain.ErrInvalidGrant, authcall.InvalidGrant, false},
		"invalid_grant with 500":     {answer(500, code("invalid_grant")), domain.ErrAuthUnavailable, authcall.Upstream5xx, false},
		"invalid_grant in a text":    {answer(400, `{"error":"oops","error_description":"invalid_grant"}`), domain.ErrAuthMisconfigured, authcall.ClientError, false},
		"invalid_token":              {answer(401, code("invalid_token")), domain.ErrAuthMisconfigured, authcall.ClientError, false},
		"invalid_client":             {answer(401, code("invalid_client")), domain.ErrAuthMisconfigured, authcall.ClientError, false},
		"unauthorized_client":        {answer(400, code("unauthorized_client")), domain.ErrAuthMisconfigured, authcall.ClientError, false},
		"401 without a word":         {answer(401, `{}`), domain.ErrAuthMisconfigured, authcall.ClientError, false},
		"a page with 400":            {answer(400, `<html>`), domain.ErrAuthMisconfigured, authcall.ClientError, false},
		"not there":                  {answer(404, `{}`), domain.ErrAuthMisconfigured, authcall.ClientError, false},
		"out of order":               {answer(502, `<html>`), domain.ErrAuthUnavailable, authcall.Upstream5xx, false},
		"asked too often":            {answer(429, code("invalid_grant")), domain.ErrAuthUnavailable, authcall.Throttled, false},
		"temporarily_unavailable":    {answer(400, code("temporarily_unavailable")), domain.ErrAuthUnavailable, authcall.Upstream5xx, false},
		"no tokens":                  {answer(200, `{}`), domain.ErrAuthUnavailable, authcall.BrokenAnswer, true},
		"a page":                     {answer(200, `<html>`), domain.ErrAuthUnavailable, authcall.BrokenAnswer, true},
		"nothing":                    {answer(200, ``), domain.ErrAuthUnavailable, authcall.BrokenAnswer, true},
		"an access token of no kind": {answer(200, `{"access_token":7}`), domain.ErrAuthUnavailable, authcall.BrokenAnswer, true},
		"one that splits a header":   {answer(200, `{"access_token":"a\r\nb"}`), domain.ErrAuthUnavailable, authcall.BrokenAnswer, true},
		"a refresh token of no kind": {answer(200, `{"access_token":"a","refresh_token":["r"]}`), domain.ErrAuthUnavailable, authcall.BrokenAnswer, true},
		"far too long":               {answer(200, `{"access_token":"`+strings.Repeat("a", 2<<20)+`"}`), domain.ErrAuthUnavailable, authcall.BrokenAnswer, true},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, domain.ErrAuthMisconfigured, authcall.ClientError, false},
		"no answer": {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, domain.ErrAuthUnavailable, authcall.Timeout, true},
		"half an answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			fmt.Fprint(w, "{")
		}, domain.ErrAuthUnavailable, authcall.BrokenAnswer, true},
		"a cut connection": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, domain.ErrAuthUnavailable, authcall.Network, true},
	} {
		p := provider(t, s, patience(c.kind == authcall.Timeout))
		s.Handle(oidctest.TokenPath, c.handler)
		before := len(s.Requests(oidctest.TokenPath))
		_, err := p.Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("refresh-0")})
		var passing *domain.Unavailable
		if !errors.Is(err, c.want) || kind(err) != c.kind || errors.As(err, &passing) && passing.Lost != c.lost {
			t.Errorf("%s: %v, %s, want %v, %s, lost %v", name, err, kind(err), c.want, c.kind, c.lost)
		}
		if passing != nil && passing.Why != string(c.kind) {
			t.Errorf("%s: the metric counts it as %q, want %q", name, passing.Why, c.kind)
		}
		if c.kind == authcall.Upstream5xx && passing.Retry != 7*time.Second {
			t.Errorf("%s: try again in %v", name, passing.Retry)
		}
		if n := len(s.Requests(oidctest.TokenPath)) - before; n != 1 {
			t.Errorf("%s: the token was sent %d times", name, n)
		}
		if healthy := c.want == domain.ErrInvalidGrant; (p.Health() == nil) != healthy {
			t.Errorf("%s: health is %v", name, p.Health())
		}
	}

	p := provider(t, s)
	if _, _, err := p.Begin(t.Context(), domain.AuthRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s.Handle(oidctest.TokenPath, func(w http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
	if _, err := p.Refresh(ctx, domain.Renewal{Refresh: domain.NewSecret("r")}); !errors.Is(err, context.Canceled) || kind(err) != authcall.Canceled || p.Health() != nil {
		t.Errorf("the caller gave up: %v, health %v", err, p.Health())
	}
}

// TestRefreshForSomebodyElse: tokens that are said to be somebody else's are not
// taken, signed or not.
func TestRefreshForSomebodyElse(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	r := domain.Renewal{Refresh: domain.NewSecret("refresh-0"), Subject: oidctest.Subject}
	for name, change := range map[string]func(map[string]any){
		"another subject":              func(c map[string]any) { c["sub"] = "user-2" },
		"another subject, and expired": func(c map[string]any) { c["sub"], c["exp"] = "user-2", 1 },
	} {
		s.Claims(change)
		if _, err := p.Refresh(t.Context(), r); !errors.Is(err, domain.ErrAuthMisconfigured) || kind(err) != oidc.Untrusted {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRefreshKeepsThePairWithoutItsIDToken: the old refresh token may be spent,
// so that an ID token which does not pass, or cannot be checked, is left out and
// nothing else.
func TestRefreshKeepsThePairWithoutItsIDToken(t *testing.T) {
	s := oidctest.New(t)
	r := domain.Renewal{Refresh: domain.NewSecret("refresh-0"), Subject: oidctest.Subject}
	refreshed := func(name string, p *oidc.Provider) {
		t.Helper()
		g, err := p.Refresh(t.Context(), r)
		if err != nil || g.Access.Empty() || g.Refresh.Empty() || g.Refresh.Equal(r.Refresh) || !g.ID.Empty() || g.IDDoubt == nil {
			t.Errorf("%s: %+v, %v; want the pair, no ID token and a doubt", name, g, err)
		}
	}
	p := provider(t, s)
	for name, change := range map[string]func(map[string]any){
		"another issuer":    func(c map[string]any) { c["iss"] = "https://evil.example" },
		"another audience":  func(c map[string]any) { c["aud"] = "other" },
		"expired":           func(c map[string]any) { c["exp"] = 1 },
		"another access":    func(c map[string]any) { c["at_hash"] = "AAAA" },
		"about nobody":      func(c map[string]any) { delete(c, "sub") },
		"for another party": func(c map[string]any) { c["azp"] = "other" },
	} {
		s.Claims(change)
		refreshed(name, p)
	}
	s.Claims(func(map[string]any) {})
	s.Answer(func(a map[string]any) { a["id_token"] = "not a token" })
	refreshed("no token", p)
	s.Answer(func(map[string]any) {})
	s.Handle(oidctest.KeysPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	refreshed("without keys", provider(t, s))
}

func TestRevoke(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	refresh, access := domain.NewSecret("r"), domain.NewSecret("a")
	for _, c := range []struct {
		refresh, access domain.Secret
		token, hint     string
	}{
		{refresh, access, "r", "refresh_token"},
		{refresh, domain.Secret{}, "r", "refresh_token"},
		{domain.Secret{}, access, "a", "access_token"},
	} {
		if err := p.Revoke(t.Context(), c.refresh, c.access); err != nil {
			t.Fatal(err)
		}
		asked := s.Requests(oidctest.RevokePath)
		if form := asked[len(asked)-1].Form; form.Get("token") != c.token || form.Get("token_type_hint") != c.hint {
			t.Errorf("it was asked with %v", form)
		}
	}
	n := len(s.Requests(oidctest.RevokePath))
	if err := p.Revoke(t.Context(), domain.Secret{}, domain.Secret{}); err != nil || len(s.Requests(oidctest.RevokePath)) != n {
		t.Errorf("nothing to revoke: %v", err)
	}
	for name, c := range map[string]struct {
		status int
		code   string
		want   error
	}{
		"done, with a page":      {200, "<html>", nil},
		"a kind it leaves alone": {400, `{"error":"unsupported_token_type"}`, domain.ErrInvalidGrant},
		"Google's dead token":    {400, `{"error":"invalid_token"}`, domain.ErrInvalidGrant},
		"the broker is refused":  {401, `{"error":"invalid_client"}`, domain.ErrAuthMisconfigured},
		"far too long":           {400, `{"x":"` + strings.Repeat("x", 2<<20) + `"}`, domain.ErrAuthUnavailable},
		"busy":                   {503, "", domain.ErrAuthUnavailable},
	} {
		s.Handle(oidctest.RevokePath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(c.status); fmt.Fprint(w, c.code) })
		if err := p.Revoke(t.Context(), refresh, access); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	s.Document(func(d map[string]any) { delete(d, "revocation_endpoint") })
	if err := provider(t, s).Revoke(t.Context(), refresh, access); err != nil {
		t.Errorf("without an endpoint: %v", err)
	}
}
