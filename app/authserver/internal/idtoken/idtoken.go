// Package idtoken checks the ID tokens of the one OpenID provider that people
// may sign in with beside their password: Google as a rule. The protocol's
// checks are coreos/go-oidc's; what stands here is when the provider is asked
// for its keys, and what an account needs to know of the token.
package idtoken

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"cloakroom/app/authserver/internal/accounts"
)

var (
	// ErrInvalid: the token is not one that this provider made for our clients,
	// or it is over.
	ErrInvalid = errors.New("ID token invalid")
	// ErrUnavailable: the provider's keys cannot be had; it may pass.
	ErrUnavailable = errors.New("provider unavailable")
)

const (
	// longest is how long a token may be, in bytes.
	longest = 16 << 10
	// oldest is how long ago a token may have been issued.
	oldest = time.Hour
	skew   = time.Minute
	// askAgain is the pause before a provider that did not answer is asked anew.
	askAgain = 5 * time.Second
	timeout  = 10 * time.Second
)

// Verifier checks tokens of one provider. It is safe for concurrent use.
type Verifier struct {
	issuer  string
	clients []string
	now     func() time.Time
	client  *http.Client

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier // nil until the provider has answered
	asked    time.Time
}

// New returns a verifier of tokens that the issuer made for any of the clients.
// It asks nothing of the provider yet.
func New(issuer string, clients []string, now func() time.Time) *Verifier {
	return &Verifier{issuer: issuer, clients: clients, now: now, client: &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Verify returns whom a token is about, or fails with ErrInvalid or
// ErrUnavailable. Its errors do not repeat the token.
func (v *Verifier) Verify(ctx context.Context, raw string) (accounts.Identity, error) {
	if len(raw) > longest {
		return accounts.Identity{}, ErrInvalid
	}
	verifier, err := v.ready()
	if err != nil {
		return accounts.Identity{}, err
	}
	token, err := verifier.Verify(oidc.ClientContext(ctx, v.client), raw)
	if err != nil {
		if ctx.Err() != nil {
			return accounts.Identity{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
		return accounts.Identity{}, ErrInvalid
	}
	var c struct {
		Party    string `json:"azp"`
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
		Name     string `json:"name"`
	}
	ours := func(client string) bool { return slices.Contains(v.clients, client) }
	switch {
	case token.Claims(&c) != nil,
		!slices.ContainsFunc(token.Audience, ours),
		len(token.Audience) > 1 && c.Party == "", c.Party != "" && !ours(c.Party),
		token.Subject == "" || len(token.Subject) > 255,
		token.IssuedAt.After(v.now().Add(skew)), token.IssuedAt.Before(v.now().Add(-oldest - skew)):
		return accounts.Identity{}, ErrInvalid
	}
	return accounts.Identity{Issuer: v.issuer, Subject: token.Subject, Email: c.Email, EmailVerified: c.Verified, Name: c.Name}, nil
}

// ready returns go-oidc's verifier, after discovery. One caller at a time asks.
func (v *Verifier) ready() (*oidc.IDTokenVerifier, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verifier != nil {
		return v.verifier, nil
	}
	if now := v.now(); now.Sub(v.asked) >= askAgain {
		v.asked = now
		// Not under the request's context: the key set keeps it for good.
		provider, err := oidc.NewProvider(oidc.ClientContext(context.Background(), v.client), v.issuer)
		if err == nil {
			v.verifier = provider.Verifier(&oidc.Config{
				SkipClientIDCheck:    true, // there may be several, and Verify looks itself
				SupportedSigningAlgs: []string{oidc.RS256, oidc.ES256, oidc.PS256, oidc.EdDSA},
				Now:                  func() time.Time { return v.now().Add(-skew) },
			})
			return v.verifier, nil
		}
	}
	return nil, fmt.Errorf("%w: its discovery document cannot be had", ErrUnavailable)
}
