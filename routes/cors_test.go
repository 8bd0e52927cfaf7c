package routes_test

import (
	"net/http"
	"strings"
	"testing"

	"cloakroom/infra/upstream"
	"cloakroom/routes"
)

const adminOrigin = "https://admin.app.test"

func newCORS(t *testing.T, h http.Handler) *front {
	return newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/api", Target: parseURL(t, serve(t, h))}},
		surface: func(c *routes.Config) {
			c.PublicOrigin, c.AllowedOrigins = "https://app.test", []string{"https://other.test", adminOrigin}
		},
	})
}

// wantHeader checks the fields given as pairs of a name and the values, joined.
func wantHeader(t *testing.T, what string, resp *http.Response, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if got := strings.Join(resp.Header.Values(pairs[i]), ", "); got != pairs[i+1] {
			t.Errorf("%s: %s: %q, want %q", what, pairs[i], got, pairs[i+1])
		}
	}
}

func TestPreflightIsAnsweredWithoutASession(t *testing.T) {
	rec := newRecorder()
	f := newCORS(t, rec)
	f.cookie = ""
	before := f.refreshes()
	for _, path := range []string{"/api/thing", "/auth/session", "/auth/devices/x", "/nowhere"} {
		resp, body := f.do(f.request("OPTIONS", path, nil, "Origin", adminOrigin, "Access-Control-Request-Method", "DELETE",
			"Access-Control-Request-Headers", "content-type,x-csrf, x-mine ,authorization,x-forwarded-for,cookie,x_y,a b,"))
		if resp.StatusCode != 204 || body != "" {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
		wantHeader(t, path, resp,
			"Access-Control-Allow-Origin", adminOrigin,
			"Access-Control-Allow-Credentials", "true",
			"Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE",
			"Access-Control-Allow-Headers", "content-type, x-csrf, x-mine",
			"Access-Control-Max-Age", "600",
			"Vary", "Access-Control-Request-Method, Access-Control-Request-Headers, Origin")
	}
	rec.none(t)
	if f.refreshes() != before {
		t.Error("the auth server was asked")
	}
	f.logged.lines(t, "request", 5)
}

func TestOtherOPTIONSGoTheirWay(t *testing.T) {
	rec := newRecorder()
	f := newCORS(t, rec)
	for name, header := range map[string][]string{
		"no origin":               {"Access-Control-Request-Method", "DELETE"},
		"no preflight":            {"Origin", adminOrigin},
		"another origin":          {"Origin", "https://evil.test", "Access-Control-Request-Method", "DELETE"},
		"our own":                 {"Origin", "https://app.test", "Access-Control-Request-Method", "DELETE"},
		"a longer one":            {"Origin", adminOrigin + ".evil.test", "Access-Control-Request-Method", "DELETE"},
		"no origin at all":        {"Origin", "null", "Access-Control-Request-Method", "DELETE"},
		"another case of letters": {"Origin", strings.ToUpper(adminOrigin), "Access-Control-Request-Method", "DELETE"},
	} {
		resp, _ := f.do(f.request("OPTIONS", "/api/x", nil, header...))
		if got := receive(t, name, rec.got); got.Method != "OPTIONS" || resp.StatusCode != 200 {
			t.Errorf("%s: %s %s", name, got.Method, resp.Status)
		}
		wantHeader(t, name, resp, "Access-Control-Allow-Methods", "", "Access-Control-Max-Age", "", "Vary", "Origin")
	}
}

// TestR22_OriginIsNeverReflected: an upstream that lets everybody read with
// credentials, as those do that know no cookies, lets nobody but those configured.
func TestR22_OriginIsNeverReflected(t *testing.T) {
	f := newCORS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		w.Header().Add("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		w.Header().Set("Access-Control-Expose-Headers", "X-Total")
		w.Header().Set("Vary", "Accept, Origin")
	}))
	resp, _ := f.get("/api/x", "Origin", adminOrigin)
	wantHeader(t, "a configured origin", resp,
		"Access-Control-Allow-Origin", adminOrigin,
		"Access-Control-Allow-Credentials", "true",
		"Access-Control-Expose-Headers", "X-Total, X-Request-Id",
		"Vary", "Accept, Origin")
	resp, _ = f.get("/api/x", "Origin", "https://evil.test")
	wantHeader(t, "another origin", resp,
		"Access-Control-Allow-Origin", "https://evil.test, *", // the upstream's affair, but without the person's cookie
		"Access-Control-Allow-Credentials", "",
		"Access-Control-Expose-Headers", "X-Total")
	resp, _ = f.get("/auth/session", "Origin", "https://evil.test")
	wantHeader(t, "another origin, path of ours", resp, "Access-Control-Allow-Origin", "", "Access-Control-Allow-Credentials", "", "Vary", "Origin")
}

// What is refused has to be readable as well: a page learns from it where to
// sign in.
func TestErrorsCanBeReadByConfiguredOrigins(t *testing.T) {
	f := newCORS(t, newRecorder())
	ticket := f.cookie
	for _, c := range []struct {
		method, path, cookie string
		want                 int
	}{
		{"GET", "/api/x", "", 401}, {"GET", "/auth/session", "", 401}, {"GET", "/auth/session", ticket, 200},
		{"POST", "/api/x", ticket, 200}, {"GET", "/nowhere", ticket, 404}, {"PUT", "/auth/session", ticket, 405}, {"GET", "/api/../x", ticket, 400},
	} {
		f.cookie = c.cookie
		r := f.request(c.method, c.path, nil, "Origin", adminOrigin)
		r.URL.Opaque = c.path
		resp, _ := f.do(r)
		if resp.StatusCode != c.want {
			t.Errorf("%s %s: %s, want %d", c.method, c.path, resp.Status, c.want)
		}
		wantHeader(t, c.method+" "+c.path, resp, "Access-Control-Allow-Origin", adminOrigin, "Access-Control-Allow-Credentials", "true", "Access-Control-Expose-Headers", "X-Request-Id")
	}
}

func TestWithoutConfiguredOriginsNothingIsSaidOfThem(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Access-Control-Allow-Origin", "*") }))
	resp, _ := f.do(f.request("OPTIONS", "/", nil, "Origin", adminOrigin, "Access-Control-Request-Method", "PUT"))
	wantHeader(t, "a preflight", resp, "Access-Control-Allow-Origin", "*", "Access-Control-Allow-Credentials", "", "Access-Control-Allow-Methods", "", "Vary", "")
	resp, _ = f.get("/auth/session", "Origin", adminOrigin)
	wantHeader(t, "a path of ours", resp, "Access-Control-Allow-Origin", "", "Access-Control-Allow-Credentials", "", "Vary", "")
}
