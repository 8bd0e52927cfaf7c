package broker_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloakroom/app/authserver"
	"cloakroom/infra/logging"
	"cloakroom/infra/oidc/oidctest"
	"cloakroom/infra/settings"
)

// TestExchangeAtTheBundledAuthServer signs in at a provider and with its button,
// while the upstream gets the tokens of the bundled auth server.
func TestExchangeAtTheBundledAuthServer(t *testing.T) {
	google, other := oidctest.New(t), oidctest.New(t)
	as := authserver.Defaults()
	as.Database = filepath.Join(t.TempDir(), "auth.db")
	as.GoogleIssuer, as.GoogleClientID = google.URL, []string{oidctest.ClientID}
	server, err := authserver.Open(t.Context(), as, logging.New(&said{}, false, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	web := httptest.NewServer(server.Handler())
	defer web.Close()

	h := newHouses(t, func(s *settings.Settings) {
		s.AuthURL = must(url.Parse(web.URL + "/api/v1"))
		s.AuthIssuer = as.Issuer
		p := providerAt("google", google)
		p.Exchange = settings.ExchangeAuthServer
		second := providerAt("second", other)
		second.Exchange = settings.ExchangeAuthServer
		s.Providers = []settings.Provider{p, second}
	})
	b := h.browser()
	b.signInAt("google", google, "/x")
	var who struct {
		Issuer, Subject, Email string
		EmailVerified          bool `json:"email_verified"`
		Refreshable            bool
	}
	b.get("/auth/session").json(t, &who)
	if who.Issuer != as.Issuer || len(who.Subject) != 36 || who.Email != "ann@example.com" || !who.EmailVerified || !who.Refreshable {
		t.Errorf("the session is %+v, want one of the auth server's own person", who)
	}
	b.get("/deep")
	req := must(http.NewRequestWithContext(t.Context(), "GET", web.URL+"/api/v1/about_me", nil))
	req.Header.Set("Authorization", h.seen.last().Get("Authorization"))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var me struct{ ID string }
	if err := json.NewDecoder(res.Body).Decode(&me); err != nil || res.StatusCode != 200 || me.ID != who.Subject {
		t.Errorf("what the upstream was shown is %d %q at the auth server, want the token of %q", res.StatusCode, me.ID, who.Subject)
	}

	button := h.browser()
	body := string(must(json.Marshal(map[string]string{"credential": google.Sign(nil, google.IDClaims(""))})))
	button.do("POST", "/auth/login/google/credential", body, asJSON, asScript).want(t, 200, "")
	if ids := button.deviceIDs(); len(ids) != 2 {
		t.Errorf("the button and the redirect are %d devices of one person, want 2", len(ids))
	}

	// The provider's session ends on its word; a person without a session is
	// somebody else here.
	claims := google.LogoutClaims()
	delete(claims, "sid")
	post := func() answer {
		return h.browser().do("POST", "/auth/backchannel-logout", url.Values{"logout_token": {google.LogoutToken(claims)}}.Encode(), asForm)
	}
	if a := post(); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a logout token about a person = %d", a.StatusCode)
	}
	// A session of the same name at another provider is another session.
	foreign := url.Values{"logout_token": {other.LogoutToken(other.LogoutClaims())}}
	if a := h.browser().do("POST", "/auth/backchannel-logout", foreign.Encode(), asForm); a.StatusCode != http.StatusOK {
		t.Errorf("a logout token of the other provider = %d %s", a.StatusCode, a.body)
	}
	if a := b.get("/auth/session"); a.StatusCode != http.StatusOK {
		t.Errorf("after the other provider's logout token = %d, want 200", a.StatusCode)
	}
	claims = google.LogoutClaims()
	if a := post(); a.StatusCode != http.StatusOK {
		t.Errorf("a logout token about a session = %d %s", a.StatusCode, a.body)
	}
	b.get("/auth/session").want(t, 401, "sign_in_required")
}

// TestProviderIsShownNoTokenOfTheAuthServer has an auth server with an ID token of
// its own, which is over, so that it would go into the address of a logout.
func TestProviderIsShownNoTokenOfTheAuthServer(t *testing.T) {
	house := oidctest.New(t)
	now := time.Now().Unix()
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		oidctest.Reply(w, 200, map[string]any{
			"access_token": house.Sign(nil, map[string]any{"sub": "7", "exp": now + 300}), "refresh_token": "r", "token_type": "Bearer",
			"id_token": house.Sign(nil, map[string]any{"sub": "7", "exp": now - 3600}),
		})
	}))
	defer auth.Close()
	h := newHouses(t, func(s *settings.Settings) {
		s.AuthURL = must(url.Parse(auth.URL))
		p := providerAt("house", house)
		p.Exchange = settings.ExchangeAuthServer
		s.Providers = []settings.Provider{p}
	})
	b := h.browser()
	b.signInAt("house", house, "")
	a := b.do("POST", "/auth/logout", "", asForm, fromUs, navigate)
	_, address, _ := strings.Cut(a.Header.Get("Refresh"), "0; url=")
	if to := must(url.Parse(address)); to.Path != oidctest.EndSessionPath || to.Query().Has("id_token_hint") {
		t.Errorf("logging out leads to %s, with an ID token: %v", to.Path, to.Query().Has("id_token_hint"))
	}
}
