package routes

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
	"cloakroom/routes/web"
)

// logoutPage shows a button. A GET that signs out could be planted as a picture.
func (h *handlers) logoutPage(c *fiber.Ctx) error {
	return h.confirm(c, "Log out of this device?", "This browser is signed out at once. Your other devices stay signed in.", "/logout", "Log out")
}

// logout ends this device. That it is not signed in is as good.
func (h *handlers) logout(c *fiber.Ctx) error {
	v, err := h.visit(c)
	if err != nil {
		return err
	}
	s, err := h.broker.Open(c.UserContext(), v)
	if err == nil {
		err = h.broker.SignOut(c.UserContext(), s.Record, s.Record.DeviceID)
	}
	switch {
	case err == nil, errors.Is(err, domain.ErrNoTicket), errors.Is(err, domain.ErrBadTicket),
		errors.Is(err, domain.ErrSignedOut), errors.Is(err, domain.ErrNotFound):
	default:
		return err
	}
	return h.gone(c, s.Record)
}

// gone answers after this device, whose record was rec, was signed out: a
// script gets 204, and a person goes on to log out at the provider as well, or
// to the login page.
func (h *handlers) gone(c *fiber.Ctx, rec domain.Record) error {
	h.clearCookie(c)
	if !wantsPage(c) {
		return c.SendStatus(fiber.StatusNoContent)
	}
	if address, title := h.logoutAtProvider(c, rec); !address.Empty() {
		// The one place where a token is in an address: the standard has the ID
		// token there (OpenID Connect RP-Initiated Logout 1.0, section 2), and
		// without it providers ask the person once more. It opens nothing: where
		// it could, it is left out. In a form that the page sends by
		// itself it would stay out of the address, but a form from another site
		// does not bring the provider's cookies along, so that nobody would be
		// signed out there. It is in a header alone, never in the page.
		return h.leadOn(c, address.Reveal(), "You are signed out here. You are being taken to "+title+", to be signed out there as well.")
	}
	return c.Redirect(h.Prefix+"/login", fiber.StatusSeeOther)
}

// logoutWait bounds how long somebody who is signed out here waits to hear
// whether the provider can do the same.
const logoutWait = 3 * time.Second

// logoutAtProvider returns where the person of a record that has just ended can
// be signed out at the provider too, or nothing.
func (h *handlers) logoutAtProvider(c *fiber.Ctx, rec domain.Record) (address domain.Secret, title string) {
	p, err := h.providerNamed(rec.Provider)
	if err != nil || p.KeepSession || rec.Tokens.ID.Empty() {
		return domain.Secret{}, ""
	}
	origin, err := h.origin(c)
	if err != nil {
		return domain.Secret{}, ""
	}
	var random [16]byte
	_, _ = rand.Read(random[:])
	out := pending{Logout: true}
	out.Provider, out.State, out.Started = p.Name(), base64.RawURLEncoding.EncodeToString(random[:]), domain.Now(h.Now)
	ctx, cancel := context.WithTimeout(c.UserContext(), logoutWait)
	defer cancel()
	address, err = p.LogoutURL(ctx, oidc.LogoutRequest{
		IDToken: rec.Tokens.ID, RedirectURI: origin + h.Prefix + "/logout/done", State: out.State,
		SignsIn: p.TakesCredentials || p.Exchange != nil,
	})
	if err == nil && !address.Empty() {
		err = h.keepPending(c, out)
	}
	if err != nil {
		h.Log.WarnContext(c.UserContext(), "signed out here and not at the provider", "provider", p.Name(), "error", err)
		return domain.Secret{}, ""
	}
	return address, p.Title
}

// logoutDone is where a provider sends people back to. What it says of the
// provider is true only for the browser that was sent there.
func (h *handlers) logoutDone(c *fiber.Ctx) error {
	page := web.MessagePage{Prefix: h.Prefix, Title: "You are logged out", Text: "This browser is signed out here.", Link: h.Prefix + "/login", LinkText: "Sign in again"}
	v, err := h.visit(c)
	if err != nil {
		return err
	}
	if _, err := h.broker.Open(c.UserContext(), v); err == nil {
		page.Title, page.Text = "You are signed in", "This browser is signed in here."
		page.Link, page.LinkText = h.Prefix+"/devices", "See your devices"
	} else if out, err := h.takePending(c, c.Query("state")); err == nil && out.Logout {
		page.Text = "This browser is signed out here and at " + h.methodTitle(out.Provider) + "."
	}
	return h.render(c, fiber.StatusOK, func(w *bytes.Buffer) error { return h.pages.Message(w, page) })
}
