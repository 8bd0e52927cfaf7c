package authapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
)

// Kind says what went wrong in a word that a metric can have as a label.
type Kind string

const (
	InvalidGrant Kind = "invalid_grant"        // the token is refused for good
	ClientError  Kind = "client_error"         // the broker is refused, or asks at the wrong place
	BrokenAnswer Kind = domain.WhyBrokenAnswer // success was answered, but not in this protocol
	Timeout      Kind = domain.WhyTimeout      // no whole answer in time
	Canceled     Kind = authcall.Canceled      // the caller gave up: this says nothing about the auth server
	Network      Kind = domain.WhyNetwork      // no connection, or it broke
	Throttled    Kind = domain.WhyThrottled    // asked too often or too early
	Upstream5xx  Kind = domain.WhyUpstream5xx
)

// Error is a failure of the auth server or of the way to it. It unwraps to the
// outcome that callers act on, and to the context's error if that was the
// cause. Its text holds nothing that was sent or answered but the status and,
// if it is one that the RFCs name, the error code.
type Error struct {
	Kind   Kind
	Status int // that was answered; 0 if there was no whole answer

	op, what string
	outcome  error
	cause    error // may be nil
}

func (e *Error) Error() string { return e.op + ": " + e.outcome.Error() + ": " + e.what }

// Unwrap gives the outcome and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.outcome}
	}
	return []error{e.outcome, e.cause}
}

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
		return a.misconfigured(ClientError, "")
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
		return a.unavailable(Throttled, "")
	case a.invalidGrant():
		return a.failure(InvalidGrant, "", domain.ErrInvalidGrant)
	}
	return a.misconfigured(ClientError, "")
}

// notAboutThem returns the failures that have nothing to do with whose
// credentials or which token was sent, or nil.
func (a answer) notAboutThem() error {
	switch a.status {
	case http.StatusRequestTimeout:
		return a.unavailable(Timeout, "")
	case http.StatusTooEarly:
		return a.unavailable(Throttled, "")
	case http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusUnsupportedMediaType:
		return a.misconfigured(ClientError, "")
	}
	switch {
	case a.status >= 500:
		return a.unavailable(Upstream5xx, "")
	case a.status < 400:
		return a.misconfigured(ClientError, "")
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

func (a answer) misconfigured(kind Kind, what string) error {
	return a.failure(kind, what, domain.ErrAuthMisconfigured)
}

func (a answer) unavailable(kind Kind, what string) error {
	return &domain.Unavailable{Err: a.failure(kind, what, domain.ErrAuthUnavailable), Retry: a.retry, Why: string(kind), Lost: kind == BrokenAnswer}
}

func (a answer) failure(kind Kind, what string, outcome error) error {
	said := fmt.Sprintf("answered %d", a.status)
	if code := a.code(); printable[code] {
		said += " " + code
	}
	if what != "" {
		said += " " + what
	}
	return &Error{Kind: kind, Status: a.status, op: a.op, what: said, outcome: outcome}
}

// unreachable is a call that brought no answer.
func unreachable(ctx context.Context, op string, err error) error {
	f := authcall.Judge(ctx, err)
	e := &Error{Kind: Kind(f.Why), op: op, what: f.What, cause: f.Cause, outcome: domain.ErrAuthUnavailable}
	return &domain.Unavailable{Err: e, Why: f.Why, Lost: f.Lost}
}
