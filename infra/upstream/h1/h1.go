// Package h1 is the engine for upstreams that speak HTTP/1.1, plain or over TLS. It
// does what upstream.Transport does for a third of the CPU time, because it
// writes the fields as it gets them and reads the answer in the goroutine that
// waits for it: no header maps, and no two goroutines for each connection.
//
// It is strict where net/http forgives (head.go, body.go): an answer that two
// readers could frame in two ways is refused, and a connection is used again
// (pool.go) only after an exchange (exchange.go) of which nothing is in doubt.
// An upstream that switches protocols when it is asked to takes the connection
// out of all that (tunnel.go). HTTP/2 is not here: it remains the Transport's, and
// an upstream.Choice stands before the two.
package h1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"time"

	"cloakroom/infra/upstream"
)

// Config bounds what an upstream may take. The zero value of every field stands
// for its default.
type Config struct {
	// ConnectTimeout bounds making a connection, and the TLS handshake on it
	// once more. Default 5 s.
	ConnectTimeout time.Duration
	// HeaderTimeout bounds the wait for an answer to begin, from the moment at
	// which the request is sent completely. Default 30 s; less than 0: none.
	HeaderTimeout time.Duration
	// IdleTimeout is for how long a connection is kept for the next request.
	// Default 30 s.
	IdleTimeout time.Duration
	// MaxIdlePerHost is how many connections are kept for each upstream.
	// Default 512.
	MaxIdlePerHost int
	// Dial makes a connection to an address of host and port; the network is
	// always "tcp", and who dials may know better. Connections that are not the
	// system's own, like those in memory, are used for one request only. Default:
	// that of a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// TLS is how https upstreams are verified. Default: by the system's roots.
	TLS *tls.Config
	// OfferHTTP2 offers HTTP/2 to them as well, unless the request may switch
	// protocols. To one that takes it nothing is sent: Do's error is an
	// *upstream.HTTP2Chosen.
	OfferHTTP2 bool
}

// Engine is an upstream.Engine. Targets whose scheme is not https are taken for
// plain http.
type Engine struct {
	cfg  Config
	pool *pool
}

var _ upstream.Engine = (*Engine)(nil)

// New returns an Engine without connections.
func New(c Config) *Engine {
	setDefault(&c.ConnectTimeout, 5*time.Second)
	setDefault(&c.HeaderTimeout, 30*time.Second)
	setDefault(&c.IdleTimeout, 30*time.Second)
	setDefault(&c.MaxIdlePerHost, 512)
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAlive: 30 * time.Second}).DialContext
	}
	return &Engine{cfg: c, pool: newPool(c.MaxIdlePerHost, c.IdleTimeout)}
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// answerBy is when an answer has to have begun to a request that is sent now, the
// zero time if it may take its time.
func (e *Engine) answerBy() (t time.Time) {
	if e.cfg.HeaderTimeout > 0 {
		t = time.Now().Add(e.cfg.HeaderTimeout)
	}
	return t
}

// Close closes the connections that nobody uses, and those in use as soon as
// their requests have ended.
func (e *Engine) Close() { e.pool.close() }

// Do implements upstream.Engine.
//
// A request goes out a second time, on a new connection, if the pooled one
// turns out to be dead: if the upstream cannot have seen any of the request, or
// if not a byte of an answer has come and to do it twice does no harm.
func (e *Engine) Do(ctx context.Context, r *upstream.Request) (*upstream.Response, error) {
	if r.Aim != nil {
		if err := r.Aim(); err != nil {
			return nil, err
		}
	}
	body := r.Body
	if r.Length == 0 {
		body = nil
	}
	buf := headBuffers.Get().(*[]byte)
	defer putHead(buf)
	head, err := appendRequest((*buf)[:0], r, body)
	if *buf = head; err != nil {
		return nil, failure(ctx, err)
	}
	c, err := e.connect(ctx, r)
	if err != nil {
		return nil, failure(ctx, err)
	}
	// Not before: whoever has chosen HTTP/2 gets the whole body.
	if head, ok, err := appendSmall(head, r, body); err != nil {
		c.Close()
		return nil, failure(ctx, err)
	} else if ok {
		*buf, body = head, nil
	}
	for {
		x := newExchange(ctx, e, c, r, body)
		if err = x.do(*buf); err == nil {
			return x.response(), nil
		}
		again := c.used && ctx.Err() == nil && x.mayRetry(err)
		x.abandon()
		if again && body != nil {
			body, again = rewind(r)
		}
		if again {
			c, err = e.dial(ctx, r.Target, upstream.HTTP1)
			again = err == nil
		}
		if !again {
			return nil, failure(ctx, err)
		}
	}
}

// connect takes a connection from the pool, or makes one.
func (e *Engine) connect(ctx context.Context, r *upstream.Request) (*conn, error) {
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if c := e.pool.take(poolKey(r.Target)); c != nil {
		return c, nil
	}
	if e.cfg.OfferHTTP2 && r.Upgrade == "" {
		return e.dial(ctx, r.Target, upstream.HTTP2, upstream.HTTP1)
	}
	return e.dial(ctx, r.Target, upstream.HTTP1)
}

// poolKey is what the pool knows connections to a target by.
func poolKey(target *url.URL) string {
	if isTLS(target) {
		return "https://" + target.Host
	}
	return target.Host
}

func isTLS(target *url.URL) bool { return target.Scheme == "https" }

// dial makes a connection, on which protocols are offered if it is one over TLS.
func (e *Engine) dial(ctx context.Context, target *url.URL, protocols ...string) (*conn, error) {
	within, cancel := context.WithTimeoutCause(ctx, e.cfg.ConnectTimeout, errSlowConnect)
	defer cancel()
	nc, err := e.cfg.Dial(within, "tcp", address(target))
	if err != nil {
		if context.Cause(within) == errSlowConnect {
			err = errSlowConnect
		}
		return nil, fmt.Errorf("%w to %s: %w", errNoConnection, target.Host, err)
	}
	if !isTLS(target) {
		return newConn(nc, poolKey(target)), nil
	}
	over, err := upstream.Handshake(ctx, nc, target.Hostname(), e.cfg.TLS, e.cfg.ConnectTimeout, protocols...)
	if err != nil {
		return nil, fmt.Errorf("%w to %s: %w", errNoConnection, target.Host, err)
	}
	if over.ConnectionState().NegotiatedProtocol == upstream.HTTP2 {
		return nil, &upstream.HTTP2Chosen{Conn: over}
	}
	return newConn(over, poolKey(target)), nil
}

func address(target *url.URL) string {
	if target.Port() != "" {
		return target.Host
	}
	port := "80"
	if isTLS(target) {
		port = "443"
	}
	return net.JoinHostPort(target.Hostname(), port)
}

func rewind(r *upstream.Request) (body io.Reader, ok bool) {
	if r.Rewind == nil {
		return nil, false
	}
	return r.Rewind()
}

var (
	errNoConnection = errors.New("no connection")
	errSlowConnect  = fmt.Errorf("connecting took too long: %w", os.ErrDeadlineExceeded)
	errMalformed    = errors.New("malformed answer")
	errBadRequest   = errors.New("the request cannot be written")
)

func malformed(what string) error { return fmt.Errorf("%w: %s", errMalformed, what) }

// failure is what Do returns for err.
func failure(ctx context.Context, err error) error {
	if chosen, ok := errors.AsType[*upstream.HTTP2Chosen](err); ok {
		return chosen
	}
	kind := upstream.Unreachable
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errMalformed):
		kind = upstream.BadAnswer
	case errors.Is(err, errBadRequest):
		kind = upstream.BadTarget
	case errors.Is(err, os.ErrDeadlineExceeded), ok && timeout.Timeout():
		kind = upstream.TimedOut
	}
	return &upstream.Error{Kind: kind, Unsent: errors.Is(err, errNoConnection), Err: err}
}
