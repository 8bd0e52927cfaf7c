package upstream_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/enginetest"
	"cloakroom/infra/upstream/h1"
)

func newChoice(t *testing.T, c upstream.Config) upstream.Engine {
	e := &upstream.Choice{
		HTTP1: h1.New(h1.Config{
			ConnectTimeout: c.ConnectTimeout, HeaderTimeout: c.HeaderTimeout, IdleTimeout: c.IdleTimeout, MaxIdlePerHost: c.MaxIdlePerHost,
			TLS: c.TLS, OfferHTTP2: true,
		}),
		HTTP2: upstream.NewTransport(c),
	}
	t.Cleanup(e.Close)
	return e
}

func TestChoiceIsAnEngine(t *testing.T) {
	enginetest.Run(t, newChoice)
	enginetest.RunTLS(t, newChoice)
	enginetest.RunHTTP1(t, newChoice)
}

// changing is an upstream that speaks HTTP/2 as long as it is told to, and answers
// with the protocol, the fields X-For and the body of a request.
type changing struct {
	*httptest.Server
	http2      atomic.Bool
	flips      atomic.Bool // with every third handshake
	closes     atomic.Bool // each connection after an answer
	handshakes atomic.Int64
}

func newChanging(t *testing.T) *changing {
	s := new(changing)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if s.closes.Load() {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprintf(w, "%s %v %s %v", r.Proto, r.Header["X-For"], body, err)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	both := s.TLS.Clone()
	only := s.TLS.Clone()
	only.NextProtos = []string{"http/1.1"}
	s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if n := s.handshakes.Add(1); n%3 == 0 && s.flips.Load() {
			s.http2.Store(!s.http2.Load())
		}
		if s.http2.Load() {
			return both, nil
		}
		return only, nil
	}
	return s
}

// post sends body, if there is one, of a known length or not, with a field that says how often the
// request was aimed.
func (s *changing) post(t *testing.T, e upstream.Engine, body io.Reader, length int64) string {
	t.Helper()
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	r := &upstream.Request{Method: "POST", Target: target, Path: "/", Body: body, Length: length}
	if body == nil {
		r.Method = "GET"
	}
	aimed := 0
	r.Aim = func() error {
		aimed++
		r.Header = append(r.Header, upstream.Field{Name: "X-For", Value: fmt.Sprint(aimed)})
		return nil
	}
	_, text := enginetest.Do(t, e, r)
	if aimed != 1 {
		t.Errorf("aimed %d times", aimed)
	}
	return text
}

func TestChoiceSpeaksWhatTheUpstreamSpeaks(t *testing.T) {
	for http2, want := range map[bool]string{true: "HTTP/2.0 [1] hello <nil>", false: "HTTP/1.1 [1] hello <nil>"} {
		for _, before := range []bool{true, false} {
			for name, body := range map[string]func() io.Reader{
				"memory": func() io.Reader { return strings.NewReader("hello") }, "stream": func() io.Reader { return io.LimitReader(strings.NewReader("hello"), 5) },
			} {
				for _, length := range []int64{5, -1} {
					s := newChanging(t)
					s.http2.Store(http2)
					e := newChoice(t, upstream.Config{TLS: enginetest.Roots()})
					if before {
						e.(*upstream.Choice).Remember(strings.TrimPrefix(s.URL, "https://"))
					}
					if got := s.post(t, e, body(), length); got != want {
						t.Errorf("%s of %d bytes, HTTP/2 now %v, before %v: %q", name, length, http2, before, got)
					}
				}
			}
		}
	}
}

// An upstream may come back with something else, and two may be behind one address
// that speak something else: nothing is lost.
func TestChoiceTurnsWithEachHandshake(t *testing.T) {
	s := newChanging(t)
	s.flips.Store(true)
	e := newChoice(t, upstream.Config{TLS: enginetest.Roots()})
	seen := make(map[string]int)
	s.closes.Store(true)
	for range 30 {
		seen[s.post(t, e, nil, 0)]++
	}
	if one, two := seen["HTTP/1.1 [1]  <nil>"], seen["HTTP/2.0 [1]  <nil>"]; one == 0 || two == 0 || one+two != 30 {
		t.Errorf("%v", seen)
	}
}

// The connection on which HTTP/2 was chosen is the one that is used.
func TestChoiceMakesNoConnectionInVain(t *testing.T) {
	s := newChanging(t)
	s.http2.Store(true)
	e := newChoice(t, upstream.Config{TLS: enginetest.Roots()})
	for range 5 {
		s.post(t, e, nil, 0)
	}
	if n := s.handshakes.Load(); n != 1 {
		t.Errorf("%d handshakes", n)
	}
}

func TestChoiceUnderLoad(t *testing.T) {
	s := newChanging(t)
	e := newChoice(t, upstream.Config{TLS: enginetest.Roots()})
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for n := range 40 {
				if i == 0 && n%10 == 9 {
					s.http2.Store(!s.http2.Load())
				}
				target, _ := url.Parse(s.URL)
				ctx, cancel := context.WithCancel(t.Context())
				if (i+n)%7 == 0 {
					go cancel()
				}
				resp, err := e.Do(ctx, &upstream.Request{Method: "GET", Target: target, Path: "/", Header: []upstream.Field{{Name: "X-For", Value: fmt.Sprint(i, n)}}})
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
				} else {
					body, err := io.ReadAll(resp.Body)
					if err == nil && !strings.HasSuffix(string(body), fmt.Sprintf(" [%d %d]  <nil>", i, n)) {
						t.Errorf("%q", body)
					}
					resp.Body.Close()
				}
				cancel()
			}
		})
	}
	clients.Wait()
}

// An upstream that prefers HTTP/2 is asked for a WebSocket over HTTP/1.1, while
// everything else goes on over HTTP/2.
func TestChoiceSwitchesProtocols(t *testing.T) {
	for _, c := range []upstream.Config{{}, {H2C: true}} {
		switchesProtocols(t, c)
	}
}

func switchesProtocols(t *testing.T, c upstream.Config) {
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
	if c.H2C {
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(true)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
	} else {
		s.EnableHTTP2 = true
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	c.TLS = enginetest.Roots()
	e := newChoice(t, c)
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := &upstream.Request{Method: "GET", Target: target, Path: "/"}
		if resp, _ := enginetest.Do(t, e, r); !slices.Contains(resp.Header, upstream.Field{Name: "X-Proto", Value: "HTTP/2.0"}) || resp.Tunnel != nil {
			t.Errorf("%v", resp.Header)
		}
		r.Upgrade = "some, Other"
		resp, err := e.Do(t.Context(), r)
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
