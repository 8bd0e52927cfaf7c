package upstream

import (
	"context"
	"fmt"
	"io"
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

// What net/http has taken of a body can be sent anew only as far as it is held.
func TestBodyIsTakenInPieces(t *testing.T) {
	b := &requestBody{from: strings.NewReader(strings.Repeat("x", 1<<20)), left: 1 << 20, sent: new(progress)}
	if n, err := b.Read(make([]byte, 1<<20)); n != 32<<10 || err != nil {
		t.Errorf("%d bytes at once, %v", n, err)
	}
}

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

// A body goes to another engine only if nothing of it was read, and then nothing
// is.
func TestBodyIsWithdrawnBeforeItIsRead(t *testing.T) {
	body := func() *requestBody {
		return &requestBody{from: strings.NewReader("hello"), left: 5, sent: new(progress)}
	}
	p := make([]byte, 2)
	b := body()
	for range 2 {
		if n, err := b.Read(p); n != 2 || err != nil || b.sent.withdraw() {
			t.Errorf("%d bytes, %v, and it is withdrawn after that", n, err)
		}
	}
	b = body()
	if !b.sent.withdraw() {
		t.Error("a body that nobody has read cannot be withdrawn")
	}
	if n, err := b.Read(p); n != 0 || err == nil {
		t.Errorf("%d bytes of a body that is withdrawn, %v", n, err)
	}
}
