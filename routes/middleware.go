package routes

import (
	"context"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"cloakroom/infra/logging"
	"cloakroom/infra/upstream"
)

// ownDeadline is how long a request for one of our own paths may take, the
// calls to the store and the auth server included.
const ownDeadline = 30 * time.Second

const (
	headerRequestID = "X-Request-Id"
	headerCSRF      = "X-CSRF"
)

// requestLog gathers what the line about a request says. The line is written
// when the request ends: when its handler returns, or, once the proxy has
// called later, when the last byte of a streamed body is through.
type requestLog struct {
	h        *handlers
	ctx      context.Context
	start    time.Time
	method   string
	path     string // without the query, which may hold secrets
	address  string
	route    string // the prefix of the route that it is proxied by, or ""
	status   int
	deferred bool
}

const requestLogKey = "cloakroom.request_log"

// begin gives the request its id, its context and its log line.
func (h *handlers) begin(c *fiber.Ctx) error {
	line := h.newLine(c)
	return h.finish(c, line, c.Next())
}

// Expect decides about a request that waits for "100 Continue" before it sends
// its body: nobody should send a large one to be told afterwards to sign in.
// The request is checked once more when it is routed. It is fiberapp's Expect.
func (h *handlers) Expect(c *fiber.Ctx) (ok bool, err error) {
	line := h.newLine(c)
	if err := h.expected(c); err != nil {
		return false, h.finish(c, line, err)
	}
	return true, nil
}

// newLine begins a request's log line, and with it what goes by the request's id.
func (h *handlers) newLine(c *fiber.Ctx) *requestLog {
	id := c.Get(headerRequestID)
	if !plausibleRequestID(id) {
		id = uuid.NewString()
		c.Request().Header.Set(headerRequestID, id)
	}
	c.Set(headerRequestID, id)
	line := &requestLog{
		h:       h,
		ctx:     logging.With(context.Background(), slog.String("request", id)),
		start:   h.Now(),
		method:  c.Method(),
		path:    c.Path(),
		address: h.clientIP(c).String(),
	}
	c.SetUserContext(line.ctx)
	c.Locals(requestLogKey, line)
	return line
}

// finish answers err, if there is one, and ends what newLine has begun.
func (h *handlers) finish(c *fiber.Ctx, line *requestLog, err error) error {
	if err != nil {
		// Here and not by Fiber, so that the line has the answer's status.
		if err := h.Error(c, err); err != nil {
			return err
		}
	}
	h.allowOrigin(c)
	if !line.deferred {
		line.status = c.Response().StatusCode()
		line.end(nil)
	}
	return nil
}

// logLater takes the log line over from begin: it is written when end is
// called, which may be before the handler has returned. The status is set already.
func logLater(c *fiber.Ctx) *requestLog {
	line := c.Locals(requestLogKey).(*requestLog)
	line.deferred, line.status = true, c.Response().StatusCode()
	return line
}

// end writes the line. cause says why a streamed answer was cut short, if it was.
func (l *requestLog) end(cause error) {
	if l.route != "" {
		l.h.Metrics.Proxied(l.route, l.status)
	}
	attrs := []slog.Attr{
		slog.String("method", l.method),
		slog.String("path", l.path),
		slog.Int("status", l.status),
		slog.Duration("took", l.h.Now().Sub(l.start)),
		slog.String("address", l.address),
	}
	if cause != nil {
		attrs = append(attrs, slog.String("cut", cause.Error()))
	}
	l.h.Log.LogAttrs(l.ctx, slog.LevelInfo, "request", attrs...)
}

func plausibleRequestID(id string) bool {
	if len(id) < 8 || len(id) > 64 {
		return false
	}
	for _, r := range []byte(id) {
		if !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.') {
			return false
		}
	}
	return true
}

// checkOrigin refuses a request to a path of ours that changes something, unless
// it proves that it does not come from somebody else's page. Signing in is among
// what is refused, so that nobody is signed in as somebody else by a planted
// form. Of a route's requests the route says what they have to prove, see
// checkForgery.
func (h *handlers) checkOrigin(c *fiber.Ctx) error {
	if !h.isOwn(c.Path()) || changesNothing(c) || h.provesItself(c) {
		return c.Next()
	}
	if err := h.fromOurs(c); err != nil {
		return err
	}
	return c.Next()
}

// changesNothing reports whether a request is safe by its method (RFC 9110,
// section 9.2.1) and does not ask to switch protocols. What a page of somebody
// else's asks of a WebSocket it could read as well, because no browser holds it to
// CORS.
func changesNothing(c *fiber.Ctx) bool { return safeMethod(c.Method()) && upgradeOf(c) == "" }

// safeMethod is false for what is not known, too.
func safeMethod(method string) bool {
	return method == fiber.MethodGet || method == fiber.MethodHead || method == fiber.MethodOptions
}

// fromOurs refuses a request that does not prove that it does not come from
// somebody else's page: by an Origin that is ours, by the browser's word that the
// page is ours, or by a header that no page can send elsewhere without being
// asked first.
func (h *handlers) fromOurs(c *fiber.Ctx) error {
	if origin := c.Get(fiber.HeaderOrigin); origin != "" {
		if !h.ourOrigin(c, origin) {
			h.Metrics.CSRFRefused(errForeignOrigin.code)
			return errForeignOrigin
		}
		return nil
	}
	switch site := c.Get("Sec-Fetch-Site"); {
	case site == "same-origin", site == "none", site == "" && c.Get(headerCSRF) != "":
		return nil
	case site == "":
		h.Metrics.CSRFRefused(errNoOrigin.code)
		return errNoOrigin
	}
	h.Metrics.CSRFRefused(errForeignOrigin.code)
	return errForeignOrigin
}

// ourOrigin reports whether an Origin header names us or somebody we trust like
// ourselves. Without a public origin, which is possible on loopback alone, the
// Host header says who we are to this browser.
func (h *handlers) ourOrigin(c *fiber.Ctx, origin string) bool {
	for _, allowed := range h.AllowedOrigins {
		if origin == allowed {
			return true
		}
	}
	if h.PublicOrigin != "" {
		return origin == h.PublicOrigin
	}
	host := string(c.Request().Host())
	return isLoopbackHost(host) && origin == "http://"+host
}

func isLoopbackHost(host string) bool {
	u := url.URL{Host: host}
	if u.Hostname() == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(u.Hostname())
	return err == nil && addr.IsLoopback()
}

// isOwn reports whether a path is ours and not an upstream's.
func (h *handlers) isOwn(path string) bool {
	return path == h.Prefix || strings.HasPrefix(path, h.Prefix+"/") || path == "/health/live" || path == "/health/ready"
}

// own is what every answer of our own paths has in common. A group of Fiber's
// would not do: it goes by the prefix's characters and takes /authors for ours.
func (h *handlers) own(c *fiber.Ctx) error {
	if !h.isOwn(c.Path()) {
		return c.Next()
	}
	h.secure(c)
	setDate(&c.Response().Header, string(fasthttp.AppendHTTPDate(nil, h.Now())))
	ctx, cancel := context.WithTimeout(c.UserContext(), ownDeadline)
	defer cancel()
	c.SetUserContext(ctx)
	return c.Next()
}

// secure sets the headers of everything that we say ourselves. The referrer
// policy is not "no-referrer", because browsers would then send our own forms
// with the Origin "null".
func (h *handlers) secure(c *fiber.Ctx) {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderContentSecurityPolicy, contentPolicy)
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	c.Set(fiber.HeaderXFrameOptions, "DENY")
	c.Set(fiber.HeaderReferrerPolicy, "same-origin")
	c.Set("Cross-Origin-Opener-Policy", "same-origin")
	c.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.insistOnTLS(&c.Response().Header)
}

// insistOnTLS tells browsers to come over TLS alone, if that is how they reach us
// (RFC 6797, section 7.1).
func (h *handlers) insistOnTLS(out *fasthttp.ResponseHeader) {
	if h.HSTS != "" {
		out.Set(fiber.HeaderStrictTransportSecurity, h.HSTS)
	}
}

const contentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"

// trustedPeer reports whether the connection comes from a proxy that is
// configured as trusted.
func (h *handlers) trustedPeer(c *fiber.Ctx) bool {
	return h.trusted(peerAddr(c))
}

func (h *handlers) trusted(addr netip.Addr) bool {
	for _, p := range h.TrustedProxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func peerAddr(c *fiber.Ctx) netip.Addr {
	addr, _ := netip.AddrFromSlice(c.Context().RemoteIP())
	return addr.Unmap()
}

// clientIP is the browser's address: the peer's, or, behind trusted proxies,
// the last address in X-Forwarded-For that is not a trusted proxy's. What
// stands left of it was written by the client and may be anything.
func (h *handlers) clientIP(c *fiber.Ctx) netip.Addr {
	addr := peerAddr(c)
	if !h.trusted(addr) {
		return addr
	}
	var chain []string
	for _, v := range c.Request().Header.PeekAll(fiber.HeaderXForwardedFor) {
		chain = append(chain, strings.Split(string(v), ",")...)
	}
	for i := len(chain) - 1; i >= 0; i-- {
		next := upstream.ParseHop(strings.TrimSpace(chain[i]))
		if !next.IsValid() {
			break
		}
		if addr = next; !h.trusted(addr) {
			break
		}
	}
	return addr
}

// publicProto is the scheme that browsers use to reach us.
func (h *handlers) publicProto(*fiber.Ctx) string {
	if h.SecureCookie {
		return "https"
	}
	return "http"
}
