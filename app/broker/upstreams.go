package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"strings"
	"time"

	"cloakroom/infra/settings"
	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/h1"
	"cloakroom/routes"
)

// reach is how a service is reached. Routes with the same one share the
// connections, and a reload keeps them.
type reach struct {
	addresses          string // as in the settings, separated by spaces
	connect, firstByte time.Duration
	ca                 string
	healthPath         string
	healthInterval     time.Duration
}

// upstreams are the engines that a table's routes use.
type upstreams map[reach]engine

type engine interface {
	upstream.Engine
	Close()
}

// newTable makes a table of the routes and the engines that it needs. Those of
// before that it still needs are taken over with their connections.
func newTable(s settings.Settings, before upstreams, log *slog.Logger) (*routes.Table, upstreams, error) {
	engines := upstreams{}
	list := make([]routes.Route, 0, len(s.Routes))
	for _, r := range s.Routes {
		key := reachOf(r, s.UpstreamHeaderTimeout)
		e := engines[key]
		if e == nil {
			e = before[key]
		}
		if e == nil {
			e = newEngine(r, key, log)
		}
		engines[key] = e
		list = append(list, tableRoute(r, key.firstByte, e))
	}
	table, err := routes.NewTable(list)
	if err != nil {
		engines.closeBut(before)
		return nil, nil, err
	}
	return table, engines, nil
}

// closeBut closes every engine that others do not have.
func (u upstreams) closeBut(others upstreams) {
	for key, e := range u {
		if others[key] == nil {
			e.Close()
		}
	}
}

func reachOf(r settings.Route, headerTimeout time.Duration) reach {
	addresses := make([]string, len(r.Upstreams))
	for i, u := range r.Upstreams {
		addresses[i] = u.String()
	}
	if r.FirstByteTimeout != nil {
		headerTimeout = *r.FirstByteTimeout
	}
	return reach{
		addresses: strings.Join(addresses, " "),
		connect:   r.ConnectTimeout, firstByte: headerTimeout,
		ca: r.CA, healthPath: r.HealthPath, healthInterval: r.HealthInterval,
	}
}

// newEngine returns the engine of one address, or of several.
func newEngine(r settings.Route, key reach, log *slog.Logger) engine {
	addresses := make([]upstream.Address, len(r.Upstreams))
	for i, u := range r.Upstreams {
		c := upstream.Config{
			ConnectTimeout: key.connect,
			HeaderTimeout:  cmp.Or(key.firstByte, -1), // 0 is for none here and for the default there
			H2C:            u.Scheme == "h2c",
		}
		if u.Scheme == "unix" {
			c.Socket = u.Path
		}
		if key.ca != "" {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM([]byte(key.ca))
			c.TLS = &tls.Config{RootCAs: roots}
		}
		addresses[i] = upstream.Address{Name: u.String(), Target: u.Target(), Engine: engineOf(c)}
	}
	if len(addresses) == 1 {
		return addresses[0].Engine.(engine)
	}
	return upstream.NewBalance(upstream.BalanceConfig{HealthPath: key.healthPath, HealthInterval: key.healthInterval, Log: log}, addresses...)
}

// engineOf returns the engine that is fit for each request: the lean one where
// HTTP/1.1 is spoken.
func engineOf(c upstream.Config) engine {
	lean := h1.Config{
		ConnectTimeout: c.ConnectTimeout, HeaderTimeout: c.HeaderTimeout, IdleTimeout: c.IdleTimeout, MaxIdlePerHost: c.MaxIdlePerHost,
		TLS: c.TLS, OfferHTTP2: true,
	}
	if c.Socket != "" {
		lean.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		}
	}
	return &upstream.Choice{HTTP1: h1.New(lean), HTTP2: upstream.NewTransport(c)}
}

func tableRoute(r settings.Route, firstByte time.Duration, e engine) routes.Route {
	out := routes.Route{
		Route: upstream.Route{
			Hosts: r.Hosts, Prefix: r.Prefix, Target: r.Upstreams[0].Target(), StripPrefix: r.StripPrefix, Rewrite: r.RewritePrefix,
		},
		Engine:            e,
		Auth:              map[string]routes.Auth{settings.AuthOptional: routes.AuthOptional, settings.AuthNone: routes.AuthNone}[r.Auth],
		PassAuthorization: r.PassAuthorization,
		CSRF:              map[string]routes.CSRF{settings.CSRFOff: routes.CSRFOff, settings.CSRFHeader: routes.CSRFHeader}[r.CSRF],
		Roles:             r.Roles,
		Scopes:            r.Scopes,
		Methods:           r.Methods,
		MaxBody:           int64(r.MaxBody),
		IdleTimeout:       r.IdleTimeout,
		FirstByteTimeout:  firstByte,
		HideHeaders:       r.HideHeaders,
	}
	for _, name := range r.IdentityHeaders {
		out.Identity |= map[string]routes.Identity{
			"user": routes.IdentityUser, "email": routes.IdentityEmail, "groups": routes.IdentityGroups, "issuer": routes.IdentityIssuer,
		}[name]
	}
	for _, h := range r.SetHeaders {
		out.SetHeaders = append(out.SetHeaders, upstream.Field{Name: h.Name, Value: h.Value.Reveal()})
	}
	return out
}
