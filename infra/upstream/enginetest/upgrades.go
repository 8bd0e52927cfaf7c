package enginetest

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/upstream"
)

// RunHTTP1 runs, plain and over TLS, what is expected beyond Run of an engine that
// is there for HTTP/1.1: that it passes on requests to switch protocols, and that
// no upstream confuses it. net/http can be confused, by luck, because it gives a
// connection back before it looks at what else has come in.
func RunHTTP1(t *testing.T, open func(*testing.T, upstream.Config) upstream.Engine) {
	tests := map[string]func(*testing.T, suite){
		"does not use a connection with more on it": leavesDoubtfulConnections,
		"asks as it is told":                        asksToSwitch,
		"hands over the connection":                 handsOverTheConnection,
		"passes on answers that do not":             answersThatDoNotSwitch,
		"refuses what was not asked for":            switchesNobodyAskedFor,
		"ends with its context until then":          endsWithContextBeforeTheSwitch,
		"hands on what either says last":            halfClosedTunnels,
		"ends what is under way with a close":       closedTunnels,
	}
	run(t, open, tests)
	runTLS(t, open, tests)
}

const upgraded = "HTTP/1.1 101 Switching Protocols\r\nX-A: b\r\nConnection: x, upgrade\r\nUpgrade: Raw\r\n\r\n"

// switching switches protocols, says text at once, and then serves the connection.
func (s suite) switching(t *testing.T, text string, serve func(c Conn, r *bufio.Reader)) *Upstream {
	return s.raw(t, func(c Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, upgraded+text)
			serve(c, r)
		}
	})
}

func (u *Upstream) upgrade(protocols string) *upstream.Request {
	r := u.Get("/")
	r.Upgrade = protocols
	return r
}

// openTunnel closes it when the test ends.
func openTunnel(t *testing.T, ctx context.Context, e upstream.Engine, u *Upstream) upstream.Tunnel {
	t.Helper()
	resp, err := e.Do(ctx, u.upgrade("other, raw"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.Status != 101 || resp.Protocol != "Raw" || resp.Tunnel == nil || !slices.Contains(resp.Header, upstream.Field{Name: "X-A", Value: "b"}) {
		t.Fatalf("%+v", resp)
	}
	return resp.Tunnel
}

func asksToSwitch(t *testing.T, s suite) {
	asked := make(chan *http.Request, 1)
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		if req, err := http.ReadRequest(r); err == nil {
			asked <- req
			io.WriteString(c, upgraded)
		}
	})
	for _, method := range []string{"GET", "POST"} {
		r := up.upgrade("other/1, raw")
		r.Method = method
		resp, err := s.open(upstream.Config{}).Do(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		req := <-asked
		if got := req.Header["Upgrade"]; !slices.Equal(got, []string{"other/1, raw"}) || req.Header.Get("Connection") != "Upgrade" || req.ContentLength != 0 {
			t.Errorf("%s: %v", method, req.Header)
		}
	}
}

// Both ends speak at once, and what is said belongs to the tunnel; nothing that
// bounds requests bounds it.
func handsOverTheConnection(t *testing.T, s suite) {
	const timeout = 200 * time.Millisecond
	early := strings.Repeat("early", 10_000)
	up := s.switching(t, early, func(c Conn, r *bufio.Reader) { io.Copy(c, r) })
	e := s.open(upstream.Config{HeaderTimeout: timeout, IdleTimeout: timeout})
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		tunnel := openTunnel(t, ctx, e, up)
		cancel() // the connection is ours now
		read := func(n int) string {
			p := make([]byte, n)
			if _, err := io.ReadFull(tunnel, p); err != nil {
				t.Fatal(err)
			}
			return string(p)
		}
		if got := read(3) + read(len(early)-3); got != early {
			t.Errorf("%d other bytes behind the answer", len(got))
		}
		<-time.After(timeout * 3 / 2)
		sent := strings.Repeat("\x00GET / HTTP/1.1\r\n\r\n", 20_000)
		go io.WriteString(tunnel, sent)
		if read(len(sent)) != sent {
			t.Error("something else came back")
		}
		tunnel.Close()
	}
	if n := up.Conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func answersThatDoNotSwitch(t *testing.T, s suite) {
	for status, text := range map[int]string{
		200: "HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: raw\r\nContent-Length: 2\r\n\r\nok",
		426: "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nok",
		401: "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
	} {
		up := s.raw(t, Answering(text))
		e := s.open(upstream.Config{})
		for range 3 {
			if resp, body := Do(t, e, up.upgrade("raw")); resp.Status != status || resp.Tunnel != nil || body != "ok" {
				t.Errorf("%d: %d %q", status, resp.Status, body)
			}
		}
		if n := up.Conns.Load(); n != 1 {
			t.Errorf("%d: %d connections", status, n)
		}
	}
}

func switchesNobodyAskedFor(t *testing.T, s suite) {
	for name, c := range map[string]struct{ asks, answer string }{
		"nobody asked":         {"", "Connection: Upgrade\r\nUpgrade: raw"},
		"another":              {"other", "Connection: Upgrade\r\nUpgrade: raw"},
		"more than a name":     {"raw", "Connection: Upgrade\r\nUpgrade: raw/2"},
		"two":                  {"raw, other", "Connection: Upgrade\r\nUpgrade: raw, other"},
		"two lines":            {"raw, other", "Connection: Upgrade\r\nUpgrade: raw\r\nUpgrade: other"},
		"none":                 {"raw", "Connection: Upgrade"},
		"an empty one":         {"raw", "Connection: Upgrade\r\nUpgrade:"},
		"not said to be one":   {"raw", "Upgrade: raw"},
		"said of another line": {"raw", "Connection: close, x-upgrade\r\nUpgrade: raw"},
	} {
		up := s.raw(t, Answering("HTTP/1.1 101 Switching Protocols\r\n"+c.answer+"\r\n\r\n"))
		resp, err := s.open(upstream.Config{}).Do(t.Context(), up.upgrade(c.asks))
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: %d", name, resp.Status)
		} else if kindOf(err) != upstream.BadAnswer {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func endsWithContextBeforeTheSwitch(t *testing.T, s suite) {
	begun, over := make(chan struct{}), make(chan struct{})
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		_, _ = http.ReadRequest(r)
		close(begun)
		io.Copy(io.Discard, r)
		close(over)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if resp, err := s.open(upstream.Config{}).Do(ctx, up.upgrade("raw")); err != context.Canceled {
		t.Errorf("%v, %v", resp, err)
	}
	Receive(t, "the end of the connection", over)
}

func halfClosedTunnels(t *testing.T, s suite) {
	up := s.switching(t, "", func(c Conn, r *bufio.Reader) {
		all, _ := io.ReadAll(r)
		io.WriteString(c, string(all)+", and bye")
	})
	tunnel := openTunnel(t, t.Context(), s.open(upstream.Config{}), up)
	io.WriteString(tunnel, "hello")
	if err := tunnel.CloseWrite(); err != nil {
		t.Error(err)
	}
	if all, err := io.ReadAll(tunnel); string(all) != "hello, and bye" || err != nil {
		t.Errorf("%q, %v", all, err)
	}

	got := make(chan string, 1)
	up = s.switching(t, "", func(c Conn, r *bufio.Reader) {
		_ = c.CloseWrite()
		all, _ := io.ReadAll(r)
		got <- string(all)
	})
	tunnel = openTunnel(t, t.Context(), s.open(upstream.Config{}), up)
	if all, err := io.ReadAll(tunnel); len(all) > 0 || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	io.WriteString(tunnel, "still here")
	_ = tunnel.CloseWrite()
	if all := Receive(t, "the end", got); all != "still here" {
		t.Errorf("%q", all)
	}
}

func closedTunnels(t *testing.T, s suite) {
	over := make(chan struct{}, 1)
	up := s.switching(t, "", func(c Conn, r *bufio.Reader) {
		r.ReadByte()
		if _, err := io.Copy(io.Discard, r); err != nil {
			return // which is not what a close looks like
		}
		over <- struct{}{}
	})
	e := s.open(upstream.Config{})
	tunnel := openTunnel(t, t.Context(), e, up)
	io.WriteString(tunnel, "x")
	ended := make(chan error)
	go func() {
		_, err := tunnel.Read(make([]byte, 1))
		ended <- err
	}()
	tunnel.Close()
	if err := Receive(t, "the end of the read", ended); err == nil {
		t.Error("a read of a closed tunnel has no error")
	}
	Receive(t, "the end of the connection", over)
}
