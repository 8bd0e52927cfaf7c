package routes

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
	"cloakroom/routes/web"
	"cloakroom/usecase"
)

// Provider is an OpenID provider that people sign in with.
type Provider struct {
	*oidc.Provider
	Title string // what people call it
	Icon  Icon
	// TakesCredentials: it takes ID tokens that the provider gave to a page, as
	// Google's button does.
	TakesCredentials bool
	// ProofPrompt is what makes the provider have people prove once more who
	// they are: "login" as a rule. Anything else cannot be held to when they did.
	ProofPrompt string
	// KeepSession: who logs out here stays signed in there.
	KeepSession bool
	// Exchange, unless it is nil, gets the tokens that the upstream is to see by
	// showing the provider's ID token to an auth server. The people are then
	// the auth server's, under ExchangeIssuer.
	Exchange       func(ctx context.Context, idToken domain.Secret, ip string) (domain.Identity, domain.Grant, error)
	ExchangeIssuer string
}

// Icon is a small picture. The zero Icon is none.
type Icon struct {
	Body        []byte
	ContentType string
}

// provider returns the provider that the path names.
func (h *handlers) provider(c *fiber.Ctx) (*Provider, error) {
	return h.providerNamed(c.Params("provider"))
}

func (h *handlers) providerNamed(name string) (*Provider, error) {
	for i := range h.Providers {
		if p := &h.Providers[i]; p.Name() == name {
			return p, nil
		}
	}
	return nil, errNotFound
}

// providerButtons are the providers as the login page shows them.
func (h *handlers) providerButtons() []web.ProviderButton {
	var buttons []web.ProviderButton
	for i := range h.Providers {
		p := &h.Providers[i]
		b := web.ProviderButton{Name: p.Name(), Title: p.Title}
		if p.Icon.Body != nil {
			b.Icon = h.Prefix + "/login/" + p.Name() + "/icon"
		}
		buttons = append(buttons, b)
	}
	return buttons
}

// methodTitle is how people call the way in which a device signed in.
func (h *handlers) methodTitle(name string) string {
	if p, err := h.providerNamed(name); err == nil {
		return p.Title
	}
	return name
}

func (h *handlers) icon(c *fiber.Ctx) error {
	p, err := h.provider(c)
	switch {
	case err != nil:
		return err
	case p.Icon.Body == nil:
		return errNotFound
	}
	// An SVG may hold scripts, and this one is a stranger's.
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	c.Set(fiber.HeaderCacheControl, "public, max-age=3600")
	c.Set(fiber.HeaderContentType, p.Icon.ContentType)
	return c.Send(p.Icon.Body)
}

// origin is the site as browsers see it.
func (h *handlers) origin(c *fiber.Ctx) (string, error) {
	if h.PublicOrigin != "" {
		return h.PublicOrigin, nil
	}
	host := string(c.Request().Host())
	if !isLoopbackHost(host) {
		return "", fmt.Errorf("%w: the request's Host is not this site's", domain.ErrBadInput)
	}
	return h.publicProto(c) + "://" + host, nil
}

// startLink begins a sign-in by a link. Signing in takes a decision of the
// person's (OWASP ASVS 5.0, 7.6.2), so the link has to be on a page of this
// site. From anywhere else it leads to a page with a button.
func (h *handlers) startLink(c *fiber.Ctx) error {
	p, err := h.provider(c)
	if err != nil {
		return err
	}
	in := pending{ReturnTo: safeReturn(c.Query("return_to"), ""), Remember: c.Query("remember") == "1"}
	if !h.fromOwnPage(c) {
		return h.render(c, fiber.StatusOK, func(w *bytes.Buffer) error {
			return h.pages.Confirm(w, web.ConfirmPage{
				Prefix: h.Prefix, Title: "Sign in with " + p.Title + "?",
				Text:   "You are about to leave for " + p.Title + ", and come back signed in. Go on only if you want to sign in here now.",
				Action: h.Prefix + "/login/" + p.Name(), Fields: in.fields(),
				Button: "Continue with " + p.Title, Cancel: h.Prefix + "/login",
			})
		})
	}
	address, err := h.start(c, p, in, domain.AuthRequest{})
	if err != nil {
		return h.signInFailed(c, in.ReturnTo, err)
	}
	return c.Redirect(address, fiber.StatusSeeOther)
}

func (p pending) fields() []web.Field {
	fields := []web.Field{{Name: "return_to", Value: p.ReturnTo}}
	if p.Remember {
		fields = append(fields, web.Field{Name: "remember", Value: "1"})
	}
	return fields
}

// startForm begins a sign-in by a button. Its answer is a page that leads on, and
// no redirect: Chromium holds what a form leads to against the form's page's
// form-action, and where a provider sends people on to is not known here.
func (h *handlers) startForm(c *fiber.Ctx) error {
	p, err := h.provider(c)
	if err != nil {
		return err
	}
	var in struct {
		ReturnTo string `json:"return_to"`
		Remember bool   `json:"remember"`
	}
	if err := readInput(c, &in, func(form url.Values) {
		in.ReturnTo, in.Remember = form.Get("return_to"), form.Has("remember")
	}); err != nil {
		return err
	}
	to := pending{ReturnTo: safeReturn(in.ReturnTo, ""), Remember: in.Remember}
	address, err := h.start(c, p, to, domain.AuthRequest{})
	if err != nil {
		return h.signInFailed(c, to.ReturnTo, err)
	}
	return h.leadOn(c, address, "You are being taken to "+p.Title+".")
}

// start keeps what there is to remember of a sign-in and returns where to send
// the browser.
func (h *handlers) start(c *fiber.Ctx, p *Provider, in pending, r domain.AuthRequest) (string, error) {
	origin, err := h.origin(c)
	if err != nil {
		return "", err
	}
	r.RedirectURI = origin + h.Prefix + "/callback/" + p.Name()
	address, tx, err := p.Begin(c.UserContext(), r)
	if err != nil {
		return "", err
	}
	in.Transaction = tx
	return address, h.keepPending(c, in)
}

// fromOwnPage reports whether somebody has left a page of this site for here. What
// a page loads by itself, a picture or a frame, may be somebody else's words in it.
func (h *handlers) fromOwnPage(c *fiber.Ctx) bool {
	if site := c.Get("Sec-Fetch-Site"); site != "" {
		dest := c.Get("Sec-Fetch-Dest")
		return site == "same-origin" && (dest == "" || dest == "document")
	}
	from, err := url.Parse(c.Get(fiber.HeaderReferer))
	return err == nil && from.Host != "" && h.ourOrigin(c, from.Scheme+"://"+from.Host)
}

// leadOn answers with a page that leads to an address by itself. With it begins
// a new navigation, and one of this site's: what follows is not held against
// what came before.
func (h *handlers) leadOn(c *fiber.Ctx, address, text string) error {
	c.Set("Refresh", "0; url="+address)
	return h.render(c, fiber.StatusOK, func(w *bytes.Buffer) error {
		return h.pages.Message(w, web.MessagePage{Prefix: h.Prefix, Title: "One moment", Text: text})
	})
}

// callback ends a sign-in: the provider has sent the browser back.
func (h *handlers) callback(c *fiber.Ctx) error {
	p, err := h.provider(c)
	if err != nil {
		return err
	}
	if h.SameSiteStrict && c.Get("Sec-Fetch-Site") == "cross-site" {
		// So that the device's cookie comes along, if there is one.
		return h.leadOn(c, string(c.Request().RequestURI()), "You are being taken on.")
	}
	back, err := h.answerOfProvider(c)
	var in pending
	if err == nil {
		in, err = h.takePending(c, back.State)
	}
	if err == nil && in.Logout {
		err = &domain.SignInFailure{Reason: domain.SignInMismatch, Err: fmt.Errorf("%w: the answer is to a logout", domain.ErrBadInput)}
	}
	if err != nil {
		return h.signInFailed(c, "", err)
	}
	in.ReturnTo = safeReturn(in.ReturnTo, "")
	checked := p.Check(c.UserContext(), back, in.Transaction)
	signIn := usecase.SignIn{
		Provider: p.Name(), Remember: in.Remember,
		Verify: func(ctx context.Context) (domain.Authentication, error) {
			if checked != nil {
				return domain.Authentication{}, checked
			}
			a, err := p.Finish(ctx, back, in.Transaction)
			if err != nil {
				return a, err
			}
			return p.complete(ctx, a, h.clientIP(c).String())
		},
	}
	if checked == nil {
		// The cookie is taken back, but a copy of it is not. Only what costs the
		// provider a call is remembered: everybody can begin, and answer anything.
		signIn.Once, signIn.Until = "sign-in:"+digest(back.State), in.Started.Add(oidc.TransactionLife+time.Minute)
	}
	if in.Owner != nil {
		signIn.Owner = *in.Owner
	}
	if _, err := h.letIn(c, signIn); err != nil {
		return h.signInFailed(c, in.ReturnTo, err)
	}
	if h.SameSiteStrict && c.Get("Sec-Fetch-Site") == "" {
		return h.leadOn(c, h.landing(c, in.ReturnTo), "You are being taken on.")
	}
	return c.Redirect(h.landing(c, in.ReturnTo), fiber.StatusSeeOther)
}

func (h *handlers) answerOfProvider(c *fiber.Ctx) (domain.Callback, error) {
	query, err := url.ParseQuery(string(c.Request().URI().QueryString()))
	if err != nil {
		return domain.Callback{}, fmt.Errorf("%w: the provider's answer cannot be read", domain.ErrBadInput)
	}
	return oidc.ParseCallback(query)
}

// letIn signs the browser in and gives it its ticket.
func (h *handlers) letIn(c *fiber.Ctx, in usecase.SignIn) (domain.DeviceID, error) {
	v, err := h.visit(c)
	if err != nil {
		return domain.DeviceID{}, err
	}
	in.Ticket, in.IP, in.UserAgent = v.Ticket, v.IP, c.Get(fiber.HeaderUserAgent)
	ticket, rec, err := h.broker.SignIn(c.UserContext(), in)
	if err != nil {
		return domain.DeviceID{}, err
	}
	h.setCookie(c, ticket.Reveal(), rec)
	return rec.DeviceID, nil
}

// complete sees to it that there are tokens for the upstream. If there are none,
// nobody is signed in and nobody will use the provider's, which are revoked;
// whether that succeeds changes nothing.
func (p *Provider) complete(ctx context.Context, a domain.Authentication, ip string) (domain.Authentication, error) {
	if p.Exchange == nil {
		return a, nil
	}
	identity, grant, err := p.Exchange(ctx, a.Grant.ID, ip)
	if err != nil {
		if !a.Grant.Access.Equal(a.Grant.ID) { // a credential brings no other token
			_ = p.Revoke(context.WithoutCancel(ctx), a.Grant.Refresh, a.Grant.Access)
		}
		return domain.Authentication{}, err
	}
	if identity.Email == "" {
		identity.Email, identity.EmailVerified = a.Identity.Email, a.Identity.EmailVerified
	}
	if identity.Name == "" {
		identity.Name = a.Identity.Name
	}
	grant.ID = a.Grant.ID // to log out at the provider with
	if a.SID != "" {
		a.SID = usecase.ForeignSID(a.Issuer, a.SID)
	}
	a.Issuer, a.Identity, a.Grant, a.DPoPKey = p.ExchangeIssuer, identity, grant, domain.Secret{}
	return a, nil
}

// signInFailed shows a person why they are not signed in, and the way to try
// once more. A script gets the code.
func (h *handlers) signInFailed(c *fiber.Ctx, returnTo string, err error) error {
	if !wantsPage(c) {
		return err
	}
	a := answerTo(err)
	var failure *domain.SignInFailure
	if a.status >= 500 || errors.As(err, &failure) && failure.Reason != domain.SignInDeclined {
		h.Log.WarnContext(c.UserContext(), "a sign-in came to nothing", "status", a.status, "code", a.code, "error", err)
	}
	page := web.MessagePage{
		Prefix: h.Prefix, Status: a.status, Title: "You are not signed in", Text: a.detail,
		Link: h.loginURL(returnTo), LinkText: "Sign in again", Reference: c.GetRespHeader(headerRequestID),
	}
	setRetryAfter(c, a.retry)
	return h.render(c, a.status, func(w *bytes.Buffer) error { return h.pages.Message(w, page) })
}

func (h *handlers) loginURL(returnTo string) string {
	if returnTo == "" {
		return h.Prefix + "/login"
	}
	return h.Prefix + "/login?return_to=" + url.QueryEscape(returnTo)
}

// credential signs in by an ID token that the provider's script has got on some
// page of this site, as Google's button does: either the script's own page sends
// it as JSON, or the provider's posts it as a form, from its own site.
func (h *handlers) credential(c *fiber.Ctx) error {
	p, err := h.provider(c)
	switch {
	case err != nil:
		return err
	case !p.TakesCredentials:
		return errNotFound
	}
	var in struct {
		Credential string `json:"credential"`
		ReturnTo   string `json:"return_to"`
		Remember   bool   `json:"remember"`
		token      []string
	}
	if err := readInput(c, &in, func(form url.Values) {
		in.Credential, in.token, in.Remember = form.Get("credential"), form["g_csrf_token"], form.Has("remember")
		in.ReturnTo = form.Get("return_to")
	}); err != nil {
		return err
	}
	if in.ReturnTo == "" {
		in.ReturnTo = c.Query("return_to") // Google posts to an address and adds nothing of ours
	}
	if !isJSON(c) {
		if err := h.checkPosted(c, p, in.token); err != nil {
			h.Metrics.CSRFRefused(err.code)
			return err
		}
	}
	if in.Credential == "" {
		return fmt.Errorf("%w: a credential is needed", domain.ErrBadInput)
	}
	signIn := usecase.SignIn{Provider: p.Name(), Remember: in.Remember}
	a, checked := p.Credential(c.UserContext(), domain.NewSecret(in.Credential), "")
	if checked == nil {
		// What a page had in its hands may have been seen by others there. Only
		// what the provider has made is remembered: everybody can send anything.
		signIn.Once, signIn.Until = "credential:"+digest(unsigned(in.Credential)), h.Now().Add(longestCredential)
	}
	signIn.Verify = func(ctx context.Context) (domain.Authentication, error) {
		if checked != nil {
			return domain.Authentication{}, checked
		}
		return p.complete(ctx, a, h.clientIP(c).String())
	}
	device, err := h.letIn(c, signIn)
	switch {
	case err != nil && isJSON(c):
		return err
	case err != nil:
		return h.signInFailed(c, safeReturn(in.ReturnTo, ""), err)
	case isJSON(c):
		return c.JSON(signedIn{DeviceID: device, ReturnTo: h.landing(c, in.ReturnTo)})
	case h.SameSiteStrict:
		return h.leadOn(c, h.landing(c, in.ReturnTo), "You are being taken on.")
	}
	return c.Redirect(h.landing(c, in.ReturnTo), fiber.StatusSeeOther)
}

// longestCredential is for how long an ID token could be used again: an hour
// after its issue, and what clocks may differ.
const longestCredential = time.Hour + 5*time.Minute

// errNoDoubleSubmit is the answer to a credential that came as a form without
// Google's proof that it began on this site.
var errNoDoubleSubmit = &refusal{403, "csrf_token_mismatch", "The form's g_csrf_token is not the one in the cookie, so the sign-in did not begin here."}

// checkPosted refuses a form that did not begin on this site: the provider's
// script sets a cookie here and repeats it in the form. Who posts it says so in
// Origin, and is the provider or ourselves: a neighbouring host could set the
// cookie as well.
func (h *handlers) checkPosted(c *fiber.Ctx, p *Provider, posted []string) *refusal {
	if origin := c.Get(fiber.HeaderOrigin); origin != "" && !h.ourOrigin(c, origin) {
		issuer, err := url.Parse(p.Issuer())
		if err != nil || origin != issuer.Scheme+"://"+issuer.Host {
			return errForeignOrigin
		}
	}
	var cookies []string
	for _, header := range c.Request().Header.PeekAll(fiber.HeaderCookie) {
		for pair := range strings.SplitSeq(string(header), ";") {
			if name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "="); name == "g_csrf_token" {
				cookies = append(cookies, value)
			}
		}
	}
	if len(cookies) != 1 || len(posted) != 1 || posted[0] == "" || subtle.ConstantTimeCompare([]byte(cookies[0]), []byte(posted[0])) != 1 {
		return errNoDoubleSubmit
	}
	return nil
}

// unsigned is a token without its signature. From one signature by an elliptic
// curve everybody can make another that is as good.
func unsigned(token string) string { return token[:max(strings.LastIndexByte(token, '.'), 0)] }

// digest is a name for a text that does not tell it.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
