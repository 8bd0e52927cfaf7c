package httpguard

import (
	"crypto/tls"
	"errors"
	"net"
	"time"
)

// tlsConn is a guarded connection that HTTP is spoken on over TLS. fasthttp
// knows one by its methods; Conn does not have them, so that nobody takes a
// plain connection for it.
type tlsConn struct {
	*Conn
	tls *tls.Conn
}

// Handshake runs the handshake, unless it has been run. The client has
// Config.HandshakeTimeout for all of it, whichever way it dawdles. fasthttp calls
// it in the connection's own goroutine, so that nobody else waits meanwhile.
func (c *tlsConn) Handshake() error {
	until := time.Now().Add(c.listener.cfg.HandshakeTimeout)
	if err := errors.Join(c.readDeadline.renew(until), c.writeDeadline.renew(until)); err != nil {
		return err
	}
	return c.tls.Handshake()
}

// ConnectionState says what was agreed in the handshake.
func (c *tlsConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// Break closes the connection in such a way that no client takes it for the end
// of an answer: by a reset, and over TLS without the farewell that would vouch
// for the end (RFC 8446, section 6.1). Close has still to be called.
func (c *Conn) Break() {
	carrier := c.Conn
	if over, ok := carrier.(interface{ NetConn() net.Conn }); ok {
		carrier = over.NetConn()
	}
	if tcp, ok := carrier.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = carrier.Close()
}
