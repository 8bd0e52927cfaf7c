package routes

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/url"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/infra/httpguard"
	"cloakroom/routes/web"
	"cloakroom/usecase"
)

// longestForm is how large a form or a JSON object of ours may be, in bytes.
const longestForm = 16 << 10

// credentials is what login and registration take, as a form or as JSON.
type credentials struct {
	Email    string `json:"email"`
	Password string `json:"password"`
	Remember bool   `json:"remember"`
	ReturnTo string `json:"return_to"`
}

// signedIn is what a script gets after it signed in.
type signedIn struct {
	DeviceID domain.DeviceID `json:"device_id"`
	ReturnTo string          `json:"return_to"`
}

func (h *handlers) loginPage(c *fiber.Ctx) error {
	page := h.newLoginPage(c.Query("return_to"))
	v, err := h.visit(c)
	if err != nil {
		return err
	}
	switch s, err := h.broker.Open(c.UserContext(), v); {
	case err == nil:
		page.Notice = "You are signed in already. Signing in again gives this device a new ticket."
		if s.Record.Email != "" {
			page.Notice = "You are signed in already, as " + s.Record.Email + ". Signing in again gives this device a new ticket."
		}
	case errors.Is(err, domain.ErrBadTicket), errors.Is(err, domain.ErrSignedOut):
		h.clearCookie(c)
	}
	return h.render(c, fiber.StatusOK, func(w *bytes.Buffer) error { return h.pages.Login(w, page) })
}

func (h *handlers) newLoginPage(returnTo string) web.LoginPage {
	return web.LoginPage{
		Prefix: h.Prefix, ReturnTo: safeReturn(returnTo, ""), Register: h.Registration,
		NoPasswords: h.NoPasswords, Providers: h.providerButtons(),
	}
}

func (h *handlers) registerPage(c *fiber.Ctx) error {
	page := web.RegisterPage{Prefix: h.Prefix, ReturnTo: safeReturn(c.Query("return_to"), "")}
	return h.render(c, fiber.StatusOK, func(w *bytes.Buffer) error { return h.pages.Register(w, page) })
}

func (h *handlers) login(c *fiber.Ctx) error {
	in, err := readCredentials(c)
	if err == nil {
		err = h.signIn(c, in)
	}
	return h.formFailed(c, err, func(w *bytes.Buffer, text string) error {
		page := h.newLoginPage(in.ReturnTo)
		page.Email, page.Remember, page.Error = in.Email, in.Remember, text
		return h.pages.Login(w, page)
	})
}

// register makes an account and signs in with it.
func (h *handlers) register(c *fiber.Ctx) error {
	in, err := readCredentials(c)
	if err == nil {
		err = h.broker.Register(c.UserContext(), h.domainCredentials(c, in))
	}
	if err == nil {
		err = h.signIn(c, in)
	}
	return h.formFailed(c, err, func(w *bytes.Buffer, text string) error {
		return h.pages.Register(w, web.RegisterPage{Prefix: h.Prefix, ReturnTo: safeReturn(in.ReturnTo, ""), Email: in.Email, Error: text})
	})
}

func (h *handlers) signIn(c *fiber.Ctx, in credentials) error {
	device, err := h.letIn(c, usecase.SignIn{Credentials: h.domainCredentials(c, in), Remember: in.Remember})
	if err != nil {
		return err
	}
	if isJSON(c) {
		return c.JSON(signedIn{DeviceID: device, ReturnTo: h.landing(c, in.ReturnTo)})
	}
	return c.Redirect(h.landing(c, in.ReturnTo), fiber.StatusSeeOther)
}

func (h *handlers) domainCredentials(c *fiber.Ctx, in credentials) domain.Credentials {
	return domain.Credentials{Email: in.Email, Password: domain.NewSecret(in.Password), IP: h.clientIP(c).String()}
}

// formFailed shows the form again with what was wrong, if a person filled it in.
func (h *handlers) formFailed(c *fiber.Ctx, err error, form func(w *bytes.Buffer, text string) error) error {
	if err == nil || isJSON(c) || !wantsPage(c) {
		return err
	}
	a := answerTo(err)
	if a.status >= 500 {
		h.Log.WarnContext(c.UserContext(), "answered with an error", "status", a.status, "code", a.code, "error", err)
	}
	setRetryAfter(c, a.retry)
	return h.render(c, a.status, func(w *bytes.Buffer) error { return form(w, a.detail) })
}

// sessionAnswer is who a browser is signed in as.
type sessionAnswer struct {
	Issuer        string          `json:"issuer"`
	Subject       string          `json:"subject"`
	Email         string          `json:"email,omitempty"`
	EmailVerified bool            `json:"email_verified"`
	Name          string          `json:"name,omitempty"` // for people to read
	Roles         []string        `json:"roles"`
	DeviceID      domain.DeviceID `json:"device_id"`
	DeviceName    string          `json:"device_name"`
	Provider      string          `json:"provider"`
	SignedInAt    time.Time       `json:"signed_in_at"`
	ProvedAt      time.Time       `json:"proved_at"` // when the person last proved who they are
	ACR           string          `json:"acr,omitempty"`
	AMR           []string        `json:"amr,omitempty"`
	ExpiresAt     time.Time       `json:"expires_at"`
	Refreshable   bool            `json:"refreshable"`
}

// session answers from the very state that the proxy goes by: if this says 200,
// a request through the proxy has a token, refreshed first if need be.
func (h *handlers) session(c *fiber.Ctx) error {
	v, err := h.visit(c)
	if err != nil {
		return err
	}
	s, err := h.broker.AccessToken(c.UserContext(), v)
	if err != nil {
		return err
	}
	r := s.Record
	return c.JSON(sessionAnswer{
		Issuer: r.Owner.Issuer, Subject: r.Owner.Subject, Email: r.Email, EmailVerified: r.EmailVerified, Name: r.PersonName,
		Roles: append([]string{}, r.Roles...), DeviceID: r.DeviceID, DeviceName: deviceName(r),
		Provider: r.Provider, SignedInAt: r.AuthTime, ProvedAt: r.LastProof(), ACR: r.ACR, AMR: r.AMR, ExpiresAt: r.ExpiresAt, Refreshable: r.Refreshable(domain.Now(h.Now)),
	})
}

// landing is where a sign-in leads.
func (h *handlers) landing(c *fiber.Ctx, returnTo string) string {
	return safeReturn(returnTo, cmp.Or(h.home(c), h.Prefix+"/devices"))
}

// safeReturn returns target if it is a path on this site, else fallback. What
// browsers take for another site although it looks like a path ("//x", "/\x",
// with or without control characters in between) is not one.
func safeReturn(target, fallback string) string {
	if len(target) == 0 || len(target) > 2048 || target[0] != '/' || len(target) > 1 && (target[1] == '/' || target[1] == '\\') {
		return fallback
	}
	for i := range len(target) {
		if target[i] <= ' ' || target[i] == '\\' || target[i] >= 0x7f {
			return fallback
		}
	}
	u, err := url.Parse(target)
	if err != nil || u.Host != "" || u.Scheme != "" {
		return fallback
	}
	// A decoded path that begins with two slashes may meet a redirect that
	// decodes it.
	if len(u.Path) > 1 && (u.Path[1] == '/' || u.Path[1] == '\\') {
		return fallback
	}
	return target
}

func readCredentials(c *fiber.Ctx) (credentials, error) {
	var in credentials
	err := readInput(c, &in, func(form url.Values) {
		in = credentials{Email: form.Get("email"), Password: form.Get("password"), Remember: form.Has("remember"), ReturnTo: form.Get("return_to")}
	})
	switch {
	case err != nil:
		return in, err
	case in.Email == "" || in.Password == "":
		return in, fmt.Errorf("%w: an email address and a password are needed", domain.ErrBadInput)
	}
	return in, nil
}

// readInput reads a JSON object into in, or hands a form to fromForm.
func readInput(c *fiber.Ctx, in any, fromForm func(url.Values)) error {
	body, err := readBody(c)
	if err != nil {
		return err
	}
	kind, _, _ := mime.ParseMediaType(c.Get(fiber.HeaderContentType))
	switch kind {
	case fiber.MIMEApplicationJSON:
		d := json.NewDecoder(bytes.NewReader(body))
		if d.Decode(in) != nil || d.More() {
			return fmt.Errorf("%w: the body is not the JSON object that this address takes", domain.ErrBadInput)
		}
		return nil
	case fiber.MIMEApplicationForm:
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return fmt.Errorf("%w: the form cannot be read", domain.ErrBadInput)
		}
		fromForm(form)
		return nil
	}
	return errContentType
}

func isJSON(c *fiber.Ctx) bool {
	kind, _, _ := mime.ParseMediaType(c.Get(fiber.HeaderContentType))
	return kind == fiber.MIMEApplicationJSON
}

// readBody reads a small body whole. The app hands bodies over as streams, and
// Fiber's own way to read one has no bound.
func readBody(c *fiber.Ctx) ([]byte, error) {
	if c.Request().Header.ContentLength() > longestForm {
		return nil, errTooLarge
	}
	stream := c.Context().RequestBodyStream()
	if stream == nil {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(stream, longestForm+1))
	if guard, ok := httpguard.Of(c.Context().Conn()); ok && err != nil && guard.Refusal() != nil {
		return nil, fiber.NewError(guard.Refusal().Status)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: the body could not be read", domain.ErrBadInput)
	case len(body) > longestForm:
		return nil, errTooLarge
	}
	return body, nil
}
