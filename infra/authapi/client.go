// Package authapi is the client of an auth server that speaks JSON over HTTP:
// it registers, signs in, refreshes and revokes. It carries the answers over
// into the words of package domain, and its main work is to tell a refusal of
// the person from a refusal of the broker and from a failure that passes,
// because only the first ends a device (error.go has the table).
//
// It is made for a first-party auth server, which the broker is trusted to
// hand passwords to. An OAuth server is never asked for a token by password
// (RFC 9700, section 2.4). The package keeps no tokens and tries nothing twice:
// when to ask again is its caller's to decide.
package authapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
)

// Config says where the auth server is and which words it uses. A name that is
// empty stands for the default given beside it.
type Config struct {
	// BaseURL is required. User and password in it are sent as Basic
	// credentials with every call that carries no bearer token.
	BaseURL *url.URL

	// The paths below BaseURL, without a query. Without a RegisterPath nobody
	// is registered; without a RevokePath nothing is revoked.
	RegisterPath, LoginPath, RefreshPath, RevokePath string
	// ExchangePath is where an ID token is exchanged for tokens of the auth
	// server's own. Without it that is domain.ErrAuthMisconfigured.
	ExchangePath string

	Form      bool // request bodies are application/x-www-form-urlencoded, not JSON
	LoginForm bool // the sign-in's alone is, as FastAPI's own login form wants it

	// TrustEmail counts the address that somebody signs in with as verified where
	// the access token does not say.
	TrustEmail bool

	EmailField        string // of requests: email
	PasswordField     string // password
	RefreshTokenField string // refresh_token
	CredentialField   string // credential: an ID token

	AccessTokenAnswer      string // of answers: access_token
	RefreshTokenAnswer     string // refresh_token
	ExpiresInAnswer        string // expires_in
	RefreshExpiresInAnswer string // refresh_expires_in
	TokenTypeAnswer        string // token_type

	Timeout  time.Duration    // of one call, from waiting for a connection to the answer's last byte: 10 s
	MaxConns int              // connections at once, for sign-ins and for refreshes each: 40; a call beyond waits, within its timeout
	Now      func() time.Time // time.Now; turns a Retry-After date into a duration
}

const (
	defaultTimeout = 10 * time.Second
	// defaultMaxConns are as many as usecase makes calls at once: 32 refreshes and 8
	// revocations. So none of them waits here, where its timeout runs already.
	defaultMaxConns = 40
	maxAnswer       = 1 << 20
)

// Client asks one auth server. It is safe for concurrent use.
type Client struct {
	cfg Config

	// Anybody can make us sign in, with whatever password. That must take no
	// connection from those whose tokens are due.
	people *http.Transport // sign-in and registration
	tokens *http.Transport // refresh and revocation
}

// New makes a client. It opens no connection yet.
func New(cfg Config) *Client {
	for _, name := range []struct {
		field    *string
		standard string
	}{
		{&cfg.EmailField, "email"},
		{&cfg.PasswordField, "password"},
		{&cfg.RefreshTokenField, "refresh_token"},
		{&cfg.CredentialField, "credential"},
		{&cfg.AccessTokenAnswer, "access_token"},
		{&cfg.RefreshTokenAnswer, "refresh_token"},
		{&cfg.ExpiresInAnswer, "expires_in"},
		{&cfg.RefreshExpiresInAnswer, "refresh_expires_in"},
		{&cfg.TokenTypeAnswer, "token_type"},
	} {
		if *name.field == "" {
			*name.field = name.standard
		}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = defaultMaxConns
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}

	return &Client{cfg: cfg, people: authcall.NewTransport(cfg.MaxConns), tokens: authcall.NewTransport(cfg.MaxConns)}
}

// Close closes the connections that are idle. Calls that are under way go on.
func (c *Client) Close() {
	c.people.CloseIdleConnections()
	c.tokens.CloseIdleConnections()
}

// Register makes an account. It signs nobody in. The answers are those of
// SignIn, and domain.ErrNoRegistration if there is no RegisterPath.
func (c *Client) Register(ctx context.Context, r domain.Credentials) error {
	if c.cfg.RegisterPath == "" {
		return domain.ErrNoRegistration
	}
	a, err := c.post(ctx, call{
		op: "register", path: c.cfg.RegisterPath, form: c.cfg.Form,
		fields: c.credentials(r), ip: r.IP, people: true,
	})
	switch {
	case err != nil:
		return err
	case !a.ok():
		return a.credentialsRefused()
	case a.fields == nil && !a.empty:
		// A page where an answer should be: this is a web site's catch-all, and
		// no account was made.
		return a.misconfigured(authcall.BrokenAnswer, "without JSON")
	}
	return nil
}

// SignIn exchanges credentials for tokens. It fails with *domain.Refused if
// the auth server does not take the credentials, with
// domain.ErrAuthMisconfigured if it does not take the broker or does not
// speak this protocol, and with *domain.Unavailable, which wraps
// domain.ErrAuthUnavailable, if it could not be asked. The last two are also
// an *authcall.Error.
func (c *Client) SignIn(ctx context.Context, r domain.Credentials) (domain.Identity, domain.Grant, error) {
	a, err := c.post(ctx, call{
		op: "sign-in", path: c.cfg.LoginPath, form: c.cfg.Form || c.cfg.LoginForm,
		fields: c.credentials(r), ip: r.IP, people: true,
	})
	if err != nil {
		return domain.Identity{}, domain.Grant{}, err
	}
	if !a.ok() {
		return domain.Identity{}, domain.Grant{}, a.credentialsRefused()
	}
	grant, ok := c.grant(a)
	if !ok {
		return domain.Identity{}, domain.Grant{}, a.misconfigured(authcall.BrokenAnswer, "without usable tokens")
	}
	return identity(grant.Access, r.Email, c.cfg.TrustEmail), grant, nil
}

// Exchange shows the auth server an ID token that says who somebody is, and
// brings its own tokens for them. The auth server has to check the token for
// itself. It fails like SignIn. An answer that does not say who it is for is of
// no use: domain.ErrAuthMisconfigured.
func (c *Client) Exchange(ctx context.Context, idToken domain.Secret, ip string) (domain.Identity, domain.Grant, error) {
	if c.cfg.ExchangePath == "" {
		return domain.Identity{}, domain.Grant{}, fmt.Errorf("exchange: %w: it has no path for that in the settings", domain.ErrAuthMisconfigured)
	}
	a, err := c.post(ctx, call{
		op: "exchange", path: c.cfg.ExchangePath, form: c.cfg.Form,
		fields: map[string]domain.Secret{c.cfg.CredentialField: idToken}, ip: ip, people: true,
	})
	if err != nil {
		return domain.Identity{}, domain.Grant{}, err
	}
	if !a.ok() {
		return domain.Identity{}, domain.Grant{}, a.credentialsRefused()
	}
	grant, ok := c.grant(a)
	if !ok {
		return domain.Identity{}, domain.Grant{}, a.misconfigured(authcall.BrokenAnswer, "without usable tokens")
	}
	who := identity(grant.Access, "", false)
	if who.Subject == "" {
		return domain.Identity{}, domain.Grant{}, a.misconfigured(authcall.BrokenAnswer, "with an access token that does not say whose it is")
	}
	return who, grant, nil
}

// Refresh exchanges a refresh token. It fails with domain.ErrInvalidGrant if
// the auth server refuses the token for good, with domain.ErrAuthMisconfigured
// if it does not take the broker, and with *domain.Unavailable in all other
// cases, an answer that cannot be read among them: the token may have rotated
// by then, and a retry inside the auth server's reuse window brings the
// successor. All three are also an *authcall.Error.
func (c *Client) Refresh(ctx context.Context, r domain.Renewal) (domain.Grant, error) {
	a, err := c.post(ctx, call{
		op: "refresh", path: c.cfg.RefreshPath, form: c.cfg.Form,
		fields: map[string]domain.Secret{c.cfg.RefreshTokenField: r.Refresh},
	})
	if err != nil {
		return domain.Grant{}, err
	}
	if !a.ok() {
		return domain.Grant{}, a.tokenRefused()
	}
	grant, ok := c.grant(a)
	if !ok {
		return domain.Grant{}, a.unavailable(authcall.BrokenAnswer, "without usable tokens")
	}
	return grant, nil
}

// Revoke asks the auth server to forget a refresh token, with the access token
// as proof of who asks. Either may be empty. Without a RevokePath, or with
// nothing to revoke, it does nothing. It fails like Refresh;
// domain.ErrInvalidGrant says that one of the two is refused, so that trying
// again with the same ones is of no use.
func (c *Client) Revoke(ctx context.Context, refresh, access domain.Secret) error {
	if c.cfg.RevokePath == "" || refresh.Empty() && access.Empty() {
		return nil
	}
	fields := map[string]domain.Secret{}
	if !refresh.Empty() {
		fields[c.cfg.RefreshTokenField] = refresh
	}
	a, err := c.post(ctx, call{
		op: "revoke", path: c.cfg.RevokePath, form: c.cfg.Form,
		fields: fields, bearer: access,
	})
	if err == nil && !a.ok() {
		err = a.tokenRefused()
	}
	return err
}

func (c *Client) credentials(r domain.Credentials) map[string]domain.Secret {
	return map[string]domain.Secret{
		c.cfg.EmailField:    domain.NewSecret(r.Email),
		c.cfg.PasswordField: r.Password,
	}
}
