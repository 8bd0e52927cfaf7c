package oidc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
	"cloakroom/infra/oidc/oidctest"
)

// TestR1_ClientIsConfidential: the broker does not start as a client that
// cannot show who it is, and asks for a code and nothing else.
func TestR1_ClientIsConfidential(t *testing.T) {
	for name, c := range map[string]oidc.Config{
		"no client id":                            {ClientSecret: domain.NewSecret("s")},
		"no secret, no key":                       {ClientID: "c"},
		"a method for a key that is not there":    {ClientID: "c", ClientSecret: domain.NewSecret("s"), AuthMethod: oidc.PrivateKeyJWT},
		"a method for a secret that is not there": {ClientID: "c", PrivateKey: newPrivateKey(t), AuthMethod: oidc.SecretBasic},
		"an unknown method":                       {ClientID: "c", ClientSecret: domain.NewSecret("s"), AuthMethod: "none"},
		"a key that is none":                      {ClientID: "c", PrivateKey: domain.NewSecret("s3cret-pem")},
		"another response type":                   {ClientID: "c", ClientSecret: domain.NewSecret("s"), AuthParams: map[string]string{"response_type": "token"}},
	} {
		c.Name, c.Issuer = "test", "https://idp.example"
		if _, err := oidc.New(c); err == nil {
			t.Errorf("%s: New made a provider", name)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error repeats the secret: %v", name, err)
		}
	}
}

func TestNewListsEveryProblem(t *testing.T) {
	_, err := oidc.New(oidc.Config{Issuer: "http://idp.example/?x=1", Algorithms: []string{"RS256", "none", "HS256"}})
	if err == nil {
		t.Fatal("New made a provider of nothing")
	}
	for _, problem := range []string{"the name", "the client id", "plain http", `"none"`, `"HS256"`, "client secret"} {
		if !strings.Contains(err.Error(), problem) {
			t.Errorf("the error does not tell of %s: %v", problem, err)
		}
	}
}

func newPrivateKey(t *testing.T) domain.Secret {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return domain.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func TestClientAuthentication(t *testing.T) {
	s := oidctest.New(t)
	s.Document(func(d map[string]any) {
		d["token_endpoint_auth_methods_supported"] = []string{"client_secret_post"}
	})
	key := newPrivateKey(t)
	for name, c := range map[string]struct {
		change          func(*oidc.Config)
		basic, post, by bool
	}{
		"basic":             {func(c *oidc.Config) { c.AuthMethod = oidc.SecretBasic }, true, false, false},
		"post":              {func(c *oidc.Config) { c.AuthMethod = oidc.SecretPost }, false, true, false},
		"as discovery says": {func(*oidc.Config) {}, false, true, false},
		"by key":            {func(c *oidc.Config) { c.PrivateKey, c.KeyID, c.ClientSecret = key, "named", domain.Secret{} }, false, false, true},
	} {
		p := provider(t, s, c.change)
		got, err := signIn(t, s, p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := p.Refresh(t.Context(), domain.Renewal{Refresh: got.Grant.Refresh}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := p.Revoke(t.Context(), got.Grant.Refresh, domain.Secret{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		asked := s.Requests(oidctest.TokenPath)
		revoked := s.Requests(oidctest.RevokePath)
		for _, r := range append(asked[len(asked)-2:], revoked[len(revoked)-1]) {
			_, _, basic := (&http.Request{Header: r.Header}).BasicAuth()
			if basic != c.basic || r.Form.Has("client_secret") != c.post || r.Form.Has("client_assertion") != c.by {
				t.Errorf("%s: basic %v, post %v, assertion %v", name, basic, r.Form.Has("client_secret"), r.Form.Has("client_assertion"))
			}
		}
		if !c.by {
			continue
		}
		seen := map[string]bool{}
		for _, r := range asked[len(asked)-2:] {
			if r.Form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
				t.Errorf("the assertion's type is %q", r.Form.Get("client_assertion_type"))
			}
			claims := jwt.MapClaims{}
			token, _, err := jwt.NewParser().ParseUnverified(r.Form.Get("client_assertion"), claims)
			if err != nil {
				t.Fatal(err)
			}
			life := claims["exp"].(float64) - claims["iat"].(float64)
			if claims["iss"] != oidctest.ClientID || claims["sub"] != oidctest.ClientID || claims["aud"] != s.URL || life > 60 || token.Header["kid"] != "named" || seen[claims["jti"].(string)] {
				t.Errorf("the assertion is %v, %v", token.Header, claims)
			}
			seen[claims["jti"].(string)] = true
		}
	}
}

// TestCertificateIsNamed: Entra knows keys by their certificates, and wants RSA
// signatures with PSS.
func TestCertificateIsNamed(t *testing.T) {
	certificate := []byte("any bytes will do")
	named := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}))
	rsa := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(oidctest.NewKey(t, "").Private)}))
	for name, c := range map[string]struct{ key, alg string }{
		"ECDSA":                  {named + newPrivateKey(t).Reveal(), "ES256"},
		"RSA":                    {named + rsa, "PS256"},
		"RSA, no certificate":    {rsa, "RS256"},
		"the key first, as some": {rsa + named, "PS256"},
	} {
		s := oidctest.New(t)
		if _, err := signIn(t, s, provider(t, s, func(o *oidc.Config) { o.PrivateKey, o.AssertionAudience = domain.NewSecret(c.key), oidc.TokenEndpoint })); err != nil {
			t.Fatal(err)
		}
		claims := jwt.MapClaims{}
		token, _, err := jwt.NewParser().ParseUnverified(s.Requests(oidctest.TokenPath)[0].Form.Get("client_assertion"), claims)
		if err != nil {
			t.Fatal(err)
		}
		var want any
		if sum := sha256.Sum256(certificate); strings.Contains(c.key, "CERTIFICATE") {
			want = base64.RawURLEncoding.EncodeToString(sum[:])
		}
		if token.Header["x5t#S256"] != want || token.Header["kid"] != nil || token.Header["alg"] != c.alg || claims["aud"] != s.URL+oidctest.TokenPath {
			t.Errorf("%s: the assertion is %v %v, want the certificate %v", name, token.Header, claims, want)
		}
	}
}
