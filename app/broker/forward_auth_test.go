package broker_test

import (
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/settings"
)

// withForwardAuth is for a proxy on loopback that serves https://app.example.
func withForwardAuth(s *settings.Settings) {
	s.ForwardAuthListen = "127.0.0.1:0"
	s.PublicURL = &url.URL{Scheme: "https", Host: "app.example"}
	s.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// checkURL is where forward-auth listens.
func (s *stack) checkURL() string {
	s.Helper()
	var found []string
	eventually(s.T, "the log says where forward-auth listens", func() bool {
		found = regexp.MustCompile(`msg="forward-auth listens" address=(\S+)`).FindStringSubmatch(s.said.String())
		return found != nil
	})
	return "http://" + found[1]
}

// asker is what a proxy sends on behalf of a browser: its own request, with the
// browser's fields and its own words.
type asker struct {
	*browser
	cookie string
}

func (s *stack) asker(who string) *asker {
	b := s.browser()
	a := &asker{browser: b}
	if who != "" {
		c := b.signIn(who).Cookies()[0]
		a.cookie = c.Name + "=" + c.Value
	}
	b.client.Jar = nil
	b.url = s.checkURL()
	return a
}

// ask sends a request, without writing down what comes: it holds a token.
func (a *asker) ask(method, path string, header ...string) *http.Response {
	a.s.Helper()
	req, err := http.NewRequestWithContext(a.s.Context(), method, a.url+path, nil)
	if err != nil {
		a.s.Fatal(err)
	}
	if a.cookie != "" {
		req.Header.Set("Cookie", a.cookie)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	res, err := a.client.Do(req)
	if err != nil {
		a.s.Fatal(err)
	}
	res.Body.Close()
	return res
}

// shapes are how the four say that they ask about a request.
var shapes = map[string]func(method, target string) (ownMethod, path string, header []string){
	"nginx": func(method, target string) (string, string, []string) {
		return "GET", "/auth/check", []string{"X-Original-Method: " + method, "X-Forwarded-Host: app.example"}
	},
	"Traefik": func(method, target string) (string, string, []string) {
		return "GET", "/auth/check", []string{"X-Forwarded-Method: " + method, "X-Forwarded-Uri: " + target, "X-Forwarded-Host: app.example", "X-Forwarded-Proto: https"}
	},
	"Caddy": func(method, target string) (string, string, []string) {
		return "GET", "/auth/check", []string{"X-Forwarded-Method: " + method, "X-Forwarded-Uri: " + target, "X-Forwarded-Host: app.example", "X-Forwarded-For: 192.0.2.1"}
	},
	"Envoy": func(method, target string) (string, string, []string) {
		return method, "/auth/check" + target, nil
	},
	"ingress-nginx": func(method, target string) (string, string, []string) {
		return "GET", "/auth/check", []string{"X-Original-Method: " + method, "X-Original-Url: https://app.example" + target, "X-Auth-Request-Redirect: " + target, "X-Sent-From: nginx-ingress-controller"}
	},
}

func TestForwardAuthAnswersEachProxy(t *testing.T) {
	s := newStack(t, func(to *settings.Settings) { withForwardAuth(to); to.AuthTrustEmail = true })
	in, out := s.asker(email), s.asker("")
	for name, shape := range shapes {
		ask := func(a *asker, method, target string, header ...string) *http.Response {
			own, path, says := shape(method, target)
			return a.ask(own, path, append(says, header...)...)
		}
		bare := strings.Contains(name, "nginx")

		for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
			res := ask(in, method, "/app?x=1&y=2")
			if token := strings.TrimPrefix(res.Header.Get("Authorization"), "Bearer "); res.StatusCode != 200 || !s.auth.Valid(token) {
				t.Errorf("%s, %s: %s without a working token", name, method, res.Status)
			}
			if res.Header.Get("Cache-Control") != "no-store" || res.ContentLength > 0 || len(res.Cookies()) > 0 {
				t.Errorf("%s, %s: cached, with a body or a cookie", name, method)
			}
		}
		res := ask(in, "GET", "/app", "Cookie: theme=dark", "X-Auth-Request-User: root", "X-Auth-Request-Issuer: https://evil.example")
		for field, want := range map[string]string{
			"Cookie": "theme=dark", "X-Auth-Request-Issuer": "https://auth.test", "X-Auth-Request-Email": email, "X-Auth-Request-Groups": "",
		} {
			if got, there := res.Header[field]; !there || got[0] != want {
				t.Errorf("%s: %s = %q, want %q", name, field, got, want)
			}
		}
		if user := res.Header.Get("X-Auth-Request-User"); user == "" || user == "root" {
			t.Errorf("%s: user %q", name, user)
		}

		// A change needs proof, and so does a WebSocket.
		for proof, want := range map[string]int{
			"Origin: https://app.example": 200, "Sec-Fetch-Site: same-origin": 200, "X-CSRF: 1": 200,
			"Origin: https://evil.example": 403, "Sec-Fetch-Site: cross-site": 403, "Accept: */*": 403,
		} {
			if res := ask(in, "POST", "/app", proof); res.StatusCode != want || (res.Header.Get("Authorization") != "") != (want == 200) {
				t.Errorf("%s: POST with %s = %s, want %d", name, proof, res.Status, want)
			}
			for _, socket := range []string{"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"} {
				if res := ask(in, "GET", "/ws", socket, proof); res.StatusCode != want {
					t.Errorf("%s: a WebSocket by %s with %s = %s, want %d", name, socket, proof, res.Status, want)
				}
			}
		}

		// Whoever is not signed in.
		if res := ask(out, "GET", "/app?x=1&y=2", "Accept: application/json"); res.StatusCode != 401 || res.Header.Get("Authorization") != "" {
			t.Errorf("%s: a script without a session gets %s", name, res.Status)
		}
		res = ask(out, "GET", "/app?x=1&y=2", navigate)
		switch want := "https://app.example/auth/login?return_to=%2Fapp%3Fx%3D1%26y%3D2"; {
		case bare && res.StatusCode != 401:
			t.Errorf("%s: a navigation without a session gets %s, want 401", name, res.Status)
		case !bare && (res.StatusCode != 303 || res.Header.Get("Location") != want):
			t.Errorf("%s: a navigation without a session gets %s to %q, want 303 to %q", name, res.Status, res.Header.Get("Location"), want)
		}
		if res := ask(out, "POST", "/app", navigate); !bare && res.Header.Get("Location") != "https://app.example/auth/login" {
			t.Errorf("%s: a form without a session gets %s to %q", name, res.Status, res.Header.Get("Location"))
		}
	}
}

// Upstreams take what they are told for an identity.
func TestForwardAuthTellsWhatIsCertain(t *testing.T) {
	s := newStack(t, withForwardAuth)
	s.auth.AddAccount("bob@example.com", password, "editor", "guest,admin", "reader")
	res := s.asker("bob@example.com").ask("GET", "/auth/check", "X-Forwarded-Method: GET")
	if got := res.Header.Get("X-Auth-Request-Groups"); got != "editor,guest%2Cadmin,reader" {
		t.Errorf("groups = %q, want no role that becomes two", got)
	}
	if got := res.Header.Get("X-Auth-Request-Email"); got != "" {
		t.Errorf("email = %q, want none that nobody has verified", got)
	}
}

// With Strict cookies a link from elsewhere brings none. The page that brings
// it must not have a status that lets the request pass.
func TestForwardAuthNeverAllowsWithoutAToken(t *testing.T) {
	s := newStack(t, func(to *settings.Settings) { withForwardAuth(to); to.CookieSameSite = "strict" })
	a := s.asker("")
	for name, shape := range shapes {
		own, path, says := shape("GET", "/app")
		res := a.ask(own, path, append(says, navigate, "Sec-Fetch-Site: cross-site")...)
		if res.StatusCode != 401 {
			t.Errorf("%s: %s, want 401", name, res.Status)
		}
		if !strings.Contains(name, "nginx") && res.Header.Get("Refresh") != "0; url=/app" {
			t.Errorf("%s: Refresh = %q", name, res.Header.Get("Refresh"))
		}
	}
}

func TestForwardAuthRefuses(t *testing.T) {
	s := newStack(t, withForwardAuth)
	a := s.asker(email)
	twice := s.asker(email)
	twice.cookie += "; " + twice.cookie
	for _, tt := range []struct {
		name   string
		asker  *asker
		path   string
		header []string
		want   int
	}{
		{"a question about nothing", a, "/auth/check", nil, 400},
		{"a question in two ways", a, "/auth/check", []string{"X-Original-Method: POST", "X-Forwarded-Method: GET"}, 400},
		{"two methods", a, "/auth/check", []string{"X-Forwarded-Method: POST", "X-Forwarded-Method: GET"}, 400},
		{"Envoy's way and another", a, "/auth/check/app", []string{"X-Forwarded-Method: GET"}, 400},
		{"another host", a, "/auth/check", []string{"X-Forwarded-Method: GET", "X-Forwarded-Host: other.example"}, 403},
		{"two tickets", twice, "/auth/check", []string{"X-Forwarded-Method: GET"}, 400},
		{"a page", a, "/auth/login", []string{"X-Forwarded-Method: GET"}, 404},
		{"a longer word", a, "/auth/checks", []string{"X-Forwarded-Method: GET"}, 404},
		{"what is allowed by now", a, "/auth/refusal", []string{"X-Original-Method: GET", "X-Original-Uri: /app"}, 503},
	} {
		if res := tt.asker.ask("GET", tt.path, tt.header...); res.StatusCode != tt.want || res.Header.Get("Authorization") != "" {
			t.Errorf("%s: %s, want %d", tt.name, res.Status, tt.want)
		}
	}
	// Where a browser's answer leads is for our own site to say.
	for _, target := range []string{"//evil.example/x", "https://evil.example/x", "/\\evil.example", "javascript:x", ""} {
		res := s.asker("").ask("GET", "/auth/check", navigate, "X-Forwarded-Method: GET", "X-Forwarded-Uri: "+target)
		if got := res.Header.Get("Location"); got != "https://app.example/auth/login" {
			t.Errorf("return to %q: Location = %q", target, got)
		}
	}
}

// TestR8_NoBrowserGetsATokenFromForwardAuth: neither at the address that
// browsers reach, nor as somebody who is not the proxy.
func TestR8_NoBrowserGetsATokenFromForwardAuth(t *testing.T) {
	s := newStack(t, withForwardAuth)
	a := s.asker(email)
	a.url = s.url
	for _, path := range []string{"/auth/check", "/auth/check/", "/auth/check/app", "/auth/refusal"} {
		for _, says := range []string{"X-Forwarded-Method: GET", "X-Original-Method: GET", "Accept: */*"} {
			if res := a.ask("GET", path, says); res.StatusCode != 404 || res.Header.Get("Authorization") != "" {
				t.Errorf("%s with %s at the browsers' address: %s, want 404", path, says, res.Status)
			}
		}
	}

	s = newStack(t, func(to *settings.Settings) {
		withForwardAuth(to)
		to.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	})
	a = s.asker(email)
	for name, shape := range shapes {
		own, path, says := shape("GET", "/app")
		if res := a.ask(own, path, append(says, "X-Forwarded-For: 192.0.2.1")...); res.StatusCode != 403 || res.Header.Get("Authorization") != "" {
			t.Errorf("asked like %s by somebody else: %s, want 403", name, res.Status)
		}
	}
}

func TestForwardAuthRefreshesAndForgets(t *testing.T) {
	s := newStack(t, withForwardAuth)
	s.auth.Set(func(o *authapitest.Options) { o.AccessLife = 500 * time.Millisecond })
	a := s.asker(email)
	token := func() string {
		res := a.ask("GET", "/auth/check", "X-Forwarded-Method: GET")
		if res.StatusCode != 200 {
			t.Fatalf("%s", res.Status)
		}
		return strings.TrimPrefix(res.Header.Get("Authorization"), "Bearer ")
	}
	first := token()
	eventually(t, "another token", func() bool { return token() != first })

	b := s.browser()
	b.client.Jar = nil
	b.do("POST", "/auth/logout", "", asScript, "Cookie: "+a.cookie).want(t, 204, "")
	if res := a.ask("GET", "/auth/check", "X-Forwarded-Method: GET"); res.StatusCode != 401 || res.Header.Get("Authorization") != "" {
		t.Errorf("after the sign-out: %s, want 401", res.Status)
	}
}
