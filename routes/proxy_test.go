package routes_test

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"cloakroom/infra/upstream"
	"cloakroom/routes"
)

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
	for element, want := range map[string]string{"203.0.113.9:4711": "203.0.113.9", "[2001:db8::9]:4711": "2001:db8::9", "hidden": "127.0.0.1"} {
		f.get("/", "X-Forwarded-For", element)
		if v := receive(t, "the request", rec.got).Header.Get("X-Real-Ip"); v != want {
			t.Errorf("a proxy that writes %s: %s, want %s", element, v, want)
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

func TestExpectIsAnsweredAfterTheSessionIsChecked(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	c := f.dial("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5", "")
	line, err := c.r.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	rec.none(t)
	if line, err := c.r.ReadString('\n'); err != nil || line != "\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c.send("hello")
	if resp := c.head("POST"); resp.StatusCode != 200 {
		t.Errorf("%s", resp.Status)
	}
	if got := receive(t, "the request", rec.got); got.Body != "hello" || got.Header.Get("Expect") != "" {
		t.Errorf("%v", got)
	}

	f.cookie = "device_id=none"
	for target, want := range map[string]int{"/": 401, "/a/../b": 400} {
		c = f.dial("POST "+target+" HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\nX-Request-Id: of-"+fmt.Sprint(want)+"-here", "")
		resp := c.head("POST")
		id := fmt.Sprintf("of-%d-here", want)
		if resp.StatusCode != want || !resp.Close || resp.Header.Get("X-Request-Id") != id {
			t.Errorf("%s: %s %v, closed %v", target, resp.Status, resp.Header, resp.Close)
		}
		eventually(t, "the log line", func() bool {
			return strings.Contains(f.logged.String(), fmt.Sprintf(`"path":%q,"status":%d`, target, want))
		})
	}
	rec.none(t)
}
