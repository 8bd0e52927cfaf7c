// Package idtoken checks the ID tokens of the one OpenID provider that people
// may sign in with beside their password: Google as a rule. The protocol's
// checks are coreos/go-oidc's; what stands here is when the provider is asked
// for its keys, and what an account needs to know of the token.
package idtoken

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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
	// askAgain is the pause before a provider that did not answer is asked anew,
	// and before its keys are: anybody can send a token with a key id that nobody
	// knows.
	askAgain = 5 * time.Second
	// largest is how large an answer of the provider may be, in bytes.
	largest = 1 << 20
	timeout = 10 * time.Second
)

// Verifier checks tokens of one provider. It is safe for concurrent use.
type Verifier struct {
	issuer  string
	clients []string
	now     func() time.Time
	client  *http.Client

	mu    sync.Mutex
	keys  oidc.KeySet // nil until the provider has answered
	asked time.Time
}

// New returns a verifier of tokens that the issuer made for any of the clients.
// It asks nothing of the provider yet.
func New(issuer string, clients []string, now func() time.Time) *Verifier {
	return &Verifier{issuer: issuer, clients: clients, now: now, client: &http.Client{
		Timeout:       timeout,
		Transport:     &documents{now: now, last: map[string]look{}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Verify returns whom a token is about, or fails with ErrInvalid or
// ErrUnavailable. Its errors do not repeat the token.
func (v *Verifier) Verify(ctx context.Context, raw string) (accounts.Identity, error) {
	if len(raw) > longest {
		return accounts.Identity{}, ErrInvalid
	}
	set, err := v.ready()
	if err != nil {
		return accounts.Identity{}, err
	}
	keys := &watched{KeySet: set}
	token, err := oidc.NewVerifier(v.issuer, keys, &oidc.Config{
		SkipClientIDCheck:    true, // there may be several, and what follows looks itself
		SupportedSigningAlgs: []string{oidc.RS256, oidc.ES256, oidc.PS256, oidc.EdDSA},
		Now:                  func() time.Time { return v.now().Add(-skew) },
	}).Verify(ctx, raw)
	if err != nil {
		var asking *url.Error
		switch {
		case ctx.Err() != nil:
			return accounts.Identity{}, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		case errors.As(keys.err, &asking) && !errors.Is(asking, errFresh):
			return accounts.Identity{}, fmt.Errorf("%w: its keys cannot be had", ErrUnavailable)
		}
		return accounts.Identity{}, ErrInvalid
	}
	var c struct {
		Party    string `json:"azp"`
		Email    string `json:"email"`
		Verified bool   `json:"email_verified"`
		Name     string `json:"name"`
		Events   any    `json:"events"` // of a logout token, which is signed by the same keys
	}
	ours := func(client string) bool { return slices.Contains(v.clients, client) }
	switch {
	case token.Claims(&c) != nil, c.Events != nil,
		!slices.ContainsFunc(token.Audience, ours),
		len(token.Audience) > 1 && c.Party == "", c.Party != "" && !ours(c.Party),
		token.Subject == "" || len(token.Subject) > 255,
		token.IssuedAt.After(v.now().Add(skew)), token.IssuedAt.Before(v.now().Add(-oldest - skew)):
		return accounts.Identity{}, ErrInvalid
	}
	return accounts.Identity{Issuer: v.issuer, Subject: token.Subject, Email: c.Email, EmailVerified: c.Verified, Name: c.Name}, nil
}

// ready returns the provider's keys, after discovery. One caller at a time asks.
func (v *Verifier) ready() (oidc.KeySet, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys != nil {
		return v.keys, nil
	}
	if now := v.now(); now.Sub(v.asked) >= askAgain {
		v.asked = now
		// Not under the request's context: the key set keeps it for good.
		ctx := oidc.ClientContext(context.Background(), v.client)
		var document struct {
			Keys string `json:"jwks_uri"`
		}
		provider, err := oidc.NewProvider(ctx, v.issuer)
		if err == nil && provider.Claims(&document) == nil && document.Keys != "" {
			v.keys = oidc.NewRemoteKeySet(ctx, document.Keys)
			return v.keys, nil
		}
	}
	return nil, fmt.Errorf("%w: its discovery document cannot be had", ErrUnavailable)
}

// watched is the key set of one token. It remembers why there was no key, which
// go-oidc does not tell.
type watched struct {
	oidc.KeySet
	err error
}

func (w *watched) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	payload, err := w.KeySet.VerifySignature(ctx, raw)
	w.err = err
	return payload, err
}

// errFresh: what the provider has at this address was had just now.
var errFresh = errors.New("asked just now")

// documents is the way to the provider. An answer other than 200 is an error, and
// no address is asked twice within askAgain: in between it is errFresh, or the
// failure of before.
type documents struct {
	now  func() time.Time
	mu   sync.Mutex
	last map[string]look // by address: discovery's, and the one that it names
}

type look struct {
	at  time.Time
	err error
}

func (d *documents) RoundTrip(req *http.Request) (*http.Response, error) {
	d.mu.Lock()
	defer d.mu.Unlock() // one at a time will do
	address, now := req.URL.String(), d.now()
	if last, asked := d.last[address]; asked && now.Sub(last.at) < askAgain {
		return nil, last.err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		err = fmt.Errorf("answered %d", resp.StatusCode)
	}
	if err != nil {
		d.last[address] = look{now, err}
		return nil, err
	}
	d.last[address] = look{now, errFresh}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, largest), resp.Body}
	return resp, nil
}
