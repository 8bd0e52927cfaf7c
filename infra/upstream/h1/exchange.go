package h1

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cloakroom/infra/upstream"
)

// exchange is one request and its answer on one connection, which is the
// exchange's alone from newExchange to Close. It is the body of the answer.
type exchange struct {
	e      *Engine
	c      *conn
	ctx    context.Context
	forget func() bool // stops watching ctx; false if that has ended
	r      *upstream.Request
	send   *sender   // of a body that is sent while the answer is read, else nil
	body   io.Reader // what send sends
	wrote  bool      // the system has taken some of the request

	closed atomic.Bool

	mu    sync.Mutex // of the reading
	in    reader
	head  head
	rest  body               // of the answer
	err   error              // that reading has ended with, sticky
	after *tunnel            // if the upstream has switched protocols
	space [16]upstream.Field // for head.fields, which rarely needs more
	out   upstream.Response
}

// newExchange begins to watch ctx: if it ends, the connection does.
func newExchange(ctx context.Context, e *Engine, c *conn, r *upstream.Request, requestBody io.Reader) *exchange {
	x := &exchange{e: e, c: c, ctx: ctx, r: r, body: requestBody, forget: neverEnds, in: newReader(c)}
	x.head.fields = x.space[:0]
	if ctx.Done() != nil {
		x.forget = context.AfterFunc(ctx, c.cut)
	}
	return x
}

func neverEnds() bool { return true }

// do sends the request, or begins to, and reads the answer's head. What is in
// memory of the request is in first; the rest of it is the exchange's body.
func (x *exchange) do(first []byte) error {
	var until time.Time // for as long as the body may take
	if x.body == nil {
		until = x.e.answerBy()
	}
	if err := x.c.SetDeadline(until); err != nil {
		return err
	}
	n, err := x.c.Write(first)
	if x.wrote = n > 0; err != nil && !x.wrote {
		return err
	}
	// If only some of it was taken, the upstream has perhaps said why.
	if x.body != nil {
		x.send = x.startSending()
	}
	err = x.in.head(&x.head)
	if x.send != nil {
		if cause := x.send.answered(err == nil); cause != nil {
			return cause
		}
	}
	if err != nil {
		return err
	}
	if x.head.status == 101 {
		return x.switchProtocols()
	}
	x.rest = bodyOf(&x.head, x.r.Method)
	if x.send == nil && !x.rest.within(&x.in) {
		return x.c.SetReadDeadline(time.Time{})
	}
	return nil
}

// mayRetry reports whether the request may be sent once more after do has
// returned err. It does not look at whether its body can be had again.
func (x *exchange) mayRetry(err error) bool {
	switch {
	case x.send != nil && !x.send.stop():
		return false // somebody may wait for the client under the body's lock
	case errors.Is(err, os.ErrDeadlineExceeded), x.send != nil && x.send.broken():
		return false
	case !x.wrote:
		return true
	}
	return x.in.received == 0 && repeatable(x.r)
}

// repeatable reports whether it does no harm if an upstream acts on the request
// twice: by its method (RFC 9110, section 9.2.1), or because it can tell by a
// key that it is the same one. PUT and DELETE are left out, as net/http does:
// somebody else's change may lie between the two.
func repeatable(r *upstream.Request) bool {
	switch r.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, "Idempotency-Key") || strings.EqualFold(f.Name, "X-Idempotency-Key") {
			return true
		}
	}
	return false
}

// abandon ends an exchange that has brought no answer.
func (x *exchange) abandon() {
	x.err = errOver
	_ = x.Close()
}

// response is what Do returns.
func (x *exchange) response() *upstream.Response {
	x.out = upstream.Response{
		Status:   x.head.status,
		Header:   x.head.fields,
		Body:     x,
		Length:   x.rest.length,
		Trailers: x.head.trailers,
		Trailer:  x.trailer,
	}
	if x.after != nil {
		x.out.Body, x.out.Tunnel, x.out.Protocol = x.after, x.after, x.after.protocol
	}
	return &x.out
}

func (x *exchange) trailer() []upstream.Field { return x.rest.trailer }

var errOver = errors.New("the answer's body is closed")

// Read implements io.Reader for the answer's body.
func (x *exchange) Read(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err != nil || len(p) == 0 {
		return 0, x.err
	}
	n, err := x.rest.read(&x.in, p)
	if err != nil {
		if x.err = err; err != io.EOF && x.ctx.Err() != nil {
			x.err = context.Cause(x.ctx)
		}
	}
	return n, x.err
}

// Close ends the exchange. The connection goes back to the pool if the whole
// request was sent and the whole answer was read, and nothing else: what would
// be left of either would become part of the next exchange. Only the first call
// does anything: by the second the connection may be another exchange's.
func (x *exchange) Close() error {
	if !x.closed.CompareAndSwap(false, true) {
		return nil
	}
	interrupted := !x.mu.TryLock()
	if interrupted {
		x.c.cut() // wakes up who reads
		x.mu.Lock()
	}
	defer x.mu.Unlock()
	whole := !interrupted && (x.err == nil || x.err == io.EOF) && x.rest.ended
	reusable := whole && x.rest.reusable && x.in.buffered() == 0
	if x.send != nil {
		reusable = x.send.finish(reusable)
	}
	reusable = x.forget() && reusable
	x.err = errOver
	x.in.free()
	switch {
	case reusable:
		x.e.pool.put(x.c)
	case whole && x.send == nil:
		x.c.Close()
	default:
		x.c.cut()
	}
	return nil
}
