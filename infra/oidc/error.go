package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/oauth2"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
	"cloakroom/infra/dpop"
)

// The kinds of failure that package authcall does not have.
const (
	IssuerMismatch authcall.Kind = "issuer_mismatch" // the provider is not who the settings say
	Untrusted      authcall.Kind = "untrusted"       // a token of the answer did not pass the checks
)

func misconfigured(op string, kind authcall.Kind, what string) *authcall.Error {
	return &authcall.Error{Kind: kind, Op: op, What: what, Outcome: domain.ErrAuthMisconfigured}
}

// gaveUp says that ctx has ended before the answer came.
func gaveUp(ctx context.Context) error { return authcall.Unreachable(ctx, "provider", ctx.Err()) }

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
//	invalid_grant                             invalid grant
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
		return misconfigured(op, authcall.ClientError, "the device's DPoP key cannot be read")
	case ctx.Err() != nil, errors.As(err, &request):
		return authcall.Unreachable(ctx, op, err)
	}
	// Status 2xx, but no tokens that can be read: they may be issued.
	return lost(op, authcall.BrokenAnswer, "answered without usable tokens")
}

func (p *Provider) answered(op string, status int, header http.Header, code string) error {
	e := &authcall.Error{Kind: authcall.ClientError, Status: status, Op: op, What: fmt.Sprintf("answered %d", status), Outcome: domain.ErrAuthMisconfigured}
	if printable[code] {
		e.What += " " + code
	}
	switch {
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests,
		code == "temporarily_unavailable", code == "server_error":
		e.Kind, e.Outcome = kindOf(status), domain.ErrAuthUnavailable
		return &domain.Unavailable{Err: e, Retry: authcall.RetryAfter(header.Get("Retry-After"), p.cfg.Now()), Why: string(e.Kind)}
	case status < 300 && code == "":
		return lost(op, authcall.BrokenAnswer, e.What+" without usable tokens")
	case status >= 300 && status < 400:
	case code == "invalid_grant":
		e.Kind, e.Outcome = authcall.InvalidGrant, domain.ErrInvalidGrant
	}
	return e
}

func lost(op string, kind authcall.Kind, what string) error {
	return &domain.Unavailable{Err: &authcall.Error{Kind: kind, Op: op, What: what, Outcome: domain.ErrAuthUnavailable}, Why: string(kind), Lost: true}
}

func kindOf(status int) authcall.Kind {
	switch status {
	case http.StatusTooManyRequests, http.StatusTooEarly:
		return authcall.Throttled
	case http.StatusRequestTimeout:
		return authcall.Timeout
	}
	return authcall.Upstream5xx
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
