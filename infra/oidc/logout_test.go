package oidc_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
	"cloakroom/infra/oidc/oidctest"
)

func TestR40_LogoutToken(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	claims := s.LogoutClaims()
	got, err := p.LogoutToken(t.Context(), domain.NewSecret(s.LogoutToken(claims)))
	if err != nil || got.Issuer != s.URL || got.Subject != oidctest.Subject || got.SID != "session-1" || got.ID != claims["jti"] {
		t.Errorf("LogoutToken = %+v, %v", got, err)
	}
	if left := time.Until(got.Until); left < 170*time.Second || left > 190*time.Second {
		t.Errorf("its id is to be remembered for %v, want its two minutes and one for the clocks", left)
	}
	for name, change := range map[string]func(map[string]any){
		"only who":           func(c map[string]any) { delete(c, "sid") },
		"only which session": func(c map[string]any) { delete(c, "sub") },
	} {
		claims := s.LogoutClaims()
		change(claims)
		got, err := p.LogoutToken(t.Context(), domain.NewSecret(s.LogoutToken(claims)))
		if err != nil || (got.SID == "") == (got.Subject == "") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	claims = s.LogoutClaims()
	claims["exp"] = time.Now().Add(1000 * time.Hour).Unix()
	if got, err := p.LogoutToken(t.Context(), domain.NewSecret(s.LogoutToken(claims))); err != nil || time.Until(got.Until) > 62*time.Minute {
		t.Errorf("one that lives for weeks: %+v, %v", got, err)
	}
}

// TestR40_LogoutTokenDefects goes through section 2.6 of Back-Channel Logout
// 1.0, one defect at a time.
func TestR40_LogoutTokenDefects(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	const event = "http://schemas.openid.net/event/backchannel-logout"
	change := func(how func(map[string]any)) string {
		c := s.LogoutClaims()
		how(c)
		return s.LogoutToken(c)
	}
	for name, raw := range map[string]string{
		"nothing":                  "",
		"no token":                 "logout",
		"another key":              oidctest.SignWith(oidctest.NewKey(t, "key-1"), map[string]any{"typ": "logout+jwt"}, s.LogoutClaims()),
		"alg none":                 s.Sign(map[string]any{"typ": "logout+jwt", "alg": "none"}, s.LogoutClaims()),
		"a symmetric algorithm":    s.Sign(map[string]any{"typ": "logout+jwt", "alg": "HS256"}, s.LogoutClaims()),
		"no type":                  s.Sign(map[string]any{"typ": nil}, s.LogoutClaims()),
		"the type JWT":             s.Sign(map[string]any{"typ": "JWT"}, s.LogoutClaims()),
		"an access token's type":   s.Sign(map[string]any{"typ": "at+jwt"}, s.LogoutClaims()),
		"no issuer":                change(func(c map[string]any) { delete(c, "iss") }),
		"another issuer":           change(func(c map[string]any) { c["iss"] = "https://evil.example" }),
		"no audience":              change(func(c map[string]any) { delete(c, "aud") }),
		"another audience":         change(func(c map[string]any) { c["aud"] = []string{"other"} }),
		"no time of issue":         change(func(c map[string]any) { delete(c, "iat") }),
		"issued in the future":     change(func(c map[string]any) { c["iat"] = time.Now().Add(2 * time.Minute).Unix() }),
		"issued long ago":          change(func(c map[string]any) { c["iat"] = time.Now().Add(-2 * time.Hour).Unix() }),
		"no expiry":                change(func(c map[string]any) { delete(c, "exp") }),
		"expired":                  change(func(c map[string]any) { c["exp"] = time.Now().Add(-2 * time.Minute).Unix() }),
		"no events":                change(func(c map[string]any) { delete(c, "events") }),
		"no such event":            change(func(c map[string]any) { c["events"] = map[string]any{"other": map[string]any{}} }),
		"an event that is null":    change(func(c map[string]any) { c["events"] = map[string]any{event: nil} }),
		"an event that is a text":  change(func(c map[string]any) { c["events"] = map[string]any{event: "yes"} }),
		"events that are a list":   change(func(c map[string]any) { c["events"] = []any{event} }),
		"a nonce":                  change(func(c map[string]any) { c["nonce"] = "n" }),
		"a nonce that is null":     change(func(c map[string]any) { c["nonce"] = nil }),
		"no id":                    change(func(c map[string]any) { delete(c, "jti") }),
		"a huge id":                change(func(c map[string]any) { c["jti"] = strings.Repeat("j", 256) }),
		"neither who nor session":  change(func(c map[string]any) { delete(c, "sub"); delete(c, "sid") }),
		"both empty":               change(func(c map[string]any) { c["sub"], c["sid"] = "", "" }),
		"an empty session":         change(func(c map[string]any) { c["sid"] = "" }),
		"a session of no kind":     change(func(c map[string]any) { c["sid"] = 7 }),
		"a huge session":           change(func(c map[string]any) { c["sid"] = strings.Repeat("s", 256) }),
		"a subject with a newline": change(func(c map[string]any) { c["sub"] = "a\nb" }),
		"too long":                 change(func(c map[string]any) { c["x"] = strings.Repeat("x", 64<<10) }),
		"an ID token":              s.Sign(nil, s.IDClaims("n")),
		"an ID token of that type": s.Sign(map[string]any{"typ": "logout+jwt"}, s.IDClaims("n")),
		"... without nonce":        s.Sign(map[string]any{"typ": "logout+jwt"}, s.IDClaims("")),
	} {
		got, err := p.LogoutToken(t.Context(), domain.NewSecret(raw))
		if !errors.Is(err, domain.ErrBadInput) || kind(err) != oidc.Untrusted || got != (domain.LogoutNotice{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}

	loose := provider(t, s, func(c *oidc.Config) { c.LooseLogoutType = true })
	for typ, want := range map[any]error{nil: nil, "JWT": nil, "logout+jwt": nil, "Application/Logout+JWT": nil, "at+jwt": domain.ErrBadInput} {
		if _, err := loose.LogoutToken(t.Context(), domain.NewSecret(s.Sign(map[string]any{"typ": typ}, s.LogoutClaims()))); !errors.Is(err, want) {
			t.Errorf("with the switch, type %v: %v", typ, err)
		}
	}
	if _, err := loose.LogoutToken(t.Context(), domain.NewSecret(s.Sign(nil, s.IDClaims("n")))); !errors.Is(err, domain.ErrBadInput) {
		t.Errorf("with the switch, an ID token: %v", err)
	}

	s.Handle(oidctest.KeysPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) })
	if _, err := provider(t, s).LogoutToken(t.Context(), domain.NewSecret(s.LogoutToken(s.LogoutClaims()))); !errors.Is(err, domain.ErrAuthUnavailable) || errors.Is(err, domain.ErrBadInput) {
		t.Errorf("without keys: %v", err)
	}
}

func TestLogoutURL(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	address, err := p.LogoutURL(t.Context(), oidc.LogoutRequest{
		IDToken: domain.NewSecret("id"), LogoutHint: "ann@example.com", RedirectURI: "https://app.example/auth/login?x=1", State: "s",
	})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(address.Reveal())
	if err != nil || u.Path != oidctest.EndSessionPath {
		t.Fatalf("LogoutURL = %v, %v", u, err)
	}
	want := url.Values{
		"ui": {"1"}, "client_id": {oidctest.ClientID}, "id_token_hint": {"id"}, "logout_hint": {"ann@example.com"},
		"post_logout_redirect_uri": {"https://app.example/auth/login?x=1"}, "state": {"s"},
	}
	if got := u.Query().Encode(); got != want.Encode() {
		t.Errorf("the query is %s, want %s", got, want.Encode())
	}
	if address, err = p.LogoutURL(t.Context(), oidc.LogoutRequest{}); err != nil || strings.Contains(address.Reveal(), "state") || strings.Contains(address.Reveal(), "hint") {
		t.Errorf("with nothing to say: %v", err)
	}
	for name, c := range map[string]struct {
		end  int64
		hint bool
	}{"alive": {300, false}, "over just now": {-30, false}, "over": {-61, true}} {
		claims := s.IDClaims("")
		claims["exp"] = s.Now().Unix() + c.end
		address, err := p.LogoutURL(t.Context(), oidc.LogoutRequest{IDToken: domain.NewSecret(s.Sign(nil, claims)), SignsIn: true})
		if err != nil || strings.Contains(address.Reveal(), "id_token_hint") != c.hint {
			t.Errorf("an ID token that signs people in and is %s: %v, want it in the address: %v", name, err, c.hint)
		}
	}
	for size, hint := range map[int]bool{6000: true, 7500: false, 60_000: false} {
		address, err := p.LogoutURL(t.Context(), oidc.LogoutRequest{IDToken: domain.NewSecret(strings.Repeat("i", size)), State: "s"})
		if err != nil || strings.Contains(address.Reveal(), "id_token_hint") != hint || !strings.Contains(address.Reveal(), "state=s") {
			t.Errorf("an ID token of %d bytes: %d bytes of address, %v; want it in the address: %v", size, len(address.Reveal()), err, hint)
		}
	}
	s.Document(func(d map[string]any) { delete(d, "end_session_endpoint") })
	if address, err := provider(t, s).LogoutURL(t.Context(), oidc.LogoutRequest{}); err != nil || !address.Empty() {
		t.Errorf("without an endpoint: %v", err)
	}
}
