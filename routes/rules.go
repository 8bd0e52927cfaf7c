package routes

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/infra/upstream"
	"cloakroom/usecase"
)

// admit finds out where a request goes, who sends it and what of its cookies may
// go along. It refuses what the route does not take, as far as that can be said
// before anybody is asked about a session.
func (h *handlers) admit(c *fiber.Ctx) (to destination, v usecase.Visit, cookies string, err error) {
	if to, err = h.destination(c); err != nil {
		return to, v, "", err
	}
	switch {
	case !to.takesMethod(c):
		return to, v, "", &methodNotAllowed{to.allow}
	case to.MaxBody > 0 && int64(c.Request().Header.ContentLength()) > to.MaxBody:
		return to, v, "", errTooLarge
	}
	v = usecase.Visit{IP: h.clientIP(c).String()}
	if v.Ticket, cookies, err = h.cookies(c); err != nil {
		return to, v, "", err
	}
	if v.Ticket != "" {
		if err := h.checkForgery(c, to.CSRF); err != nil {
			return to, v, "", err
		}
	}
	if to.Auth == AuthNone {
		v.Ticket = ""
	}
	return to, v, cookies, nil
}

// methodOverrides are what some frameworks take for a request's method in place of
// its own.
var methodOverrides = []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"}

// takesMethod reports whether the route takes the request's method, and those that
// an upstream may take for it.
func (r *Route) takesMethod(c *fiber.Ctx) bool {
	if len(r.Methods) == 0 {
		return true
	}
	for _, name := range methodOverrides {
		for _, method := range c.Request().Header.PeekAll(name) {
			if !slices.Contains(r.Methods, strings.ToUpper(string(method))) {
				return false
			}
		}
	}
	return slices.Contains(r.Methods, c.Method())
}

// checkForgery refuses a request with our cookie that another site may have
// caused.
func (h *handlers) checkForgery(c *fiber.Ctx, mode CSRF) error {
	switch {
	case mode == CSRFOff:
		return nil
	case mode == CSRFHeader && c.Get(headerCSRF) == "" && upgradeOf(c) == "":
		h.Metrics.CSRFRefused(errNoCSRFHeader.code)
		return errNoCSRFHeader
	case changesNothing(c):
		return nil
	}
	return h.fromOurs(c)
}

// signedIn returns whose request it is; ok is false if that is nobody and the
// route lets everybody in. Somebody is nobody only on the store's or the auth
// server's word. If they cannot be asked, the request fails: who is signed in is
// not to be shown what everybody sees, and take that for a sign-out.
func (h *handlers) signedIn(ctx context.Context, v usecase.Visit, r *Route) (s usecase.Session, ok bool, err error) {
	if r.Auth == AuthNone {
		return usecase.Session{}, false, nil
	}
	s, err = h.broker.AccessToken(ctx, v)
	if r.Auth == AuthOptional && (errors.Is(err, domain.ErrNoTicket) || errors.Is(err, domain.ErrBadTicket) || errors.Is(err, domain.ErrSignedOut)) {
		return usecase.Session{}, false, nil
	}
	if err == nil && !h.mayUse(r, s.Record) {
		err = errForbidden
	}
	return s, err == nil, err
}

// mayUse reports whether somebody has what a route asks for.
func (h *handlers) mayUse(r *Route, who domain.Record) bool {
	if len(r.Roles) > 0 && !slices.ContainsFunc(r.Roles, func(role string) bool { return slices.Contains(who.Roles, role) }) {
		return false
	}
	if len(r.Scopes) == 0 {
		return true
	}
	granted := h.scopes.of(who)
	return !slices.ContainsFunc(r.Scopes, func(scope string) bool { return !slices.Contains(granted, scope) })
}

// hides reports whether a field of an answer stays here.
func (r *Route) hides(name string) bool {
	return len(r.HideHeaders) > 0 && slices.ContainsFunc(r.HideHeaders, func(hidden string) bool { return strings.EqualFold(hidden, name) })
}

// Identity is a set of header fields that tell an upstream who is signed in.
type Identity uint8

const (
	IdentityUser   Identity = 1 << iota // X-Forwarded-User: the subject
	IdentityEmail                       // X-Forwarded-Email, if the address is verified
	IdentityGroups                      // X-Forwarded-Groups: the roles, separated by commas
	IdentityIssuer                      // X-Forwarded-Issuer: who vouches for the subject
)

// appendTo adds the fields that say who it is. A client's own of these names
// never pass, see upstream.RequestHeader.
func (i Identity) appendTo(header []upstream.Field, who domain.Record) []upstream.Field {
	add := func(name, value string) {
		if value != "" {
			header = append(header, upstream.Field{Name: name, Value: value})
		}
	}
	if i&IdentityUser != 0 {
		add("X-Forwarded-User", fieldText(who.Owner.Subject))
	}
	if i&IdentityEmail != 0 {
		add("X-Forwarded-Email", emailText(who))
	}
	if i&IdentityGroups != 0 {
		add("X-Forwarded-Groups", groupsText(who))
	}
	if i&IdentityIssuer != 0 {
		add("X-Forwarded-Issuer", fieldText(who.Owner.Issuer))
	}
	return header
}

// emailText is "" unless the address is verified: whoever goes by addresses must
// not be told one that somebody has only typed.
func emailText(who domain.Record) string {
	if !who.EmailVerified {
		return ""
	}
	return fieldText(who.Email)
}

func groupsText(who domain.Record) string {
	groups := make([]string, len(who.Roles))
	for i, role := range who.Roles {
		groups[i] = fieldText(role)
	}
	return strings.Join(groups, ",")
}

// fieldText makes a header's value of a name that somebody else has chosen. What
// is not visible ASCII, and the percent sign and the comma, are percent-encoded as
// in a URL: nothing can end the field or the element of a list, two names never
// become one, and decoding gives the name back.
func fieldText(s string) string {
	const hex = "0123456789ABCDEF"
	plain := func(c byte) bool { return c > ' ' && c < 0x7f && c != '%' && c != ',' }
	i := 0
	for i < len(s) && plain(s[i]) {
		i++
	}
	if i == len(s) {
		return s
	}
	out := append(make([]byte, 0, len(s)+16), s[:i]...)
	for _, c := range []byte(s[i:]) {
		if plain(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&0xf])
		}
	}
	return string(out)
}
