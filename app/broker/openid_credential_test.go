package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"cloakroom/infra/oidc/oidctest"
	"cloakroom/infra/settings"
)

func credentialBody(token string) string {
	return string(must(json.Marshal(map[string]string{"credential": token})))
}

// TestCredentialWorksOnceHoweverItIsSigned shows a credential again under
// another good signature, which everybody can make of one by an elliptic curve.
// One that has a bad signature spends nothing.
func TestCredentialWorksOnceHoweverItIsSigned(t *testing.T) {
	h := newHouses(t, func(s *settings.Settings) { s.Providers[0].Credential = "true" })
	const path = "/auth/login/house/credential"
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	encode := base64.RawURLEncoding.EncodeToString
	point := must(key.PublicKey.Bytes())
	jwks := must(json.Marshal(map[string]any{"keys": []any{map[string]string{
		"kty": "EC", "crv": "P-256", "use": "sig", "kid": "ec", "x": encode(point[1:33]), "y": encode(point[33:]),
	}}}))
	h.house.Handle(oidctest.KeysPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(jwks) })

	made := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims(h.house.IDClaims("")))
	made.Header["kid"] = "ec"
	token := must(made.SignedString(key))
	cut := strings.LastIndexByte(token, '.') + 1
	signature := must(base64.RawURLEncoding.DecodeString(token[cut:]))
	mirrored := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(signature[32:]))
	twin := token[:cut] + encode(append(signature[:32:32], mirrored.FillBytes(make([]byte, 32))...))

	b := h.browser()
	b.do("POST", path, credentialBody(token[:cut]+encode(make([]byte, 64))), asJSON, asScript).want(t, 400, "sign_in_untrusted")
	b.do("POST", path, credentialBody(token), asJSON, asScript).want(t, 200, "")
	b.do("POST", path, credentialBody(twin), asJSON, asScript).want(t, 400, "sign_in_too_late")
}

// TestLogoutAddressOpensNothing: where ID tokens sign people in, the address at
// the provider, which stays in the browser's history, has none that is good.
func TestLogoutAddressOpensNothing(t *testing.T) {
	h := newHouses(t, func(s *settings.Settings) { s.Providers[0].Credential = "true" })
	b := h.browser()
	b.signInAt("house", h.house, "")
	a := b.do("POST", "/auth/logout", "", asForm, fromUs, navigate)
	_, address, _ := strings.Cut(a.Header.Get("Refresh"), "0; url=")
	to := must(url.Parse(address))
	if q := to.Query(); to.Path != oidctest.EndSessionPath || q.Has("id_token_hint") || q.Get("client_id") != oidctest.ClientID || q.Get("state") == "" {
		t.Errorf("logging out leads to %s with %d parameters, id_token_hint among them: %v", to.Path, len(q), q.Has("id_token_hint"))
	}
}

// TestTransactionFitsIntoACookie has a return_to that JSON would make six times
// as long. Browsers drop cookies above 4096 bytes, and the sign-in with them.
func TestTransactionFitsIntoACookie(t *testing.T) {
	h := newHouses(t, nil)
	b := h.browser()
	returnTo := "/?" + strings.Repeat("&", 1000)
	address := b.begin("house", returnTo)
	for _, c := range b.client.Jar.Cookies(h.parse(b.url)) {
		if n := len(c.Name) + len(c.Value); n > 4000 {
			t.Errorf("%s takes %d bytes", c.Name, n)
		}
	}
	if a := b.back("house", h.house.Authorize(t, address)); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != returnTo {
		t.Errorf("back = %d to %d bytes, want where it came from", a.StatusCode, len(a.Header.Get("Location")))
	}
}

// TestExchangeThatFailsLeavesNoTokens: the auth server is down, so the provider's
// refresh token is of no use to anybody.
func TestExchangeThatFailsLeavesNoTokens(t *testing.T) {
	h := newHouses(t, func(s *settings.Settings) {
		s.AuthURL = must(url.Parse("http://127.0.0.1:1"))
		s.Providers[0].Exchange = settings.ExchangeAuthServer
	})
	b := h.browser()
	if a := b.back("house", h.house.Authorize(t, b.begin("house", ""))); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without the auth server = %d %s", a.StatusCode, a.body)
	}
	if asked := h.house.Requests(oidctest.RevokePath); len(asked) != 1 || asked[0].Form.Get("token_type_hint") != "refresh_token" {
		t.Errorf("%d tokens were revoked, want the refresh token", len(asked))
	}
}
