package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"
	"sync/atomic"
)

// Choice is the Engine that speaks with each upstream what it speaks: HTTP/1.1 by
// an engine for that, and HTTP/2 by a Transport.
//
// Over TLS both are offered, and the upstream says in each handshake which one it
// is. A request goes first by the one that the last handshake was for, and turns
// to the other if a handshake says otherwise now. One that may switch protocols
// always goes by HTTP/1.1, because HTTP/2 does not know that (RFC 9113, section
// 8.6).
type Choice struct {
	// HTTP1 has an *HTTP2Chosen as its error if an https upstream chooses HTTP/2.
	HTTP1 interface {
		Engine
		Close()
	}
	HTTP2 *Transport

	speak2 sync.Map // hosts whose last handshake was for HTTP/2
}

var _ Engine = (*Choice)(nil)

// Do implements Engine.
func (c *Choice) Do(ctx context.Context, r *Request) (*Response, error) {
	switch {
	case r.Upgrade != "":
		return c.HTTP1.Do(ctx, r)
	case r.Target.Scheme == "https":
		return c.negotiate(ctx, r)
	case c.HTTP2.h2c:
		return c.HTTP2.Do(ctx, r)
	}
	return c.HTTP1.Do(ctx, r)
}

// mostTurns bounds how often a request turns to the other engine. Two turns are
// needed, if each of two upstreams behind one address speaks something else.
const mostTurns = 4

func (c *Choice) negotiate(ctx context.Context, r *Request) (*Response, error) {
	var made *tls.Conn // for HTTP/2
	for range mostTurns {
		_, speaks2 := c.speak2.Load(r.Target.Host)
		if speaks2 || made != nil {
			resp, err := c.HTTP2.doOver(ctx, r, made)
			if err != errNotHTTP2 {
				return resp, err
			}
			c.speak2.Delete(r.Target.Host)
			made = nil
		} else {
			resp, err := c.HTTP1.Do(ctx, r)
			chosen, ok := errors.AsType[*HTTP2Chosen](err)
			if !ok {
				return resp, err
			}
			c.speak2.Store(r.Target.Host, nil)
			made = chosen.Conn
		}
		if r.Aim != nil { // it has been called
			again := *r
			again.Aim = nil
			r = &again
		}
	}
	if made != nil {
		made.Close()
	}
	return nil, &Error{Kind: Unreachable, Unsent: true, Err: errors.New("each handshake chooses another protocol than the last")}
}

// Close closes both.
func (c *Choice) Close() {
	c.HTTP1.Close()
	c.HTTP2.Close()
}

// handover brings a connection on which HTTP/2 was chosen into the dialling of
// net/http, or none. Whoever dials with one makes connections for HTTP/2 alone.
type handover struct{ conn atomic.Pointer[tls.Conn] }

type handoverKey struct{}

// errNotHTTP2: the upstream does not speak HTTP/2 any more. Nothing was sent.
var errNotHTTP2 = errors.New("the upstream has not chosen HTTP/2")

// doOver is Do over HTTP/2 alone, and perhaps over conn, which is closed if it is
// not needed. Its error is errNotHTTP2 if a handshake has chosen something else
// and nothing of the request's body was read.
func (t *Transport) doOver(ctx context.Context, r *Request, conn *tls.Conn) (*Response, error) {
	h := new(handover)
	h.conn.Store(conn)
	resp, err := t.Do(context.WithValue(ctx, handoverKey{}, h), r)
	if conn = h.conn.Swap(nil); conn != nil {
		conn.Close()
	}
	return resp, err
}
