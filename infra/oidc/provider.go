// Package oidc is the client of an OpenID Connect provider: it sends people
// there with the authorization code flow, reads what comes back, refreshes,
// revokes, and checks the provider's own logout tokens. A Provider stands for
// one provider and one confidential client of it; a broker has as many as its
// settings name.
//
// The protocol is coreos/go-oidc's and golang.org/x/oauth2's. What stands here
// is what they leave to others: how long anything is trusted and how often
// asked for (fetched.go, keys.go), the checks beyond signature, audience and
// expiry (idtoken.go, logout.go), client authentication by key (client.go),
// and which failure means what (error.go), in the same words as infra/authapi
// says it, so that one refresh engine serves both.
//
// The package keeps no tokens and tries nothing twice but what a missing DPoP
// nonce has stopped. Cookies, records and pages are others' business.
package oidc

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/oauth2"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
	"cloakroom/infra/dpop"
)

// How the client shows the provider who it is (OpenID Connect Core 1.0, section 9).
const (
	SecretBasic   = "client_secret_basic"
	SecretPost    = "client_secret_post"
	PrivateKeyJWT = "private_key_jwt"
)

// Config says which provider it is and how it is used. What is not marked as
// needed has the default given beside it. Preset has what well-known providers
// want.
type Config struct {
	Name   string // needed: in paths, records and logs
	Issuer string // needed: the provider's name for itself, to the letter; discovery is asked below it

	ClientID     string        // needed
	ClientSecret domain.Secret // needed, unless there is a PrivateKey
	PrivateKey   domain.Secret // PEM of an RSA, ECDSA or Ed25519 key; with a certificate in it, that is named in assertions
	KeyID        string        // the key's name at the provider; none, which does where it is the only one
	AuthMethod   string        // one of the above; by key if there is one, else as discovery says
	// AssertionAudience is whom private_key_jwt is for: the issuer. Some want
	// "token_endpoint".
	AssertionAudience string

	Scopes     []string          // openid email profile; openid is always asked for
	Prompt     string            // of sign-ins that do not say
	AuthParams map[string]string // further parameters of the authorization request
	Claims     Claims
	Algorithms []string // of ID and logout tokens: all of RS, PS and ES, and EdDSA

	UserInfo bool // ask the userinfo endpoint too, for providers whose ID token says little
	DPoP     bool // bind tokens to a key of the device (RFC 9449)
	// TrustEmail takes every email of this provider as verified, stated or not.
	// It is for providers that let nobody choose an address.
	TrustEmail bool
	// LooseLogoutType takes logout tokens whose header does not say logout+jwt.
	LooseLogoutType bool
	// PlainHTTP allows http:// beyond loopback.
	PlainHTTP bool

	Timeout  time.Duration    // of one call: 10 s
	MaxConns int              // connections at once, for sign-ins and for refreshes each: 40
	Now      func() time.Time // time.Now
	Random   io.Reader        // crypto/rand
}

// Claims says which claims of the ID token, or of the userinfo answer, hold
// what. A name is a claim's own, or else a path with dots into objects, such as
// realm_access.roles.
type Claims struct {
	Email         string   // email
	EmailVerified string   // email_verified
	Name          string   // name
	Roles         []string // roles, groups
}

const (
	defaultTimeout = 10 * time.Second
	// defaultMaxConns are as many as usecase makes calls at once: 32 refreshes and 8
	// revocations. So none of them waits here, where its timeout runs already.
	defaultMaxConns = 40

	// skew is how far the provider's clock may be from ours.
	skew = time.Minute
)

// Provider is the client of one provider. It is safe for concurrent use.
type Provider struct {
	cfg         Config
	algorithms  []string
	key         crypto.Signer // of private_key_jwt, or nil
	certificate string        // its thumbprint, or empty

	people, tokens *http.Transport // as in infra/authapi: sign-ins take no connection from refreshes
	asking         *http.Client    // for documents: discovery, keys
	peopleClient   *http.Client    // for code exchange
	userInfoClient *http.Client
	tokensClient   *http.Client // for refresh and revocation

	found *fetched[*metadata]
	keys  *keySet

	mu   sync.Mutex
	last error // the latest failure to reach the provider, nil since it answered
}

// New returns the client of a provider, or an error that lists everything that
// is wrong with c. It asks nothing of the provider yet: one that is down does
// not keep the broker from starting.
func New(c Config) (*Provider, error) {
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.MaxConns <= 0 {
		c.MaxConns = defaultMaxConns
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	c.Claims = c.Claims.orStandard()
	c.Scopes = withOpenID(c.Scopes)
	c.AuthParams = withOffline(c.Issuer, c.AuthParams)

	p := &Provider{cfg: c, algorithms: c.Algorithms}
	if len(p.algorithms) == 0 {
		p.algorithms = allAlgorithms
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("provider %s: %w", c.Name, err)
	}

	p.people, p.tokens = authcall.NewTransport(c.MaxConns), authcall.NewTransport(c.MaxConns)
	nonces := new(dpop.Nonces)
	proving := func(base http.RoundTripper) http.RoundTripper {
		return &dpop.Transport{Base: base, Nonces: nonces, Now: c.Now, Random: c.Random}
	}
	// A proof that lacked a nonce is sent again with an assertion of its own.
	p.peopleClient = newClient(proving(&clientAuth{provider: p, base: p.people}))
	p.tokensClient = newClient(proving(&clientAuth{provider: p, base: p.tokens}))
	p.userInfoClient = newClient(documents{proving(p.people)})
	p.asking = newClient(documents{p.people})
	p.found = &fetched[*metadata]{fetch: p.discover, now: c.Now, timeout: c.Timeout}
	p.keys = &keySet{algorithms: p.algorithms}
	p.keys.fetched = &fetched[[]publicKey]{fetch: p.fetchKeys, now: c.Now, timeout: c.Timeout}
	return p, nil
}

// check reports what is wrong with the settings, all of it.
func (p *Provider) check() error {
	c := &p.cfg
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		wrong("the name is missing")
	}
	if c.ClientID == "" {
		wrong("the client id is missing")
	}
	if err := checkURL(c.Issuer, c.PlainHTTP); err != nil {
		wrong("the issuer %s", err)
	} else if u, _ := url.Parse(c.Issuer); u.RawQuery != "" || u.ForceQuery || strings.Contains(c.Issuer, "#") {
		wrong("the issuer has a query or fragment")
	}
	for _, alg := range p.algorithms {
		if !slices.Contains(allAlgorithms, alg) {
			wrong("%q is no signature algorithm of a provider's tokens; there are %s", alg, strings.Join(allAlgorithms, ", "))
		}
	}
	if !c.PrivateKey.Empty() {
		var err error
		if p.key, p.certificate, err = parsePrivateKey(c.PrivateKey); err != nil {
			problems = append(problems, err)
		}
	}
	switch c.AuthMethod {
	case "":
		if c.PrivateKey.Empty() && c.ClientSecret.Empty() {
			wrong("there is neither a client secret nor a private key; the broker is a confidential client")
		}
		if !c.PrivateKey.Empty() {
			c.AuthMethod = PrivateKeyJWT
		}
	case SecretBasic, SecretPost:
		if c.ClientSecret.Empty() {
			wrong("%s needs a client secret", c.AuthMethod)
		}
	case PrivateKeyJWT:
		if c.PrivateKey.Empty() {
			wrong("%s needs a private key", c.AuthMethod)
		}
	default:
		wrong("there is no client authentication %q", c.AuthMethod)
	}
	for name := range c.AuthParams {
		if ownParams[name] {
			wrong("the authorization parameter %s is not to be set", name)
		}
	}
	return errors.Join(problems...)
}

// ownParams are the parameters of an authorization request that no setting
// changes: the checks of the answer depend on them.
var ownParams = map[string]bool{
	"response_type": true, "response_mode": true, "client_id": true, "redirect_uri": true, "scope": true, "state": true,
	"nonce": true, "code_challenge": true, "code_challenge_method": true, "request": true, "request_uri": true,
}

// Name returns the provider's name in the settings.
func (p *Provider) Name() string { return p.cfg.Name }

// Issuer returns the issuer that owners signed in here have.
func (p *Provider) Issuer() string { return p.cfg.Issuer }

// ClientID returns the client id, which a page needs to show Google's button.
func (p *Provider) ClientID() string { return p.cfg.ClientID }

// DPoP reports whether tokens are bound to a key of the device.
func (p *Provider) DPoP() bool { return p.cfg.DPoP }

// Health returns the latest failure to reach the provider, or nil if it has
// answered since, or has not been asked.
func (p *Provider) Health() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// noted remembers for Health how a call went, and returns err.
func (p *Provider) noted(err error) error {
	var failure *authcall.Error
	if errors.As(err, &failure) && failure.Kind == authcall.Canceled {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = nil
	if errors.Is(err, domain.ErrAuthUnavailable) || errors.Is(err, domain.ErrAuthMisconfigured) {
		p.last = err
	}
	return err
}

// Close closes the connections that are idle. Calls that are under way go on.
func (p *Provider) Close() {
	p.people.CloseIdleConnections()
	p.tokens.CloseIdleConnections()
}

// oauth returns the client as golang.org/x/oauth2 knows it.
func (p *Provider) oauth(m *metadata, redirectURI string) *oauth2.Config {
	c := &oauth2.Config{
		ClientID:    p.cfg.ClientID,
		RedirectURL: redirectURI,
		Scopes:      p.cfg.Scopes,
		Endpoint:    m.provider.Endpoint(),
	}
	// The style is never found out by trying: that would spend a code or a
	// refresh token twice.
	switch p.authMethod(m) {
	case SecretBasic:
		c.ClientSecret, c.Endpoint.AuthStyle = p.cfg.ClientSecret.Reveal(), oauth2.AuthStyleInHeader
	case SecretPost:
		c.ClientSecret, c.Endpoint.AuthStyle = p.cfg.ClientSecret.Reveal(), oauth2.AuthStyleInParams
	default:
		c.Endpoint.AuthStyle = oauth2.AuthStyleInParams // the client id alone; clientAuth adds the assertion
	}
	return c
}

// authMethod returns how the client authenticates: as the settings say, else
// the better of what discovery offers, else the standard's default.
func (p *Provider) authMethod(m *metadata) string {
	switch {
	case p.cfg.AuthMethod != "":
		return p.cfg.AuthMethod
	case len(m.AuthMethods) > 0 && !slices.Contains(m.AuthMethods, SecretBasic) && slices.Contains(m.AuthMethods, SecretPost):
		return SecretPost
	}
	return SecretBasic
}

// checkURL says what is wrong with the URL of a provider, or nil. Plain http is
// for loopback, and elsewhere for who asks for it.
func checkURL(text string, plain bool) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("is missing")
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil:
		return errors.New("is no http or https URL without user name")
	case u.Scheme == "http" && !plain && !loopback(u.Hostname()):
		return errors.New("is plain http")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
