package routes

import (
	"context"
	"errors"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/domain"
	"cloakroom/usecase"
)

// Forward-auth: a proxy that is not ours asks, for each request of a browser,
// whether it may pass and with which token. The token is in a header of our
// answer, which the proxy puts into the request to its upstream. So that no
// browser ever gets such an answer, it is given on a listener of its own, which
// only the proxy can reach, and there to trusted proxies alone: a browser's own
// request for /auth/check, which the proxy hands on like any other request for
// a page of ours, comes to the other listener, where there is no such path.
const (
	checkPath   = "/check"
	refusalPath = "/refusal"
)

var (
	errNotAProxy  = &refusal{403, "not_a_proxy", "Only the proxies that are configured as trusted may ask this."}
	errNotAsked   = &refusal{400, "bad_check", "The proxy does not say, or says in two ways, which request it asks about. Its configuration has to be mended; see docs/forward-auth.md."}
	errOtherHost  = &refusal{403, "foreign_host", "Nobody can be signed in at this host, because the sign-in belongs to another. Its operator has to look into it."}
	errBoundToken = &refusal{403, "bound_token", "This sign-in's token can be used by this service alone, and is handed to no other."}
	errAllowedNow = errors.New("allowed now")
)

// asked is the request that an answer is about: as a rule the one at hand, and
// with forward-auth the browser's, of which a proxy speaks.
type asked struct {
	method string
	target string // "" if the proxy does not say
	proxy  bool
	// bare says that only our answer's status reaches the browser, and that the
	// proxy understands no other refusals than 401 and 403. That is nginx, which
	// comes back for an answer that can be shown.
	bare bool
}

const askedKey = "cloakroom.asked"

func askedFor(c *fiber.Ctx) asked {
	if about, ok := c.Locals(askedKey).(asked); ok {
		return about
	}
	return asked{method: c.Method(), target: string(c.Request().RequestURI())}
}

// MountCheck adds forward-auth to app, whose error handler is to be h.Error. It
// has to be another app than Mount's, on a listener that browsers do not reach.
func (h *Handlers) MountCheck(app *fiber.App) { app.Use(h.begin, h.check) }

// check answers 200 with what the upstream's request is to have, or refuses. A
// proxy goes by the status, so nothing but that is 2xx.
func (h *handlers) check(c *fiber.Ctx) error {
	if !h.trustedPeer(c) {
		return errNotAProxy
	}
	path, _, _ := strings.Cut(string(c.Request().Header.RequestURI()), "?")
	path, ours := strings.CutPrefix(path, h.Prefix)
	forRefusal := path == refusalPath
	if !ours || path != checkPath && !forRefusal && !strings.HasPrefix(path, checkPath+"/") {
		return errNotFound
	}
	about, err := h.whatIsAsked(c, path)
	if err != nil {
		return err
	}
	about.bare = about.bare && !forRefusal
	c.Locals(askedKey, about)
	if host := c.Get(fiber.HeaderXForwardedHost); host != "" && !strings.EqualFold(host, h.publicHost(c, "")) {
		return errOtherHost
	}
	ctx, cancel := context.WithTimeout(c.UserContext(), ownDeadline)
	defer cancel()
	s, cookies, err := h.mayPass(ctx, c, about.method)
	switch {
	case err != nil:
		return err
	case forRefusal:
		return errAllowedNow
	}
	h.allow(c, s.Record, cookies)
	return nil
}

// whatIsAsked reads how the four proxies say which request they ask about: nginx
// by X-Original-Method, Traefik and Caddy by X-Forwarded-Method, and Envoy by
// using its method and path as its own. Who says it in two ways may have let
// one of them through from the browser, so that is refused.
func (h *handlers) whatIsAsked(c *fiber.Ctx, path string) (asked, error) {
	in := &c.Request().Header
	forwarded, original := in.PeekAll("X-Forwarded-Method"), in.PeekAll("X-Original-Method")
	if rest, ok := strings.CutPrefix(path, checkPath+"/"); ok {
		if len(forwarded)+len(original) > 0 {
			return asked{}, errNotAsked
		}
		a := asked{method: c.Method(), target: "/" + rest, proxy: true}
		if _, query, ok := strings.Cut(string(in.RequestURI()), "?"); ok {
			a.target += "?" + query
		}
		return a, nil
	}
	a, uri := asked{proxy: true}, "X-Forwarded-Uri"
	switch {
	case len(forwarded) == 1 && len(original) == 0:
		a.method = string(forwarded[0])
	case len(original) == 1 && len(forwarded) == 0:
		a.method, a.bare, uri = string(original[0]), true, "X-Original-Uri"
	}
	if a.method == "" {
		return asked{}, errNotAsked
	}
	if uris := in.PeekAll(uri); len(uris) == 1 {
		a.target = string(uris[0])
	}
	return a, nil
}

// mayPass applies the rules of our own proxy to a request that is another's to
// pass on, and returns the cookies that may go with it.
func (h *handlers) mayPass(ctx context.Context, c *fiber.Ctx, method string) (usecase.Session, string, error) {
	ticket, cookies, err := h.cookies(c)
	if err != nil {
		return usecase.Session{}, "", err
	}
	if ticket != "" && (!safeMethod(method) || opensSocket(c)) {
		if err := h.fromOurs(c); err != nil {
			return usecase.Session{}, "", err
		}
	}
	s, err := h.broker.AccessToken(ctx, usecase.Visit{Ticket: ticket, IP: h.clientIP(c).String()})
	if err == nil && bound(s.Record.Tokens) {
		err = errBoundToken
	}
	return s, cookies, err
}

// opensSocket reports whether a browser asks for a WebSocket. Proxies keep the
// field Upgrade to themselves, and hand on those that no script can set. Over
// HTTP/2 there is no key, and Envoy tells of such a request as a GET (RFC 8441,
// section 5).
func opensSocket(c *fiber.Ctx) bool {
	return c.Get(fiber.HeaderUpgrade) != "" || c.Get(fiber.HeaderSecWebSocketKey) != "" || c.Get(fiber.HeaderSecWebSocketVersion) != ""
}

// allow writes what the upstream's request is to have in the place of what the
// browser sent. A field without a value is there as well, because some proxies
// would let the browser's own pass otherwise.
func (h *handlers) allow(c *fiber.Ctx, r domain.Record, cookies string) {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderAuthorization, "Bearer "+r.Tokens.Access.Reveal())
	c.Set(fiber.HeaderCookie, cookies)
	c.Set("X-Auth-Request-User", fieldText(r.Owner.Subject))
	c.Set("X-Auth-Request-Issuer", fieldText(r.Owner.Issuer))
	c.Set("X-Auth-Request-Email", emailText(r))
	c.Set("X-Auth-Request-Groups", groupsText(r))
	setDate(&c.Response().Header, string(fasthttp.AppendHTTPDate(nil, h.Now())))
}
