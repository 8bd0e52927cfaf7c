package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
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
	// TLS is how https upstreams are verified. Default: by the system's roots.
	TLS *tls.Config
	// Socket is the file of a Unix socket to which every connection is made,
	// whatever the target's host. Default: the host is dialled.
	Socket string
	// H2C is for upstreams that speak HTTP/2 without TLS and without being asked
	// (RFC 9113, section 3.3).
	H2C bool
}

const (
	maxResponseHeader = 64 << 10 // bytes
	transportBuffer   = 16 << 10 // bytes, for each direction of each connection
)

// An HTTP/2 connection carries all requests, and goes on to be chosen for more
// when the way to the upstream is broken and nobody says so. One on which
// nothing has come in for pingAfter is asked, and given up pingTimeout later.
const (
	pingAfter   = 15 * time.Second
	pingTimeout = 5 * time.Second
)

// Transport is the Engine over net/http, for HTTP/2. Without a Choice before it, it
// speaks HTTP/1.1 with upstreams that do not know that. It asks no upstream to
// switch protocols.
type Transport struct {
	http *http.Transport
	h2c  bool
}

var _ Engine = (*Transport)(nil)

// NewTransport returns a Transport without connections.
func NewTransport(c Config) *Transport {
	setDefault(&c.ConnectTimeout, 5*time.Second)
	setDefault(&c.HeaderTimeout, 30*time.Second)
	setDefault(&c.IdleTimeout, 30*time.Second)
	setDefault(&c.MaxIdlePerHost, 512)
	plain := dial(c.ConnectTimeout, c.Socket)
	t := &Transport{h2c: c.H2C, http: &http.Transport{
		Proxy:                  nil, // the environment's has no say in where requests go
		DialContext:            plain,
		DialTLSContext:         secure(plain, c),
		ResponseHeaderTimeout:  max(c.HeaderTimeout, 0),
		DisableCompression:     true, // bodies travel as they are
		MaxIdleConns:           2 * c.MaxIdlePerHost,
		MaxIdleConnsPerHost:    c.MaxIdlePerHost,
		IdleConnTimeout:        c.IdleTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		ReadBufferSize:         transportBuffer,
		WriteBufferSize:        transportBuffer,
	}}
	t.http.Protocols = new(http.Protocols)
	t.http.Protocols.SetHTTP1(!c.H2C)
	t.http.Protocols.SetHTTP2(!c.H2C)
	t.http.Protocols.SetUnencryptedHTTP2(c.H2C)
	t.http.HTTP2 = &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout}
	return t
}

// unsent marks an error of making a connection.
type unsent struct{ error }

func (e unsent) Unwrap() error { return e.error }

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// secure is plain with TLS above it. net/http would not say of an error in its
// own handshake that nothing was sent yet.
func secure(plain dialFunc, c Config) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		h, only2 := ctx.Value(handoverKey{}).(*handover)
		if only2 {
			if conn := h.conn.Swap(nil); conn != nil {
				return conn, nil
			}
		}
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, unsent{err}
		}
		under, err := plain(ctx, network, address)
		if err != nil {
			return nil, err
		}
		over, err := Handshake(ctx, under, host, c.TLS, c.ConnectTimeout, HTTP2, HTTP1)
		if err != nil {
			return nil, unsent{err}
		}
		if only2 && over.ConnectionState().NegotiatedProtocol != HTTP2 {
			over.Close()
			return nil, unsent{errNotHTTP2}
		}
		return over, nil
	}
}

func dial(timeout time.Duration, socket string) dialFunc {
	dialer := &net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if socket != "" {
			network, address = "unix", socket
		}
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, unsent{err}
		}
		return c, nil
	}
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Close closes the connections that nobody uses. Those in use end with their
// requests.
func (t *Transport) Close() {
	t.http.CloseIdleConnections()
}

// Do implements Engine.
func (t *Transport) Do(ctx context.Context, r *Request) (*Response, error) {
	if r.Aim != nil {
		if err := r.Aim(); err != nil {
			return nil, err
		}
	}
	out, sent := newHTTPRequest(r)
	// RoundTrip and not a Client: that one would follow redirects.
	in, err := t.http.RoundTrip(out.WithContext(ctx))
	if err == nil && (ctx.Err() != nil || sent.broken.Load()) {
		// The connection was given up, and still brought an answer: over TLS the
		// upstream is told of the end before TCP is closed.
		in.Body.Close()
		err = errCut
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, errNotHTTP2) && sent.withdraw():
		return nil, errNotHTTP2
	case err != nil:
		kind := Unreachable
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			kind = TimedOut
		}
		return nil, &Error{Kind: kind, Unsent: errors.As(err, new(unsent)), Err: err}
	case in.StatusCode < 200:
		in.Body.Close()
		return nil, &Error{Kind: BadAnswer, Err: fmt.Errorf("unexpected status %d", in.StatusCode)}
	}
	return newResponse(in), nil
}

// errCut: the request was not sent completely.
var errCut = errors.New("the request was cut")

// progress is how far a request's body has come.
type progress struct {
	broken atomic.Bool  // it does not come to its end
	state  atomic.Int32 // unread at first, and then one of the others
}

const (
	unread int32 = iota
	begun
	withdrawn
)

// begin reports whether the body may be read.
func (p *progress) begin() bool {
	return p.state.CompareAndSwap(unread, begun) || p.state.Load() == begun
}

// withdraw reports whether nothing of the body was read. Then nothing will be.
func (p *progress) withdraw() bool { return p.state.CompareAndSwap(unread, withdrawn) }

// newHTTPRequest makes the request for net/http.
func newHTTPRequest(r *Request) (out *http.Request, sent *progress) {
	sent = new(progress)
	out = &http.Request{
		Method: r.Method,
		// An opaque URL is written as it is. The path begins with one slash:
		// two would make an absolute form of it.
		URL:        &url.URL{Scheme: r.Target.Scheme, Host: r.Target.Host, Opaque: r.Path},
		Host:       r.Target.Host,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     httpHeader(r.Header),
	}
	if out.Header["User-Agent"] == nil {
		out.Header["User-Agent"] = []string{""} // else net/http says its own
	}
	if r.Body == nil {
		return out, sent
	}
	out.ContentLength = r.Length
	if len(r.Trailers) > 0 {
		out.Trailer = make(http.Header, len(r.Trailers))
		for _, name := range r.Trailers {
			out.Trailer[http.CanonicalHeaderKey(name)] = nil
		}
	}
	body := func(from io.Reader) io.ReadCloser {
		return &requestBody{from: from, r: r, left: r.Length, sent: sent, trailer: out.Trailer}
	}
	out.Body = body(r.Body)
	if r.Rewind != nil {
		out.GetBody = func() (io.ReadCloser, error) {
			again, ok := r.Rewind()
			if !ok {
				return nil, errors.New("the body cannot be sent again")
			}
			return body(again), nil
		}
	}
	return out, sent
}

// requestBody is a request's body as net/http reads it. It fills in the trailers
// when it has ended, which is the time at which net/http looks for them.
type requestBody struct {
	from    io.Reader
	r       *Request
	left    int64 // less than 0 if the length is not known
	sent    *progress
	trailer http.Header // nil if there are to be none
}

// longestRead is how much of a body net/http gets at once, in bytes. Over HTTP/2
// it would take up to half a MiB before it looks at how much the upstream allows
// to be sent, and no more of that could be sent anew than is held.
const longestRead = 32 << 10

func (b *requestBody) Read(p []byte) (int, error) {
	if !b.sent.begin() {
		return 0, errCut
	}
	n, err := b.from.Read(p[:min(len(p), longestRead)])
	if b.left > 0 {
		b.left = max(b.left-int64(n), 0)
	}
	switch {
	case err == io.EOF && b.left <= 0:
		b.fillIn()
	case err != nil && b.left != 0:
		b.sent.broken.Store(true)
	}
	return n, err
}

func (b *requestBody) fillIn() {
	for name := range b.trailer {
		b.trailer[name] = nil // of an attempt before this one
	}
	if b.trailer == nil {
		return
	}
	for _, f := range b.r.Trailer() {
		name := http.CanonicalHeaderKey(f.Name)
		if values, announced := b.trailer[name]; announced {
			b.trailer[name] = append(values, f.Value)
		}
	}
}

func (b *requestBody) Close() error { return nil }

// httpHeader makes a map of the fields, with one slice under all values.
func httpHeader(fields []Field) http.Header {
	header := make(http.Header, len(fields)+1)
	values := make([]string, len(fields))
	for i, f := range fields {
		name := http.CanonicalHeaderKey(f.Name)
		if previous, ok := header[name]; ok {
			header[name] = append(previous, f.Value)
			continue
		}
		values[i] = f.Value
		header[name] = values[i : i+1 : i+1]
	}
	return header
}

func newResponse(in *http.Response) *Response {
	out := &Response{
		Status:  in.StatusCode,
		Header:  fieldsOf(in.Header),
		Body:    in.Body,
		Length:  in.ContentLength,
		Trailer: func() []Field { return fieldsOf(in.Trailer) },
	}
	if in.StatusCode == http.StatusNotModified {
		out.Length = statedLength(in.Header)
	}
	for name := range in.Trailer {
		out.Trailers = append(out.Trailers, name)
	}
	return out
}

// statedLength is the length that a 304 states of the body that a 200 would
// have (RFC 9110, section 8.6), which net/http leaves in the header.
func statedLength(header http.Header) int64 {
	n, err := strconv.ParseUint(header.Get("Content-Length"), 10, 63)
	if err != nil {
		return -1
	}
	return int64(n)
}

func fieldsOf(header http.Header) []Field {
	out := make([]Field, 0, len(header)+2)
	for name, values := range header {
		for _, v := range values {
			out = append(out, Field{name, v})
		}
	}
	return out
}
