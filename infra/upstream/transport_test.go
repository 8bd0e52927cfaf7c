package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func newTransport(t *testing.T, c Config) *Transport {
	tr := NewTransport(c)
	t.Cleanup(tr.Close)
	return tr
}

func TestTransportSpeaksHTTP2(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_ = http.NewResponseController(w).Flush()
		fmt.Fprintf(w, "%s %s %s %s %v %s", r.Proto, r.RequestURI, r.Host, body, err, r.Trailer.Get("X-Up"))
		w.Header().Set("X-Sum", "5")
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	tr := newTransport(t, Config{TLS: s.Client().Transport.(*http.Transport).TLSClientConfig})
	resp, err := tr.Do(context.Background(), &Request{
		Method: "POST", Target: parseURL(t, s.URL), Path: "/a%20b;c?d=%2F",
		Body: strings.NewReader("hello"), Length: -1,
		Trailers: []string{"X-Up"}, Trailer: func() []Field { return []Field{{"X-Up", "7"}, {"X-Unannounced", "8"}} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := "HTTP/2.0 /a%20b;c?d=%2F " + strings.TrimPrefix(s.URL, "https://") + " hello <nil> 7"; string(body) != want || err != nil {
		t.Errorf("%q, %v, want %q", body, err, want)
	}
	if got := resp.Trailer(); !slices.Equal(got, []Field{{"X-Sum", "5"}}) || !slices.Equal(resp.Trailers, []string{"X-Sum"}) {
		t.Errorf("trailers %v, announced %v", got, resp.Trailers)
	}
}

// frozen is a connection that swallows whatever is sent on it from some time on.
type frozen struct {
	net.Conn
	cold atomic.Bool
}

func (c *frozen) Write(p []byte) (int, error) {
	if c.cold.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func TestHTTP2ConnectionThatIsDeadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := NewTransport(Config{H2C: true})
		defer tr.Close()
		var servers sync.WaitGroup
		defer servers.Wait()
		var conns []*frozen
		s := &http.Server{Handler: http.NotFoundHandler(), Protocols: new(http.Protocols)}
		s.Protocols.SetUnencryptedHTTP2(true)
		defer s.Close()
		tr.http.DialContext = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			conns = append(conns, &frozen{Conn: near})
			servers.Go(func() { _ = s.Serve(&once{conn: far}) })
			return conns[len(conns)-1], nil
		}
		get := func() error {
			r, err := tr.Do(t.Context(), &Request{Method: "GET", Target: &url.URL{Scheme: "http", Host: "h.test"}, Path: "/"})
			if err == nil {
				r.Body.Close()
			}
			return err
		}
		if err := get(); err != nil {
			t.Fatal(err)
		}
		conns[0].cold.Store(true)
		start := time.Now()
		if err := get(); err == nil || time.Since(start) > pingAfter+pingTimeout {
			t.Errorf("on a dead connection: %v after %v", err, time.Since(start))
		}
		if err := get(); err != nil || len(conns) != 2 {
			t.Errorf("the next request: %v, over %d connections", err, len(conns))
		}
	})
}

// once is a listener with one connection.
type once struct{ conn net.Conn }

func (l *once) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *once) Close() error   { return nil }
func (l *once) Addr() net.Addr { return &net.UnixAddr{} }

func TestTransportVerifiesTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	_, err := newTransport(t, Config{}).Do(context.Background(), &Request{Method: "GET", Target: parseURL(t, s.URL), Path: "/"})
	var unverified *tls.CertificateVerificationError
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != Unreachable || !errors.As(err, &unverified) {
		t.Errorf("%v", err)
	}
}

// What net/http has taken of a body can be sent anew only as far as it is held.
func TestBodyIsTakenInPieces(t *testing.T) {
	b := &requestBody{from: strings.NewReader(strings.Repeat("x", 1<<20)), left: 1 << 20, broken: new(atomic.Bool)}
	if n, err := b.Read(make([]byte, 1<<20)); n != 32<<10 || err != nil {
		t.Errorf("%d bytes at once, %v", n, err)
	}
}

// What an upstream says to a request that broke off is no answer to it. Over TLS
// it often comes in time, because the upstream is told of the end first.
func TestAnswerToABrokenRequestIsNone(t *testing.T) {
	cut := errors.New("cut")
	begun := make(chan struct{})
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			t.Error("it looks like all of it")
		}
	}))
	t.Cleanup(s.Close)
	tr := newTransport(t, Config{TLS: s.Client().Transport.(*http.Transport).TLSClientConfig})
	for name, length := range map[string]int64{"chunked": -1, "fixed": 1 << 20} {
		for how, end := range map[string]error{"ctx": cut, "body": cut, "too short": io.EOF} {
			if length < 0 && end == io.EOF {
				continue // that is its end
			}
			for range 60 {
				ctx, cancel := context.WithCancelCause(t.Context())
				more := readerFunc(func() error {
					<-begun
					if how == "ctx" {
						cancel(cut)
					}
					return end
				})
				resp, err := tr.Do(ctx, &Request{
					Method: "POST", Target: parseURL(t, s.URL), Path: "/", Length: length,
					Body: io.MultiReader(bytes.NewReader(make([]byte, 2*transportBuffer)), more),
				})
				if err == nil {
					resp.Body.Close()
					t.Fatalf("%s, %s: %d", name, how, resp.Status)
				}
				if how == "ctx" && !errors.Is(err, cut) {
					t.Fatalf("%s, %s: %v", name, how, err)
				}
				cancel(nil)
			}
		}
	}
}

// readerFunc is a reader that has nothing to give.
type readerFunc func() error

func (f readerFunc) Read([]byte) (int, error) { return 0, f() }

// A body can be sent again on another connection only if it is given anew.
func TestBodyIsRewoundForAnotherTry(t *testing.T) {
	allowed := true
	r := &Request{
		Method: "POST", Target: parseURL(t, "http://x.test"), Path: "/", Length: 5, Body: strings.NewReader("hello"),
		Rewind: func() (io.Reader, bool) { return strings.NewReader("hello"), allowed },
	}
	out, _ := newHTTPRequest(r)
	for range 2 {
		body, err := out.GetBody()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(body); string(got) != "hello" {
			t.Errorf("%q", got)
		}
	}
	allowed = false
	if _, err := out.GetBody(); err == nil {
		t.Error("a body that is gone is given out")
	}
	r.Rewind = nil
	if out, _ = newHTTPRequest(r); out.GetBody != nil {
		t.Error("a body that cannot be rewound promises it")
	}
}

// An upstream that offers HTTP/2 is asked for a WebSocket over HTTP/1.1, while
// everything else goes on over HTTP/2.
func TestTransportSwitchesProtocols(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		if r.Header.Get("Upgrade") == "" {
			return
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "other")
		w.WriteHeader(http.StatusSwitchingProtocols)
		c, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "hello ")
		io.Copy(c, buffered)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	tr := newTransport(t, Config{TLS: &tls.Config{RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}})
	for range 2 {
		r := &Request{Method: "GET", Target: parseURL(t, s.URL), Path: "/"}
		resp, err := tr.Do(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if !slices.Contains(resp.Header, Field{"X-Proto", "HTTP/2.0"}) || resp.Tunnel != nil {
			t.Errorf("%v", resp.Header)
		}

		r.Upgrade = "some, Other"
		ctx, cancel := context.WithCancel(context.Background())
		resp, err = tr.Do(ctx, r)
		cancel() // the connection is ours now
		if err != nil || resp.Status != http.StatusSwitchingProtocols || resp.Protocol != "other" {
			t.Fatalf("%v, %v", resp, err)
		}
		io.WriteString(resp.Tunnel, "world")
		if err := resp.Tunnel.CloseWrite(); err != nil {
			t.Error(err)
		}
		if b, err := io.ReadAll(resp.Tunnel); string(b) != "hello world" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		resp.Tunnel.Close()
	}
}
