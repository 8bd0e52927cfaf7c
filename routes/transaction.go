package routes

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
)

// pending is a sign-in, or a logout, that a browser is at a provider for. It
// lives in a sealed cookie of that browser alone: whoever is sent a link to a
// callback has no such cookie, and whoever plants one cannot have sealed it. Each
// has a cookie of its own, named after its state, so that several tabs can be
// under way at once.
type pending struct {
	domain.Transaction
	ReturnTo string        `json:"r,omitempty"`
	Remember bool          `json:"k,omitempty"`
	Owner    *domain.Owner `json:"o,omitempty"` // who is to prove once more to be there; else nil
	Logout   bool          `json:"l,omitempty"` // it is a logout
}

const (
	// workCookie begins the names of all cookies of ours but the device's.
	workCookie = "cloakroom_"
	// maxPending is how many sign-ins a browser may have under way. What is
	// older gives way, so that no amount of clicks makes the header too long.
	maxPending = 4
	// longestReturn keeps a cookie within what browsers take.
	longestReturn = 1 << 10
)

// pendingName names the cookie of a state. The state itself is no secret to the
// browser, but the whole of it would make long names.
func (h *handlers) pendingName(state string) string {
	sum := sha256.Sum256([]byte(state))
	name := workCookie + base64.RawURLEncoding.EncodeToString(sum[:12])
	if h.SecureCookie {
		return "__Host-" + name
	}
	return name
}

// isWorkCookie reports whether a cookie is one that pendingName names.
func isWorkCookie(name string) bool {
	return strings.HasPrefix(strings.TrimPrefix(name, "__Host-"), workCookie)
}

// keepPending gives the browser the cookie of p.
func (h *handlers) keepPending(c *fiber.Ctx, p pending) error {
	if len(p.ReturnTo) > longestReturn {
		p.ReturnTo = ""
	}
	var text strings.Builder
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // of each ampersand it would make six bytes
	if err := e.Encode(p); err != nil {
		return fmt.Errorf("keep a sign-in: %w", err)
	}
	name := h.pendingName(p.State)
	sealed, err := h.Seal.Seal(domain.NewSecret(text.String()), domain.DeviceID{}, name)
	if err != nil {
		return fmt.Errorf("keep a sign-in: %w", err)
	}
	h.dropOldPending(c)
	h.writeWorkCookie(c, name, base64.RawURLEncoding.EncodeToString(sealed), oidc.TransactionLife)
	return nil
}

// takePending returns what the browser has under way for a state, and takes the
// cookie back. That it has nothing, or something else, is the failure that a
// page explains.
func (h *handlers) takePending(c *fiber.Ctx, state string) (pending, error) {
	name := h.pendingName(state)
	var p pending
	found := false
	for key, value := range workCookies(c) {
		if key == name {
			if found {
				return pending{}, errTwoTickets
			}
			p, found = h.openPending(name, value)
		}
	}
	if !found || p.State != state {
		return pending{}, &domain.SignInFailure{Reason: domain.SignInMismatch, Err: fmt.Errorf("%w: this browser has no sign-in under way that the answer could be to", domain.ErrBadInput)}
	}
	h.writeWorkCookie(c, name, "", 0)
	return p, nil
}

// openPending returns what a cookie holds, if it was sealed here under this name.
func (h *handlers) openPending(name, value string) (p pending, ok bool) {
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil {
		return pending{}, false
	}
	text, err := h.Seal.Open(sealed, domain.DeviceID{}, name)
	if err != nil {
		return pending{}, false
	}
	return p, json.Unmarshal([]byte(text.Reveal()), &p) == nil
}

// dropOldPending makes room for one more: what is over or cannot be opened goes,
// and then the oldest.
func (h *handlers) dropOldPending(c *fiber.Ctx) {
	now := domain.Now(h.Now)
	type kept struct {
		name    string
		started time.Time
	}
	var live []kept
	for name, value := range workCookies(c) {
		p, ok := h.openPending(name, value)
		if !ok || now.Sub(p.Started) > oidc.TransactionLife {
			h.writeWorkCookie(c, name, "", 0)
			continue
		}
		live = append(live, kept{name, p.Started})
	}
	for len(live) >= maxPending {
		oldest := 0
		for i := range live {
			if live[i].started.Before(live[oldest].started) {
				oldest = i
			}
		}
		h.writeWorkCookie(c, live[oldest].name, "", 0)
		live = append(live[:oldest], live[oldest+1:]...)
	}
}

// mostWorkCookies bounds how many are looked at.
const mostWorkCookies = 16

// workCookies yields the names and values of the request's cookies that
// pendingName could have named. The strings are copies.
func workCookies(c *fiber.Ctx) func(yield func(name, value string) bool) {
	return func(yield func(name, value string) bool) {
		seen := 0
		for _, header := range c.Request().Header.PeekAll(fiber.HeaderCookie) {
			for pair := range strings.SplitSeq(string(header), ";") {
				name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
				if !isWorkCookie(name) {
					continue
				}
				if seen++; seen > mostWorkCookies || !yield(name, value) {
					return
				}
			}
		}
	}
}

// writeWorkCookie sets a cookie for a while, or takes it back with life 0. It is
// Lax, whatever the device's: it has to come along when a provider sends the
// browser back (RFC 6265bis, section 5.6.7.1).
func (h *handlers) writeWorkCookie(c *fiber.Ctx, name, value string, life time.Duration) {
	cookie := fasthttp.AcquireCookie()
	defer fasthttp.ReleaseCookie(cookie)
	cookie.SetKey(name)
	cookie.SetValue(value)
	cookie.SetPath("/")
	cookie.SetHTTPOnly(true)
	cookie.SetSecure(h.SecureCookie)
	cookie.SetSameSite(fasthttp.CookieSameSiteLaxMode)
	if life > 0 {
		cookie.SetMaxAge(int(life / time.Second))
	} else {
		cookie.SetExpire(fasthttp.CookieExpireDelete)
	}
	c.Response().Header.SetCookie(cookie)
	c.Set(fiber.HeaderCacheControl, "no-store")
}
