package enginetest

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/upstream"
)

// Upstream is an upstream that a test writes byte by byte.
type Upstream struct {
	URL   *url.URL
	Conns atomic.Int64 // accepted
}

// Conn is an upstream's end of a connection.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// certificate is that of upstreams that speak TLS. It is httptest's.
var certificate = sync.OnceValue(func() tls.Certificate {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return s.TLS.Certificates[0]
})

// Roots are those by which an upstream of RawTLS, or of httptest, is verified.
func Roots() *tls.Config {
	roots := x509.NewCertPool()
	if leaf, err := x509.ParseCertificate(certificate().Certificate[0]); err == nil {
		roots.AddCert(leaf)
	}
	return &tls.Config{RootCAs: roots}
}

// RawTLS is Raw over TLS. What is written at once is in one record, if one can
// be as long.
func RawTLS(t testing.TB, serve func(c Conn, r *bufio.Reader)) *Upstream {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"http/1.1"}, DynamicRecordSizingDisabled: true}
	u := Raw(t, func(c Conn, _ *bufio.Reader) {
		over := tls.Server(c, config)
		defer over.Close()
		serve(over, bufio.NewReader(over))
	})
	u.URL.Scheme = "https"
	return u
}

// Raw serves each connection with serve, and closes it after that.
func Raw(t testing.TB, serve func(c Conn, r *bufio.Reader)) *Upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	u := &Upstream{URL: &url.URL{Scheme: "http", Host: l.Addr().String()}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.Conns.Add(1)
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(2 * Within))
				serve(c.(Conn), bufio.NewReader(c))
			}()
		}
	}()
	return u
}

// Answering reads one request after the other, each with its body, and answers
// all of them with text.
func Answering(text string) func(Conn, *bufio.Reader) {
	return func(c Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if _, err := io.WriteString(c, text); err != nil {
				return
			}
		}
	}
}

// Get is a request without a body.
func (u *Upstream) Get(path string) *upstream.Request {
	return &upstream.Request{Method: "GET", Target: u.URL, Path: path}
}

// Post is a request with a body of unknown length if it is -1.
func (u *Upstream) Post(body io.Reader, length int64) *upstream.Request {
	return &upstream.Request{Method: "POST", Target: u.URL, Path: "/", Body: body, Length: length}
}
