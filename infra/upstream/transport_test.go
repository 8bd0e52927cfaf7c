package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func newTransport(t *testing.T, c Config) *Transport {
	tr := NewTransport(c)
	t.Cleanup(tr.Close)
	return tr
}

// wire is an upstream that notes a request's bytes and answers 200.
func wire(t *testing.T) (target string, head <-chan string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heads := make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				var head strings.Builder
				for {
					line, err := r.ReadString('\n')
					head.WriteString(line)
					if err != nil {
						return
					}
					if line == "\r\n" {
						heads <- head.String()
						head.Reset()
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String(), heads
}

func TestTransportSendsWhatItIsGiven(t *testing.T) {
	target, heads := wire(t)
	tr := newTransport(t, Config{})
	for _, path := range []string{"/", "/?", "/a%20b;c/%7e?q=%2F&x", "/x?u=http://a.test//b?c", "/|?{}^`|", "/%e4", "/a'(b)*!$&+,=:@~"} {
		r := &Request{Method: "GET", Target: parseURL(t, target+"/ignored"), Path: path, Header: []Field{{"X-A", "1"}, {"Accept", "*/*"}, {"X-A", "2"}}}
		resp, err := tr.Do(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		lines := strings.Split(strings.TrimSuffix(<-heads, "\r\n\r\n"), "\r\n")
		first, rest := lines[0], lines[1:]
		slices.Sort(rest)
		want := []string{"Accept: */*", "Host: " + strings.TrimPrefix(target, "http://"), "X-A: 1", "X-A: 2"}
		if first != "GET "+path+" HTTP/1.1" || !slices.Equal(rest, want) {
			t.Errorf("%q, %q, want %q", first, rest, want)
		}
	}
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

func TestTransportErrors(t *testing.T) {
	waiting := make(chan struct{}, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		waiting <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(s.Close)
	r := &Request{Method: "GET", Target: parseURL(t, s.URL), Path: "/"}

	_, err := newTransport(t, Config{HeaderTimeout: 50 * time.Millisecond}).Do(context.Background(), r)
	if e, ok := errors.AsType[*Error](err); !ok || e.Kind != TimedOut || e.Status() != 504 {
		t.Errorf("a slow upstream: %v", err)
	}
	<-waiting

	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { <-waiting; cancel(gone) }()
	if _, err := newTransport(t, Config{}).Do(ctx, r); !errors.Is(err, gone) {
		t.Errorf("a client that leaves: %v", err)
	}
}

// A body can be sent again on another connection only if it is given anew.
func TestBodyIsRewoundForAnotherTry(t *testing.T) {
	allowed := true
	r := &Request{
		Method: "POST", Target: parseURL(t, "http://x.test"), Path: "/", Length: 5, Body: strings.NewReader("hello"),
		Rewind: func() (io.Reader, bool) { return strings.NewReader("hello"), allowed },
	}
	out := newHTTPRequest(r)
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
	if r.Rewind = nil; newHTTPRequest(r).GetBody != nil {
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
