package routes

import (
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"cloakroom/infra/upstream"
)

const (
	// corsMethods is what pages of configured origins may do.
	corsMethods = "GET, HEAD, POST, PUT, PATCH, DELETE"
	// corsMaxAge is for how long a browser needs not ask again, in seconds. What
	// it was told may have become untrue by a restart.
	corsMaxAge = "600"
)

// configuredOrigin is the origin that a request comes from, if it is one of those
// that are configured beside ours. It is the configuration's text and not the
// request's: no origin is ever handed back because it asked.
func (h *handlers) configuredOrigin(c *fiber.Ctx) string {
	if len(h.AllowedOrigins) == 0 {
		return ""
	}
	i := slices.Index(h.AllowedOrigins, c.Get(fiber.HeaderOrigin))
	if i < 0 {
		return ""
	}
	return h.AllowedOrigins[i]
}

// preflight answers what a browser asks before a page of a configured origin may
// send a request that no form could, whatever path it is for. No session and no
// upstream is asked: the question comes without the cookie. Other OPTIONS requests
// go their way, and so do preflights from elsewhere.
func (h *handlers) preflight(c *fiber.Ctx) error {
	if c.Method() != fiber.MethodOptions || c.Get(fiber.HeaderAccessControlRequestMethod) == "" || h.configuredOrigin(c) == "" {
		return c.Next()
	}
	c.Set(fiber.HeaderAccessControlAllowMethods, corsMethods)
	if asked := corsHeaders(c.Get(fiber.HeaderAccessControlRequestHeaders)); asked != "" {
		c.Set(fiber.HeaderAccessControlAllowHeaders, asked)
	}
	c.Set(fiber.HeaderAccessControlMaxAge, corsMaxAge)
	c.Set(fiber.HeaderVary, "Access-Control-Request-Method, Access-Control-Request-Headers")
	h.insistOnTLS(&c.Response().Header)
	return c.SendStatus(fiber.StatusNoContent)
}

// corsHeaders are those of the names asked for that would pass. A browser sends
// nothing at all then if the page wants one that would not, which tells its author
// more than a header that gets lost on the way.
func corsHeaders(asked string) string {
	var allowed []string
	for name := range strings.SplitSeq(asked, ",") {
		if name = strings.Trim(name, " \t"); upstream.PassesRequest(name) {
			allowed = append(allowed, name)
		}
	}
	return strings.Join(allowed, ", ")
}

// allowOrigin lets pages of a configured origin read the answer, whoever made it.
// It is the last word on an answer's header: what an upstream says of it to such
// an origin was said without knowing of our cookie.
func (h *handlers) allowOrigin(c *fiber.Ctx) {
	if len(h.AllowedOrigins) == 0 {
		return
	}
	header := &c.Response().Header
	// A cache must not give the answer for one origin to another.
	addToken(header, fiber.HeaderVary, "Origin")
	origin := h.configuredOrigin(c)
	if origin == "" {
		return
	}
	header.Del(fiber.HeaderAccessControlAllowOrigin)
	header.Del(fiber.HeaderAccessControlAllowCredentials)
	header.Set(fiber.HeaderAccessControlAllowOrigin, origin)
	header.Set(fiber.HeaderAccessControlAllowCredentials, "true")
	addToken(header, fiber.HeaderAccessControlExposeHeaders, headerRequestID)
}
