// Package authcall is what the two clients of auth servers, packages authapi and
// oidc, have in common: the transport that their calls go over, the form of their
// failures, and how to judge a call that brought no answer. What an answer means
// is theirs to say.
package authcall

import (
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
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
