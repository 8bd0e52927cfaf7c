package routes_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"cloakroom/domain"
	"cloakroom/infra/httpguard"
	"cloakroom/infra/tunnel"
	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/enginetest"
	"cloakroom/repo"
	"cloakroom/routes"
)

// echo is an upstream that says over a WebSocket what it hears, and then how it
// ended.
type echo struct {
	requests chan *http.Request
	ended    chan error
}

func newEcho() *echo { return &echo{make(chan *http.Request, 100), make(chan error, 100)} }

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.requests <- r.Clone(context.Background())
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // whose page it is has been looked at before
		Subprotocols:       []string{"chat"},
		CompressionMode:    websocket.CompressionContextTakeover,
	})
	if err != nil {
		return
	}
	defer ws.CloseNow()
	ws.SetReadLimit(16 << 20)
	for {
		kind, message, err := ws.Read(context.Background())
		if err == nil {
			err = ws.Write(context.Background(), kind, message)
		}
		if err != nil {
			e.ended <- err
			return
		}
	}
}

// webSocket opens one as a page of ours would.
func (f *front) webSocket(target string, header ...string) (*websocket.Conn, *http.Response, error) {
	f.t.Helper()
	h := http.Header{"Cookie": {f.cookie}, "Origin": {"http://" + f.addr}}
	for i := 0; i < len(header); i += 2 {
		h.Del(header[i])
		if header[i+1] != "" {
			h.Set(header[i], header[i+1])
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	f.t.Cleanup(cancel)
	ws, resp, err := websocket.Dial(ctx, "ws://"+f.addr+target, &websocket.DialOptions{
		HTTPHeader: h, Subprotocols: []string{"chat"}, CompressionMode: websocket.CompressionContextTakeover,
	})
	if err == nil {
		f.t.Cleanup(func() { ws.CloseNow() })
		ws.SetReadLimit(16 << 20)
	}
	return ws, resp, err
}

func (f *front) openWebSocket() *websocket.Conn {
	f.t.Helper()
	ws, _, err := f.webSocket("/")
	if err != nil {
		f.t.Fatal(err)
	}
	f.echoes(ws, "hello")
	return ws
}

func (f *front) echoes(ws *websocket.Conn, message string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := ws.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		f.t.Fatal(err)
	}
	if _, got, err := ws.Read(ctx); err != nil || string(got) != message {
		f.t.Fatalf("%d bytes, %v; want %d bytes back", len(got), err, len(message))
	}
}

func TestWebSocketPasses(t *testing.T) {
	e := newEcho()
	f := newProxy(t, e)
	ws, resp, err := f.webSocket("/chat?room=1", "Sec-Fetch-Site", "same-origin", "X-Kept", "kept", "Authorization", "Bearer evil", "X-Forwarded-For", "6.6.6.6")
	if err != nil {
		t.Fatal(err)
	}
	r := receive(t, "the handshake", e.requests)
	for name, want := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Authorization": "Bearer " + f.token(), "Origin": "http://" + f.addr, "Cookie": "",
		"X-Kept": "kept", "X-Forwarded-For": "127.0.0.1", "Sec-Websocket-Version": "13", "Sec-Websocket-Protocol": "chat", "X-Forwarded-Proto": "http",
	} {
		if got := strings.Join(r.Header.Values(name), "|"); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if r.RequestURI != "/chat?room=1" || resp.StatusCode != 101 || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s, %s %v", r.RequestURI, resp.Status, resp.Header)
	}
	if ws.Subprotocol() != "chat" || !strings.Contains(resp.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		t.Errorf("agreed on %v", resp.Header)
	}
	for _, n := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20, 8 << 20} {
		f.echoes(ws, strings.Repeat("x", n))
	}
	if err := ws.Close(websocket.StatusNormalClosure, "bye"); err != nil {
		t.Error(err)
	}
	if err := receive(t, "the upstream's end", e.ended); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		t.Errorf("the upstream has seen %v", err)
	}
	lines := f.logged.lines(t, "request", 2)
	if line := lines[1]; line["status"] != 101.0 || line["path"] != "/chat" || line["cut"] != nil {
		t.Errorf("%v", line)
	}
}

// An upstream that prefers HTTP/2 is asked over HTTP/1.1.
func TestWebSocketPassesOverTLS(t *testing.T) {
	e := newEcho()
	s := httptest.NewUnstartedServer(e)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, s.URL)}},
		engine: upstream.Config{TLS: enginetest.Roots()},
	})
	f.get("/") // which makes the upstream one of HTTP/2
	receive(t, "the request", e.requests)
	ws, _, err := f.webSocket("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 65536, 8 << 20} {
		f.echoes(ws, strings.Repeat("x", n))
	}
	f.cutsWithin(t, time.Second, ws, e, func() { f.handlers.DeviceEnded(f.device()) })
}

func TestR20_CrossSiteHandshakeIsRefused(t *testing.T) {
	e := newEcho()
	f := newFront(t, frontConfig{
		routes:  []upstream.Route{{Prefix: "/", Target: parseURL(t, serve(t, e))}},
		surface: func(c *routes.Config) { c.AllowedOrigins = []string{"https://admin.test"} },
	})
	for name, c := range map[string]struct {
		origin, site, csrf string
		want               int
	}{
		"our page":                {"http://" + f.addr, "", "", 101},
		"our page, as it says":    {"", "same-origin", "", 101},
		"a configured origin":     {"https://admin.test", "cross-site", "", 101},
		"a program":               {"", "", "1", 101},
		"another site":            {"https://evil.test", "", "", 403},
		"another site, as we are": {"https://evil.test", "same-origin", "", 403},
		"another site's frame":    {"null", "", "", 403},
		"another port":            {"http://127.0.0.1:1", "", "", 403},
		"a neighbour":             {"", "same-site", "", 403},
		"cross-site":              {"", "cross-site", "1", 403},
		"nobody knows":            {"", "", "", 403},
	} {
		ws, resp, err := f.webSocket("/", "Origin", c.origin, "Sec-Fetch-Site", c.site, "X-Csrf", c.csrf)
		if resp == nil || resp.StatusCode != c.want {
			t.Errorf("%s: %v, %v; want %d", name, resp, err, c.want)
		}
		if err == nil {
			ws.CloseNow()
		}
	}
	for range 4 {
		receive(t, "a handshake", e.requests)
	}
	select {
	case r := <-e.requests:
		t.Errorf("the upstream has seen %v", r.Header)
	default:
	}
}

func TestUpgradeThatIsNotMade(t *testing.T) {
	const upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
	for name, c := range map[string]struct {
		asks, answer string
		want         int
	}{
		"a normal answer":        {"websocket", "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno", 426},
		"nobody asked":           {"", upgrade + "websocket\r\n\r\n", 502},
		"h2c":                    {"h2c", upgrade + "h2c\r\n\r\n", 502},
		"another protocol":       {"websocket", upgrade + "other\r\n\r\n", 502},
		"none":                   {"websocket", "HTTP/1.1 101 X\r\nConnection: Upgrade\r\n\r\n", 502},
		"an empty one":           {"websocket", upgrade + "\r\n\r\n", 502},
		"not said to be one":     {"websocket", "HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n", 502},
		"two protocols":          {"websocket", upgrade + "websocket, h2c\r\n\r\n", 502},
		"one that was held up":   {"websocket, h2c, TLS/1.0, HTTP/3.0", upgrade + "TLS/1.0\r\n\r\n", 502},
		"another interim answer": {"websocket", "HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200},
	} {
		t.Run(name, func(t *testing.T) {
			f := newRawProxy(t, answering(c.answer))
			client := f.dial("GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: "+c.asks, "")
			for range 2 { // and the connection goes on with what is behind
				resp := client.head("GET")
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != c.want || resp.Close {
					t.Fatalf("%s, closed %v, %v; want %d", resp.Status, resp.Close, err, c.want)
				}
				client.send("GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: " + c.asks + "\r\nHost: app.test\r\nX-Csrf: 1\r\nCookie: " + f.cookie + "\r\n\r\n")
			}
		})
	}
}

func TestWhatMayNotBeAskedFor(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	for head, want := range map[string]string{
		"HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA": "",
		"HTTP/1.1\r\nUpgrade: websocket":                                            "",
		"HTTP/1.1\r\nConnection: keep-alive\r\nUpgrade: websocket":                  "",
		"HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket":                     "",
		"HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: HTTP/2.0, TLS/1.2, h2c, h2":    "",
		"HTTP/1.1\r\nConnection: keep-alive, upgrade\r\nUpgrade: WebSocket":         "WebSocket",
		"HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c, SPDY/3.1\r\nUpgrade: tcp": "SPDY/3.1, tcp",
	} {
		c := f.dial("GET / "+head, "")
		if resp := c.head("GET"); resp.StatusCode != 200 {
			t.Errorf("%q: %s", head, resp.Status)
		}
		got := receive(t, "the request", rec.got)
		if v := got.Header.Get("Upgrade"); v != want || (got.Header.Get("Connection") != "") != (want != "") || got.Header.Get("Http2-Settings") != "" {
			t.Errorf("%q: the upstream is asked for %q", head, v)
		}
	}
}

// switching is an upstream that answers 101 and then serves the connection.
func switching(serve func(c net.Conn, r *bufio.Reader)) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: Raw\r\nSet-Cookie: device_id=evil\r\n\r\nfirst")
			serve(c, r)
		}
	}
}

// dialTunnel asks for a tunnel and sends text right behind, before it is there.
func (f *front) dialTunnel(text string) *conn {
	f.t.Helper()
	c := f.dial("POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: raw", text)
	resp := c.head("POST")
	if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "Raw" || resp.Header.Get("Connection") != "Upgrade" || resp.Header.Get("Set-Cookie") != "" {
		f.t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	if got := c.read(5); got != "first" {
		f.t.Fatalf("%q", got)
	}
	return c
}

func (c *conn) read(n int) string {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.r, b); err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// Both ends speak at once, before either has heard that there is a tunnel, and
// what is no HTTP at all passes.
func TestTunnelLosesNothing(t *testing.T) {
	const early = "\x00\xff GET / HTTP/9\n\n\r\n\r\nearly"
	f := newRawProxy(t, switching(func(c net.Conn, r *bufio.Reader) { io.Copy(c, r) }))
	c := f.dialTunnel(early)
	if got := c.read(len(early)); got != early {
		t.Errorf("%q came back", got)
	}
	sent := strings.Repeat("0123456789abcdef", 1<<16)
	go c.send(sent)
	if got := c.read(len(sent)); got != sent {
		t.Error("something else came back")
	}
	c.send("more")
	if got := c.read(4); got != "more" {
		t.Errorf("%q", got)
	}
}

func TestTunnelClosesHalfByHalf(t *testing.T) {
	t.Run("the client first", func(t *testing.T) {
		f := newRawProxy(t, switching(func(c net.Conn, r *bufio.Reader) {
			all, _ := io.ReadAll(r)
			fmt.Fprintf(c, "%s, and bye", all)
		}))
		c := f.dialTunnel("hello")
		_ = c.CloseWrite()
		if all, err := io.ReadAll(c.r); string(all) != "hello, and bye" || err != nil {
			t.Errorf("%q, %v", all, err)
		}
		f.logged.lines(t, "request", 2)
	})
	t.Run("the upstream first", func(t *testing.T) {
		got := make(chan string, 1)
		f := newRawProxy(t, switching(func(c net.Conn, r *bufio.Reader) {
			_ = c.(*net.TCPConn).CloseWrite()
			all, _ := io.ReadAll(r)
			got <- string(all)
		}))
		c := f.dialTunnel("")
		if all, err := io.ReadAll(c.r); len(all) > 0 || err != nil {
			t.Errorf("%q, %v", all, err)
		}
		c.send("still here")
		_ = c.CloseWrite()
		if s := receive(t, "the end", got); s != "still here" {
			t.Errorf("%q", s)
		}
		if line := f.logged.lines(t, "request", 2)[1]; line["cut"] != nil {
			t.Errorf("%v", line)
		}
	})
}

func TestTunnelEndsWithEitherEnd(t *testing.T) {
	const soon = time.Second
	over := make(chan time.Time, 1)
	f := newRawProxy(t, switching(func(c net.Conn, r *bufio.Reader) {
		if b, _ := r.ReadByte(); b == 'r' { // reset
			_ = c.(*net.TCPConn).SetLinger(0)
			return
		} else if b == 'c' { // close
			return
		}
		r.ReadByte()
		over <- time.Now()
	}))
	for name, leave := range map[string]func(*conn){"FIN": func(c *conn) { c.Close() }, "RST": (*conn).reset} {
		c := f.dialTunnel("wait")
		left := time.Now()
		leave(c)
		if took := receive(t, "the upstream's end", over).Sub(left); took > soon {
			t.Errorf("%s: it took %v", name, took)
		}
	}
	for _, how := range []string{"close", "reset"} {
		c := f.dialTunnel("")
		c.send(how)
		left := time.Now()
		if b, err := c.r.ReadByte(); err == nil || time.Since(left) > soon {
			t.Errorf("%s: %q after %v", how, b, time.Since(left))
		}
	}
}

// A tunnel is silent for far longer than the server waits for anything else.
func TestTunnelSurvivesSilence(t *testing.T) {
	e := newEcho()
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, serve(t, e))}},
		engine: upstream.Config{HeaderTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond},
		guard:  httpguard.Config{HeadTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond, BodyTimeout: 50 * time.Millisecond, WriteTimeout: 50 * time.Millisecond},
		surface: func(c *routes.Config) {
			c.Tunnel = tunnel.Config{WriteTimeout: 50 * time.Millisecond, HalfOpenTimeout: 50 * time.Millisecond}
		},
	})
	ws := f.openWebSocket()
	<-time.After(500 * time.Millisecond)
	f.echoes(ws, "still there")
}

func TestTunnelEndsWithItsDevice(t *testing.T) {
	t.Run("signed out", func(t *testing.T) {
		e := newEcho()
		f := newProxy(t, e)
		ws := f.openWebSocket()
		f.cutsWithin(t, time.Second, ws, e, func() {
			f.handlers.DeviceEnded(f.device())
		})
	})
	t.Run("signed out while nothing was heard of the store", func(t *testing.T) {
		e := newEcho()
		f := newProxy(t, e)
		ws := f.openWebSocket()
		if _, err := f.store.Delete(t.Context(), f.device(), repo.AnyVersion); err != nil {
			t.Fatal(err)
		}
		f.store.away.Store(true) // its events are back before it answers
		f.handlers.Recheck(t.Context())
		f.cutsWithin(t, within, ws, e, func() { f.store.away.Store(false) })
	})
	t.Run("by time", func(t *testing.T) {
		e := newEcho()
		f := newProxy(t, e)
		ws := f.openWebSocket()
		f.cutsWithin(t, time.Second, ws, e, func() { f.late.Store(int64(24 * time.Hour)) })
		if resp, _ := f.get("/"); resp.StatusCode != 401 {
			t.Error(resp.Status)
		}
	})
	t.Run("by time, but seen since", func(t *testing.T) {
		e := newEcho()
		f := newProxy(t, e)
		ws := f.openWebSocket()
		f.late.Store(int64(23 * time.Hour))
		f.get("/auth/session") // which is a sign of life, and no exchange
		f.late.Store(int64(25 * time.Hour))
		<-time.After(600 * time.Millisecond)
		f.echoes(ws, "still there")
	})
}

// cutsWithin ends the device and sees both ends of its WebSocket end.
func (f *front) cutsWithin(t *testing.T, most time.Duration, ws *websocket.Conn, e *echo, end func()) {
	t.Helper()
	begun := time.Now()
	end()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_, _, err := ws.Read(ctx)
	if took := time.Since(begun); err == nil || ctx.Err() != nil || took > most {
		t.Errorf("the client: %v after %v", err, took)
	}
	err = receive(t, "the upstream's end", e.ended)
	if took := time.Since(begun); took > most {
		t.Errorf("the upstream: %v after %v", err, took)
	}
	eventually(t, "the log line", func() bool { return strings.Contains(f.logged.String(), "the device was signed out") })
}

func (f *front) device() domain.DeviceID {
	f.t.Helper()
	_, text, _ := strings.Cut(f.cookie, "=")
	ticket, err := domain.ParseTicket(text)
	if err != nil {
		f.t.Fatal(err)
	}
	return ticket.DeviceID
}

func TestTunnelsEndBeforeTheServer(t *testing.T) {
	e := newEcho()
	f := newProxy(t, e)
	var open []*websocket.Conn
	for range 10 {
		open = append(open, f.openWebSocket())
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	begun := time.Now()
	var clients sync.WaitGroup
	for _, ws := range open {
		clients.Go(func() {
			if _, _, err := ws.Read(ctx); err == nil || !errors.Is(err, io.EOF) {
				t.Errorf("the client has seen %v, want an end in good order", err)
			}
		})
	}
	f.handlers.CloseTunnels(ctx)
	if took := time.Since(begun); took > 2*time.Second || ctx.Err() != nil {
		t.Errorf("it took %v", took)
	}
	clients.Wait()
	if _, resp, err := f.webSocket("/"); err == nil || resp == nil || resp.StatusCode != 503 {
		t.Errorf("another one: %v, %v", resp, err)
	}
	if resp, _ := f.get("/auth/session"); resp.StatusCode != 200 {
		t.Errorf("other requests: %s", resp.Status)
	}
}

// The token is refreshed for a handshake as for any other request.
func TestHandshakeWithARejectedToken(t *testing.T) {
	e := newEcho()
	var first string
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer "+first {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		e.ServeHTTP(w, r)
	}))
	first = f.token()
	f.late.Store(int64(time.Minute))
	f.openWebSocket()
	if f.refreshes() != 1 {
		t.Errorf("%d refreshes", f.refreshes())
	}
}
