package settings

import (
	"cmp"
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
	"cloakroom/infra/settings/schema"
)

// Provider is an OpenID Connect provider and our client of it.
type Provider struct {
	// Name is in paths, records and logs.
	Name string `name:"name" required:""`
	// Preset is one of Presets, or "" for none.
	Preset string `name:"preset" enum:"google,keycloak,entra,auth0,okta,none"`
	// Issuer is compared to the letter. It is a preset's if that has one.
	Issuer string `name:"issuer"`

	ClientID     string        `name:"client-id"`
	ClientSecret domain.Secret `name:"client-secret"`
	// ClientKey is PEM.
	ClientKey  domain.Secret `name:"client-key"`
	ClientAuth string        `name:"client-auth" enum:"client_secret_basic,client_secret_post,private_key_jwt"`
	KeyID      string        `name:"client-key-id"`
	// AssertionAudience is "issuer" or "token_endpoint".
	AssertionAudience string `name:"assertion-audience" enum:"issuer,token_endpoint"`

	Title string `name:"title"`
	Icon  string `name:"icon"` // the name of a file

	Scopes     string `name:"scopes"` // separated by spaces
	Prompt     string `name:"prompt"`
	Authorize  string `name:"authorize"`  // further parameters: a=b&c=d
	Algorithms string `name:"algorithms"` // separated by spaces

	EmailClaim         string `name:"email-claim"`
	EmailVerifiedClaim string `name:"email-verified-claim"`
	NameClaim          string `name:"name-claim"`
	RolesClaim         string `name:"roles-claim"` // several, separated by spaces
	TrustEmail         bool   `name:"trust-email"`
	UserInfo           string `name:"userinfo" enum:"true,false"` // "" as the preset says

	// Credential is whether ID tokens are taken that the provider gave to a page,
	// as Google's button does: "" is for google alone.
	Credential string `name:"credential" enum:"true,false"`
	// Exchange is whose tokens the upstream gets: "" the provider's, or those of
	// the auth server, to which the ID token is shown.
	Exchange string `name:"exchange" enum:"none,auth-server"`
	DPoP     bool   `name:"dpop"`
	// ReauthenticatePrompt is what has people prove once more who they are.
	ReauthenticatePrompt string `name:"reauthenticate-prompt"`
	// KeepSession leaves people signed in at the provider when they log out here.
	KeepSession bool `name:"keep-session"`

	UnsafeLogoutType bool `name:"unsafe-any-logout-token-type"`
	UnsafePlainHTTP  bool `name:"unsafe-plain-http"`
}

// ExchangeAuthServer is Exchange's word for the auth server's tokens.
const ExchangeAuthServer = "auth-server"

// Split reads the form of flags and variables: the name, and behind it fields
// as name=value, all separated by semicolons.
func (Provider) Split(text string) (map[string]string, error) {
	name, rest, more := strings.Cut(text, ";")
	fields := map[string]string{"name": name}
	for more {
		var field string
		field, rest, more = strings.Cut(rest, ";")
		key, value, found := strings.Cut(field, "=")
		key = strings.TrimSpace(key)
		if _, twice := fields[key]; !found || twice {
			return nil, errors.New("is not a provider; write NAME;FIELD=VALUE;FIELD=VALUE, for example google;client-id=ID;client-secret-file=PATH")
		}
		fields[key] = strings.TrimSpace(value)
	}
	return fields, nil
}

// String tells the provider apart from others. Where and how it is asked is
// nobody's business but the settings'.
func (p Provider) String() string {
	if !providerName.MatchString(p.Name) {
		return "[refused]"
	}
	return p.Name
}

// providerName is what may stand in a path and in front of no other of ours.
var providerName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// presets are the names of providers that are known by themselves.
var presets = []string{"google", "keycloak", "entra", "auth0", "okta"}

// PresetName returns which well-known provider it is, or "".
func (p Provider) PresetName() string {
	switch {
	case p.Preset == "none":
		return ""
	case p.Preset == "" && slices.Contains(presets, p.Name):
		return p.Name
	}
	return p.Preset
}

// ShownTitle is what people call it.
func (p Provider) ShownTitle() string {
	known := map[string]string{"google": "Google", "keycloak": "Keycloak", "entra": "Microsoft", "auth0": "Auth0", "okta": "Okta"}
	return cmp.Or(p.Title, known[p.PresetName()], p.Name)
}

// ProofPrompt is what has people prove once more who they are. Google does not
// know the standard's way and does not say when somebody signed in there.
func (p Provider) ProofPrompt() string {
	if p.ReauthenticatePrompt == "" && p.PresetName() == "google" {
		return "select_account"
	}
	return cmp.Or(p.ReauthenticatePrompt, "login")
}

// Client is the provider as infra/oidc knows it: what its preset says, and over
// it what is set.
func (p Provider) Client() oidc.Config {
	c, _ := oidc.Preset(p.PresetName())
	c.Name, c.Issuer = p.Name, cmp.Or(p.Issuer, c.Issuer)
	c.ClientID, c.ClientSecret, c.PrivateKey, c.KeyID, c.AuthMethod = p.ClientID, p.ClientSecret, p.ClientKey, p.KeyID, p.ClientAuth
	switch p.AssertionAudience {
	case "issuer":
		c.AssertionAudience = ""
	case oidc.TokenEndpoint:
		c.AssertionAudience = oidc.TokenEndpoint
	}
	if scopes := strings.Fields(p.Scopes); scopes != nil {
		c.Scopes = scopes
	}
	if p.Exchange == ExchangeAuthServer && p.Scopes == "" {
		// The provider's own tokens are of no use then, and Google would ask
		// people for more than it takes to know who they are.
		c.Scopes, c.Prompt = []string{"openid", "email", "profile"}, ""
		c.AuthParams = map[string]string{"access_type": "online"}
		if p.PresetName() != "google" {
			c.AuthParams = nil
		}
	}
	c.Prompt = cmp.Or(p.Prompt, c.Prompt)
	if more, err := url.ParseQuery(p.Authorize); err == nil {
		for name := range more {
			if c.AuthParams == nil {
				c.AuthParams = map[string]string{}
			}
			c.AuthParams[name] = more.Get(name)
		}
	}
	c.Claims.Email = cmp.Or(p.EmailClaim, c.Claims.Email)
	c.Claims.EmailVerified = cmp.Or(p.EmailVerifiedClaim, c.Claims.EmailVerified)
	c.Claims.Name = cmp.Or(p.NameClaim, c.Claims.Name)
	if roles := strings.Fields(p.RolesClaim); roles != nil {
		c.Claims.Roles = roles
	}
	c.Algorithms = strings.Fields(p.Algorithms)
	if p.UserInfo != "" {
		c.UserInfo = p.UserInfo == "true"
	}
	c.DPoP, c.TrustEmail, c.LooseLogoutType, c.PlainHTTP = p.DPoP, p.TrustEmail, p.UnsafeLogoutType, p.UnsafePlainHTTP
	return c
}

// TakesCredentials reports whether ID tokens are taken from pages.
func (p Provider) TakesCredentials() bool {
	return p.Credential == "true" || p.Credential == "" && p.PresetName() == "google"
}

func checkProviders(s Settings, l *schema.Loaded) {
	seen := map[string]string{}
	for i, p := range s.Providers {
		where := l.WhereItem("provider", i)
		if first, twice := seen[p.Name]; twice {
			l.Rejectf("%s: has the same name as %s; give each provider a name of its own", where, first)
		}
		seen[p.Name] = where
		checkProvider(s, p, where, l)
	}
}

func checkProvider(s Settings, p Provider, where string, l *schema.Loaded) {
	before := len(l.Problems())
	reject := func(sentence string) { l.Rejectf("%s: %s", where, sentence) }
	if !providerName.MatchString(p.Name) {
		reject("has no plain name; give 1 to 32 lower-case letters, digits and hyphens, a letter first, for example google")
	}
	issuer, err := url.Parse(p.Issuer)
	switch {
	case p.Issuer == "" && p.PresetName() == "google":
	case p.Issuer == "":
		reject("has no issuer; add the provider's name for itself, which discovery begins with, for example https://id.example/realms/main")
	case err != nil || issuer.Host == "" || issuer.User != nil || issuer.RawQuery != "" || strings.ContainsAny(p.Issuer, "?#") || issuer.Scheme != "https" && issuer.Scheme != "http":
		reject("has an issuer that is no URL without user name, query and fragment; write it as the provider does, for example https://id.example/realms/main")
	case issuer.Scheme == "http" && !loopback(issuer.Hostname()) && !p.UnsafePlainHTTP:
		reject("has an issuer in plain http, so that whoever is on the way could sign in as anybody; use https, or set unsafe-plain-http")
	case p.UnsafePlainHTTP && (issuer.Scheme == "https" || loopback(issuer.Hostname())):
		reject("has unsafe-plain-http, which has no use with this issuer; take it out")
	}
	if p.ClientID == "" {
		reject("has no client-id; register Cloakroom as a confidential web client at the provider and add what it is called there")
	}
	switch secret, key := !p.ClientSecret.Empty(), !p.ClientKey.Empty(); {
	case !secret && !key:
		reject("has neither client-secret nor client-key, and only a confidential client keeps people's tokens; add client-secret-file, client-secret or client-key-file")
	case secret && key:
		reject("has both client-secret and client-key; keep one of them")
	case p.ClientAuth == "private_key_jwt" && !key:
		reject("says private_key_jwt but has no client-key; add client-key-file")
	case p.ClientAuth != "" && p.ClientAuth != "private_key_jwt" && !secret:
		reject("says " + p.ClientAuth + " but has no client-secret; add client-secret-file")
	}
	if p.Exchange == ExchangeAuthServer && s.AuthURL == nil && l.Valid("auth-url") {
		reject("exchanges at the auth server, but auth-url is missing; " + l.Remedy("auth-url"))
	}
	if p.Exchange == ExchangeAuthServer && p.DPoP {
		reject("has dpop, which has no use where the auth server's tokens are taken; take one of the two out")
	}
	if _, err := url.ParseQuery(p.Authorize); err != nil {
		reject("has authorize parameters that cannot be read; write for example hd=example.com&ui_locales=de")
	}
	for _, alg := range strings.Fields(p.Algorithms) {
		if !slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}, alg) {
			reject("has algorithms that are no asymmetric signatures; write for example RS256 ES256")
			break
		}
	}
	if len(l.Problems()) > before {
		return
	}
	client, err := oidc.New(p.Client())
	if err != nil {
		_, said, _ := strings.Cut(err.Error(), ": ")
		reject("cannot be used: " + said + "; see docs/openid.md")
		return
	}
	client.Close()
}
