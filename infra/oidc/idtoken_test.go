package oidc_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
	"cloakroom/infra/oidc/oidctest"
)

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" // of base64url

// defects are ID tokens that must not be taken, one by one.
func defects(t *testing.T, s *oidctest.Server) map[string]func(claims map[string]any) string {
	stranger := oidctest.NewKey(t, "key-1") // the provider's key id, another key
	change := func(how func(map[string]any)) func(map[string]any) string {
		return func(c map[string]any) string { how(c); return s.Sign(nil, c) }
	}
	return map[string]func(map[string]any) string{
		"signed by another key": func(c map[string]any) string { return oidctest.SignWith(stranger, nil, c) },
		"signature cut off":     func(c map[string]any) string { raw := s.Sign(nil, c); return raw[:strings.LastIndex(raw, ".")+1] },
		"another payload under the signature": func(c map[string]any) string {
			parts := strings.Split(s.Sign(nil, c), ".")
			c["sub"] = "user-2"
			payload, _ := json.Marshal(c)
			return parts[0] + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + parts[2]
		},
		"alg none": func(c map[string]any) string {
			raw, _ := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims(c)).SignedString(jwt.UnsafeAllowNoneSignatureType)
			return raw
		},
		"alg none by header alone": func(c map[string]any) string { return s.Sign(map[string]any{"alg": "none"}, c) },
		"HS256 with the public key": func(c map[string]any) string {
			der, _ := x509.MarshalPKIXPublicKey(&oidctest.PublishedKey(s).PublicKey)
			secret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
			token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(c))
			token.Header["kid"] = "key-1"
			raw, _ := token.SignedString(secret)
			return raw
		},
		"HS256 with the client secret": func(c map[string]any) string {
			raw, _ := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims(c)).SignedString([]byte(oidctest.ClientSecret))
			return raw
		},
		"a key of its own": func(c map[string]any) string {
			return oidctest.SignWith(stranger, map[string]any{"jwk": map[string]any{"kty": "RSA"}, "kid": "mine"}, c)
		},
		"an extension that nobody knows": func(c map[string]any) string {
			return s.Sign(map[string]any{"crit": []string{"x"}, "x": true}, c)
		},
		"JSON and not compact": func(c map[string]any) string {
			parts := strings.Split(s.Sign(nil, c), ".")
			return `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`
		},
		"a line break in the signature": func(c map[string]any) string { return s.Sign(nil, c) + "\n" },
		"other trailing bits": func(c map[string]any) string {
			raw := s.Sign(nil, c)
			last := strings.IndexByte(alphabet, raw[len(raw)-1])
			return raw[:len(raw)-1] + alphabet[last^1:][:1]
		},
		"no token at all":         func(map[string]any) string { return "a.b.c" },
		"two tokens":              func(c map[string]any) string { return s.Sign(nil, c) + "." + s.Sign(nil, c) },
		"a logout token by type":  func(c map[string]any) string { return s.Sign(map[string]any{"typ": "logout+jwt"}, c) },
		"an access token by type": func(c map[string]any) string { return s.Sign(map[string]any{"typ": "at+jwt"}, c) },
		"... with its whole type": func(c map[string]any) string { return s.Sign(map[string]any{"typ": "application/AT+JWT"}, c) },
		"a logout token by events": change(func(c map[string]any) {
			c["events"] = map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}
		}),
		"too long":                         change(func(c map[string]any) { c["x"] = strings.Repeat("x", 64<<10) }),
		"no issuer":                        change(func(c map[string]any) { delete(c, "iss") }),
		"another issuer":                   change(func(c map[string]any) { c["iss"] = "https://evil.example" }),
		"the issuer and a slash":           change(func(c map[string]any) { c["iss"] = s.URL + "/" }),
		"Google's issuer without a scheme": change(func(c map[string]any) { c["iss"] = strings.TrimPrefix(s.URL, "http://") }),
		"no audience":                      change(func(c map[string]any) { delete(c, "aud") }),
		"another audience":                 change(func(c map[string]any) { c["aud"] = "other" }),
		"several audiences, no party":      change(func(c map[string]any) { c["aud"] = []string{oidctest.ClientID, "other"} }),
		"another party":                    change(func(c map[string]any) { c["azp"] = "other" }),
		"a party that is no text":          change(func(c map[string]any) { c["azp"] = []string{oidctest.ClientID} }),
		"no subject":                       change(func(c map[string]any) { delete(c, "sub") }),
		"an empty subject":                 change(func(c map[string]any) { c["sub"] = "" }),
		"a subject of another spelling":    change(func(c map[string]any) { c["Sub"] = c["sub"]; delete(c, "sub") }),
		"a numeric subject":                change(func(c map[string]any) { c["sub"] = 1 }),
		"a huge subject":                   change(func(c map[string]any) { c["sub"] = strings.Repeat("s", 256) }),
		"a subject with a line break":      change(func(c map[string]any) { c["sub"] = "user\n1" }),
		"a huge session id":                change(func(c map[string]any) { c["sid"] = strings.Repeat("s", 256) }),
		"no expiry":                        change(func(c map[string]any) { delete(c, "exp") }),
		"expired":                          change(func(c map[string]any) { c["exp"] = time.Now().Add(-2 * time.Minute).Unix() }),
		"no time of issue":                 change(func(c map[string]any) { delete(c, "iat") }),
		"issued in the future":             change(func(c map[string]any) { c["iat"] = time.Now().Add(2 * time.Minute).Unix() }),
		"issued long ago":                  change(func(c map[string]any) { c["iat"] = time.Now().Add(-2 * time.Hour).Unix() }),
		"not valid yet":                    change(func(c map[string]any) { c["nbf"] = time.Now().Add(2 * time.Minute).Unix() }),
		"no nonce":                         change(func(c map[string]any) { delete(c, "nonce") }),
		"another nonce":                    change(func(c map[string]any) { c["nonce"] = "another" }),
		"a nonce that is no text":          change(func(c map[string]any) { c["nonce"] = []any{c["nonce"]} }),
	}
}

// TestR3_IDTokenDefects goes through them in a sign-in.
func TestR3_IDTokenDefects(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	tokens := defects(t, s)
	tokens["the hash of another access token"] = func(c map[string]any) string {
		c["at_hash"] = base64.RawURLEncoding.EncodeToString(make([]byte, 16))
		return s.Sign(nil, c)
	}
	for name, token := range tokens {
		s.Token(token)
		got, err := signIn(t, s, p)
		if reason(err) != domain.SignInUntrusted || !errors.Is(err, domain.ErrAuthMisconfigured) || got.Issuer != "" {
			t.Errorf("%s: %v %+v", name, err, got)
		}
	}
	s.Token(func(map[string]any) string { return "" })
	if _, err := signIn(t, s, p); reason(err) != domain.SignInRefused {
		t.Errorf("no ID token: %v", err)
	}
	s.Token(func(c map[string]any) string { return s.Sign(nil, c) })
	if _, err := signIn(t, s, p); err != nil {
		t.Errorf("a good token after all that: %v", err)
	}
}

// TestR3_CredentialDefects goes through them with Google's button.
func TestR3_CredentialDefects(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	for name, token := range defects(t, s) {
		raw := domain.NewSecret(token(s.IDClaims("the page's")))
		got, err := p.Credential(t.Context(), raw, "the page's")
		if reason(err) != domain.SignInUntrusted || !errors.Is(err, domain.ErrBadInput) || got.Issuer != "" {
			t.Errorf("%s: %v %+v", name, err, got)
		}
	}
	for _, nonce := range []string{"", "the page's"} {
		raw := domain.NewSecret(s.Sign(nil, s.IDClaims("the page's")))
		if got, err := p.Credential(t.Context(), raw, nonce); err != nil || got.Identity.Subject != oidctest.Subject || !got.Grant.ID.Equal(raw) || !got.Grant.Access.Equal(raw) || got.Grant.AccessLife <= 0 {
			t.Errorf("a good credential with nonce %q: %+v, %v", nonce, got, err)
		}
	}
}

// TestR3_IDTokensThatPass are odd and right.
func TestR3_IDTokensThatPass(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	for name, change := range map[string]func(map[string]any){
		"several audiences and our party":       func(c map[string]any) { c["aud"], c["azp"] = []string{"other", oidctest.ClientID}, oidctest.ClientID },
		"a clock that is half a minute ahead":   func(c map[string]any) { c["iat"] = time.Now().Add(30 * time.Second).Unix() },
		"a clock that is half a minute behind":  func(c map[string]any) { c["exp"] = time.Now().Add(-30 * time.Second).Unix() },
		"issued five minutes ago, as Entra has": func(c map[string]any) { c["iat"] = time.Now().Add(-5 * time.Minute).Unix() },
		"no hash of the access token":           func(c map[string]any) { delete(c, "at_hash") },
		"no session id":                         func(c map[string]any) { delete(c, "sid") },
		"fractions of a second":                 func(c map[string]any) { c["iat"] = float64(time.Now().UnixMilli()) / 1000 },
	} {
		s.Claims(change)
		if _, err := signIn(t, s, p); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestR3_AlgorithmAllowList: a key of the provider is not enough if it signs
// otherwise than the settings allow.
func TestR3_AlgorithmAllowList(t *testing.T) {
	s := oidctest.New(t)
	if _, err := signIn(t, s, provider(t, s, func(c *oidc.Config) { c.Algorithms = []string{"ES256", "PS256"} })); reason(err) != domain.SignInUntrusted {
		t.Errorf("RS256 where ES256 and PS256 are allowed: %v", err)
	}
	if _, err := signIn(t, s, provider(t, s, func(c *oidc.Config) { c.Algorithms = []string{"RS256"} })); err != nil {
		t.Errorf("RS256 where it is allowed: %v", err)
	}
}

func TestUnverifiedIssuer(t *testing.T) {
	s := oidctest.New(t)
	if got := oidc.UnverifiedIssuer(s.LogoutToken(s.LogoutClaims())); got != s.URL {
		t.Errorf("UnverifiedIssuer = %q", got)
	}
	for _, raw := range []string{"", "a.b.c", "..", "a.e30.c", "a.W10.c", "a.eyJpc3MiOjd9.c", strings.Repeat("a", 1<<20)} {
		if got := oidc.UnverifiedIssuer(raw); got != "" {
			t.Errorf("UnverifiedIssuer(%.20q) = %q", raw, got)
		}
	}
}

// FuzzTokens: whatever is posted, nothing falls over and nothing unsigned
// passes.
func FuzzTokens(f *testing.F) {
	s := oidctest.New(f)
	p, err := oidc.New(oidc.Config{Name: "test", Issuer: s.URL, ClientID: oidctest.ClientID, ClientSecret: domain.NewSecret("s")})
	if err != nil {
		f.Fatal(err)
	}
	good, notice := s.Sign(nil, s.IDClaims("")), s.LogoutToken(s.LogoutClaims())
	for _, seed := range []string{good, notice, "a.b.c", "e30.e30.", strings.Replace(good, ".", "..", 1)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		oidc.UnverifiedIssuer(raw)
		if _, err := p.Credential(t.Context(), domain.NewSecret(raw), ""); err == nil && raw != good {
			t.Errorf("%q passes for an ID token", raw)
		}
		if _, err := p.LogoutToken(t.Context(), domain.NewSecret(raw)); err == nil && raw != notice {
			t.Errorf("%q passes for a logout token", raw)
		}
	})
}
