package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cloakroom/domain"
	"cloakroom/infra/oidc/oidctest"
	"cloakroom/infra/settings"
)

// boundUpstream takes tokens with a proof for its own address and of its own
// nonce alone, each proof once (RFC 9449, section 7).
type boundUpstream struct {
	mu    sync.Mutex
	url   string
	nonce string
	seen  map[string]bool
	keys  map[string]bool // that were shown, by their x
	asks  int             // for a nonce
}

func newBoundUpstream(t *testing.T, nonce string) *boundUpstream {
	u := &boundUpstream{nonce: nonce, seen: map[string]bool{}, keys: map[string]bool{}}
	web := httptest.NewServer(u)
	t.Cleanup(web.Close)
	u.url = web.URL
	return u
}

func (u *boundUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	defer u.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	switch why := u.refuses(r); why {
	case "":
		fmt.Fprintf(w, "took %s", body)
	case "nonce":
		u.asks++
		w.Header().Set("DPoP-Nonce", u.nonce)
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(http.StatusUnauthorized)
	default:
		http.Error(w, why, http.StatusForbidden)
	}
}

func (u *boundUpstream) refuses(r *http.Request) string {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "DPoP ")
	proofs := r.Header.Values("DPoP")
	if !ok || len(proofs) != 1 {
		return fmt.Sprintf("scheme %v with %d proofs", ok, len(proofs))
	}
	claims := jwt.MapClaims{}
	proof, err := jwt.ParseWithClaims(proofs[0], claims, func(t *jwt.Token) (any, error) {
		jwk, _ := t.Header["jwk"].(map[string]any)
		point := []byte{4} // x and y follow (SEC 1, section 2.3.3)
		for _, name := range []string{"x", "y"} {
			raw, _ := base64.RawURLEncoding.DecodeString(fmt.Sprint(jwk[name]))
			point = append(point, raw...)
		}
		u.keys[fmt.Sprint(jwk["x"])] = true
		return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	}, jwt.WithValidMethods([]string{"ES256"}))
	sum := sha256.Sum256([]byte(token))
	target := must(url.Parse(u.url))
	target.Path = r.URL.Path
	id := fmt.Sprint(claims["jti"])
	switch {
	case err != nil || proof.Header["typ"] != "dpop+jwt":
		return "a bad proof"
	case claims["ath"] != base64.RawURLEncoding.EncodeToString(sum[:]):
		return "a proof for another token"
	case claims["htm"] != r.Method || claims["htu"] != target.String():
		return fmt.Sprintf("a proof for %v %v", claims["htm"], claims["htu"])
	case u.seen[id]:
		return "a proof twice"
	}
	u.seen[id] = true
	if claims["nonce"] != u.nonce {
		return "nonce"
	}
	return ""
}

// TestBoundTokens signs in at a real provider that asks for proofs with nonces,
// and calls an upstream that does.
func TestBoundTokens(t *testing.T) {
	const secret = "a secret of thirty-two characters"
	l := must(http.NewRequest("GET", "http://localhost", nil)) // a site that the provider may know before it listens
	node := oidctest.StartNode(t, oidctest.NodeOptions{AccessLife: 2 * time.Second, Clients: []oidctest.NodeClient{{
		ID: "broker", Secret: secret, BoundTokens: true, RedirectURIs: []string{l.URL.String() + "/auth/callback/node"},
	}}})
	up, second, third := newBoundUpstream(t, "the-nonce"), newBoundUpstream(t, "another"), newBoundUpstream(t, "a third")
	away := httptest.NewServer(nil)
	away.Close()
	h := newHouses(t, func(s *settings.Settings) {
		s.PublicURL = l.URL
		s.Routes = []settings.Route{
			{Prefix: "/", Upstreams: upstreamsAt(t, up.url)},
			{Prefix: "/many", Upstreams: upstreamsAt(t, away.URL, second.url, third.url)},
		}
		s.Providers = []settings.Provider{{Name: "node", Issuer: node.URL, ClientID: "broker", ClientSecret: domain.NewSecret(secret), DPoP: true}}
	})
	b := h.browser()
	back := oidctest.NewBrowser(t).Visit(t, b.begin("node", "/x"), "ann", l.URL.String()+"/auth/callback/node")
	if a := b.back("node", back.Query()); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("signing in = %d %s", a.StatusCode, a.body)
	}
	// What a client says of proofs is not passed on.
	if a := b.do("POST", "/deep/a%20b?q=1", "words", asScript, "DPoP: mine"); a.StatusCode != 200 || a.body != "took words" {
		t.Errorf("the upstream = %d %s", a.StatusCode, a.body)
	}
	if up.asks != 1 {
		t.Errorf("the upstream asked for its nonce %d times, want once", up.asks)
	}
	// A proof is for the address that is asked, whichever that is, and so is its nonce.
	for range 6 {
		if a := b.do("POST", "/many/x", "words", asScript); a.StatusCode != 200 || a.body != "took words" {
			t.Errorf("one of several addresses = %d %s", a.StatusCode, a.body)
		}
	}
	if second.asks != 1 || third.asks != 1 || len(second.seen) < 2 || len(third.seen) < 2 {
		t.Errorf("two addresses asked for their nonces %d and %d times, want once each, and saw %d and %d proofs", second.asks, third.asks, len(second.seen), len(third.seen))
	}
	ends := time.Now().Add(2500 * time.Millisecond)
	for time.Now().Before(ends) { // until the token was refreshed
		if a := b.get("/deep"); a.StatusCode != 200 {
			t.Fatalf("the upstream = %d %s", a.StatusCode, a.body)
		}
	}
	if !strings.Contains(h.said.String(), "msg=refreshed") {
		t.Error("the token was not refreshed")
	}
	if len(up.keys) != 1 {
		t.Errorf("the device has %d keys, want one for good", len(up.keys))
	}
	noTokens(t, h)
}
