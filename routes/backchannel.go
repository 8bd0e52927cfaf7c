package routes

import (
	"errors"
	"net/url"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
)

// provesItself reports whether a request brings a proof of its own, which its
// handler checks, in place of one of where it comes from: a logout token, which
// a provider's server posts, and a form that a provider's page posts.
func (h *handlers) provesItself(c *fiber.Ctx) bool {
	if len(h.Providers) == 0 || c.Method() != fiber.MethodPost {
		return false
	}
	if c.Path() == h.Prefix+"/backchannel-logout" {
		return true
	}
	if isJSON(c) {
		return false
	}
	for i := range h.Providers {
		if p := &h.Providers[i]; p.TakesCredentials && c.Path() == h.Prefix+"/login/"+p.Name()+"/credential" {
			return true
		}
	}
	return false
}

// backchannelAnswer is RFC 6749's form of an error, which OpenID Connect
// Back-Channel Logout 1.0, section 2.8, has.
type backchannelAnswer struct {
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

// backchannelLogout takes a provider's word that a session of it, or all of a
// person's, is over. When it has answered 200, no replica serves those devices.
func (h *handlers) backchannelLogout(c *fiber.Ctx) error {
	refuse := func(code, description string) error {
		return c.Status(fiber.StatusBadRequest).JSON(backchannelAnswer{code, description})
	}
	var tokens []string
	err := readInput(c, &struct{}{}, func(form url.Values) { tokens = form["logout_token"] })
	if err != nil || len(tokens) != 1 || tokens[0] == "" {
		return refuse("invalid_request", "The body has to be a form with one logout_token.")
	}
	raw := domain.NewSecret(tokens[0])
	claimed := oidc.UnverifiedIssuer(tokens[0])
	err = errNoSuchIssuer
	for i := range h.Providers { // one issuer may have several clients of ours
		p := &h.Providers[i]
		if p.Issuer() != claimed {
			continue
		}
		var notice domain.LogoutNotice
		notice, err = p.LogoutToken(c.UserContext(), raw)
		if errors.Is(err, domain.ErrBadInput) {
			continue
		}
		ended := 0
		if err == nil {
			ended, err = h.broker.EndByProvider(c.UserContext(), p.Name(), notice)
		}
		if err == nil {
			h.Log.InfoContext(c.UserContext(), "signed out by the provider", "provider", p.Name(), "devices", ended)
			return c.SendStatus(fiber.StatusOK)
		}
		break
	}
	h.Log.WarnContext(c.UserContext(), "a logout token was not carried out", "error", err)
	if errors.Is(err, domain.ErrBadInput) {
		return refuse("invalid_request", "The logout token is not valid here.")
	}
	// The standard has 400 for this as well.
	return refuse("temporarily_unavailable", "The logout could not be carried out now.")
}

var errNoSuchIssuer = errors.Join(domain.ErrBadInput, errors.New("no provider in the settings has the token's issuer"))
