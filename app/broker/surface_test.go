package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/settings"
)

type deviceList struct {
	Devices []struct {
		ID, Name, Browser, System, Kind string
		Current                         bool
	}
}

func (b *browser) devices(t *testing.T) deviceList {
	t.Helper()
	a := b.get("/auth/devices")
	a.want(t, 200, "")
	var list deviceList
	a.json(t, &list)
	return list
}

const (
	firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	chrome  = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
)

// TestR8_R48_ADayWithoutAToken walks through everything that the surface does
// and then looks for each token that was ever issued in all that was said.
func TestR8_R48_ADayWithoutAToken(t *testing.T) {
	s := newStack(t, nil)
	s.auth.Set(func(o *authapitest.Options) { o.AccessLife = time.Second })
	laptop, phone := s.browser(), s.browser()
	laptop.header.Set("User-Agent", chrome)
	phone.header.Set("User-Agent", firefox)

	laptop.do("POST", "/auth/register", `{"email":"new@example.com","password":"a new password"}`, asJSON, asScript).want(t, 200, "")
	laptop.get("/auth/devices", navigate).want(t, 200, "")
	laptop.do("POST", "/auth/logout", "", asScript).want(t, 204, "")
	laptop.do("POST", "/auth/login", `{"email":"new@example.com","password":"wrong"}`, asJSON, asScript).want(t, 401, "credentials_refused")

	laptop.signIn(email)
	phone.signIn(email)
	refreshes := s.auth.Granted(authapitest.RefreshPath)
	for deadline := time.Now().Add(20 * time.Second); s.auth.Granted(authapitest.RefreshPath) < refreshes+3; {
		laptop.get("/api/thing?q=1").want(t, 200, "")
		if time.Now().After(deadline) {
			t.Fatal("no refreshes while tokens expire")
		}
	}
	laptop.get("/auth/session").want(t, 200, "")
	list := laptop.devices(t)
	if len(list.Devices) != 2 || !list.Devices[0].Current || list.Devices[0].Name != "Chrome on macOS" || list.Devices[1].Name != "Firefox on Linux" {
		t.Fatalf("devices = %+v, want this Chrome and the Firefox", list)
	}
	other := list.Devices[1].ID
	laptop.do("PATCH", "/auth/devices/"+other, `{"name":"Phone"}`, asJSON, asScript).want(t, 204, "")
	laptop.get("/auth/devices", navigate).want(t, 200, "")
	laptop.do("DELETE", "/auth/devices/"+other, "", asScript).want(t, 204, "")
	phone.get("/api/thing").want(t, 401, "sign_in_required")
	if len(laptop.devices(t).Devices) != 1 {
		t.Error("the device that was signed out is still in the list")
	}
	s.auth.Always(authapitest.RefreshPath, authapitest.Answer(500, "out of order"))
	for deadline := time.Now().Add(20 * time.Second); laptop.get("/api/thing").StatusCode != 503; {
		if time.Now().After(deadline) {
			t.Fatal("the outage is not seen")
		}
	}
	s.auth.Always(authapitest.RefreshPath, nil)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}

	issued := s.auth.Issued()
	if len(issued) < 10 {
		t.Fatalf("only %d tokens were issued; the test looks for nothing", len(issued))
	}
	everything := s.said.String()
	_, secret, _ := strings.Cut(laptop.ticket(), ".")
	for _, line := range strings.Split(everything, "\n") {
		for _, token := range issued {
			if strings.Contains(line, token) {
				t.Fatalf("a token got out: %s", strings.ReplaceAll(line, token, "<token>"))
			}
		}
		if strings.Contains(line, secret) && !strings.Contains(line, "Set-Cookie") {
			t.Fatalf("the ticket got out: %s", strings.ReplaceAll(line, secret, "<ticket>"))
		}
		if strings.Contains(line, password) {
			t.Fatalf("the password got out: %s", line)
		}
	}
	for _, event := range []string{"msg=registered", `msg="signed in"`, `msg="sign-in refused"`, "msg=refreshed", `msg="device ended"`, "reason=signed_out"} {
		if !strings.Contains(everything, event) {
			t.Errorf("the log does not tell of %s", event)
		}
	}
}

// TestR14_R17_TheCookie looks at the cookie of a sign-in as browsers get it.
func TestR14_R17_TheCookie(t *testing.T) {
	cookie := func(t *testing.T, change func(*settings.Settings), body string) *http.Cookie {
		s := newStack(t, change)
		header := []string{asJSON, asScript}
		a := s.browser().do("POST", "/auth/login", body, header...)
		a.want(t, 200, "")
		if len(a.Cookies()) != 1 {
			t.Fatalf("%d cookies were set, want one", len(a.Cookies()))
		}
		if a.Header.Get("Cache-Control") != "no-store" {
			t.Error("an answer that sets the cookie may be stored")
		}
		return a.Cookies()[0]
	}
	const login = `{"email":"` + email + `","password":"` + password + `"}`
	t.Run("plain loopback", func(t *testing.T) {
		c := cookie(t, nil, login)
		if c.Name != "device_id" || c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode || c.MaxAge != 0 || !c.Expires.IsZero() {
			t.Errorf("cookie = %v", c)
		}
		if len(c.Value) != 80 {
			t.Errorf("the ticket has %d characters, want 80", len(c.Value))
		}
	})
	secure := func(s *settings.Settings) {
		s.PublicURL = &url.URL{Scheme: "https", Host: "app.example"}
		s.CookieSameSite = "strict"
	}
	t.Run("TLS in front, Strict, remembered", func(t *testing.T) {
		c := cookie(t, secure, strings.TrimSuffix(login, "}")+`,"remember":true}`)
		if c.Name != "__Host-device_id" || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteStrictMode {
			t.Errorf("cookie = %v", c)
		}
		if want := int(90 * 24 * time.Hour / time.Second); c.MaxAge != want {
			t.Errorf("Max-Age = %d, want the absolute lifetime of %d", c.MaxAge, want)
		}
	})
}

// TestR19_R38_ForeignPagesChangeNothing sends what a planted page could.
func TestR19_R38_ForeignPagesChangeNothing(t *testing.T) {
	s := newStack(t, nil)
	b := s.browser()
	b.signIn(email)
	for name, c := range map[string]struct {
		method, path string
		header       []string
		status       int
		code         string
	}{
		"foreign origin":                  {"POST", "/auth/logout", []string{"Origin: https://evil.example"}, 403, "foreign_origin"},
		"foreign origin with our header":  {"POST", "/auth/logout", []string{"Origin: https://evil.example", asScript}, 403, "foreign_origin"},
		"opaque origin":                   {"POST", "/auth/logout", []string{"Origin: null"}, 403, "foreign_origin"},
		"origin of a neighbouring port":   {"POST", "/auth/logout", []string{"Origin: http://127.0.0.1:1"}, 403, "foreign_origin"},
		"cross-site without Origin":       {"POST", "/auth/logout", []string{"Sec-Fetch-Site: cross-site"}, 403, "foreign_origin"},
		"same-site is not same-origin":    {"DELETE", "/auth/devices", []string{"Sec-Fetch-Site: same-site"}, 403, "foreign_origin"},
		"cross-site with our header":      {"DELETE", "/auth/devices", []string{"Sec-Fetch-Site: cross-site", asScript}, 403, "foreign_origin"},
		"no proof at all":                 {"DELETE", "/auth/devices", nil, 403, "origin_missing"},
		"through the proxy, no proof":     {"POST", "/api/thing", nil, 403, "origin_missing"},
		"through the proxy, foreign":      {"PUT", "/api/thing", []string{"Origin: https://evil.example"}, 403, "foreign_origin"},
		"through the proxy, our header":   {"POST", "/api/thing", []string{asScript}, 200, ""},
		"through the proxy, our page":     {"POST", "/api/thing", []string{fromUs}, 200, ""},
		"through the proxy, just reading": {"GET", "/api/thing", []string{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site"}, 200, ""},
	} {
		a := b.do(c.method, c.path, "", c.header...)
		if a.StatusCode != c.status {
			t.Errorf("%s: %d %s, want %d", name, a.StatusCode, a.body, c.status)
		} else if c.code != "" {
			a.want(t, c.status, c.code)
		}
	}
	if a := b.do("DELETE", "/auth/devices", ""); !strings.Contains(a.body, "X-CSRF") {
		t.Error("the refusal does not name the header that is missing")
	}
	// Nobody is signed in by a planted form.
	a := s.browser().do("POST", "/auth/login", url.Values{"email": {email}, "password": {password}}.Encode(), asForm, "Origin: https://evil.example")
	a.want(t, 403, "foreign_origin")
	if len(a.Cookies()) != 0 {
		t.Error("a planted form signed somebody in")
	}
	// Our own origin is let through: a form of ours, sent by a browser.
	own := s.browser().do("POST", "/auth/login", url.Values{"email": {email}, "password": {password}}.Encode(), asForm, "Origin: "+s.url)
	own.want(t, 303, "")
	b.get("/api/thing").want(t, 200, "") // still signed in after all that
}

// TestR21_GetSignsNobodyOut: it only shows a button.
func TestR21_GetSignsNobodyOut(t *testing.T) {
	s := newStack(t, nil)
	b := s.browser()
	b.signIn(email)
	for _, path := range []string{"/auth/logout", "/auth/devices/sign-out-all", "/auth/devices/sign-out-others"} {
		a := b.get(path, navigate)
		a.want(t, 200, "")
		if !strings.Contains(a.body, `method="post"`) {
			t.Errorf("GET %s shows no form", path)
		}
	}
	b.get("/auth/session").want(t, 200, "")
}

// TestR23_ReturnToStaysHere tries what browsers take for another site.
func TestR23_ReturnToStaysHere(t *testing.T) {
	s := newStack(t, nil)
	for target, want := range map[string]string{
		"/app?x=1#top":                 "/app?x=1#top",
		"/":                            "/",
		"":                             "/",
		"//evil.example":               "/",
		"/\\evil.example":              "/",
		"\\\\evil.example":             "/",
		"https://evil.example":         "/",
		"https:evil.example":           "/",
		"javascript:alert(1)":          "/",
		"/\t/evil.example":             "/",
		"/\n/evil.example":             "/",
		"/%2f/evil.example":            "/",
		"/%5cevil.example":             "/",
		" /app":                        "/",
		"app":                          "/",
		"/a\x00b":                      "/",
		"/\u00e9":                      "/",
		"/" + strings.Repeat("a", 4e3): "/",
	} {
		a := s.browser().do("POST", "/auth/login", url.Values{"email": {email}, "password": {password}, "return_to": {target}}.Encode(), asForm, asScript)
		if got := a.Header.Get("Location"); a.StatusCode != 303 || got != want {
			t.Errorf("return_to %q leads to %d %q, want %q", target, a.StatusCode, got, want)
		}
	}
}

// TestR22_R27_R28_HeadersOfOurOwnAnswers: pages, JSON, errors and redirects.
func TestR22_R27_R28_HeadersOfOurOwnAnswers(t *testing.T) {
	s := newStack(t, func(s *settings.Settings) { s.PublicURL = &url.URL{Scheme: "https", Host: "app.example"} })
	b := s.browser()
	for _, a := range []answer{
		b.get("/auth/login", navigate), b.get("/auth/session"), b.get("/auth/nothing"), b.get("/auth/devices", navigate),
		b.get("/health/live"), b.get("/api/thing"), b.get("/api/thing", navigate), b.do("POST", "/auth/login", "{"), b.do("PUT", "/auth/login", "", asScript),
	} {
		for name, want := range map[string]string{
			"Cache-Control":                "no-store",
			"X-Content-Type-Options":       "nosniff",
			"Referrer-Policy":              "same-origin",
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Strict-Transport-Security":    "max-age=31536000",
			"Access-Control-Allow-Origin":  "",
			"Content-Security-Policy":      "default-src 'none'",
			"X-Frame-Options":              "DENY",
			"Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := a.Header.Get(name); !strings.HasPrefix(got, want) || want == "" && got != "" {
				t.Errorf("%s %s %d: %s = %q, want %q", a.Request.Method, a.Request.URL.Path, a.StatusCode, name, got, want)
			}
		}
		for _, directive := range []string{"object-src 'none'", "base-uri 'none'", "frame-ancestors 'none'"} {
			if !strings.Contains(a.Header.Get("Content-Security-Policy"), directive) {
				t.Errorf("%s: the content policy lacks %s", a.Request.URL.Path, directive)
			}
		}
		if a.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", a.Request.URL.Path)
		}
		if len(a.Header.Values("Date")) != 1 {
			t.Errorf("%s %s %d: Date = %q, want one", a.Request.Method, a.Request.URL.Path, a.StatusCode, a.Header.Values("Date"))
		}
		if a.Request.Method == "GET" && a.Close {
			t.Errorf("%s %d: the connection is closed for no reason", a.Request.URL.Path, a.StatusCode)
		}
	}
}

// TestR29_WhoeverIsNotSignedIn: a person is sent to the login page and back, by
// 303; a script gets JSON.
func TestR29_WhoeverIsNotSignedIn(t *testing.T) {
	s := newStack(t, nil)
	b := s.browser()
	for _, header := range []string{navigate, "Accept: text/html,application/xhtml+xml"} {
		a := b.get("/app/page?a=1&b=%2F2", header)
		a.want(t, 303, "")
		location := s.parse(a.Header.Get("Location"))
		if location.Path != "/auth/login" || location.Query().Get("return_to") != "/app/page?a=1&b=%2F2" {
			t.Errorf("a navigation is sent to %s", location)
		}
	}
	a := b.get("/api/thing", "Sec-Fetch-Mode: cors", "Accept: text/html")
	a.want(t, 401, "sign_in_required")
	var body struct {
		LoginURL string `json:"login_url"`
	}
	a.json(t, &body)
	if body.LoginURL != "/auth/login" {
		t.Errorf("login_url = %q", body.LoginURL)
	}
	// And back: the form carries return_to.
	page := b.get("/auth/login?return_to=%2Fapp%2Fpage%3Fa%3D1", navigate)
	page.want(t, 200, "")
	if !strings.Contains(page.body, `value="/app/page?a=1"`) {
		t.Error("the login form has lost where the person was going")
	}
}

func TestRefusedSignInShowsTheFormAgain(t *testing.T) {
	s := newStack(t, nil)
	a := s.browser().do("POST", "/auth/login", url.Values{"email": {email}, "password": {"wrong"}, "return_to": {"/x"}}.Encode(), asForm, navigate, fromUs)
	a.want(t, 401, "")
	for _, part := range []string{`value="` + email + `"`, `value="/x"`, "<form"} {
		if !strings.Contains(a.body, part) {
			t.Errorf("the page lacks %s", part)
		}
	}
	if strings.Contains(a.body, "wrong") && strings.Contains(a.body, `value="wrong"`) {
		t.Error("the page repeats the password")
	}
}

func TestDevicesOfOthersAreNotThere(t *testing.T) {
	s := newStack(t, nil)
	s.auth.AddAccount("bob@example.com", password)
	ada, bob := s.browser(), s.browser()
	ada.signIn(email)
	bob.signIn("bob@example.com")
	bobs := bob.devices(t).Devices[0].ID
	ada.do("DELETE", "/auth/devices/"+bobs, "", asScript).want(t, 404, "not_found")
	ada.do("PATCH", "/auth/devices/"+bobs, `{"name":"x"}`, asJSON, asScript).want(t, 404, "not_found")
	ada.do("DELETE", "/auth/devices/not-an-id", "", asScript).want(t, 404, "not_found")
	ada.do("DELETE", "/auth/devices?others=yes", "", asScript).want(t, 400, "bad_input")
	ada.do("DELETE", "/auth/devices?others=true", "", asScript).want(t, 200, "")
	bob.get("/api/thing").want(t, 200, "")
}

func TestFormsWorkWithoutScript(t *testing.T) {
	s := newStack(t, nil)
	b, other := s.browser(), s.browser()
	other.signIn(email)
	b.do("POST", "/auth/login", url.Values{"email": {email}, "password": {password}}.Encode(), asForm, navigate, fromUs).want(t, 303, "")
	others := other.devices(t).Devices[0].ID
	a := b.do("POST", "/auth/devices/"+others+"/rename", url.Values{"name": {"Kitchen"}}.Encode(), asForm, navigate, fromUs)
	a.want(t, 303, "")
	if page := b.get(a.Header.Get("Location"), navigate); !strings.Contains(page.body, "Kitchen") {
		t.Error("the new name is not on the page")
	}
	b.do("POST", "/auth/devices/"+others+"/sign-out", "", asForm, navigate, fromUs).want(t, 303, "")
	other.get("/api/thing").want(t, 401, "sign_in_required")
	a = b.do("POST", "/auth/devices/sign-out-all", "", asForm, navigate, fromUs)
	a.want(t, 303, "")
	if b.ticket() != "" {
		t.Error("the cookie is still there after signing out everywhere")
	}
}

// TestCookieIsClearedOnlyWhenItIsKnownToBeWorthless holds pitfall 4 and the
// rule about late answers.
func TestCookieIsClearedOnlyWhenItIsKnownToBeWorthless(t *testing.T) {
	// Without refreshing ahead, so that it is a request that meets the refusal.
	s := newStack(t, func(s *settings.Settings) { s.RefreshAhead = 0 })
	s.auth.Set(func(o *authapitest.Options) { o.AccessLife = time.Second })
	b := s.browser()
	b.signIn(email)
	clears := func(a answer) bool {
		return strings.Contains(strings.Join(a.Header.Values("Set-Cookie"), ";"), "device_id=;")
	}

	s.auth.Always(authapitest.RefreshPath, authapitest.Unavailable("7"))
	var a answer
	for deadline := time.Now().Add(20 * time.Second); ; {
		if a = b.get("/api/thing"); a.StatusCode != 200 || time.Now().After(deadline) {
			break
		}
	}
	a.want(t, 503, "auth_server_unavailable")
	if a.Header.Get("Retry-After") == "" || len(a.Cookies()) != 0 {
		t.Errorf("an outage answered with Retry-After %q and cookies %v", a.Header.Get("Retry-After"), a.Cookies())
	}
	a = b.get("/app", navigate)
	a.want(t, 503, "")
	if len(a.Cookies()) != 0 {
		t.Error("an outage touched the cookie")
	}

	s.auth.Always(authapitest.RefreshPath, nil)
	for deadline := time.Now().Add(20 * time.Second); b.get("/api/thing").StatusCode != 200; {
		if time.Now().After(deadline) {
			t.Fatal("the session did not come back with the auth server")
		}
	}
	s.auth.Disable(email)
	for deadline := time.Now().Add(20 * time.Second); ; {
		if a = b.get("/api/thing"); a.StatusCode == 401 && strings.Contains(a.body, "signed_out") || time.Now().After(deadline) {
			break
		}
	}
	a.want(t, 401, "signed_out")
	if !clears(a) {
		t.Error("a final refusal did not clear the cookie")
	}

	dead := "device_id=0b0c0d0e-0001-4203-8405-060708090a0b." + strings.Repeat("A", 43)
	for path, want := range map[string]bool{"/api/thing": false, "/app": false, "/auth/session": false, "/auth/devices": false, "/auth/login": true} {
		if clears(s.browser().get(path, navigate, "Cookie: "+dead)) != want {
			t.Errorf("%s clears a ticket that opens nothing: %t, want the login page alone to do so", path, !want)
		}
	}
	s.browser().get("/api/thing", "Cookie: "+dead+"; "+dead).want(t, 400, "duplicate_cookie")
}

func TestEverybodyIsStillSignedInAfterARestart(t *testing.T) {
	s := newStack(t, nil)
	b := s.browser()
	b.signIn(email)
	ticket := b.ticket()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	s.start()
	s.browser().get("/api/thing", "Cookie: device_id="+ticket).want(t, 200, "")
}

func TestHealth(t *testing.T) {
	s := newStack(t, nil)
	b := s.browser()
	b.get("/health/live").want(t, 200, "")
	if a := b.get("/health/ready"); a.StatusCode != 200 || !strings.Contains(a.body, `"ready"`) {
		t.Errorf("ready = %d %s", a.StatusCode, a.body)
	}
}

func TestUnknownPathsAndMethodsUnderThePrefixAreOurs(t *testing.T) {
	s := newStack(t, nil)
	b := s.browser()
	b.signIn(email)
	for _, path := range []string{"/authors", "/auth-x/login", "/auth.css", "/auth;x/login", "/AUTH/login", "/health", "/health/livelihood"} {
		if a := b.get(path); a.StatusCode != 200 || !strings.Contains(a.body, `"uri":"`+path+`"`) {
			t.Errorf("GET %s = %d %s, want the upstream's answer", path, a.StatusCode, a.body)
		}
	}
	b.get("/auth/nothing").want(t, 404, "not_found")
	b.get("/auth").want(t, 404, "not_found")
	b.get("/auth/Login").want(t, 404, "not_found")
	b.do("PUT", "/auth/login", "", asScript).want(t, 405, "method_not_allowed")
	b.do("PUT", "/auth/devices/x", "", asScript).want(t, 405, "method_not_allowed")
	for path, want := range map[string]string{"/auth/login": "GET, HEAD, POST", "/auth/devices/x": "PATCH, DELETE", "/auth/devices": "GET, HEAD, DELETE", "/health/live": "GET, HEAD"} {
		if a := b.do("PUT", path, "", asScript); a.Header.Get("Allow") != want {
			t.Errorf("PUT %s: Allow: %q, want %q", path, a.Header.Get("Allow"), want)
		}
	}
	b.do("POST", "/auth/login", strings.Repeat("x", 20<<10), asJSON, asScript).want(t, 413, "too_large")
	b.do("POST", "/auth/login", "x", "Content-Type: text/plain", asScript).want(t, 415, "unsupported_content_type")
	b.do("POST", "/auth/login", `{"email":"a"}`, asJSON, asScript).want(t, 400, "bad_input")
}
