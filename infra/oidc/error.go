package oidc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"cloakroom/domain"
	"cloakroom/infra/dpop"
)

// Kind says what went wrong in a word that a metric can have as a label. The
// words are those of infra/authapi, and two more.
type Kind string

const (
	InvalidGrant   Kind = "invalid_grant"        // the token is refused for good
	ClientError    Kind = "client_error"         // the broker is refused, or asks at the wrong place
	BrokenAnswer   Kind = domain.WhyBrokenAnswer // success was answered, but not in this protocol
	Timeout        Kind = domain.WhyTimeout      // no whole answer in time
	Canceled       Kind = "canceled"             // the caller gave up: this says nothing about the provider
	Network        Kind = domain.WhyNetwork      // no connection, or it broke
	Throttled      Kind = domain.WhyThrottled    // asked too often or too early
	Upstream5xx    Kind = domain.WhyUpstream5xx  //
	IssuerMismatch Kind = "issuer_mismatch"      // the provider is not who the settings say
	Untrusted      Kind = "untrusted"            // a token of the answer did not pass the checks
)

// Error is a failure of the provider or of the way to it. It unwraps to the
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

func misconfigured(op string, kind Kind, what string) *Error {
	return &Error{Kind: kind, op: op, what: what, outcome: domain.ErrAuthMisconfigured}
}

// gaveUp says that ctx has ended before the answer came.
func gaveUp(ctx context.Context) error { return unreachable(ctx, "provider", ctx.Err()) }

// retryIn adds to a passing failure when there will be another try.
func retryIn(err error, after time.Duration) error {
	var passing *domain.Unavailable
	if errors.As(err, &passing) {
		return &domain.Unavailable{Err: passing.Err, Retry: max(passing.Retry, after), Why: passing.Why, Lost: passing.Lost}
	}
	return err
}

// The outcomes of a call of the token endpoint, by the status and the error
// field alone (RFC 6749, section 5.2; RFC 7009, section 2.2.1):
//
//	answer                                    outcome
//	none, or half of one                      unavailable, lost unless it was never sent
//	5xx, 408, 425, 429                        unavailable
//	temporarily_unavailable, server_error     unavailable
//	invalid_grant, invalid_token              invalid grant
//	2xx that cannot be read                   unavailable, lost
//	everything else                           misconfigured
//
// In doubt a refusal counts as one of the broker: that keeps the device and
// calls an operator.
func (p *Provider) tokenFailed(ctx context.Context, op string, err error) error {
	var answered *oauth2.RetrieveError
	var request *url.Error // http.Client's: there was no answer
	switch {
	case errors.As(err, &answered):
		return p.answered(op, answered.Response.StatusCode, answered.Response.Header, answered.ErrorCode)
	case errors.Is(err, dpop.ErrKey):
		return misconfigured(op, ClientError, "the device's DPoP key cannot be read")
	case ctx.Err() != nil, errors.As(err, &request):
		return unreachable(ctx, op, err)
	}
	// Status 2xx, but no tokens that can be read: they may be issued.
	return lost(op, BrokenAnswer, "answered without usable tokens")
}

func (p *Provider) answered(op string, status int, header http.Header, code string) error {
	e := &Error{Kind: ClientError, Status: status, op: op, what: fmt.Sprintf("answered %d", status), outcome: domain.ErrAuthMisconfigured}
	if printable[code] {
		e.what += " " + code
	}
	switch {
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests,
		code == "temporarily_unavailable", code == "server_error":
		e.Kind, e.outcome = kindOf(status), domain.ErrAuthUnavailable
		return &domain.Unavailable{Err: e, Retry: retryAfter(header.Get("Retry-After"), p.cfg.Now()), Why: string(e.Kind)}
	case status < 300 && code == "":
		return lost(op, BrokenAnswer, e.what+" without usable tokens")
	case status >= 300 && status < 400:
	case code == "invalid_grant", code == "invalid_token":
		e.Kind, e.outcome = InvalidGrant, domain.ErrInvalidGrant
	}
	return e
}

func lost(op string, kind Kind, what string) error {
	return &domain.Unavailable{Err: &Error{Kind: kind, op: op, what: what, outcome: domain.ErrAuthUnavailable}, Why: string(kind), Lost: true}
}

func kindOf(status int) Kind {
	switch status {
	case http.StatusTooManyRequests, http.StatusTooEarly:
		return Throttled
	case http.StatusRequestTimeout:
		return Timeout
	}
	return Upstream5xx
}

// printable holds the codes that may stand in an error's text: those of RFC
// 6749, sections 4.1.2.1 and 5.2, RFC 7009, section 2.2.1, RFC 9449, section 12.2,
// and OpenID Connect Core 1.0, section 3.1.2.6. Any other would be the answer's text.
var printable = map[string]bool{
	"invalid_request": true, "invalid_client": true, "invalid_grant": true, "unauthorized_client": true,
	"unsupported_grant_type": true, "invalid_scope": true, "unsupported_token_type": true, "invalid_token": true,
	"access_denied": true, "unsupported_response_type": true, "server_error": true, "temporarily_unavailable": true,
	"interaction_required": true, "login_required": true, "account_selection_required": true, "consent_required": true,
	"invalid_request_uri": true, "invalid_request_object": true, "request_not_supported": true,
	"request_uri_not_supported": true, "registration_not_supported": true,
	"invalid_dpop_proof": true, "use_dpop_nonce": true,
}

// unreachable judges an error of the transport. Of its text only what the
// network and TLS say is kept: errors of the HTTP parser quote the answer,
// which may repeat what was sent.
func unreachable(ctx context.Context, op string, err error) error {
	e := &Error{Kind: Network, op: op, what: "the connection broke or carries no HTTP", outcome: domain.ErrAuthUnavailable}
	var (
		network   *net.OpError
		timed     net.Error
		untrusted *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Kind, e.what, e.cause = Canceled, "the caller gave up", context.Canceled
	case ctx.Err() != nil:
		e.Kind, e.what, e.cause = Timeout, "no answer in time", context.DeadlineExceeded
	case errors.As(err, &network) && !network.Timeout():
		e.what = network.Error()
	case errors.As(err, &timed) && timed.Timeout():
		e.Kind, e.what = Timeout, "no connection in time"
	case errors.As(err, &untrusted):
		e.what = untrusted.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.what = "the connection ended before the answer did"
	case errors.Is(err, http.ErrSchemeMismatch):
		e.what = "it speaks HTTP where the URL says HTTPS"
	}
	return &domain.Unavailable{Err: e, Why: string(e.Kind), Lost: !neverSent(err)}
}

// neverSent reports whether a call has failed before there was a connection to
// send it on.
func neverSent(err error) bool {
	var (
		op        *net.OpError
		untrusted *tls.CertificateVerificationError
	)
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &untrusted) || errors.Is(err, http.ErrSchemeMismatch)
}

// longestRetry bounds what a provider can make others wait.
const longestRetry = 24 * time.Hour

// retryAfter reads the header in both of its forms (RFC 9110, section 10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(longestRetry/time.Second))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), longestRetry)
}
