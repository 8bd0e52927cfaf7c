// Package settings is what the broker can be told: every setting with its type,
// default and help, in one struct, and the rules by which they go together. How
// they are read from flags, environment, .env and YAML is the business of the
// package schema below. Only app calls Load; everybody else is handed the values
// that they need.
package settings

import (
	"log/slog"
	"net/netip"
	"net/url"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/settings/schema"
)

// Settings is the broker's settings. What Load returns without an error has
// been checked: see check for the rules beyond a single setting.
type Settings struct {
	// Listen is host:port; an empty host is every address.
	Listen string `name:"listen" group:"Address" default:"127.0.0.1:8080" form:"address" placeholder:"HOST:PORT" help:"Address to listen on."`
	// PublicURL is an origin as browsers write it. It is nil if it was not
	// given, which is allowed on loopback only; then it is http:// and the
	// address that is listened on.
	PublicURL *url.URL `name:"public-url" group:"Address" form:"origin" example:"https://app.example" help:"Where people open it: scheme, host and port, no path. Required unless listen is a loopback address."`
	// TLSCert and TLSKey are both given or neither. What is in the files is
	// looked at by who serves with them.
	TLSCert string `name:"tls-cert" group:"Address" placeholder:"FILE" example:"/etc/cloakroom/tls.crt" help:"PEM file with the certificate to serve https with, and those that lead to its authority behind it. Without it TLS ends in front, if at all."`
	TLSKey  string `name:"tls-key" group:"Address" placeholder:"FILE" example:"/etc/cloakroom/tls.key" help:"PEM file with the certificate's key. Both files are looked at again every 10s and on SIGHUP."`
	// HSTS is for an https PublicURL only.
	HSTS string `name:"hsts" group:"Address" default:"max-age=31536000" empty:"" help:"Strict-Transport-Security header of every answer, also of the upstreams', if public-url is https. Empty: none, and an upstream's own passes."`
	// Prefix has no slash at its end.
	Prefix string `name:"prefix" group:"Address" default:"/auth" form:"path" placeholder:"PATH" help:"Path of Cloakroom's own pages. Everything else belongs to the routes."`
	// AllowedOrigins are further origins whose pages may send requests with our cookie.
	AllowedOrigins []*url.URL `name:"allowed-origin" group:"Address" form:"origin" example:"https://admin.example" help:"Other origins whose pages may send requests with the cookie, open WebSockets and read the answers (CORS). They are trusted like pages of public-url. A list."`
	// TrustedProxies are the peers whose X-Forwarded-* headers count.
	TrustedProxies []netip.Prefix `name:"trusted-proxy" group:"Address" example:"10.0.0.0/8" help:"Addresses of the proxies in front, whose X-Forwarded headers are believed. A list of addresses and ranges."`

	// ForwardAuthListen is host:port; "" for no forward-auth.
	ForwardAuthListen string `name:"forward-auth-listen" group:"Address" form:"address" placeholder:"HOST:PORT" example:"127.0.0.1:8081" help:"Second address, where proxies of trusted-proxy ask whether requests may pass, and get tokens: see docs/forward-auth.md. No browser may be able to reach it. Without it there is no forward-auth."`

	// Routes is what is proxied where; there is at least one, or else
	// ForwardAuthListen.
	Routes []Route `name:"route" group:"Routes" placeholder:"/PATH=URL" example:"/api=http://127.0.0.1:9000" help:"What is proxied where, the longest path first. Required unless there is forward-auth-listen. A list; append ;strip-prefix to take the path off, ;host=NAME for one host alone, ;auth=optional or ;auth=none. In YAML, objects with these and many more options, see docs/routes.md."`
	// UpstreamHeaderTimeout bounds the wait for an upstream's first byte.
	UpstreamHeaderTimeout time.Duration `name:"upstream-header-timeout" group:"Routes" default:"30s" help:"How long an upstream may take until its answer begins, and until it takes more of a body before that, if its route does not say it. 0: as long as it likes."`

	Store Store `name:"store" group:"Store" default:"sqlite://data/cloakroom.db" placeholder:"URL" help:"Where devices are kept: sqlite://relative/path, sqlite:///absolute/path, a redis://, rediss://, redis+sentinel://, redis+cluster:// or unix:// URL of Redis, a mongodb:// or mongodb+srv:// URL of MongoDB, or memory: for trials, which forgets everything at the end."`
	// CacheTTL is 0 for no cache.
	CacheTTL  time.Duration `name:"cache-ttl" group:"Store" default:"1s" min:"0s" help:"How long a record that was read is trusted, at most, before the store is asked again; never more than 1s. What ends elsewhere is dropped at once. 0: always ask."`
	CacheSize int           `name:"cache-size" group:"Store" default:"10000" min:"1" help:"How many records are kept at hand, at most."`
	// RedisWaitReplicas is of no use to other stores.
	RedisWaitReplicas int `name:"redis-wait-replicas" group:"Store" default:"0" min:"0" help:"How many replicas of a Redis master have to have a sign-in, a refreshed token or a sign-out before it counts as done. 1 is right wherever a replica takes over when a master dies, as in a cluster; writes can be lost otherwise."`
	// SealKeys are texts for seal.ParseKey: the first seals, all open. Their
	// forms, strengths and ids have been checked. Empty with memory: only.
	SealKeys []domain.Secret `name:"seal-key" group:"Store" example:"example:dGhpcy1pcy10aGUtZXhhbXBsZS1ub3QtYS1zZWNyZXQ" placeholder:"ID:KEY" help:"Keys that tokens are encrypted with in the store, as 'cloakroom keys generate' prints them. A list: the first encrypts, all decrypt. Required unless the store is memory:."`

	// Providers are checked; each has a name of its own.
	Providers []Provider `name:"provider" group:"OpenID providers" placeholder:"NAME;FIELD=VALUE;..." help:"OpenID Connect providers that people sign in with. A list; fields are separated by semicolons. In YAML, objects with these fields. They are described in docs/openid.md."`
	// ReauthenticateAfter is 0 for never.
	ReauthenticateAfter time.Duration `name:"reauthenticate-after" group:"OpenID providers" default:"10m" min:"0s" help:"Who signed in longer ago than this proves once more to be there before ending other devices of theirs; ending the one in hand needs nothing. 0: never."`

	// AuthURL has no slash at its end. It is nil if there are providers alone.
	AuthURL *url.URL `name:"auth-url" group:"Auth server" form:"base" example:"https://auth.example/api/v1" help:"Base URL of the auth server's JSON API, where people sign in by password. Required unless there is a provider."`
	// AuthIssuer is AuthURL's text if it was not given.
	AuthIssuer       string        `name:"auth-issuer" group:"Auth server" example:"https://auth.example" help:"Name under which the auth server's people are kept. Changing it makes everybody somebody else. By default auth-url."`
	AuthRegisterPath string        `name:"auth-register-path" group:"Auth server" default:"/register" empty:"" form:"path" placeholder:"PATH" help:"Where to register, below auth-url. Empty: nobody can."`
	AuthLoginPath    string        `name:"auth-login-path" group:"Auth server" default:"/login" form:"path" placeholder:"PATH" help:"Where to sign in, below auth-url."`
	AuthRefreshPath  string        `name:"auth-refresh-path" group:"Auth server" default:"/refresh" form:"path" placeholder:"PATH" help:"Where to exchange a refresh token, below auth-url."`
	AuthRevokePath   string        `name:"auth-revoke-path" group:"Auth server" default:"/logout" empty:"" form:"path" placeholder:"PATH" help:"Where to revoke tokens at sign-out, below auth-url. Empty: nowhere."`
	AuthTrustEmail   bool          `name:"auth-trust-email" group:"Auth server" help:"Count the address that somebody signs in with as theirs, where the access token has no email_verified. Only for an auth server that verifies addresses before it lets anybody in: all devices of an address are listed and signed out together."`
	AuthExchangePath string        `name:"auth-exchange-path" group:"Auth server" default:"/login/google" form:"path" placeholder:"PATH" help:"Where a provider's ID token is exchanged for the auth server's own tokens, below auth-url, for providers that say exchange."`
	AuthTimeout      time.Duration `name:"auth-timeout" group:"Auth server" default:"10s" min:"1ms" help:"How long one call of the auth server or of a provider may take."`

	AuthBody              string `name:"auth-body" group:"Auth server's words" default:"json" enum:"json,form" help:"How requests are written."`
	AuthLoginBody         string `name:"auth-login-body" group:"Auth server's words" default:"same" enum:"same,form" help:"How the sign-in alone is written, for servers that take a form there and JSON elsewhere."`
	AuthEmailField        string `name:"auth-email-field" group:"Auth server's words" default:"email" placeholder:"FIELD" help:"Request field of the email address."`
	AuthPasswordField     string `name:"auth-password-field" group:"Auth server's words" default:"password" placeholder:"FIELD" help:"Request field of the password."`
	AuthRefreshTokenField string `name:"auth-refresh-token-field" group:"Auth server's words" default:"refresh_token" placeholder:"FIELD" help:"Request field of the refresh token."`

	AuthAnswerAccessToken      string `name:"auth-answer-access-token" group:"Auth server's words" default:"access_token" placeholder:"FIELD" help:"Answer field of the access token."`
	AuthAnswerRefreshToken     string `name:"auth-answer-refresh-token" group:"Auth server's words" default:"refresh_token" placeholder:"FIELD" help:"Answer field of the refresh token."`
	AuthAnswerTokenType        string `name:"auth-answer-token-type" group:"Auth server's words" default:"token_type" placeholder:"FIELD" help:"Answer field of the token type."`
	AuthAnswerExpiresIn        string `name:"auth-answer-expires-in" group:"Auth server's words" default:"expires_in" placeholder:"FIELD" help:"Answer field of the access token's lifetime in seconds."`
	AuthAnswerRefreshExpiresIn string `name:"auth-answer-refresh-expires-in" group:"Auth server's words" default:"refresh_expires_in" placeholder:"FIELD" help:"Answer field of the refresh token's lifetime in seconds."`

	AccessTokenLifetime  time.Duration `name:"access-token-lifetime" group:"Lifetimes" default:"15m" min:"1ms" help:"Life of an access token that does not say how long it lives."`
	RefreshTokenLifetime time.Duration `name:"refresh-token-lifetime" group:"Lifetimes" default:"720h" min:"1ms" help:"Life of a refresh token that does not say how long it lives."`
	RefreshAhead         time.Duration `name:"refresh-ahead" group:"Lifetimes" default:"30s" help:"How long before its expiry an access token is refreshed behind a request; at most a quarter of its life. 0: never before."`
	RefreshMargin        time.Duration `name:"refresh-margin" group:"Lifetimes" default:"5s" help:"How long before its expiry an access token counts as expired, so that it reaches the upstream alive; at most a tenth of its life."`
	IdleTimeout          time.Duration `name:"idle-timeout" group:"Lifetimes" default:"336h" min:"1ms" help:"A device that is not used for this long is signed out."`
	AbsoluteLifetime     time.Duration `name:"absolute-lifetime" group:"Lifetimes" default:"2160h" min:"1ms" help:"A device is signed out this long after it signed in, however much it is used."`
	TouchInterval        time.Duration `name:"touch-interval" group:"Lifetimes" default:"1m" min:"1ms" help:"How often, at most, the store is told that a device was used."`

	CookieSameSite string `name:"cookie-same-site" group:"Cookie" default:"lax" enum:"lax,strict" help:"SameSite attribute of the device cookie."`

	MaxConnections int `name:"max-connections" group:"Process" default:"10000" min:"1" help:"How many connections of clients are served at once, on each listener. One beyond that is answered with 503. Each takes a file descriptor, and another one while an upstream works for it."`

	// MetricsListen is empty for no metrics.
	MetricsListen string        `name:"metrics-listen" group:"Process" default:"" empty:"" form:"address" placeholder:"HOST:PORT" example:"127.0.0.1:9090" help:"Address on which /metrics is shown to Prometheus, to whoever can reach it. Empty: nowhere."`
	ShutdownGrace time.Duration `name:"shutdown-grace" group:"Process" default:"15s" min:"1ms" help:"How long requests and refreshes under way may take to finish once it is told to stop."`
	LogFormat     string        `name:"log-format" group:"Process" default:"text" enum:"text,json" help:"How log lines are written."`
	LogLevel      slog.Level    `name:"log-level" group:"Process" default:"info" enum:"debug,info,warn,error" help:"The least important lines that are logged."`

	UnsafeInsecureCookie bool `name:"unsafe-insecure-cookie" group:"Unsafe" help:"Allow a plain http public-url beyond loopback. Whoever is on the way can take the cookie and be that person."`
	UnsafePlainAuthURL   bool `name:"unsafe-plain-auth-url" group:"Unsafe" help:"Allow a plain http auth-url beyond loopback. Whoever is on the way reads passwords and tokens."`
}

// EnvPrefix begins the name of each of the broker's environment variables.
const EnvPrefix = "CLOAKROOM_"

// Schema returns the list of the broker's settings.
func Schema() *schema.Schema { return schema.Of(&Settings{}, EnvPrefix, schema.WithYAML) }

// Defaults returns the settings with their defaults alone. They are not
// complete: there is no default for the auth server, the routes and the key.
func Defaults() Settings {
	var s Settings
	Schema().Defaults(&s)
	return s
}

// Load reads the settings. The error is schema.Problems with everything that is
// wrong, and then the settings are not for use. The values, for people to look
// at, are there in either case.
func Load(in schema.Input) (Settings, []schema.Value, error) {
	var s Settings
	l := Schema().Load(&s, in)
	if s.AuthIssuer == "" && s.AuthURL != nil {
		s.AuthIssuer = s.AuthURL.String()
	}
	completeRoutes(s.Routes, l)
	check(s, l)
	return s, l.Values(), l.Err()
}
