// Package authcall is what the two clients of auth servers, packages authapi and
// oidc, have in common: the transport that their calls go over, and how to judge
// a call that brought no answer. What an answer means is theirs to say.
package authcall

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"cloakroom/domain"
)

const (
	dialTimeout = 5 * time.Second

	// idleTimeout stays below the five seconds after which uvicorn and Node.js
	// close an idle connection by default. A request that crosses such a close
	// on the wire fails without anyone knowing whether the token has rotated.
	idleTimeout = 3 * time.Second

	maxAnswerHeader = 64 << 10 // bytes
)

// NewTransport bounds the calls at once by its connections. It speaks HTTP/1.1
// alone, for that reason and so that nothing is sent twice: it repeats a POST
// only if not a byte of it was written. No proxy is taken from the environment,
// because tokens and passwords would go through it unasked.
func NewTransport(conns int) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Protocols:              protocols,
		DialContext:            (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    dialTimeout,
		DisableCompression:     true,
		MaxConnsPerHost:        conns,
		MaxIdleConns:           conns,
		MaxIdleConnsPerHost:    conns,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
}

// Canceled is the Why of a call that its caller gave up. It says nothing about
// the auth server.
const Canceled = "canceled"

// Failure is a call that brought no answer.
type Failure struct {
	Why   string // Canceled, domain.WhyTimeout or domain.WhyNetwork
	What  string // a sentence's end for the log, without anything that was sent
	Cause error  // context.Canceled, context.DeadlineExceeded or nil
	// Lost: the call may have been carried out all the same.
	Lost bool
}

// Judge judges an error of the transport. Of its text only what the network and
// TLS say is kept: errors of the HTTP parser quote the answer, which may repeat
// what was sent.
func Judge(ctx context.Context, err error) Failure {
	f := Failure{Why: domain.WhyNetwork, What: "the connection broke or carries no HTTP", Lost: !neverSent(err)}
	var (
		network   *net.OpError
		timed     net.Error
		untrusted *tls.CertificateVerificationError
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		f.Why, f.What, f.Cause = Canceled, "the caller gave up", context.Canceled
	case ctx.Err() != nil:
		f.Why, f.What, f.Cause = domain.WhyTimeout, "no answer in time", context.DeadlineExceeded
	case errors.As(err, &timed) && timed.Timeout():
		f.Why, f.What = domain.WhyTimeout, "no connection in time"
	case errors.As(err, &network):
		f.What = network.Error()
	case errors.As(err, &untrusted):
		f.What = untrusted.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		f.What = "the connection ended before the answer did"
	case errors.Is(err, http.ErrSchemeMismatch):
		f.What = "it speaks HTTP where the URL says HTTPS"
	}
	return f
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

// longestRetry bounds what an auth server can make others wait.
const longestRetry = 24 * time.Hour

// RetryAfter reads the header field in both of its forms (RFC 9110, section
// 10.2.3). It is 0 if the value is neither.
func RetryAfter(value string, now time.Time) time.Duration {
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
