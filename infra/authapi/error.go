package authapi

import (
	"fmt"
	"net/http"
	"strings"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
)

// The table of outcomes. It goes by the status and the error field alone (RFC
// 6749, section 5.2), never by words in a text:
//
//	answer                                  credentials          token
//	none, or half of one                    unavailable          unavailable
//	5xx, 408, 425                           unavailable          unavailable
//	429                                     refused              unavailable
//	1xx, 3xx, 405, 406, 415                 misconfigured        misconfigured
//	4xx, error names a fault of the broker  misconfigured        misconfigured
//	404 without a detail                    misconfigured        misconfigured
//	400, 401, 403 invalid_grant             refused              invalid grant
//	401, JSON object without error field    refused              invalid grant
//	other 4xx                               refused              misconfigured
//	2xx that cannot be read                 misconfigured        unavailable
//
// In doubt, a refused token counts as a fault of the broker: that keeps the
// device and calls an operator, where the opposite mistake would sign
// everybody out.

// credentialsRefused judges any answer but success to a sign-in or a
// registration.
func (a answer) credentialsRefused() error {
	if err := a.notAboutThem(); err != nil {
		return err
	}
	detail := a.detail()
	switch {
	case brokersFault[a.code()], a.status == http.StatusNotFound && detail == "":
		return a.misconfigured(authcall.ClientError, "")
	}
	return &domain.Refused{Status: a.status, Detail: detail, Retry: a.retry}
}

// tokenRefused judges any answer but success to a refresh or a revocation.
func (a answer) tokenRefused() error {
	if err := a.notAboutThem(); err != nil {
		return err
	}
	switch {
	case a.status == http.StatusTooManyRequests:
		return a.unavailable(authcall.Throttled, "")
	case a.invalidGrant():
		return a.failure(authcall.InvalidGrant, "", domain.ErrInvalidGrant)
	}
	return a.misconfigured(authcall.ClientError, "")
}

// notAboutThem returns the failures that have nothing to do with whose
// credentials or which token was sent, or nil.
func (a answer) notAboutThem() error {
	switch a.status {
	case http.StatusRequestTimeout:
		return a.unavailable(authcall.Timeout, "")
	case http.StatusTooEarly:
		return a.unavailable(authcall.Throttled, "")
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType:
		return a.misconfigured(authcall.ClientError, "")
	}
	switch {
	case a.status >= 500:
		return a.unavailable(authcall.Upstream5xx, "")
	case a.status < 400:
		return a.misconfigured(authcall.ClientError, "")
	}
	return nil
}

// invalidGrant reports whether the answer says that the token is dead. The
// code says so by itself. Servers that do not know RFC 6749 answer a dead
// token with 401 and a sentence; to tell them from a gateway that guards the
// auth server, the answer has to be a JSON object and may not ask for any
// authentication other than Bearer.
func (a answer) invalidGrant() bool {
	switch a.status {
	case http.StatusBadRequest, http.StatusForbidden:
		return a.code() == "invalid_grant"
	case http.StatusUnauthorized:
		if a.code() == "invalid_grant" {
			return true
		}
		return a.fields != nil && !a.hasError() && !a.asksForOther("Bearer")
	}
	return false
}

// code returns the error field if it is a string, else nothing.
func (a answer) code() string {
	code, _ := text(a.fields["error"])
	return code
}

func (a answer) hasError() bool {
	raw, there := a.fields["error"]
	return there && string(raw) != "null"
}

func (a answer) asksForOther(scheme string) bool {
	for _, challenge := range a.header.Values("WWW-Authenticate") {
		first, _, _ := strings.Cut(strings.TrimSpace(challenge), " ")
		if !strings.EqualFold(first, scheme) {
			return true
		}
	}
	return false
}

// brokersFault holds the codes that can never be about the person or token.
var brokersFault = map[string]bool{
	"invalid_client":         true,
	"unauthorized_client":    true,
	"unsupported_grant_type": true,
	"invalid_scope":          true,
}

// printable holds the codes that may stand in an error's text: those of RFC
// 6749, section 5.2 and RFC 7009, section 2.2.1. Any other would be body text.
var printable = map[string]bool{
	"invalid_request":        true,
	"invalid_client":         true,
	"invalid_grant":          true,
	"unauthorized_client":    true,
	"unsupported_grant_type": true,
	"invalid_scope":          true,
	"unsupported_token_type": true,
}

func (a answer) misconfigured(kind authcall.Kind, what string) error {
	return a.failure(kind, what, domain.ErrAuthMisconfigured)
}

func (a answer) unavailable(kind authcall.Kind, what string) error {
	return &domain.Unavailable{Err: a.failure(kind, what, domain.ErrAuthUnavailable), Retry: a.retry, Why: string(kind), Lost: kind == authcall.BrokenAnswer}
}

func (a answer) failure(kind authcall.Kind, what string, outcome error) error {
	said := fmt.Sprintf("answered %d", a.status)
	if code := a.code(); printable[code] {
		said += " " + code
	}
	if what != "" {
		said += " " + what
	}
	return &authcall.Error{Kind: kind, Status: a.status, Op: a.op, What: said, Outcome: outcome}
}
