package oidc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloakroom/domain"
	"cloakroom/infra/dpop"
	"cloakroom/infra/oidc"
	"cloakroom/infra/oidc/oidctest"
)

const secret = "a secret of thirty-two characters"

// nodeClient returns the client of a real provider.
func nodeClient(t *testing.T, at *oidctest.NodeProvider, changes ...func(*oidc.Config)) *oidc.Provider {
	t.Helper()
	c := oidc.Config{Name: "node", Issuer: at.URL, ClientID: "broker", ClientSecret: domain.NewSecret(secret)}
	for _, change := range changes {
		change(&c)
	}
	p, err := oidc.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// visit signs in with a browser.
func visit(t *testing.T, b *oidctest.Browser, p *oidc.Provider, login string, r domain.AuthRequest) (domain.Authentication, error) {
	t.Helper()
	r.RedirectURI = redirectURI
	address, tx, err := p.Begin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return finish(t, p, b.Visit(t, address, login, redirectURI).Query(), tx)
}

func registered(id string) oidctest.NodeClient {
	return oidctest.NodeClient{ID: id, Secret: secret, RedirectURIs: []string{redirectURI}}
}

func TestRealProvider(t *testing.T) {
	key := newPrivateKey(t)
	block, _ := pem.Decode([]byte(key.Reveal()))
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	byPost, byKey := registered("post"), registered("key")
	byPost.AuthMethod = oidc.SecretPost
	byKey.AuthMethod, byKey.SigningAlgorithm, byKey.Secret = oidc.PrivateKeyJWT, "ES256", ""
	byKey.Keys = jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &parsed.(*ecdsa.PrivateKey).PublicKey, Use: "sig"}}}
	node := oidctest.StartNode(t, oidctest.NodeOptions{
		Clients: []oidctest.NodeClient{registered("broker"), byPost, byKey}, AccessLife: 90 * time.Second,
	})

	for name, change := range map[string]func(*oidc.Config){
		"client_secret_basic": func(*oidc.Config) {},
		"client_secret_post":  func(c *oidc.Config) { c.ClientID, c.AuthMethod = "post", oidc.SecretPost },
		"private_key_jwt":     func(c *oidc.Config) { c.ClientID, c.ClientSecret, c.PrivateKey = "key", domain.Secret{}, key },
		"private_key_jwt for the endpoint": func(c *oidc.Config) {
			c.ClientID, c.ClientSecret, c.PrivateKey, c.AssertionAudience = "key", domain.Secret{}, key, oidc.TokenEndpoint
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := nodeClient(t, node, change)
			got, err := visit(t, oidctest.NewBrowser(t), p, "admin-ann", domain.AuthRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Issuer != node.URL || got.Identity.Subject != "admin-ann" || got.Identity.Email != "admin-ann@example.com" || !got.Identity.EmailVerified || !slices.Equal(got.Identity.Roles, []string{"admin"}) {
				t.Errorf("signed in %s %+v", got.Issuer, got.Identity)
			}
			if got.Grant.AccessLife != 90*time.Second || got.Grant.Refresh.Empty() || got.Grant.ID.Empty() {
				t.Errorf("the grant is %+v", got.Grant)
			}

			renewal := domain.Renewal{Refresh: got.Grant.Refresh, Subject: got.Identity.Subject}
			next, err := p.Refresh(t.Context(), renewal)
			if err != nil || next.Refresh.Empty() || next.Refresh.Equal(got.Grant.Refresh) || next.Access.Equal(got.Grant.Access) || next.ID.Empty() {
				t.Fatalf("Refresh = %+v, %v", next, err)
			}
			// A refresh token that is used again ends the whole family.
			if _, err := p.Refresh(t.Context(), renewal); !errors.Is(err, domain.ErrInvalidGrant) {
				t.Errorf("a spent token: %v", err)
			}
			if _, err := p.Refresh(t.Context(), domain.Renewal{Refresh: next.Refresh}); !errors.Is(err, domain.ErrInvalidGrant) {
				t.Errorf("its successor, after that: %v", err)
			}

			got, err = visit(t, oidctest.NewBrowser(t), p, "ann", domain.AuthRequest{})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time there is nothing left to revoke, which is as good
				if err := p.Revoke(t.Context(), got.Grant.Refresh, got.Grant.Access); err != nil {
					t.Errorf("Revoke: %v", err)
				}
			}
			if _, err := p.Refresh(t.Context(), domain.Renewal{Refresh: got.Grant.Refresh}); !errors.Is(err, domain.ErrInvalidGrant) {
				t.Errorf("a revoked token: %v", err)
			}
			if p.Health() != nil {
				t.Errorf("health is %v", p.Health())
			}
		})
	}

	t.Run("sign in again", func(t *testing.T) {
		p, b := nodeClient(t, node), oidctest.NewBrowser(t)
		if _, err := visit(t, b, p, "ann", domain.AuthRequest{Prompt: "none"}); reason(err) != domain.SignInInteraction {
			t.Errorf("prompt=none without a session: %v", err)
		}
		first, err := visit(t, b, p, "ann", domain.AuthRequest{MaxAge: time.Hour})
		if err != nil || first.AuthTime.IsZero() {
			t.Fatalf("with max_age: %+v, %v", first, err)
		}
		again, err := visit(t, b, p, "ann", domain.AuthRequest{Prompt: "login", MaxAge: time.Minute, LoginHint: "ann"})
		if err != nil || again.AuthTime.Before(first.AuthTime) || again.Identity.Subject != "ann" {
			t.Errorf("with prompt=login: %+v, %v", again, err)
		}
	})

	t.Run("the broker is refused", func(t *testing.T) {
		p := nodeClient(t, node, func(c *oidc.Config) { c.ClientSecret = domain.NewSecret("another") })
		if _, err := visit(t, oidctest.NewBrowser(t), p, "ann", domain.AuthRequest{}); reason(err) != domain.SignInRefused {
			t.Errorf("a wrong secret at sign-in: %v", err)
		}
		if _, err := p.Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")}); !errors.Is(err, domain.ErrAuthMisconfigured) {
			t.Errorf("a wrong secret at refresh: %v", err)
		}
	})
}

// TestRealProviderKeepsRefreshTokens: without rotation the answer repeats the
// token, which is as good as leaving it out.
func TestRealProviderKeepsRefreshTokens(t *testing.T) {
	node := oidctest.StartNode(t, oidctest.NodeOptions{Clients: []oidctest.NodeClient{registered("broker")}, KeepRefresh: true})
	p := nodeClient(t, node)
	got, err := visit(t, oidctest.NewBrowser(t), p, "ann", domain.AuthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		next, err := p.Refresh(t.Context(), domain.Renewal{Refresh: got.Grant.Refresh, Subject: "ann"})
		if err != nil || !next.Refresh.Empty() && !next.Refresh.Equal(got.Grant.Refresh) {
			t.Errorf("Refresh: %v", err)
		}
	}
}

// TestRealProviderEnforcesDPoP: tokens are bound to the key of the device, the
// provider asks for nonces, and takes the tokens with nothing else.
func TestRealProviderEnforcesDPoP(t *testing.T) {
	bound, loose := registered("broker"), registered("loose")
	bound.BoundTokens = true
	node := oidctest.StartNode(t, oidctest.NodeOptions{Clients: []oidctest.NodeClient{bound, loose}, ThinIDToken: true})
	p := nodeClient(t, node, func(c *oidc.Config) { c.DPoP, c.UserInfo = true, true })
	got, err := visit(t, oidctest.NewBrowser(t), p, "ann", domain.AuthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.DPoPKey.Empty() || !strings.EqualFold(got.Grant.TokenType, "DPoP") || got.Identity.Email != "ann@example.com" {
		t.Errorf("signed in %+v with %+v", got.Identity, got.Grant)
	}
	other, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Refresh(t.Context(), domain.Renewal{Refresh: got.Grant.Refresh}); !errors.Is(err, domain.ErrInvalidGrant) && !errors.Is(err, domain.ErrAuthMisconfigured) {
		t.Errorf("a refresh without a proof: %v", err)
	}
	next, err := p.Refresh(t.Context(), domain.Renewal{Refresh: got.Grant.Refresh, Subject: "ann", DPoPKey: got.DPoPKey})
	if err != nil || !strings.EqualFold(next.TokenType, "DPoP") || next.Refresh.Empty() {
		t.Fatalf("Refresh = %+v, %v", next, err)
	}

	// The provider's userinfo endpoint stands for an upstream.
	client := &http.Client{Transport: &dpop.Transport{Base: http.DefaultTransport, Nonces: new(dpop.Nonces), Now: time.Now, Random: rand.Reader}}
	for name, c := range map[string]struct {
		key           domain.Secret
		scheme, token string
		want          int
	}{
		"proved":                 {got.DPoPKey, "DPoP", next.Access.Reveal(), 200},
		"as a bearer token":      {domain.Secret{}, "Bearer", next.Access.Reveal(), 401},
		"without a proof":        {domain.Secret{}, "DPoP", next.Access.Reveal(), 400},
		"with another key":       {other, "DPoP", next.Access.Reveal(), 401},
		"another token's proof":  {got.DPoPKey, "DPoP", "x", 401},
		"proved, with the nonce": {got.DPoPKey, "DPoP", next.Access.Reveal(), 200},
	} {
		req, err := http.NewRequestWithContext(dpop.WithKey(t.Context(), c.key), http.MethodGet, node.URL+"/me?x=1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", c.scheme+" "+c.token)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}

	// A client that does not want bound tokens is told when it gets none, and
	// one that does would not take others.
	unbound := nodeClient(t, node, func(c *oidc.Config) { c.ClientID = "loose" })
	if got, err := visit(t, oidctest.NewBrowser(t), unbound, "ann", domain.AuthRequest{}); err != nil || !got.DPoPKey.Empty() {
		t.Errorf("without DPoP: %+v, %v", got, err)
	}
}

func TestBearerTokensAreRefusedWhereDPoPIsWanted(t *testing.T) {
	s := oidctest.New(t)
	if _, err := signIn(t, s, provider(t, s, func(c *oidc.Config) { c.DPoP = true })); reason(err) != domain.SignInRefused {
		t.Errorf("a provider that does not bind tokens: %v", err)
	}
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r := domain.Renewal{Refresh: domain.NewSecret("refresh-0"), Subject: oidctest.Subject, DPoPKey: key}
	if _, err := provider(t, s, func(c *oidc.Config) { c.DPoP = true }).Refresh(t.Context(), r); !errors.Is(err, domain.ErrAuthMisconfigured) {
		t.Errorf("one that has stopped to: %v", err)
	}
	if _, err := provider(t, s).Refresh(t.Context(), r); err != nil {
		t.Errorf("one that has stopped to, where nobody wants it any more: %v", err)
	}
}

// TestR40_RealProviderLogsOut: RP-initiated logout in the browser, and the
// logout token that the provider posts because of it.
func TestR40_RealProviderLogsOut(t *testing.T) {
	posted := make(chan string, 10)
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		posted <- r.PostFormValue("logout_token")
	}))
	t.Cleanup(endpoint.Close)
	const signedOut = "https://app.example/auth/login"
	client := registered("broker")
	client.BackchannelLogoutURI, client.LogoutRedirectURIs = endpoint.URL, []string{signedOut}
	node := oidctest.StartNode(t, oidctest.NodeOptions{Clients: []oidctest.NodeClient{client}})
	p, b := nodeClient(t, node), oidctest.NewBrowser(t)
	got, err := visit(t, b, p, "ann", domain.AuthRequest{})
	if err != nil || got.SID == "" {
		t.Fatalf("signed in with the session %q, %v", got.SID, err)
	}

	address, err := p.LogoutURL(t.Context(), oidc.LogoutRequest{IDToken: got.Grant.ID, RedirectURI: signedOut, State: "s-1"})
	if err != nil {
		t.Fatal(err)
	}
	back := b.Visit(t, address.Reveal(), "ann", signedOut)
	if back.Query().Get("state") != "s-1" {
		t.Errorf("back at %s", back)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var raw string
	select {
	case raw = <-posted:
	case <-ctx.Done():
		t.Fatal("no logout token was posted")
	}
	notice, err := p.LogoutToken(t.Context(), domain.NewSecret(raw))
	if err != nil || notice.SID != got.SID || notice.Issuer != node.URL || notice.ID == "" || notice.Subject != "" && notice.Subject != "ann" {
		t.Errorf("LogoutToken = %+v, %v, want the session %q", notice, err, got.SID)
	}
	if issuer := oidc.UnverifiedIssuer(raw); issuer != node.URL {
		t.Errorf("UnverifiedIssuer = %q", issuer)
	}
	if _, err := visit(t, b, p, "ann", domain.AuthRequest{Prompt: "none"}); reason(err) != domain.SignInInteraction {
		t.Errorf("the session at the provider lives on: %v", err)
	}
	// What the session's refresh token is worth now is the provider's to say,
	// but it cannot be a passing failure.
	if _, err := p.Refresh(t.Context(), domain.Renewal{Refresh: got.Grant.Refresh}); !errors.Is(err, domain.ErrInvalidGrant) {
		t.Errorf("the refresh token of an ended session: %v", err)
	}
}
