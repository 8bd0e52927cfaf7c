package routes_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
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
}

type frontConfig struct {
	routes  []upstream.Route
	engine  upstream.Config
	guard   httpguard.Config
	surface func(*routes.Config)
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
	b := usecase.New(memstore.New(now), client, usecase.Config{
		Provider: "Password", Issuer: "https://auth.test",
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
	table, err := upstream.NewTable(c.routes)
	if err != nil {
		t.Fatal(err)
	}
	engine := upstream.NewTransport(c.engine)
	surface := routes.Config{Prefix: "/auth", Now: now, Log: log}
	if c.surface != nil {
		c.surface(&surface)
	}
	h := routes.New(b, pages, table, engine, surface)
	app := fiberapp.New(fiberapp.Config{ErrorHandler: h.Error, Expect: h.Expect, Logger: log})
	h.Mount(app)
	l := listen(t)
	f.addr = l.Addr().String()
	running.Go(func() { _ = app.Listener(httpguard.Listener(l, c.guard)) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
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
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { nc.Close() })
	c := &conn{TCPConn: nc.(*net.TCPConn), t: f.t, r: bufio.NewReader(nc)}
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		f.t.Fatal(err)
	}
	c.send(head + "\r\nHost: app.test\r\nX-Csrf: 1\r\nCookie: " + f.cookie + "\r\n\r\n" + body)
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

func TestProxyPassesRequestAndAnswer(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Upstream", "yes")
		w.Header().Add("Set-Cookie", "a=b")
		w.Header().Add("Set-Cookie", "c=d; Path=/x")
		w.Header().Set("Date", "Tue, 15 Nov 1994 08:12:31 GMT")
		w.Header().Set("Server", "upstream/1")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s %q %s", r.Method, r.RequestURI, body, r.Header.Get("Authorization"))
	}))
	resp, body := f.do(f.request("PUT", "/a%20b;c/?q=%2F&x", strings.NewReader("hello")))
	if want := `PUT /a%20b;c/?q=%2F&x "hello" Bearer ` + f.token(); body != want || resp.StatusCode != http.StatusTeapot {
		t.Errorf("%d %s, want 418 %s", resp.StatusCode, body, want)
	}
	for name, want := range map[string][]string{
		"X-Upstream":     {"yes"},
		"Set-Cookie":     {"a=b", "c=d; Path=/x"},
		"Date":           {"Tue, 15 Nov 1994 08:12:31 GMT"},
		"Server":         {"upstream/1"},
		"Content-Length": {fmt.Sprint(len(body))},
		"Trailer":        nil,
	} {
		if got := resp.Header.Values(name); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestR18_CookieStaysHere(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	name, ticket, _ := strings.Cut(f.cookie, "=")
	for cookie, want := range map[string]string{
		f.cookie:                               "",
		"a=b; " + f.cookie + "; c=d":           "a=b; c=d",
		"a=b;" + f.cookie + ";c=d":             "a=b; c=d",
		"x" + name + "=y; " + f.cookie:         "x" + name + "=y",
		f.cookie + "; a=\"b c\"; d":            "a=\"b c\"; d",
		"a=b;  " + name + " = " + ticket + ";": "a=b",
	} {
		r := f.request("GET", "/", nil)
		r.Header.Set("Cookie", cookie)
		resp, body := f.do(r)
		if resp.StatusCode != 200 {
			t.Errorf("%q: %d %s", cookie, resp.StatusCode, body)
			continue
		}
		got := receive(t, "the request", rec.got)
		if c := strings.Join(got.Header.Values("Cookie"), "|"); c != want {
			t.Errorf("%q: the upstream has seen %q, want %q", cookie, c, want)
		}
		if strings.Contains(fmt.Sprint(got), ticket) {
			t.Errorf("%q: the ticket got out: %v", cookie, got)
		}
	}
	for _, cookie := range []string{f.cookie + "; " + f.cookie, f.cookie + "; " + name + "=", f.cookie + "; a=" + ticket} {
		r := f.request("GET", "/", nil)
		r.Header.Set("Cookie", cookie)
		if resp, _ := f.do(r); resp.StatusCode != 400 {
			t.Errorf("%q: %d, want 400", cookie, resp.StatusCode)
		}
	}
	rec.none(t)
}

func TestUpstreamCannotSetOurCookie(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "device_id=evil; Path=/")
		w.Header().Add("Set-Cookie", "theirs=1")
	}))
	resp, _ := f.get("/")
	if got := resp.Header.Values("Set-Cookie"); len(got) != 1 || got[0] != "theirs=1" {
		t.Errorf("%q", got)
	}
}

func TestR24_NothingLeavesTheTable(t *testing.T) {
	api, other := newRecorder(), newRecorder()
	evil := newRecorder()
	evilHost := strings.TrimPrefix(serve(t, evil), "http://")
	f := newFront(t, frontConfig{routes: []upstream.Route{
		{Prefix: "/api", Target: parseURL(t, serve(t, api))},
		{Prefix: "/files", Target: parseURL(t, serve(t, other)+"/base"), StripPrefix: true},
	}})
	apiHost := ""
	for _, line := range []string{
		"GET /api/x", "GET /api?u=http://" + evilHost, "GET /api/x HTTP/1.1\r\nX-Forwarded-Host: " + evilHost,
		"GET /api/x HTTP/1.1\r\nForwarded: host=" + evilHost, "GET /api/x HTTP/1.1\r\nX-Original-Url: http://" + evilHost + "/", "GET /api/@" + evilHost,
	} {
		if !strings.Contains(line, "HTTP/1.1") {
			line += " HTTP/1.1"
		}
		c := f.dial(line+"\r\nConnection: close", "")
		if resp := c.head("GET"); resp.StatusCode != 200 {
			t.Errorf("%q: %s", line, resp.Status)
			continue
		}
		got := receive(t, "the request", api.got)
		if apiHost == "" {
			apiHost = got.Host
		}
		if got.Host != apiHost || strings.Contains(fmt.Sprint(got.Header), evilHost) {
			t.Errorf("%q: the upstream has seen %v", line, got)
		}
	}
	for target, want := range map[string]int{
		"/": 404, "/apix": 404, "/other/../api": 400, "/api/../files/x": 400, "/api/%2e%2e/files": 400, "/api/%252e%252e/x": 400, "/api//x": 400,
		"//" + evilHost + "/": 400, "/api/..;/x": 400, "/api/a%2fb": 400, "/api/a%5cb": 400, "/api/%00": 400,
		"http://" + evilHost + "/api": 400, "http://x@" + evilHost + "/": 400, "@" + evilHost: 400, "*": 400, "/api/\\x": 400,
	} {
		c := f.dial("GET "+target+" HTTP/1.1\r\nConnection: close", "")
		if resp := c.head("GET"); resp.StatusCode != want {
			t.Errorf("%q: %d, want %d", target, resp.StatusCode, want)
		}
	}
	if f.get("/files/a?b"); receive(t, "the request", other.got).Target != "/base/a?b" {
		t.Error("the prefix was not taken off")
	}
	api.none(t)
	other.none(t)
	evil.none(t)
}

func TestR25_SpoofedFieldsAreDropped(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	spoofed := []string{
		"Authorization", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-User", "X-Forwarded-Email",
		"X-Forwarded-Groups", "X-Forwarded-Access-Token", "X-Real-Ip", "X-Auth-Request-User", "X-Auth-Request-Email", "Remote-User", "Remote-Groups",
		"X-Client-Ip", "True-Client-Ip", "X-Original-Url", "X_Forwarded_For", "Remote_User", "Proxy-Authorization",
	}
	var header []string
	for _, name := range spoofed {
		header = append(header, name, "evil-value")
	}
	f.get("/", append(header, "Connection", "Authorization, X-Forwarded-For, X-Dropped", "X-Dropped", "evil-value", "X-Kept", "kept")...)
	got := receive(t, "the request", rec.got)
	for name, values := range got.Header {
		if strings.Contains(fmt.Sprint(values), "evil-value") {
			t.Errorf("%s: %q", name, values)
		}
	}
	host := "127.0.0.1" + f.addr[strings.LastIndexByte(f.addr, ':'):]
	for name, want := range map[string]string{
		"Authorization":     "Bearer " + f.token(),
		"X-Forwarded-For":   "127.0.0.1",
		"X-Real-Ip":         "127.0.0.1",
		"X-Forwarded-Proto": "http",
		"X-Forwarded-Host":  host,
		"Forwarded":         `for=127.0.0.1;host="` + host + `";proto=http`,
		"X-Kept":            "kept",
	} {
		if v := got.Header.Values(name); len(v) != 1 || v[0] != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
}

func TestR26_UpstreamSeesTheClientBehindTrustedProxies(t *testing.T) {
	rec := newRecorder()
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, serve(t, rec))}},
		surface: func(c *routes.Config) {
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
			c.PublicOrigin = "https://app.test"
		},
	})
	f.get("/", "X-Forwarded-For", "6.6.6.6, 203.0.113.9", "X-Forwarded-For", "10.0.0.2", "X-Forwarded-Host", "evil.test", "Forwarded", "for=6.6.6.6")
	got := receive(t, "the request", rec.got)
	for name, want := range map[string]string{
		"X-Forwarded-For":  "6.6.6.6, 203.0.113.9, 10.0.0.2, 127.0.0.1",
		"X-Real-Ip":        "203.0.113.9",
		"X-Forwarded-Host": "app.test",
		"Forwarded":        `for=6.6.6.6, for=203.0.113.9, for=10.0.0.2, for=127.0.0.1;host=app.test;proto=http`,
	} {
		if v := got.Header.Values(name); len(v) != 1 || v[0] != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
}

func TestProxyNeedsASession(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	for cookie, want := range map[string]int{"": 401, "device_id=x": 401, "device_id=" + strings.Repeat("a", 80): 401} {
		r := f.request("POST", "/", strings.NewReader("hello"))
		r.Header.Set("Cookie", cookie)
		resp, body := f.do(r)
		if resp.StatusCode != want || !strings.Contains(body, "login_url") || !resp.Close {
			t.Errorf("%q: %d %s, closed %v", cookie, resp.StatusCode, body, resp.Close)
		}
	}
	rec.none(t)
}
