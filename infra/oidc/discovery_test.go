package oidc_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
	"cloakroom/infra/oidc"
	"cloakroom/infra/oidc/oidctest"
)

// clock is one that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Now()} }

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *clock) pass(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(d) }

func kind(err error) authcall.Kind {
	var e *authcall.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Kind
}

// TestR4_IssuerMatchesExactly: a provider that calls itself otherwise by one
// letter is not the one of the settings.
func TestR4_IssuerMatchesExactly(t *testing.T) {
	s := oidctest.New(t)
	for name, change := range map[string]func(string) any{
		"a slash more":     func(url string) any { return url + "/" },
		"upper case":       func(url string) any { return strings.ToUpper(url) },
		"another":          func(string) any { return "https://evil.example" },
		"nothing":          func(string) any { return nil },
		"https":            func(url string) any { return strings.Replace(url, "http:", "https:", 1) },
		"a template's {}":  func(url string) any { return url + "/{tenantid}" },
		"a list around it": func(url string) any { return []string{url} },
	} {
		s.Document(func(d map[string]any) { d["issuer"] = change(s.URL) })
		p := provider(t, s)
		_, _, err := p.Begin(t.Context(), domain.AuthRequest{RedirectURI: redirectURI})
		if reason(err) != domain.SignInRefused || !errors.Is(err, domain.ErrAuthMisconfigured) || p.Health() == nil {
			t.Errorf("%s: %v, health %v", name, err, p.Health())
		}
	}
	s.Document(func(map[string]any) {})
	if _, err := signIn(t, s, provider(t, s)); err != nil {
		t.Errorf("its own name: %v", err)
	}
}

func TestBadDiscovery(t *testing.T) {
	s := oidctest.New(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("a redirect was followed to elsewhere")
	}))
	t.Cleanup(elsewhere.Close)
	page := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    authcall.Kind
	}{
		"endless redirects": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, authcall.ClientError},
		"a redirect elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, authcall.ClientError},
		"not there":       {page(404, "{}"), authcall.ClientError},
		"out of order":    {page(503, "{}"), authcall.Upstream5xx},
		"asked too often": {page(429, "{}"), authcall.Throttled},
		"a page":          {page(200, "<html>"), authcall.BrokenAnswer},
		"a list":          {page(200, "[]"), authcall.BrokenAnswer},
		"nothing":         {page(200, ""), authcall.BrokenAnswer},
		"null":            {page(200, "null"), authcall.BrokenAnswer},
		"huge":            {page(200, `{"issuer":"`+strings.Repeat("x", 2<<20)+`"}`), authcall.BrokenAnswer},
		"cut off": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "99")
			fmt.Fprint(w, "{")
		}, authcall.Network},
		"slow":                  {func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, authcall.Timeout},
		"slow after the header": {func(w http.ResponseWriter, r *http.Request) { w.(http.Flusher).Flush(); <-r.Context().Done() }, authcall.Timeout},
	} {
		s.Handle(oidctest.DiscoveryPath, c.handler)
		p := provider(t, s, patience(c.want == authcall.Timeout))
		if _, _, err := p.Begin(t.Context(), domain.AuthRequest{}); kind(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	s.Handle(oidctest.DiscoveryPath, nil)

	for name, change := range map[string]func(map[string]any){
		"no token endpoint":            func(d map[string]any) { delete(d, "token_endpoint") },
		"no authorization endpoint":    func(d map[string]any) { delete(d, "authorization_endpoint") },
		"no keys":                      func(d map[string]any) { delete(d, "jwks_uri") },
		"keys in plain text":           func(d map[string]any) { d["jwks_uri"] = "http://idp.example/keys" },
		"an endpoint that is none":     func(d map[string]any) { d["token_endpoint"] = "javascript:alert(1)" },
		"an endpoint with a user":      func(d map[string]any) { d["token_endpoint"] = "https://a:b@idp.example/" },
		"an end of session in a file":  func(d map[string]any) { d["end_session_endpoint"] = "file:///etc/passwd" },
		"a revocation in plain text":   func(d map[string]any) { d["revocation_endpoint"] = "http://idp.example/revoke" },
		"a field of another kind":      func(d map[string]any) { d["token_endpoint"] = 7 },
		"a field of another kind, too": func(d map[string]any) { d["authorization_response_iss_parameter_supported"] = "yes" },
	} {
		s.Document(change)
		if _, _, err := provider(t, s).Begin(t.Context(), domain.AuthRequest{}); kind(err) != authcall.BrokenAnswer {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestProviderThatIsDownAtStart: the broker starts, says so, does not hammer it,
// and works as soon as it is back.
func TestProviderThatIsDownAtStart(t *testing.T) {
	s := oidctest.New(t)
	now := newClock()
	s.Handle(oidctest.DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	p := provider(t, s, func(c *oidc.Config) { c.Now = now.now })
	if n := len(s.Requests(oidctest.DiscoveryPath)); n != 0 || p.Health() != nil {
		t.Errorf("New asked %d times, health %v", n, p.Health())
	}
	for range 50 {
		_, _, err := p.Begin(t.Context(), domain.AuthRequest{})
		var passing *domain.Unavailable
		if reason(err) != domain.SignInUnavailable || !errors.As(err, &passing) || passing.Retry <= 0 {
			t.Fatalf("Begin: %v", err)
		}
		if _, err := p.Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")}); !errors.Is(err, domain.ErrAuthUnavailable) {
			t.Fatalf("Refresh: %v", err)
		}
	}
	if n := len(s.Requests(oidctest.DiscoveryPath)); n != 1 || p.Health() == nil {
		t.Errorf("a provider that is down was asked %d times at once, health %v", n, p.Health())
	}
	asked := 0
	for range 600 { // ten minutes
		now.pass(time.Second)
		_, _, _ = p.Begin(t.Context(), domain.AuthRequest{})
	}
	if asked = len(s.Requests(oidctest.DiscoveryPath)); asked < 15 || asked > 30 {
		t.Errorf("it was asked %d times in ten minutes", asked)
	}
	s.Handle(oidctest.DiscoveryPath, nil)
	now.pass(30 * time.Second)
	if _, _, err := p.Begin(t.Context(), domain.AuthRequest{}); err != nil || p.Health() != nil {
		t.Errorf("back again: %v, health %v", err, p.Health())
	}
}

// TestDiscoveryIsKept: asked once, again after an hour, and kept on if the
// provider is away then.
func TestDiscoveryIsKept(t *testing.T) {
	s := oidctest.New(t)
	now := newClock()
	s.Now = now.now
	p := provider(t, s, func(c *oidc.Config) { c.Now = now.now })
	for range 3 {
		if _, err := signIn(t, s, p); err != nil {
			t.Fatal(err)
		}
	}
	if d, k := len(s.Requests(oidctest.DiscoveryPath)), len(s.Requests(oidctest.KeysPath)); d != 1 || k != 1 {
		t.Errorf("three sign-ins asked %d times for metadata, %d for keys", d, k)
	}
	for _, path := range []string{oidctest.DiscoveryPath, oidctest.KeysPath} {
		s.Handle(path, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	}
	now.pass(2 * time.Hour)
	if _, err := signIn(t, s, p); err != nil {
		t.Errorf("with old metadata and keys: %v", err)
	}
	if d, k := len(s.Requests(oidctest.DiscoveryPath)), len(s.Requests(oidctest.KeysPath)); d != 2 || k != 2 {
		t.Errorf("after two hours it was asked %d times for metadata, %d for keys", d, k)
	}
}

// TestKeyRotation: tokens of a new key are good at once, those of a withdrawn
// one no longer than an hour.
func TestKeyRotation(t *testing.T) {
	s := oidctest.New(t)
	now := newClock()
	s.Now = now.now
	p := provider(t, s, func(c *oidc.Config) { c.Now = now.now })
	if _, err := signIn(t, s, p); err != nil {
		t.Fatal(err)
	}
	old := domain.NewSecret(s.Sign(nil, func() map[string]any {
		c := s.IDClaims("")
		c["exp"] = now.now().Add(3 * time.Hour).Unix()
		return c
	}()))
	now.pass(11 * time.Second)
	s.Keys(oidctest.NewKey(t, "key-2"))
	if _, err := signIn(t, s, p); err != nil {
		t.Errorf("a token of the new key: %v", err)
	}
	if _, err := p.Credential(t.Context(), old, ""); reason(err) != domain.SignInUntrusted {
		t.Errorf("a token of the withdrawn key, after the new ones were seen: %v", err)
	}

	// A key that goes without a successor that anybody has seen.
	compromised := domain.NewSecret(s.Sign(nil, func() map[string]any {
		c := s.IDClaims("")
		c["exp"] = now.now().Add(3 * time.Hour).Unix()
		return c
	}()))
	s.Keys(oidctest.NewKey(t, "key-3"))
	now.pass(59 * time.Minute)
	if _, err := p.Credential(t.Context(), compromised, ""); err != nil {
		t.Errorf("within the hour the keys are kept: %v", err)
	}
	now.pass(time.Minute)
	if _, err := p.Credential(t.Context(), compromised, ""); reason(err) != domain.SignInUntrusted {
		t.Errorf("a token of the withdrawn key, after an hour: %v", err)
	}
}

// TestUnknownKeysBringNoStorm: anybody can post tokens with key ids that nobody
// knows.
func TestUnknownKeysBringNoStorm(t *testing.T) {
	s := oidctest.New(t)
	now := newClock()
	p := provider(t, s, func(c *oidc.Config) { c.Now = now.now })
	stranger := oidctest.NewKey(t, "unknown")
	storm := func() (refused int32) {
		var count atomic.Int32
		var wg sync.WaitGroup
		for i := range 100 {
			raw := domain.NewSecret(oidctest.SignWith(stranger, map[string]any{"typ": "logout+jwt", "kid": fmt.Sprint("k", i)}, s.LogoutClaims()))
			wg.Go(func() {
				if _, err := p.LogoutToken(t.Context(), raw); errors.Is(err, domain.ErrBadInput) {
					count.Add(1)
				}
			})
		}
		wg.Wait()
		return count.Load()
	}
	if n := storm(); n != 100 {
		t.Errorf("%d of 100 were refused", n)
	}
	if n := len(s.Requests(oidctest.KeysPath)); n != 1 {
		t.Errorf("100 unknown keys had the provider asked %d times", n)
	}
	now.pass(11 * time.Second)
	storm()
	if n := len(s.Requests(oidctest.KeysPath)); n != 2 {
		t.Errorf("200 unknown keys in 11 s had the provider asked %d times", n)
	}
	// While keys cannot be had, those that are there serve on, and nothing is
	// asked but after a pause.
	s.Handle(oidctest.KeysPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	now.pass(11 * time.Second)
	storm()
	if n := len(s.Requests(oidctest.KeysPath)); n != 3 {
		t.Errorf("300 unknown keys had the provider asked %d times", n)
	}
	if _, err := p.LogoutToken(t.Context(), domain.NewSecret(s.LogoutToken(s.LogoutClaims()))); err != nil {
		t.Errorf("a good token while keys cannot be had: %v", err)
	}
}

func TestBadKeys(t *testing.T) {
	s := oidctest.New(t)
	good := s.LogoutToken(s.LogoutClaims())
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		want    error
	}{
		"no keys":         {func(w http.ResponseWriter, _ *http.Request) { oidctest.Reply(w, 200, map[string]any{"keys": []any{}}) }, domain.ErrAuthMisconfigured},
		"keys of no kind": {func(w http.ResponseWriter, _ *http.Request) { oidctest.Reply(w, 200, map[string]any{"keys": 7}) }, domain.ErrAuthMisconfigured},
		"a secret key": {func(w http.ResponseWriter, _ *http.Request) {
			oidctest.Reply(w, 200, map[string]any{"keys": []any{map[string]any{"kty": "oct", "k": "c2VjcmV0"}}})
		}, domain.ErrAuthMisconfigured},
		"for encryption": {func(w http.ResponseWriter, _ *http.Request) {
			oidctest.Reply(w, 200, map[string]any{"keys": []any{s.PublicKey("enc", "key-1")}})
		}, domain.ErrAuthMisconfigured},
		"out of order": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(502) }, domain.ErrAuthUnavailable},
		"among odd ones": {func(w http.ResponseWriter, _ *http.Request) {
			oidctest.Reply(w, 200, map[string]any{"keys": []any{7, nil, map[string]any{"kty": "??"}, map[string]any{"kty": "OKP", "crv": "Ed448", "x": "AA"}, s.PublicKey("sig", "key-1")}})
		}, nil},
		"without an id": {func(w http.ResponseWriter, _ *http.Request) {
			oidctest.Reply(w, 200, map[string]any{"keys": []any{s.PublicKey("sig", "")}})
		}, nil},
		"for another alg": {func(w http.ResponseWriter, _ *http.Request) {
			k := s.PublicKey("sig", "key-1")
			k["alg"] = "PS256"
			oidctest.Reply(w, 200, map[string]any{"keys": []any{k}})
		}, domain.ErrBadInput},
		"far too many": {func(w http.ResponseWriter, _ *http.Request) {
			oidctest.Reply(w, 200, map[string]any{"keys": make([]any, 1000)})
		}, domain.ErrAuthMisconfigured},
		"a redirect to it": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) }, domain.ErrAuthMisconfigured},
	} {
		s.Handle(oidctest.KeysPath, c.handler)
		if _, err := provider(t, s).LogoutToken(t.Context(), domain.NewSecret(good)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}
