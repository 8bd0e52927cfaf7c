package routes_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/h1"
	"cloakroom/routes"
)

// newRuled is a front before one upstream for everything, by one route.
func newRuled(t testing.TB, h http.Handler, r routes.Route) *front {
	r.Prefix, r.Target = "/", parseURL(t, serve(t, h))
	return newFront(t, frontConfig{ruled: []routes.Route{r}})
}

// code is that of an answer in JSON.
func code(body string) string {
	var e struct{ Error string }
	_ = json.Unmarshal([]byte(body), &e)
	return e.Error
}

// with sends a request with this Cookie field, "" for none.
func (f *front) with(cookie, method, target, body string, header ...string) (*http.Response, string) {
	f.t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r := f.request(method, target, content, header...)
	r.Header.Del("Cookie")
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	return f.do(r)
}

func TestAuthOfARoute(t *testing.T) {
	rec := newRecorder()
	to := parseURL(t, serve(t, rec))
	route := func(prefix string, auth routes.Auth) routes.Route {
		return routes.Route{Route: upstream.Route{Prefix: prefix, Target: to}, Auth: auth}
	}
	f := newFront(t, frontConfig{ruled: []routes.Route{route("/required", routes.AuthRequired), route("/optional", routes.AuthOptional), route("/none", routes.AuthNone)}})
	unknown := "device_id=" + strings.Repeat("a", 80)
	bearer := "Bearer " + f.token()
	for _, tt := range []struct {
		target, cookie string
		status         int
		bearer         string
	}{
		{"/required", f.cookie, 200, bearer}, {"/required", "", 401, ""}, {"/required", unknown, 401, ""},
		{"/optional", f.cookie, 200, bearer}, {"/optional", "", 200, ""}, {"/optional", unknown, 200, ""}, {"/optional", "device_id=x", 200, ""},
		{"/none", f.cookie, 200, ""}, {"/none", "", 200, ""}, {"/none", unknown, 200, ""},
	} {
		resp, body := f.with(tt.cookie, "GET", tt.target, "", "Authorization", "Bearer theirs", "X-Forwarded-User", "evil")
		if resp.StatusCode != tt.status {
			t.Errorf("%s with %q: %d %s, want %d", tt.target, tt.cookie, resp.StatusCode, body, tt.status)
		}
		if resp.StatusCode != 200 {
			continue
		}
		got := receive(t, "the request", rec.got)
		if a := got.Header.Values("Authorization"); strings.Join(a, "|") != tt.bearer || strings.Contains(fmt.Sprint(got.Header), "device_id") || got.Header.Get("X-Forwarded-User") != "" {
			t.Errorf("%s with %q: the upstream has seen %v, want the Authorization %q", tt.target, tt.cookie, got.Header, tt.bearer)
		}
	}
	rec.none(t)
	for _, target := range []string{"/required", "/optional", "/none"} {
		if resp, body := f.with(f.cookie+"; "+f.cookie, "GET", target, ""); resp.StatusCode != 400 {
			t.Errorf("%s with two tickets: %d %s", target, resp.StatusCode, body)
		}
	}
}

// Whoever is signed in is not to be shown what strangers see because somebody
// could not be asked.
func TestOptionalIsNotSilentlyAnonymous(t *testing.T) {
	rec := newRecorder()
	f := newRuled(t, rec, routes.Route{Auth: routes.AuthOptional})
	f.store.away.Store(true)
	if resp, body := f.get("/"); resp.StatusCode != 503 || code(body) != "store_unavailable" {
		t.Errorf("with the store away: %d %s", resp.StatusCode, body)
	}
	if resp, body := f.with("", "GET", "/", ""); resp.StatusCode != 200 {
		t.Errorf("without a cookie, with the store away: %d %s", resp.StatusCode, body)
	}
	receive(t, "the request", rec.got)
	f.store.away.Store(false)

	f.late.Store(int64(time.Hour)) // the access token has expired
	f.auth.Always(authapitest.RefreshPath, authapitest.Unavailable(""))
	if resp, body := f.get("/"); resp.StatusCode != 503 || code(body) != "auth_server_unavailable" {
		t.Errorf("with the auth server away: %d %s", resp.StatusCode, body)
	}
	rec.none(t)
	f.auth.Always(authapitest.RefreshPath, authapitest.Refuse("invalid_grant"))
	eventually(t, "the auth server's refusal makes a stranger", func() bool {
		f.late.Add(int64(time.Minute)) // the breaker opens
		resp, _ := f.get("/")
		return resp.StatusCode == 200
	})
	if got := receive(t, "the request", rec.got); got.Header.Get("Authorization") != "" {
		t.Errorf("%v", got.Header)
	}
}

// With AuthNone no session is looked at, and the store may be away.
func TestNoneLooksAtNoSession(t *testing.T) {
	rec := newRecorder()
	f := newRuled(t, rec, routes.Route{Auth: routes.AuthNone})
	f.store.away.Store(true)
	if resp, body := f.get("/"); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestPassAuthorization(t *testing.T) {
	rec := newRecorder()
	f := newRuled(t, rec, routes.Route{Auth: routes.AuthNone, PassAuthorization: true})
	for _, value := range []string{"Basic dTpw", "Bearer x", ""} {
		var header []string
		if value != "" {
			header = []string{"Authorization", value}
		}
		f.get("/", header...)
		if got := receive(t, "the request", rec.got); got.Header.Get("Authorization") != value || got.Header.Get("Cookie") != "" {
			t.Errorf("%q: the upstream has seen %v", value, got.Header)
		}
	}
}

func TestRolesAndScopes(t *testing.T) {
	rec := newRecorder()
	to := parseURL(t, serve(t, rec))
	route := func(prefix string, roles, scopes []string) routes.Route {
		return routes.Route{Route: upstream.Route{Prefix: prefix, Target: to}, Roles: roles, Scopes: scopes}
	}
	f := newFront(t, frontConfig{ruled: []routes.Route{
		route("/staff", []string{"admin", "staff"}, nil), route("/admin", []string{"admin"}, nil),
		route("/read", nil, []string{"read"}), route("/both", nil, []string{"read", "write"}), route("/boss", []string{"admin"}, []string{"read"}),
	}})
	statuses := func() (list []int) {
		for _, target := range []string{"/staff", "/admin", "/read", "/both", "/boss"} {
			resp, body := f.get(target)
			if list = append(list, resp.StatusCode); resp.StatusCode != 200 && code(body) != "forbidden" {
				t.Errorf("%s: %d %s", target, resp.StatusCode, body)
			}
			if resp, _ := f.with("", "GET", target, ""); resp.StatusCode != 401 {
				t.Errorf("%s without a session: %d", target, resp.StatusCode)
			}
		}
		return list
	}
	for _, tt := range []struct {
		claims map[string]any
		want   []int
	}{
		{nil, []int{403, 403, 403, 403, 403}},
		{map[string]any{"roles": []string{"staff"}}, []int{200, 403, 403, 403, 403}},
		{map[string]any{"roles": []string{"admin", "x"}, "scope": "read  openid"}, []int{200, 200, 200, 403, 200}},
		{map[string]any{"scope": "write read"}, []int{403, 403, 200, 200, 403}},
		{map[string]any{"scp": []string{"read", "write"}}, []int{403, 403, 200, 200, 403}},
		{map[string]any{"scope": "reading"}, []int{403, 403, 403, 403, 403}},
		{map[string]any{"scope": 7, "roles": "admin"}, []int{200, 200, 403, 403, 403}},
	} {
		f.auth.Set(func(o *authapitest.Options) { o.Claims = tt.claims })
		f.signIn()
		for range 2 { // the second time from what is known
			if got := statuses(); !slices.Equal(got, tt.want) {
				t.Errorf("%v: %v, want %v", tt.claims, got, tt.want)
			}
		}
	}
	f.auth.Set(func(o *authapitest.Options) { o.Opaque = true })
	f.signIn()
	if resp, _ := f.get("/read"); resp.StatusCode != 403 {
		t.Errorf("a token that says nothing: %d", resp.StatusCode)
	}
	resp, body := f.get("/read", "Accept", "text/html")
	if resp.StatusCode != 403 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		t.Errorf("a person: %d %s", resp.StatusCode, body)
	}
}

func TestMethodsOfARoute(t *testing.T) {
	rec := newRecorder()
	f := newRuled(t, rec, routes.Route{Methods: []string{"GET", "POST"}})
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "POST": 200, "PUT": 405, "DELETE": 405, "PATCH": 405, "OPTIONS": 405} {
		resp, body := f.with(f.cookie, method, "/", "")
		if resp.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", method, resp.StatusCode, body, want)
		}
		if want != 405 {
			receive(t, "the request", rec.got)
		} else if resp.Header.Get("Allow") != "GET, POST, HEAD" || code(body) != "method_not_allowed" {
			t.Errorf("%s: Allow %q, %s", method, resp.Header.Get("Allow"), body)
		}
	}
	for _, name := range []string{"X-HTTP-Method-Override", "x-http-method", "X-Method-Override"} {
		for _, more := range [][]string{{name, "DELETE"}, {name, "delete"}, {name, "GET", name, "PUT"}} {
			if resp, body := f.with(f.cookie, "POST", "/", "", more...); resp.StatusCode != 405 {
				t.Errorf("%q: %d %s", more, resp.StatusCode, body)
			}
		}
		if resp, body := f.with(f.cookie, "POST", "/", "", name, "get"); resp.StatusCode != 200 {
			t.Errorf("%s: get: %d %s", name, resp.StatusCode, body)
		} else {
			receive(t, "the request", rec.got)
		}
	}
	if resp, _ := f.with("", "DELETE", "/", ""); resp.StatusCode != 405 {
		t.Errorf("the method comes before the session: %d", resp.StatusCode)
	}
	rec.none(t)
}

func TestBodyLimitOfARoute(t *testing.T) {
	over := make(chan error, 10)
	f := newRuled(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		over <- err
	}), routes.Route{MaxBody: 100_000})
	chunked := func(n int) io.Reader { return struct{ io.Reader }{strings.NewReader(strings.Repeat("x", n))} }
	for _, tt := range []struct {
		name string
		body io.Reader
		want int
	}{
		{"as long as it may be", strings.NewReader(strings.Repeat("x", 100_000)), 200},
		{"that in chunks", chunked(100_000), 200},
		{"small", chunked(10), 200},
		{"a byte more", strings.NewReader(strings.Repeat("x", 100_001)), 413},
		{"that in chunks", chunked(100_001), 413},
		{"much more", chunked(1 << 20), 413},
	} {
		resp, body := f.do(f.request("POST", "/", tt.body))
		if resp.StatusCode != tt.want || tt.want == 413 && code(body) != "too_large" {
			t.Errorf("%s: %d %s, want %d", tt.name, resp.StatusCode, body, tt.want)
		}
		if _, known := tt.body.(*strings.Reader); known && tt.want == 413 {
			continue // the upstream is not asked
		}
		if err := receive(t, "the upstream's end", over); (err == nil) != (tt.want == 200) {
			t.Errorf("%s: the upstream has read to %v", tt.name, err)
		}
	}
	c := f.dial("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 100001", "")
	if resp := c.head("POST"); resp.StatusCode != 413 {
		t.Errorf("one that asks first: %s", resp.Status)
	}
	select {
	case err := <-over:
		t.Errorf("the upstream was asked, and has read to %v", err)
	default:
	}
}

func TestCSRFOfARoute(t *testing.T) {
	rec := newRecorder()
	to := parseURL(t, serve(t, rec))
	f := newFront(t, frontConfig{ruled: []routes.Route{
		{Route: upstream.Route{Prefix: "/on", Target: to}},
		{Route: upstream.Route{Prefix: "/header", Target: to}, CSRF: routes.CSRFHeader},
		{Route: upstream.Route{Prefix: "/off", Target: to}, CSRF: routes.CSRFOff, Auth: routes.AuthNone},
		{Route: upstream.Route{Prefix: "/none", Target: to}, Auth: routes.AuthNone},
		{Route: upstream.Route{Prefix: "/optional", Target: to}, Auth: routes.AuthOptional},
	}})
	const foreign = "https://evil.test"
	ours := "http://" + f.addr
	for _, tt := range []struct {
		request, origin, header string
		cookie                  bool
		want                    string
	}{
		{"GET /on", foreign, "", true, "200"}, {"POST /on", foreign, "", true, "403 foreign_origin"}, {"POST /on", ours, "", true, "200"},
		{"POST /on", "", "", true, "403 origin_missing"}, {"POST /on", "", "1", true, "200"}, {"POST /on", foreign, "1", true, "403 foreign_origin"},
		{"GET /header", "", "", true, "403 csrf_header_missing"}, {"GET /header", ours, "", true, "403 csrf_header_missing"}, {"GET /header", "", "1", true, "200"},
		{"POST /header", ours, "", true, "403 csrf_header_missing"}, {"POST /header", ours, "1", true, "200"}, {"POST /header", foreign, "1", true, "403 foreign_origin"},
		{"GET /header", "", "", false, "401 sign_in_required"},
		{"POST /off", foreign, "", true, "200"}, {"POST /off", foreign, "", false, "200"},
		{"POST /none", foreign, "", true, "403 foreign_origin"}, {"POST /none", foreign, "", false, "200"},
		{"POST /optional", foreign, "", true, "403 foreign_origin"}, {"POST /optional", foreign, "", false, "200"}, {"POST /optional", ours, "", true, "200"},
	} {
		method, target, _ := strings.Cut(tt.request, " ")
		r := f.request(method, target, nil)
		r.Header = http.Header{}
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		if tt.header != "" {
			r.Header.Set("X-CSRF", tt.header)
		}
		if tt.cookie {
			r.Header.Set("Cookie", f.cookie)
		}
		resp, body := f.do(r)
		if got := strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", code(body))); got != tt.want {
			t.Errorf("%s from %q with X-CSRF %q, cookie %v: %s, want %s", tt.request, tt.origin, tt.header, tt.cookie, got, tt.want)
		}
	}
	for _, origin := range []string{ours, foreign, ""} {
		head := "GET /header HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x"
		if origin != "" {
			head += "\r\nOrigin: " + origin
		}
		nc, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		fmt.Fprintf(nc, "%s\r\nHost: %s\r\nCookie: %s\r\n\r\n", head, f.addr, f.cookie)
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil || (resp.StatusCode == 403) != (origin != ours) {
			t.Errorf("a WebSocket from %q: %v, %v", origin, resp, err)
		}
	}
}

func TestR25_IdentityHeaders(t *testing.T) {
	rec := newRecorder()
	to := parseURL(t, serve(t, rec))
	f := newFront(t, frontConfig{ruled: []routes.Route{
		{Route: upstream.Route{Prefix: "/all", Target: to}, Identity: routes.IdentityUser | routes.IdentityEmail | routes.IdentityGroups | routes.IdentityIssuer},
		{Route: upstream.Route{Prefix: "/user", Target: to}, Identity: routes.IdentityUser},
		{Route: upstream.Route{Prefix: "/optional", Target: to}, Identity: routes.IdentityUser | routes.IdentityEmail, Auth: routes.AuthOptional},
		{Route: upstream.Route{Prefix: "/", Target: to}},
	}})
	f.auth.Set(func(o *authapitest.Options) {
		o.Claims = map[string]any{"sub": "ä,b %", "email": "ada@app.test", "email_verified": true, "roles": []string{"admin", "a, b", "x: y", "ü"}}
	})
	f.signIn()
	verified := f.cookie
	f.auth.Set(func(o *authapitest.Options) {
		o.Claims = map[string]any{"sub": "eve", "email": "boss@app.test", "email_verified": false}
	})
	f.signIn()
	names := []string{"X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Issuer"}
	spoofed := []string{}
	for _, name := range append(names, "x-forwarded-USER", "X_Forwarded_User", "Remote-User", "X-Auth-Request-Email", "X-Forwarded-Preferred-Username") {
		spoofed = append(spoofed, name, "evil")
	}
	for _, tt := range []struct{ target, cookie, want string }{
		{"/all", verified, "%C3%A4%2Cb%20%25 | ada@app.test | admin,a%2C%20b,x:%20y,%C3%BC | https://auth.test"},
		{"/user", verified, "%C3%A4%2Cb%20%25 |  |  | "},
		{"/all", f.cookie, "eve |  |  | https://auth.test"},
		{"/optional", verified, "%C3%A4%2Cb%20%25 | ada@app.test |  | "},
		{"/optional", "", " |  |  | "},
		{"/", verified, " |  |  | "},
	} {
		if resp, body := f.with(tt.cookie, "GET", tt.target, "", append(spoofed, "Connection", "X-Forwarded-User")...); resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", tt.target, resp.StatusCode, body)
			continue
		}
		got := receive(t, "the request", rec.got)
		var have []string
		for _, name := range names {
			have = append(have, strings.Join(got.Header.Values(name), "+"))
		}
		if s := strings.Join(have, " | "); s != tt.want || strings.Contains(fmt.Sprint(got.Header), "evil") {
			t.Errorf("%s: %q, want %q, of %v", tt.target, s, tt.want, got.Header)
		}
	}
}

func TestHeadersOfARoute(t *testing.T) {
	f := newRuled(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Server"] = []string{"upstream/1"}
		w.Header()["x-powered-by"] = []string{"a", "b"}
		w.Header().Set("X-Kept", "yes")
		fmt.Fprint(w, r.Header.Values("X-Tenant"), r.Header.Values("X-Key"))
	}), routes.Route{
		SetHeaders:  []upstream.Field{{Name: "X-Tenant", Value: "acme"}, {Name: "X-Key", Value: "k"}},
		HideHeaders: []string{"server", "X-Powered-By"},
	})
	resp, body := f.get("/", "x-tenant", "evil", "X-Tenant", "evil", "Connection", "X-Key")
	if body != "[acme] [k]" {
		t.Errorf("the upstream has seen %s", body)
	}
	if resp.Header.Get("Server") != "" || resp.Header.Get("X-Powered-By") != "" || resp.Header.Get("X-Kept") != "yes" {
		t.Errorf("%v", resp.Header)
	}
}

func TestIdleTimeoutOfARoute(t *testing.T) {
	f := newRuled(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/small": // of known length, and read whole before any of it is passed on
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "half")
		case "/stream":
			_, _ = io.WriteString(w, "begun")
		case "/steady":
			for range 5 {
				_, _ = io.WriteString(w, "x")
				_ = http.NewResponseController(w).Flush()
				<-time.After(100 * time.Millisecond)
			}
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}), routes.Route{IdleTimeout: 300 * time.Millisecond})
	if resp, body := f.get("/small"); resp.StatusCode != 504 || code(body) != "upstream_timeout" {
		t.Errorf("half of a small answer: %d %s", resp.StatusCode, body)
	}
	resp, err := browser.RoundTrip(f.request("GET", "/stream", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil || string(body) != "begun" {
		t.Errorf("a stream that stops: %q, %v", body, err)
	}
	if line := f.logged.lines(t, "request", 3)[2]; line["cut"] != "the upstream fell silent" {
		t.Errorf("logged as %v", line)
	}
	if resp, body := f.get("/steady"); resp.StatusCode != 200 || body != "xxxxx" {
		t.Errorf("a steady one: %d %s", resp.StatusCode, body)
	}
}

// endless is a body that goes on until its reader gives up.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// An upstream that takes no more of a body has stopped, like one that does not
// answer. A client that is slow, and an upstream that answers first, have not.
func TestUpstreamThatTakesNoMoreOfABody(t *testing.T) {
	over := make(chan struct{})
	f := newRuled(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stopped":
			<-over
			return
		case "/answered":
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
			<-time.After(1500 * time.Millisecond)
		}
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	}), routes.Route{FirstByteTimeout: time.Second})
	t.Cleanup(func() { close(over) })
	for _, length := range []int64{-1, 1 << 40} {
		r := f.request("POST", "/stopped", endless{}, "X-CSRF", "1")
		r.ContentLength = length
		if resp, body := f.do(r); resp.StatusCode != 504 || code(body) != "upstream_timeout" {
			t.Errorf("of %d bytes: %d %s", length, resp.StatusCode, body)
		}
	}
	body, feed := io.Pipe()
	go func() {
		_, _ = feed.Write(make([]byte, 10_000))
		<-time.After(1500 * time.Millisecond)
		_, _ = feed.Write(make([]byte, 10_000))
		feed.Close()
	}()
	if resp, body := f.do(f.request("POST", "/steady", body, "X-CSRF", "1")); resp.StatusCode != 200 || body != "20000 <nil>" {
		t.Errorf("from a slow client: %d %s", resp.StatusCode, body)
	}
	large := io.LimitReader(endless{}, 20<<20)
	if resp, body := f.do(f.request("POST", "/answered", large, "X-CSRF", "1")); resp.StatusCode != 200 || body != "20971520 <nil>" {
		t.Errorf("after the answer's beginning: %d %s", resp.StatusCode, body)
	}
}

// A body that goes out a second time, with a token that is good, is bounded like
// one that goes out for the first time.
func TestUpstreamThatTakesNoMoreOfARepeatedBody(t *testing.T) {
	var asked atomic.Int64
	engine := h1.New(h1.Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe() // which holds nothing that the other side has not read
		t.Cleanup(func() { theirs.Close() })
		go func() {
			r, err := http.ReadRequest(bufio.NewReader(theirs))
			if err != nil || asked.Add(1) > 1 {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(theirs, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
		}()
		return ours, nil
	}})
	t.Cleanup(engine.Close)
	f := newFront(t, frontConfig{ruled: []routes.Route{{
		Route: upstream.Route{Prefix: "/", Target: parseURL(t, "http://pipe.test")}, Engine: engine, FirstByteTimeout: time.Second,
	}}})
	f.late.Store(int64(time.Minute))
	r := f.request("POST", "/", io.LimitReader(endless{}, 64<<10))
	r.ContentLength = 64 << 10
	if resp, body := f.do(r); resp.StatusCode != 504 || code(body) != "upstream_timeout" || asked.Load() != 2 {
		t.Errorf("%d %s after %d requests", resp.StatusCode, body, asked.Load())
	}
}

func TestR24_HostsChooseAmongRoutesAndNothingElse(t *testing.T) {
	shop, api, anyone := newRecorder(), newRecorder(), newRecorder()
	evil := newRecorder()
	evilHost := strings.TrimPrefix(serve(t, evil), "http://")
	f := newFront(t, frontConfig{
		ruled: []routes.Route{
			{Route: upstream.Route{Hosts: []string{"shop.test"}, Prefix: "/", Target: parseURL(t, serve(t, shop))}},
			{Route: upstream.Route{Hosts: []string{"shop.test", "api.test"}, Prefix: "/api", Target: parseURL(t, serve(t, api)), StripPrefix: true}},
			{Route: upstream.Route{Prefix: "/open", Target: parseURL(t, serve(t, anyone))}},
		},
		surface: func(c *routes.Config) { c.PublicOrigin = "https://www.test:8443" },
	})
	recorders := map[string]recorder{"shop": shop, "api": api, "any": anyone}
	for _, tt := range []struct{ host, target, more, want string }{
		{"shop.test", "/x", "", "shop /x shop.test:8443"},
		{"SHOP.test.:99", "/x", "", "shop /x shop.test:8443"},
		{"shop.test", "/open", "", "shop /open shop.test:8443"},
		{"shop.test", "/api/x?h=" + evilHost, "", "api /x?h=" + evilHost + " shop.test:8443"},
		{"api.test", "/api", "", "api / api.test:8443"},
		{"api.test", "/open", "", "any /open www.test:8443"},
		{"api.test", "/x", "", "404"},
		{"api.test", "/%61pi/x", "", "api /x api.test:8443"},
		{evilHost, "/open", "", "any /open www.test:8443"},
		{evilHost, "/x", "", "404"},
		{"x.shop.test", "/x", "", "404"},
		{"shop.test.evil.test", "/x", "", "404"},
		{"shop.test:80:80", "/x", "", "400"},
		{"other.test", "/x", "X-Forwarded-Host: shop.test", "404"},
		{"other.test", "/x", "Forwarded: host=shop.test", "404"},
		{"other.test", "/x", "X-Original-Host: shop.test", "404"},
		{"shop.test", "/x", "X-Forwarded-Host: " + evilHost, "shop /x shop.test:8443"},
		{"shop.test", "/x", "Host: " + evilHost, "400"},
		{"shop.test@" + evilHost, "/x", "", "400"},
		{"shop.test", "http://" + evilHost + "/x", "", "400"},
		{"shop.test", "http://api.test/api", "", "400"},
		{"shop.test", "//api.test/x", "", "400"},
		{"shop.test", "/x/..%2f..%2fapi", "", "400"},
		{"shop.test", "/x/../api/x", "", "400"},
		{"shop.test", "/%2e%2e/api", "", "400"},
		{"shop.test", "/api%2fx", "", "400"},
		{"shop.test", "/api%252f..%252fx", "", "400"},
		{"shop.test", "/x;/../api", "", "400"},
	} {
		nc, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(within))
		if tt.more != "" {
			tt.more += "\r\n"
		}
		fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: %s\r\n%sConnection: close\r\nCookie: %s\r\n\r\n", tt.target, tt.host, tt.more, f.cookie)
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatalf("%v: %v", tt, err)
		}
		nc.Close()
		got := fmt.Sprint(resp.StatusCode)
		for name, rec := range recorders {
			select {
			case s := <-rec.got:
				got = strings.Join([]string{name, s.Target, s.Header.Get("X-Forwarded-Host")}, " ")
			default:
			}
		}
		if got != tt.want {
			t.Errorf("%s %s %q: %s, want %s", tt.host, tt.target, tt.more, got, tt.want)
		}
	}
	evil.none(t)
}

func TestUpstreamOverASocket(t *testing.T) {
	file := filepath.Join(t.TempDir(), "up.sock")
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host, r.RequestURI) })}
	t.Cleanup(func() { s.Close() })
	go func() { _ = s.Serve(l) }()
	var dials atomic.Int32
	engines := map[string]upstream.Engine{
		"net/http": upstream.NewTransport(upstream.Config{Socket: file}),
		"h1": h1.New(h1.Config{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, "unix", file)
		}}),
	}
	var list []routes.Route
	for name, e := range engines {
		defer e.(interface{ Close() }).Close()
		list = append(list, routes.Route{Engine: e, Route: upstream.Route{Prefix: "/" + strings.ReplaceAll(name, "/", "-"), Target: parseURL(t, "http://localhost"), Rewrite: "/r"}})
	}
	f := newFront(t, frontConfig{ruled: list})
	for _, target := range []string{"/net-http/x?y", "/h1/x?y", "/h1/x?y"} {
		if resp, body := f.get(target); resp.StatusCode != 200 || body != "localhost/r/x?y" {
			t.Errorf("%s: %d %s", target, resp.StatusCode, body)
		}
	}
	if dials.Load() != 1 {
		t.Errorf("%d connections for two requests one after the other", dials.Load())
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if resp, body := f.get("/net-http/x"); resp.StatusCode != 502 {
		t.Errorf("with the socket gone: %d %s", resp.StatusCode, body)
	}
}

func TestNewTableRefusesWhatIsUnsafe(t *testing.T) {
	web := upstream.Route{Prefix: "/", Target: parseURL(t, "http://web.test")}
	e := upstream.NewTransport(upstream.Config{})
	for name, r := range map[string]routes.Route{
		"no engine":             {Route: web},
		"no CSRF, but a token":  {Route: web, Engine: e, CSRF: routes.CSRFOff},
		"that of some":          {Route: web, Engine: e, CSRF: routes.CSRFOff, Auth: routes.AuthOptional},
		"two Authorizations":    {Route: web, Engine: e, PassAuthorization: true},
		"a role of nobody":      {Route: web, Engine: e, Auth: routes.AuthOptional, Roles: []string{"a"}},
		"a scope of nobody":     {Route: web, Engine: e, Auth: routes.AuthNone, Scopes: []string{"a"}},
		"a prefix that is none": {Route: upstream.Route{Prefix: "x", Target: web.Target}, Engine: e},
	} {
		if _, err := routes.NewTable([]routes.Route{r}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
