package routes

import (
	"bytes"
	"fmt"
	"net/url"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/routes/web"
	"cloakroom/usecase"
)

// proofMaxAge is how old a proof a provider may let pass that is asked for
// another. No time at all would leave none for the way back.
const proofMaxAge = time.Second

// promptLogin is the standard's way to have somebody sign in again although they
// are signed in (OpenID Connect Core 1.0, section 3.1.2.1).
const promptLogin = "login"

// reauthenticatePage asks the person to prove once more who they are.
func (h *handlers) reauthenticatePage(c *fiber.Ctx) error {
	me, err := h.me(c)
	if err != nil {
		return err
	}
	return h.askForProof(c, me, fiber.StatusOK, safeReturn(c.Query("return_to"), ""), "")
}

func (h *handlers) askForProof(c *fiber.Ctx, me domain.Record, status int, returnTo, problem string) error {
	page := web.ReauthenticatePage{Prefix: h.Prefix, ReturnTo: returnTo, Email: me.Email, Error: problem}
	if p, err := h.providerNamed(me.Provider); err == nil {
		page.Provider = p.Title
	}
	return h.render(c, status, func(w *bytes.Buffer) error { return h.pages.Reauthenticate(w, page) })
}

// reauthenticate signs the person of this device in once more, by password or
// at the provider. Somebody else is refused, and the device stays as it is.
func (h *handlers) reauthenticate(c *fiber.Ctx) error {
	me, err := h.me(c)
	if err != nil {
		return err
	}
	var in struct {
		Password string `json:"password"`
		ReturnTo string `json:"return_to"`
	}
	if err := readInput(c, &in, func(form url.Values) {
		in.Password, in.ReturnTo = form.Get("password"), form.Get("return_to")
	}); err != nil {
		return err
	}
	in.ReturnTo = safeReturn(in.ReturnTo, h.Prefix+"/devices")
	if p, err := h.providerNamed(me.Provider); err == nil {
		r := domain.AuthRequest{Prompt: p.ProofPrompt}
		if r.Prompt == promptLogin {
			r.MaxAge = proofMaxAge
		}
		address, err := h.start(c, p, pending{ReturnTo: in.ReturnTo, Remember: me.Persistent, Owner: &me.Owner}, r)
		switch {
		case err != nil:
			return h.signInFailed(c, in.ReturnTo, err)
		case !wantsPage(c):
			return c.JSON(fiber.Map{"location": address})
		}
		return h.leadOn(c, address, "You are being taken to "+p.Title+".")
	}
	if in.Password == "" {
		return fmt.Errorf("%w: a password is needed", domain.ErrBadInput)
	}
	device, err := h.letIn(c, usecase.SignIn{
		Credentials: h.domainCredentials(c, credentials{Email: me.Email, Password: in.Password}),
		Remember:    me.Persistent,
		Owner:       me.Owner,
	})
	switch {
	case err != nil && wantsPage(c) && !isJSON(c):
		a := answerTo(err)
		setRetryAfter(c, a.retry)
		return h.askForProof(c, me, a.status, in.ReturnTo, a.detail)
	case err != nil:
		return err
	case isJSON(c):
		return c.JSON(signedIn{DeviceID: device, ReturnTo: in.ReturnTo})
	}
	return c.Redirect(in.ReturnTo, fiber.StatusSeeOther)
}

// proofURL is where to prove who one is, in order to do what the request asked
// for. What it leads back to is a page with a button: the form that was sent
// cannot be sent again.
func (h *handlers) proofURL(c *fiber.Ctx) string {
	back := h.Prefix + "/devices"
	if c.Method() == fiber.MethodPost && h.isOwn(c.Path()) {
		back = c.Path() // each of these forms has a page of the same address
	}
	return h.Prefix + "/reauthenticate?return_to=" + url.QueryEscape(back)
}
