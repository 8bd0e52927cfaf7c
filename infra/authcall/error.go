package authcall

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"

	"cloakroom/domain"
)

// Kind says what went wrong in a word that a metric can have as a label.
type Kind string

// The kinds that every client has; package oidc adds two.
const (
	InvalidGrant Kind = "invalid_grant"        // the token is refused for good
	ClientError  Kind = "client_error"         // the broker is refused, or asks at the wrong place
	BrokenAnswer Kind = domain.WhyBrokenAnswer // success was answered, but not in this protocol
	Timeout      Kind = domain.WhyTimeout      // no whole answer in time
	Canceled     Kind = "canceled"             // the caller gave up: this says nothing about the auth server
	Network      Kind = domain.WhyNetwork      // no connection, or it broke
	Throttled    Kind = domain.WhyThrottled    // asked too often or too early
	Upstream5xx  Kind = domain.WhyUpstream5xx
)

// Error is a failure of the auth server or of the way to it. It unwraps to the
// outcome that callers act on, and to the context's error if that was the cause.
// Its text holds nothing that was sent or answered but the status and, if it is
// one that the RFCs name, the error code: whoever makes one sees to that.
type Error struct {
	Kind   Kind
	Status int // that was answered; 0 if there was no whole answer

	Op, What string // what was done, and how it went
	Outcome  error  // of package domain
	Cause    error  // may be nil
}

func (e *Error) Error() string { return e.Op + ": " + e.Outcome.Error() + ": " + e.What }

// Unwrap gives the outcome and the cause.
func (e *Error) Unwrap() []error {
	if e.Cause == nil {
		return []error{e.Outcome}
	}
	return []error{e.Outcome, e.Cause}
}

// Unreachable judges an error of the transport: a call that brought no answer. Of
// its text only what the network and TLS say is kept: errors of the HTTP parser
// quote the answer, which may repeat what was sent.
func Unreachable(ctx context.Context, op string, err error) error {
	e := &Error{Kind: Network, Op: op, What: "the connection broke or carries no HTTP", Outcome: domain.ErrAuthUnavailable}
	var (
		network   *net.OpError
		timed     net.Error
		untrusted *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Kind, e.What, e.Cause = Canceled, "the caller gave up", context.Canceled
	case ctx.Err() != nil:
		e.Kind, e.What, e.Cause = Timeout, "no answer in time", context.DeadlineExceeded
	case errors.As(err, &timed) && timed.Timeout():
		e.Kind, e.What = Timeout, "no connection in time"
	case errors.As(err, &network):
		e.What = network.Error()
	case errors.As(err, &untrusted):
		e.What = untrusted.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		e.What = "the connection ended before the answer did"
	case errors.Is(err, http.ErrSchemeMismatch):
		e.What = "it speaks HTTP where the URL says HTTPS"
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
