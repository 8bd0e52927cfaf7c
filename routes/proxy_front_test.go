package routes_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
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
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/fiberapp"
	"cloakroom/infra/httpguard"
	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/h1"
	"cloakroom/repo/memstore"
	"cloakroom/routes"
	"cloakroom/routes/web"
	"cloakroom/usecase"
)

// within is how long a test waits for what has to happen.
const within = 10 * time.Second

// front is a broker on loopback with one person signed in: the real listener,
// app, use cases and engine, and a scriptable auth server.
type front struct {
	t      testing.TB
	addr   string
	auth   *authapitest.Server
	cookie string       // our own, "name=value"
	late   atomic.Int64 // nanoseconds by which the broker's clock is ahead
	logged syncBuffer

	handlers *routes.Handlers
	store    *faulty
}

// faulty is a store that can be away.
type faulty struct {
	*memstore.Store
	away atomic.Bool
}

func (s *faulty) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	if s.away.Load() {
		return domain.Record{}, errors.New("the store is away")
	}
	return s.Store.Get(ctx, id)
}

type frontConfig struct {
	routes  []upstream.Route
	ruled   []routes.Route // beside those
	engine  upstream.Config
	guard   httpguard.Config
	app     fiberapp.Config
	surface func(*routes.Config)
}

// table gives every route that has none the engine.
func (c frontConfig) table(engine upstream.Engine) []routes.Route {
	list := slices.Clone(c.ruled)
	for _, r := range c.routes {
		list = append(list, routes.Route{Route: r})
	}
	for i := range list {
		if list[i].Engine == nil {
			list[i].Engine = engine
		}
	}
	return list
}

func newFront(t testing.TB, c frontConfig) *front {
	t.Helper()
	f := &front{t: t, auth: authapitest.New(t)}
	now := func() time.Time { return time.Now().Add(time.Duration(f.late.Load())) }
	log := slog.New(slog.NewJSONHandler(&f.logged, nil))

	client := authapi.New(authapi.Config{
		BaseURL:   parseURL(t, f.auth.URL),
		LoginPath: authapitest.LoginPath, RefreshPath: authapitest.RefreshPath, RevokePath: authapitest.RevokePath,
	})
	f.store = &faulty{Store: memstore.New(now)}
	b := usecase.New(f.store, usecase.Config{
		Providers: []usecase.Provider{{Name: "Password", Issuer: "https://auth.test", Tokens: client, Passwords: client}},
		Lifetimes: domain.Lifetimes{
			Access: 10 * time.Minute, Refresh: 24 * time.Hour, Idle: 24 * time.Hour, Absolute: 240 * time.Hour,
			Margin: 5 * time.Second, Ahead: 30 * time.Second,
		},
		TouchInterval: time.Minute, AuthTimeout: 5 * time.Second,
		Now: now, Random: rand.Reader, Log: log,
	})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { b.Run(ctx) })

	pages, err := web.New()
	if err != nil {
		t.Fatal(err)
	}
	engine := &upstream.Choice{
		HTTP1: h1.New(h1.Config{HeaderTimeout: c.engine.HeaderTimeout, IdleTimeout: c.engine.IdleTimeout, TLS: c.engine.TLS, OfferHTTP2: true}),
		HTTP2: upstream.NewTransport(c.engine),
	}
	table, err := routes.NewTable(c.table(engine))
	if err != nil {
		t.Fatal(err)
	}
	surface := routes.Config{Prefix: "/auth", Now: now, Log: log}
	if c.surface != nil {
		c.surface(&surface)
	}
	h := routes.New(b, pages, table, surface)
	c.app.ErrorHandler, c.app.Expect, c.app.Logger = h.Error, h.Expect, log
	app := fiberapp.New(c.app)
	h.Mount(app)
	l := listen(t)
	f.addr = l.Addr().String()
	running.Go(func() { _ = app.Listener(httpguard.Listener(l, c.guard)) })
	running.Go(func() { h.Watch(ctx) })
	f.handlers = h
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		h.CloseTunnels(ctx)
		_ = app.ShutdownWithContext(ctx)
		engine.Close()
		client.Close()
		stop()
		running.Wait()
	})
	f.signIn()
	return f
}

// newProxy is a front before one upstream for everything.
func newProxy(t testing.TB, h http.Handler) *front {
	return newFront(t, frontConfig{routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, serve(t, h))}}})
}

func serve(t testing.TB, h http.Handler) string {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections() // Close alone waits for whatever hangs
		s.Close()
	})
	return s.URL
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func parseURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (f *front) signIn() {
	f.t.Helper()
	f.auth.AddAccount("ada@app.test", "correct horse")
	r, err := http.NewRequest("POST", f.url("/auth/login"), strings.NewReader(`{"email":"ada@app.test","password":"correct horse"}`))
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Csrf", "1")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, c := range resp.Cookies() {
		if strings.HasSuffix(c.Name, "device_id") {
			f.cookie = c.Name + "=" + c.Value
		}
	}
	if f.cookie == "" {
		body, _ := io.ReadAll(resp.Body)
		f.t.Fatalf("signing in: %s %s", resp.Status, body)
	}
}

// token is the access token that was issued last.
func (f *front) token() string {
	issued := f.auth.Issued()
	for i := len(issued) - 1; i >= 0; i-- {
		if f.auth.Valid(issued[i]) {
			return issued[i]
		}
	}
	f.t.Fatal("no token was issued")
	return ""
}

func (f *front) url(target string) string { return "http://" + f.addr + target }

// request is a signed-in request; header is pairs of names and values.
func (f *front) request(method, target string, body io.Reader, header ...string) *http.Request {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*within)
	f.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, f.url(target), body)
	if err != nil {
		f.t.Fatal(err)
	}
	r.Header.Set("Cookie", f.cookie)
	r.Header.Set("X-Csrf", "1")
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// do sends r and reads the answer, which has to be complete.
func (f *front) do(r *http.Request) (*http.Response, string) {
	f.t.Helper()
	resp, err := browser.RoundTrip(r)
	if err != nil {
		f.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	return resp, string(body)
}

func (f *front) get(target string, header ...string) (*http.Response, string) {
	f.t.Helper()
	return f.do(f.request("GET", target, nil, header...))
}

// browser shows answers as they are.
var browser = &http.Transport{DisableCompression: true}

// conn is a client's connection, byte by byte.
type conn struct {
	*net.TCPConn
	t testing.TB
	r *bufio.Reader
}

// dial opens a connection and sends head with our cookie and the blank line
// added, and then body.
func (f *front) dial(head, body string) *conn {
	f.t.Helper()
	c := f.connect(f.t)
	c.send(head + "\r\nHost: app.test\r\nX-Csrf: 1\r\nCookie: " + f.cookie + "\r\n\r\n" + body)
	return c
}

func (f *front) connect(t testing.TB) *conn {
	t.Helper()
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c := &conn{TCPConn: nc.(*net.TCPConn), t: t, r: bufio.NewReader(nc)}
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *conn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// head reads the answer's head; its body is read from the answer.
func (c *conn) head(method string) *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp
}

func (c *conn) reset() {
	_ = c.SetLinger(0)
	c.Close()
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// lines returns what the log says with this message, once there are n of it.
func (b *syncBuffer) lines(t testing.TB, message string, n int) []map[string]any {
	t.Helper()
	var found []map[string]any
	eventually(t, fmt.Sprintf("%d log lines %q", n, message), func() bool {
		found = nil
		for line := range strings.Lines(b.String()) {
			var fields map[string]any
			if err := json.Unmarshal([]byte(line), &fields); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if fields["msg"] == message {
				found = append(found, fields)
			}
		}
		return len(found) >= n
	})
	return found
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// receive waits for a value.
func receive[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(within):
		t.Fatalf("never happened: %s", what)
	}
	return v
}

// seen is what an upstream has received.
type seen struct {
	Method, Target, Host string
	Header               http.Header
	Body                 string
}

// recorder answers 200 with an empty body and keeps what it has received.
type recorder struct{ got chan seen }

func newRecorder() recorder { return recorder{make(chan seen, 1000)} }

func (rec recorder) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	rec.got <- seen{r.Method, r.RequestURI, r.Host, r.Header, string(body)}
}

func (rec recorder) none(t testing.TB) {
	t.Helper()
	select {
	case s := <-rec.got:
		t.Errorf("the upstream has seen %s %s", s.Method, s.Target)
	default:
	}
}

// rawUpstream answers each connection with what serve writes on it.
func rawUpstream(t testing.TB, serve func(c net.Conn, r *bufio.Reader)) string {
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// answering reads one request's head and writes text.
func answering(text string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, text)
		}
	}
}

func newRawProxy(t testing.TB, serve func(net.Conn, *bufio.Reader)) *front {
	return newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, rawUpstream(t, serve))}},
		engine: upstream.Config{HeaderTimeout: time.Second},
	})
}
