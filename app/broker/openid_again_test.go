package broker_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/oidc/oidctest"
	"cloakroom/infra/settings"
)

// TestSigningInAgainKeepsTheSession signs in twice at a real provider, from one
// browser, while its own session lasts: both pairs are of one grant there, and it
// revokes grants as a whole.
func TestSigningInAgainKeepsTheSession(t *testing.T) {
	const secret = "a secret of thirty-two characters"
	l := must(http.NewRequest("GET", "http://localhost", nil)) // a site that the provider may know before it listens
	way := l.URL.String() + "/auth/callback/node"
	node := oidctest.StartNode(t, oidctest.NodeOptions{AccessLife: 2 * time.Second, Clients: []oidctest.NodeClient{{
		ID: "broker", Secret: secret, RedirectURIs: []string{way},
	}}})
	h := newHouses(t, func(s *settings.Settings) {
		s.PublicURL = l.URL
		s.Providers = []settings.Provider{{Name: "node", Issuer: node.URL, ClientID: "broker", ClientSecret: domain.NewSecret(secret)}}
	})
	b, there := h.browser(), oidctest.NewBrowser(t)
	for range 2 {
		back := there.Visit(t, b.begin("node", "/x"), "ann", way)
		if a := b.back("node", back.Query()); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("signing in = %d %s", a.StatusCode, a.body)
		}
	}
	refreshed := func() bool { return strings.Count(h.said.String(), "msg=refreshed") > 0 }
	if err := within(10*time.Second, func() bool {
		a := b.get("/deep")
		if a.StatusCode != http.StatusOK {
			t.Fatalf("after the second sign-in the upstream = %d %s", a.StatusCode, a.body)
		}
		return refreshed()
	}); err != nil {
		t.Error("the token was not refreshed")
	}
}
