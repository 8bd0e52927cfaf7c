package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Handshake speaks TLS over a connection to host, as config says or else by the
// system's roots, and offers protocols there. If that does not come about in time,
// it closes the connection.
func Handshake(ctx context.Context, under net.Conn, host string, config *tls.Config, timeout time.Duration, protocols ...string) (*tls.Conn, error) {
	if config == nil {
		config = new(tls.Config)
	}
	config = config.Clone()
	config.NextProtos = protocols
	if config.ServerName == "" {
		config.ServerName = host
	}
	over := tls.Client(under, config)
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := over.HandshakeContext(within); err != nil {
		under.Close()
		return nil, err
	}
	return over, nil
}

// The protocols as they are offered (RFC 7301, section 6).
const (
	HTTP1 = "http/1.1"
	HTTP2 = "h2"
)

// HTTP2Chosen is the error of an engine for HTTP/1.1 that was to offer HTTP/2 as
// well, and whose upstream has taken it. Nothing was sent yet, and nothing of
// the request's body was read. The connection is whoever's the error is.
type HTTP2Chosen struct{ Conn *tls.Conn }

func (*HTTP2Chosen) Error() string { return "the upstream has chosen HTTP/2" }
