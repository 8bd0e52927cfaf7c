// Package routes is the broker's HTTP surface on Fiber: every path of ours, the
// device cookie, the checks that a request passes on its way, and the proxy
// that all other paths lead to. A handler parses, calls one use case and
// writes; it returns its error, and errors.go makes the answer of it.
//
// What happens to devices and tokens is package usecase's business, what pages
// look like is package web's, and how bytes reach an upstream is
// infra/upstream's.
package routes

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/infra/dpop"
	"cloakroom/infra/metrics"
	"cloakroom/infra/seal"
	"cloakroom/infra/tunnel"
	"cloakroom/routes/web"
	"cloakroom/usecase"
)

// Config is how the surface shows itself. The zero value of a field means that
// it is off, but for the fields marked as needed.
type Config struct {
	Prefix         string         // needed: where our own paths are, "/auth" as a rule
	PublicOrigin   string         // what browsers see, "https://app.example.com"; "" on loopback: as the request says
	AllowedOrigins []string       // origins beside ours whose pages may send requests of any kind, and read the answers
	TrustedProxies []netip.Prefix // peers whose X-Forwarded-For is believed
	SecureCookie   bool           // browsers reach us over TLS
	HSTS           string         // Strict-Transport-Security of every answer, an upstream's too; "" for none
	SameSiteStrict bool           // SameSite=Strict instead of Lax
	Registration   bool           // the auth server registers people
	NoPasswords    bool           // nobody signs in by a password here: there are Providers alone
	Providers      []Provider     // whom people can sign in with
	// Seal is what the cookies of sign-ins under way are sealed with; needed if
	// there are Providers. All replicas have the same keys.
	Seal *seal.Keyring
	// AbsoluteLifetime is how long a sign-in can last: needed, for the cookie
	// of those who want to be remembered.
	AbsoluteLifetime time.Duration
	// Tunnel is for how long a WebSocket waits for what.
	Tunnel  tunnel.Config
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *metrics.Metrics // nil: nobody counts
}

// Handlers is the surface, ready to be mounted.
type Handlers struct{ handlers }

type handlers struct {
	Config
	broker     *usecase.Broker
	pages      *web.Pages
	table      atomic.Pointer[Table]
	scopes     scopes
	underway   live
	tunnels    hijacked // that have switched protocols
	untilClose hijacked // answers to HTTP/1.0 whose end is the connection's
	draining   atomic.Bool
	nonces     dpop.Nonces // of upstreams
}

// New returns the surface over a broker and the table of upstreams.
func New(broker *usecase.Broker, pages *web.Pages, table *Table, c Config) *Handlers {
	h := &Handlers{}
	h.Config, h.broker, h.pages = c, broker, pages
	h.SetTable(table)
	return h
}

// Mount adds every path to app, whose error handler is to be h.Error.
func (h *Handlers) Mount(app *fiber.App) {
	app.Use(h.begin, h.preflight, h.checkOrigin, h.own)

	app.Get("/health/live", h.live)
	app.Get("/health/ready", h.ready)

	auth := app.Group(h.Prefix)
	auth.Get("/login", h.loginPage)
	if !h.NoPasswords {
		auth.Post("/login", h.login)
	}
	if len(h.Providers) > 0 {
		auth.Get("/login/:provider", h.startLink)
		auth.Post("/login/:provider", h.startForm)
		auth.Get("/login/:provider/icon", h.icon)
		auth.Post("/login/:provider/credential", h.credential)
		auth.Get("/callback/:provider", h.callback)
		auth.Get("/logout/done", h.logoutDone)
		auth.Post("/backchannel-logout", h.backchannelLogout)
	}
	auth.Get("/reauthenticate", h.reauthenticatePage)
	auth.Post("/reauthenticate", h.reauthenticate)
	if h.Registration {
		auth.Get("/register", h.registerPage)
		auth.Post("/register", h.register)
	}
	auth.Get("/logout", h.logoutPage)
	auth.Post("/logout", h.logout)
	auth.Get("/session", h.session)

	auth.Get("/devices", h.devices)
	auth.Delete("/devices", h.signOutMany)
	auth.Patch("/devices/:id", h.rename)
	auth.Delete("/devices/:id", h.signOut)
	// A form can only POST.
	auth.Get("/devices/sign-out-others", h.confirmSignOutOthers)
	auth.Get("/devices/sign-out-all", h.confirmSignOutAll)
	auth.Post("/devices/sign-out-others", h.signOutOthersForm)
	auth.Post("/devices/sign-out-all", h.signOutAllForm)
	auth.Post("/devices/:id/rename", h.renameForm)
	auth.Get("/devices/:id/sign-out", h.confirmSignOut)
	auth.Post("/devices/:id/sign-out", h.signOutForm)

	auth.Get("/static/:name", h.static)
	app.Use(h.noSuchPath, h.proxy)
}

// Drain makes the readiness check fail, so that whoever balances load sends
// new requests elsewhere.
func (h *Handlers) Drain() { h.draining.Store(true) }

// noSuchPath answers what is ours and nothing has matched, with 405 if it is
// there for another method. The proxy must never see it.
func (h *handlers) noSuchPath(c *fiber.Ctx) error {
	if !h.isOwn(c.Path()) {
		return c.Next()
	}
	var allow []string
	for _, routes := range c.App().Stack() { // one list for each method
		if slices.ContainsFunc(routes, func(r *fiber.Route) bool {
			return h.isOwn(r.Path) && fiber.RoutePatternMatch(c.Path(), r.Path, c.App().Config())
		}) {
			allow = append(allow, routes[0].Method)
		}
	}
	if len(allow) == 0 {
		return errNotFound
	}
	return &methodNotAllowed{strings.Join(allow, ", ")}
}

func (h *handlers) static(c *fiber.Ctx) error {
	body, contentType, etag, ok := h.pages.Static(c.Params("name"))
	if !ok {
		return errNotFound
	}
	c.Set(fiber.HeaderETag, etag)
	c.Set(fiber.HeaderContentType, contentType)
	return c.Send(body)
}
