package routes

import (
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/domain"
	"cloakroom/usecase"
)

// The device cookie's two names. Browsers take a "__Host-" cookie only over
// TLS, for the whole site and without a Domain, so that neither a plain
// connection nor a neighbouring host can plant one. On plain loopback they
// would refuse it, hence the other name.
const (
	secureCookieName = "__Host-device_id"
	plainCookieName  = "device_id"
)

func (c Config) cookieName() string {
	if c.SecureCookie {
		return secureCookieName
	}
	return plainCookieName
}

// cookies splits the request's Cookie header into our ticket, "" if there is
// none, and all the rest, which is what an upstream may see. Two cookies of our
// name are errTwoTickets: one of them was planted, and there is no telling which.
// The strings are copies.
func (h *handlers) cookies(c *fiber.Ctx) (ticket, rest string, err error) {
	var raw []byte
	for i, v := range c.Request().Header.PeekAll(fiber.HeaderCookie) {
		if i > 0 {
			raw = append(raw, "; "...)
		}
		raw = append(raw, v...)
	}
	return splitCookies(string(raw), h.cookieName())
}

// cookieSpace is what some readers trim around a cookie's name. No line break gets
// here, but this is not the place to rely on that.
const cookieSpace = " \t\r\n"

func splitCookies(header, name string) (ticket, rest string, err error) {
	if !strings.Contains(header, name) && !strings.Contains(header, workCookie) {
		return "", header, nil
	}
	var kept strings.Builder
	found := false
	for pair := range strings.SplitSeq(header, ";") {
		pair = strings.Trim(pair, cookieSpace)
		if pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		if strings.TrimRight(key, cookieSpace) == name {
			if found {
				return "", "", errTwoTickets
			}
			found, ticket = true, strings.TrimLeft(value, cookieSpace)
			continue
		}
		if isWorkCookie(key) {
			continue
		}
		if kept.Len() > 0 {
			kept.WriteString("; ")
		}
		kept.WriteString(pair)
	}
	rest = kept.String()
	if strings.Contains(rest, ticket) {
		if _, err := domain.ParseTicket(ticket); err == nil {
			// Some other cookie's value repeats the ticket; it must not get out.
			return "", "", errTwoTickets
		}
	}
	return ticket, rest, nil
}

// visit is how the request shows itself to the use cases.
func (h *handlers) visit(c *fiber.Ctx) (usecase.Visit, error) {
	ticket, _, err := h.cookies(c)
	return usecase.Visit{Ticket: ticket, IP: h.clientIP(c).String()}, err
}

// setCookie hands the ticket to the browser. A persistent one lasts for as long
// as the sign-in possibly can. The record may end before it, and then the ticket
// opens nothing; if it went the other way, a device in use would be signed out.
func (h *handlers) setCookie(c *fiber.Ctx, ticket string, r domain.Record) {
	maxAge := 0
	if r.Persistent {
		maxAge = int(h.AbsoluteLifetime / time.Second)
	}
	h.writeCookie(c, ticket, maxAge)
}

// clearCookie takes the cookie from the browser.
func (h *handlers) clearCookie(c *fiber.Ctx) { h.writeCookie(c, "", -1) }

// writeCookie sets the cookie for maxAge seconds; 0 is until the browser ends,
// less than 0 clears it.
func (h *handlers) writeCookie(c *fiber.Ctx, value string, maxAge int) {
	cookie := fasthttp.AcquireCookie()
	defer fasthttp.ReleaseCookie(cookie)
	cookie.SetKey(h.cookieName())
	cookie.SetValue(value)
	cookie.SetPath("/")
	cookie.SetHTTPOnly(true)
	cookie.SetSecure(h.SecureCookie)
	cookie.SetSameSite(fasthttp.CookieSameSiteLaxMode)
	if h.SameSiteStrict {
		cookie.SetSameSite(fasthttp.CookieSameSiteStrictMode)
	}
	switch {
	case maxAge > 0:
		cookie.SetMaxAge(maxAge)
	case maxAge < 0:
		cookie.SetExpire(fasthttp.CookieExpireDelete)
	}
	c.Response().Header.SetCookie(cookie)
	c.Set(fiber.HeaderCacheControl, "no-store")
}
