package authserver

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// google is a provider that signs whatever it is told to.
type google struct {
	*httptest.Server
	key  *rsa.PrivateKey
	down bool
	asks atomic.Int32 // for keys
}

func newGoogle(t *testing.T) *google {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	g := &google{key: key}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		encode := base64.RawURLEncoding.EncodeToString
		switch {
		case g.down:
			w.WriteHeader(http.StatusServiceUnavailable)
		case strings.HasSuffix(r.URL.Path, "openid-configuration"):
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": g.URL, "jwks_uri": g.URL + "/keys", "authorization_endpoint": g.URL, "token_endpoint": g.URL})
		default:
			g.asks.Add(1)
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
				"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k", "n": encode(key.N.Bytes()), "e": encode(big.NewInt(int64(key.E)).Bytes()),
			}}})
		}
	}))
	t.Cleanup(g.Close)
	return g
}

// token signs a good token with changes to its claims; nil takes one away.
func (g *google) token(t *testing.T, now time.Time, changes map[string]any) string {
	t.Helper()
	c := jwt.MapClaims{
		"iss": g.URL, "sub": "google-1", "aud": "client", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"email": "Alice@example.com", "email_verified": true, "name": "Alice",
	}
	for name, value := range changes {
		if c[name] = value; value == nil {
			delete(c, name)
		}
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, c)
	token.Header["kid"] = "k"
	signed, err := token.SignedString(g.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestIDTokenIsExchanged(t *testing.T) {
	g := newGoogle(t)
	f := newFixture(t, func(s *Settings) { s.GoogleIssuer, s.GoogleClientID = g.URL, []string{"another", "client"} })
	exchange := func(token string) answer {
		return f.post("/api/v1/login/google", map[string]string{"credential": token})
	}
	// Somebody has registered with Alice's address before her.
	squatter := f.want(f.post("/api/v1/register", map[string]string{"email": "alice@example.com", "password": password}), 201, "")

	me := func(a answer) answer {
		t.Helper()
		return f.want(f.bearer("GET", "/api/v1/about_me", f.want(a, 200, "").text("access_token")), 200, "")
	}
	alice := me(exchange(g.token(t, f.clock.now(), nil)))
	if alice.text("id") == squatter.text("id") || alice.text("email") != "Alice@example.com" || alice.body["email_verified"] != true || alice.text("name") != "Alice" {
		t.Errorf("the account is %v, want one of its own with a verified address", alice.body)
	}
	again := me(exchange(g.token(t, f.clock.now(), map[string]any{"email": "new@example.com", "email_verified": false})))
	if again.text("id") != alice.text("id") || again.text("email") != "new@example.com" || again.body["email_verified"] != false {
		t.Errorf("the second time it is %v, want the same account with what the provider says now", again.body)
	}
	if other := me(exchange(g.token(t, f.clock.now(), map[string]any{"sub": "google-2"}))); other.text("id") == alice.text("id") {
		t.Error("two subjects share an account")
	}
	pair := f.want(exchange(g.token(t, f.clock.now(), nil)), 200, "")
	f.want(f.refresh(pair.text("refresh_token")), 200, "")
	f.want(f.post("/api/v1/login", map[string]string{"email": "identity " + alice.text("id"), "password": ""}), 400, "invalid_request")
	f.want(f.post("/api/v1/login", map[string]string{"email": "identity " + alice.text("id"), "password": "anything"}), 401, "invalid_credentials")

	now := f.clock.now()
	for name, token := range map[string]string{
		"another audience":  g.token(t, now, map[string]any{"aud": "somebody"}),
		"another party":     g.token(t, now, map[string]any{"azp": "somebody"}),
		"several, no party": g.token(t, now, map[string]any{"aud": []string{"client", "somebody"}}),
		"another issuer":    g.token(t, now, map[string]any{"iss": "https://evil.example"}),
		"over":              g.token(t, now, map[string]any{"exp": now.Add(-2 * time.Minute).Unix()}),
		"of long ago":       g.token(t, now, map[string]any{"iat": now.Add(-2 * time.Hour).Unix()}),
		"nobody's":          g.token(t, now, map[string]any{"sub": nil}),
		"altered":           g.token(t, now, nil) + "x",
		"unsigned":          "eyJhbGciOiJub25lIn0." + strings.Split(g.token(t, now, nil), ".")[1] + ".",
		"no token":          "x",
		"a logout token":    g.token(t, now, map[string]any{"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}),
	} {
		if a := exchange(token); a.status != http.StatusUnauthorized || strings.Contains(a.raw, "eyJ") {
			t.Errorf("%s = %d %s", name, a.status, a.raw)
		}
	}
	f.want(f.post("/api/v1/login/google", map[string]string{}), 400, "invalid_request")
	if strings.Contains(f.log.String(), "eyJ") {
		t.Error("a token is in the log")
	}
}

func TestExchangeWithoutAProvider(t *testing.T) {
	f := newFixture(t)
	f.want(f.post("/api/v1/login/google", map[string]string{"credential": "x"}), 404, "not_found")

	g := newGoogle(t)
	g.down = true
	f = newFixture(t, func(s *Settings) { s.GoogleIssuer, s.GoogleClientID = g.URL, []string{"client"} })
	token := g.token(t, f.clock.now(), nil)
	f.want(f.post("/api/v1/login/google", map[string]string{"credential": token}), 503, "provider_unavailable")
	g.down = false
	f.clock.advance(6 * time.Second)
	f.want(f.post("/api/v1/login/google", map[string]string{"credential": token}), 200, "")
}

// TestExchangeWhileTheKeysCannotBeHad: that is not the token's fault.
func TestExchangeWhileTheKeysCannotBeHad(t *testing.T) {
	g := newGoogle(t)
	f := newFixture(t, func(s *Settings) { s.GoogleIssuer, s.GoogleClientID = g.URL, []string{"client"} })
	exchange := func(token string) answer {
		return f.post("/api/v1/login/google", map[string]string{"credential": token})
	}
	good := g.token(t, f.clock.now(), nil)
	f.want(exchange("x"), 401, "invalid_credentials") // discovery has been asked, and no keys
	g.down = true
	f.want(exchange(good), 503, "provider_unavailable")
	g.down = false
	f.clock.advance(6 * time.Second)
	f.want(exchange(good), 200, "")
}

// TestUnknownKeysDoNotMakeTheProviderBeAskedEachTime sends tokens that no key of
// the provider has signed.
func TestUnknownKeysDoNotMakeTheProviderBeAskedEachTime(t *testing.T) {
	g := newGoogle(t)
	f := newFixture(t, func(s *Settings) { s.GoogleIssuer, s.GoogleClientID = g.URL, []string{"client"} })
	exchange := func(token string) answer {
		return f.post("/api/v1/login/google", map[string]string{"credential": token})
	}
	good := g.token(t, f.clock.now(), nil)
	f.want(exchange(good), 200, "")
	for range 5 {
		f.want(exchange(good[:len(good)-8]+"AAAAAAAA"), 401, "invalid_credentials")
	}
	f.want(exchange(good), 200, "")
	if n := g.asks.Load(); n != 1 {
		t.Errorf("the keys were asked for %d times, want once", n)
	}
}
