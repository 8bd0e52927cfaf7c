package routes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/infra/upstream"
	"cloakroom/routes/web"
)

// refusal is an answer that is made here and not by a use case.
type refusal struct {
	status int
	code   string
	detail string
}

func (r *refusal) Error() string { return r.code }

var (
	errInternal      = &refusal{500, "internal", "Something went wrong on our side."}
	errNotFound      = &refusal{404, "not_found", "There is nothing at this address."}
	errTwoTickets    = &refusal{400, "duplicate_cookie", "The request carries the device cookie more than once. Delete this site's cookies and sign in again."}
	errForeignOrigin = &refusal{403, "foreign_origin", "The request comes from another site, so it was not carried out."}
	errNoOrigin      = &refusal{403, "origin_missing", "A request that changes something needs an Origin header of this site, or, from a script or program, the header \"X-CSRF: 1\"."}
	errNoCSRFHeader  = &refusal{403, "csrf_header_missing", "Every request to this address needs the header \"X-CSRF: 1\"."}
	errForbidden     = &refusal{403, "forbidden", "You are signed in, but this address is not for you."}
	errContentType   = &refusal{415, "unsupported_content_type", "Send a form or JSON, and say so in Content-Type."}
	errTooLarge      = &refusal{413, "too_large", "The request is larger than this address takes."}
)

// CSRFRefusals are the codes of requests that did not prove where they come from.
var CSRFRefusals = []string{errForeignOrigin.code, errNoOrigin.code, errNoCSRFHeader.code, errNoDoubleSubmit.code}

// methodNotAllowed is the refusal of a method. Allow lists those that there are.
type methodNotAllowed struct{ allow string }

func (e *methodNotAllowed) Error() string { return "method_not_allowed" }

// answer is what the outside sees of an error.
type answer struct {
	status int
	code   string // from the fixed list in this file
	detail string // a sentence for people
	retry  time.Duration
	login  bool // signing in helps
	proof  bool // proving once more who one is helps
	clear  bool // this very request has seen the device end
	allow  string
}

// answerTo is the one place where outcomes become statuses. Anything that it
// does not know is internal: logged in full, shown as a bare phrase.
func answerTo(err error) answer {
	var (
		own         *refusal
		method      *methodNotAllowed
		refused     *domain.Refused
		unavailable *domain.Unavailable
		failure     *domain.SignInFailure
		up          *upstream.Error
		fromFiber   *fiber.Error
	)
	switch {
	case errors.As(err, &own):
		return answer{status: own.status, code: own.code, detail: own.detail}
	case errors.As(err, &method):
		a := answerToFiber(405)
		a.allow = method.allow
		return a
	case errors.Is(err, errAllowedNow):
		return answer{status: 503, code: "try_again", detail: "This was refused a moment ago and would be allowed now; try again.", retry: time.Second}
	case errors.As(err, &failure):
		return answerToFailure(failure)
	case errors.Is(err, domain.ErrProofTooOld):
		return answer{status: 403, code: "reauthentication_required", detail: "You signed in a while ago. Prove once more who you are to do this; the device in your hand needs no proof to be logged out.", proof: true}
	case errors.Is(err, domain.ErrAnotherOwner):
		return answer{status: 403, code: "another_account", detail: "You have signed in as somebody else than this device belongs to. Nothing was changed."}
	case errors.Is(err, domain.ErrNoTicket):
		return answer{status: 401, code: "sign_in_required", detail: "Sign in first.", login: true}
	case errors.Is(err, domain.ErrBadTicket):
		return answer{status: 401, code: "sign_in_required", detail: "This device is not signed in any more.", login: true}
	case errors.Is(err, domain.ErrSignedOut):
		return answer{status: 401, code: "signed_out", detail: "This device has just been signed out.", login: true, clear: true}
	case errors.As(err, &refused):
		return answerToRefused(refused)
	case errors.Is(err, domain.ErrStore):
		return answer{status: 503, code: "store_unavailable", detail: "Sign-ins cannot be checked right now. You are still signed in; try again in a moment.", retry: time.Second}
	case errors.Is(err, domain.ErrAuthMisconfigured):
		return answer{status: 502, code: "auth_server_misconfigured", detail: "The sign-in server does not accept this service. Its operator has to look into it; you are still signed in."}
	case errors.Is(err, domain.ErrAuthUnavailable):
		a := answer{status: 503, code: "auth_server_unavailable", detail: "The sign-in server cannot be reached right now. You are still signed in; try again in a moment.", retry: time.Second}
		if errors.As(err, &unavailable) {
			a.retry = max(a.retry, unavailable.Retry)
		}
		return a
	case errors.Is(err, domain.ErrNoRegistration):
		return answer{status: 404, code: "no_registration", detail: "Accounts are not made here."}
	case errors.Is(err, domain.ErrNotFound):
		return answer{status: 404, code: "not_found", detail: "There is no such device."}
	case errors.Is(err, domain.ErrBadInput):
		_, detail, _ := strings.Cut(err.Error(), ": ")
		return answer{status: 400, code: "bad_input", detail: sentence(detail)}
	case errors.As(err, &up):
		return answer{status: up.Status(), code: up.Code(), detail: up.Detail()}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return answer{status: 503, code: "timeout", detail: "This took too long; try again in a moment.", retry: time.Second}
	case errors.As(err, &fromFiber):
		return answerToFiber(fromFiber.Code)
	}
	return answer{status: errInternal.status, code: errInternal.code, detail: errInternal.detail}
}

// answerToRefused hands the auth server's sentence through. Its status is kept
// where it means the same here.
func answerToRefused(r *domain.Refused) answer {
	a := answer{status: 401, code: "credentials_refused", detail: r.Detail, retry: r.Retry}
	switch r.Status {
	case 409:
		a.status, a.code = 409, "account_exists"
	case 429:
		a.status, a.code = 429, "too_many_attempts"
		a.retry = max(a.retry, time.Second)
	case 400, 403, 422:
		a.status = r.Status
	}
	if a.detail == "" {
		a.detail = "The sign-in server did not accept this."
	}
	return a
}

// answerToFailure explains why a sign-in at a provider came to nothing. What the
// provider itself says of it is for the log: it comes by the browser's address,
// where anybody may have written it.
func answerToFailure(f *domain.SignInFailure) answer {
	a := answer{status: 400, code: "sign_in_" + string(f.Reason)}
	switch f.Reason {
	case domain.SignInDeclined:
		a.status, a.detail = 403, "The sign-in was cancelled, or it was not allowed."
	case domain.SignInInteraction:
		a.detail = "The provider has to ask you something first. Sign in again."
	case domain.SignInMismatch:
		a.detail = "This sign-in was not begun in this browser, or is not under way any more. Begin again."
	case domain.SignInTooLate:
		a.detail = "This sign-in took too long, or was used before. Begin again."
	case domain.SignInTooOld:
		a.status, a.detail = 403, "The provider did not ask you to prove who you are. Sign in there once more, with your password or whatever you use."
	case domain.SignInUnavailable:
		a.status, a.detail, a.retry = 503, "The sign-in provider cannot be reached right now. Try again in a moment.", time.Second
		if passing := (*domain.Unavailable)(nil); errors.As(f.Err, &passing) {
			a.retry = max(a.retry, passing.Retry)
		}
	case domain.SignInUntrusted:
		a.detail = "What the provider says could not be verified, so nobody was signed in."
		if !errors.Is(f.Err, domain.ErrBadInput) {
			a.status = 502
		}
	default:
		a.status, a.code, a.detail = 502, "sign_in_refused", "The sign-in provider does not accept this service. Its operator has to look into it."
	}
	return a
}

func answerToFiber(status int) answer {
	switch status {
	case 404:
		return answer{status: 404, code: errNotFound.code, detail: errNotFound.detail}
	case 405:
		return answer{status: 405, code: "method_not_allowed", detail: "This address does not take that method."}
	case 408:
		return answer{status: 408, code: "request_timeout", detail: "The request took too long to arrive."}
	case 413:
		return answer{status: 413, code: errTooLarge.code, detail: errTooLarge.detail}
	case 431:
		return answer{status: 431, code: "headers_too_large", detail: "The request's headers are larger than this service takes."}
	case 500:
		return answer{status: 500, code: errInternal.code, detail: errInternal.detail}
	case 503:
		return answer{status: 503, code: "too_many_connections", detail: "This service has as many connections as it takes right now; try again in a moment.", retry: time.Second}
	}
	return answer{status: status, code: "bad_request", detail: "The request could not be understood."}
}

// Error is the app's error handler. A person gets a page, or is sent to the
// login page and brought back afterwards; a script gets JSON.
func (h *handlers) Error(c *fiber.Ctx, err error) error {
	a := answerTo(err)
	if a.status >= 500 {
		h.Log.WarnContext(c.UserContext(), "answered with an error", "status", a.status, "code", a.code, "error", err)
	}
	return h.write(c, a)
}

func (h *handlers) write(c *fiber.Ctx, a answer) error {
	page := wantsPage(c) && !askedFor(c).bare
	// What a handler had set for an answer of its own has no place here, but
	// the request's id stays.
	id := bytes.Clone(c.Response().Header.Peek(headerRequestID))
	c.Response().Reset()
	if len(id) > 0 {
		c.Response().Header.SetBytesV(headerRequestID, id)
	}
	h.secure(c)
	if n := c.Request().Header.ContentLength(); n > 0 || n == -1 {
		// The rest of a body that nobody reads must not be taken for the next
		// request.
		c.Context().SetConnectionClose()
	}
	if a.clear {
		// Only then: a late answer to some other request must not take the
		// cookie of a sign-in that went through meanwhile. A dead ticket does
		// no harm, and the login page clears it.
		h.clearCookie(c)
	}
	if a.allow != "" {
		c.Set(fiber.HeaderAllow, a.allow)
	}
	setRetryAfter(c, a.retry)
	switch {
	case a.proof && page:
		return c.Redirect(h.proofURL(c), fiber.StatusSeeOther)
	case a.login && page:
		return h.sendToLogin(c)
	case page:
		return h.render(c, a.status, func(w *bytes.Buffer) error {
			return h.pages.Message(w, h.messageFor(c, a, string(id)))
		})
	}
	body := fiber.Map{"error": a.code, "detail": a.detail}
	if a.login {
		body["login_url"] = h.Prefix + "/login"
	}
	if a.proof {
		body["reauthenticate_url"] = h.proofURL(c)
	}
	return c.Status(a.status).JSON(body)
}

func setRetryAfter(c *fiber.Ctx, retry time.Duration) {
	if retry > 0 {
		c.Set(fiber.HeaderRetryAfter, strconv.Itoa(int(math.Ceil(retry.Seconds()))))
	}
}

// messageFor is the page of an error, with a way on where there is one.
func (h *handlers) messageFor(c *fiber.Ctx, a answer, requestID string) web.MessagePage {
	page := web.MessagePage{Prefix: h.Prefix, Status: a.status, Title: titleOf(a.status), Text: a.detail, Reference: requestID}
	about := askedFor(c)
	if again := safeReturn(about.target, ""); again != "" && a.retry > 0 && about.method == fiber.MethodGet {
		page.Link, page.LinkText = again, "Try again"
	}
	return page
}

// sendToLogin answers a navigation that needs a sign-in.
func (h *handlers) sendToLogin(c *fiber.Ctx) error {
	about := askedFor(c)
	if h.SameSiteStrict && c.Get("Sec-Fetch-Site") == "cross-site" && about.method == fiber.MethodGet {
		// A link from another site brings no Strict cookie along. A page of
		// ours that leads to the same address brings it.
		c.Set("Refresh", "0; url="+safeReturn(about.target, "/"))
		status := fiber.StatusOK
		if about.proxy {
			status = fiber.StatusUnauthorized // with 200 it would let the request pass
		}
		return h.render(c, status, func(w *bytes.Buffer) error {
			return h.pages.Message(w, web.MessagePage{Prefix: h.Prefix, Title: "One moment", Text: "You are being taken on."})
		})
	}
	login := h.Prefix + "/login"
	if about.proxy {
		login = h.PublicOrigin + login // Traefik would take a path for one of ours
	}
	path, _, _ := strings.Cut(about.target, "?")
	if target := safeReturn(about.target, ""); target != "" && (about.method == fiber.MethodGet && !h.isOwn(path) || path == h.Prefix+"/devices") {
		login += "?return_to=" + url.QueryEscape(target)
	}
	return c.Redirect(login, fiber.StatusSeeOther)
}

// wantsPage reports whether a person's browser is to show the answer.
func wantsPage(c *fiber.Ctx) bool {
	if mode := c.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(c.Get(fiber.HeaderAccept), fiber.MIMETextHTML)
}

// render writes a page that is complete or not there at all.
func (h *handlers) render(c *fiber.Ctx, status int, page func(*bytes.Buffer) error) error {
	var b bytes.Buffer
	if err := page(&b); err != nil {
		return fmt.Errorf("render: %w", err)
	}
	c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	return c.Status(status).Send(b.Bytes())
}

func titleOf(status int) string {
	switch status {
	case 403:
		return "Not carried out"
	case 404:
		return "Nothing here"
	case 429:
		return "Too many attempts"
	case 502, 503, 504:
		return "Not available right now"
	}
	if status >= 500 {
		return "Something went wrong"
	}
	return "That did not work"
}

// sentence makes one of an error's text.
func sentence(s string) string {
	if s == "" {
		return "The request does not make sense."
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
