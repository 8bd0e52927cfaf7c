package authserver

import (
	"database/sql"
	"strings"
	"testing"
	"time"
)

func TestNewcomersDay(t *testing.T) {
	for name, post := range map[string]func(*fixture, string, map[string]string) answer{"JSON": (*fixture).post, "form": (*fixture).form} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			made := f.want(post(f, "/api/v1/register", map[string]string{
				"email": email, "username": "alice", "name": "Alice L.", "password": password,
			}), 201, "")
			if made.text("email") != email || len(made.text("id")) != 36 {
				t.Errorf("registered %v, want the id and the email", made.body)
			}
			f.want(post(f, "/api/v1/register", map[string]string{"email": "ALICE@example.com", "password": password}), 409, "email_taken")

			f.want(post(f, "/api/v1/login", map[string]string{"username": "alice", "password": password}), 200, "")
			f.want(post(f, "/api/v1/login", map[string]string{"username": email, "password": password}), 200, "")
			pair := f.want(post(f, "/api/v1/login", map[string]string{"email": email, "password": password}), 200, "")
			if pair.text("token_type") != "bearer" || pair.body["expires_in"] != 900.0 || pair.body["refresh_expires_in"] != 336.0*3600 {
				t.Errorf("pair = %v, want a bearer token for 900 s and a refresh token for 336 h", pair.body)
			}

			verified := f.want(f.bearer("POST", "/api/v1/verify", pair.text("access_token")), 200, "")
			user, _ := verified.body["user"].(map[string]any)
			if user["id"] != made.text("id") || user["email"] != email || user["role"] != "user" {
				t.Errorf("verify = %v, want the account", verified.body)
			}
			for _, path := range []string{"/api/v1/about_me", "/about_me"} {
				me := f.want(f.bearer("GET", path, pair.text("access_token")), 200, "")
				if me.text("id") != made.text("id") || me.text("name") != "Alice L." || me.text("username") != "alice" {
					t.Errorf("%s = %v, want the account", path, me.body)
				}
			}

			next := f.want(post(f, "/api/v1/refresh", map[string]string{"refresh_token": pair.text("refresh_token")}), 200, "")
			if next.text("refresh_token") == pair.text("refresh_token") || next.text("access_token") == pair.text("access_token") {
				t.Error("a refresh gave an old token again")
			}
			f.want(post(f, "/api/v1/logout", map[string]string{"refresh_token": next.text("refresh_token")}), 200, "")
			f.want(post(f, "/api/v1/refresh", map[string]string{"refresh_token": next.text("refresh_token")}), 401, "invalid_grant")
		})
	}
}

func TestR43_ReuseOverHTTP(t *testing.T) {
	f := newFixture(t)
	first := f.login().text("refresh_token")
	second := f.want(f.refresh(first), 200, "")
	f.clock.advance(29 * time.Second)
	again := f.want(f.refresh(first), 200, "")
	if again.text("refresh_token") != second.text("refresh_token") {
		t.Error("inside the window the successor is another one")
	}
	if again.text("access_token") == second.text("access_token") {
		t.Error("inside the window the access token is not a fresh one")
	}
	if got, want := again.body["refresh_expires_in"], second.body["refresh_expires_in"].(float64)-29; got != want {
		t.Errorf("refresh_expires_in = %v, want %v: asking again must not make it live longer", got, want)
	}
	f.clock.advance(2 * time.Second)
	f.want(f.refresh(first), 401, "invalid_grant")
	f.want(f.refresh(second.text("refresh_token")), 401, "invalid_grant")
	if !strings.Contains(f.log.String(), "reuse detected") {
		t.Error("the reuse was not logged")
	}
}

func TestR43_LoginEndsAtItsAbsoluteExpiry(t *testing.T) {
	f := newFixture(t, func(s *Settings) { s.RefreshTokenLifetime, s.RefreshIdleTimeout = 2*time.Hour, time.Hour })
	token := f.login().text("refresh_token")
	f.clock.advance(59 * time.Minute)
	token = f.want(f.refresh(token), 200, "").text("refresh_token")
	f.clock.advance(59 * time.Minute)
	last := f.want(f.refresh(token), 200, "")
	if last.body["refresh_expires_in"] != 120.0 {
		t.Errorf("refresh_expires_in = %v, want the 120 s that the login has left", last.body["refresh_expires_in"])
	}
	f.clock.advance(2 * time.Minute)
	f.want(f.refresh(last.text("refresh_token")), 401, "invalid_grant")
}

func TestAccessTokenExpires(t *testing.T) {
	f := newFixture(t)
	access := f.login().text("access_token")
	f.clock.advance(15*time.Minute - time.Second)
	f.want(f.bearer("POST", "/api/v1/verify", access), 200, "")
	f.clock.advance(time.Second)
	refused := f.want(f.bearer("POST", "/api/v1/verify", access), 401, "invalid_token")
	if refused.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("WWW-Authenticate = %q, want Bearer", refused.header.Get("WWW-Authenticate"))
	}
}

func TestBearerIsRefused(t *testing.T) {
	f := newFixture(t)
	access := f.login().text("access_token")
	for name, headers := range map[string][]string{
		"no header": nil, "no token": {"Bearer"}, "basic": {"Basic " + access}, "bare": {access}, "twice": {"Bearer " + access, "Bearer " + access},
	} {
		r := f.request("GET", "/api/v1/about_me", "", "")
		r.Header["Authorization"] = headers
		if a := f.do(r); a.status != 401 || a.text("error") != "invalid_token" {
			t.Errorf("%s: %d %s, want 401", name, a.status, a.raw)
		}
	}
	if a := f.do(f.request("GET", "/api/v1/about_me?access_token="+access, "", "")); a.status != 401 {
		t.Errorf("token in the address: %d, want 401", a.status)
	}
}

func TestR45_WrongPasswordAndUnknownAccountAnswerAlike(t *testing.T) {
	f := newFixture(t)
	f.login()
	wrong := f.want(f.post("/api/v1/login", map[string]string{"email": email, "password": "a wrong password"}), 401, "invalid_credentials")
	unknown := f.want(f.post("/api/v1/login", map[string]string{"email": "nobody@example.com", "password": password}), 401, "invalid_credentials")
	wrong.header.Del("Date")
	unknown.header.Del("Date")
	if wrong.raw != unknown.raw {
		t.Errorf("bodies are %q and %q, want the same", wrong.raw, unknown.raw)
	}
	for name := range wrong.header {
		if wrong.header.Get(name) != unknown.header.Get(name) {
			t.Errorf("header %s is %q and %q, want the same", name, wrong.header.Get(name), unknown.header.Get(name))
		}
	}
}

func TestR45_ThrottledLoginSaysWhenToComeBack(t *testing.T) {
	f := newFixture(t, func(s *Settings) { s.LoginFailuresPerAccount, s.ThrottleWindow = 2, 101*time.Second })
	f.login()
	wrong := map[string]string{"email": email, "password": "a wrong password"}
	f.want(f.post("/api/v1/login", wrong), 401, "invalid_credentials")
	f.want(f.post("/api/v1/login", wrong), 401, "invalid_credentials")
	refused := f.want(f.post("/api/v1/login", wrong), 429, "too_many_attempts")
	if got := refused.header.Get("Retry-After"); got != "51" {
		t.Errorf("Retry-After = %q, want 51", got)
	}
	f.clock.advance(51 * time.Second)
	f.login()
}

func TestForwardedAddress(t *testing.T) {
	fail := func(f *fixture, forwarded ...string) answer {
		r := f.request("POST", "/api/v1/login", "application/json", `{"email":"nobody@example.com","password":"a wrong password"}`)
		r.Header["X-Forwarded-For"] = forwarded
		return f.do(r)
	}
	few := func(s *Settings) { s.LoginFailuresPerAddress = 1 }
	t.Run("is believed from a trusted proxy", func(t *testing.T) {
		f := newFixture(t, few, func(s *Settings) { s.TrustedProxy = []string{"127.0.0.1", "10.0.0.0/8"} })
		f.want(fail(f, "192.0.2.1"), 401, "invalid_credentials")
		f.want(fail(f, "192.0.2.2"), 401, "invalid_credentials")
		f.want(fail(f, "192.0.2.1"), 429, "too_many_attempts")
		f.want(fail(f, "203.0.113.5, 192.0.2.1"), 429, "too_many_attempts")
		f.want(fail(f, "203.0.113.6, 192.0.2.1, 10.1.2.3"), 429, "too_many_attempts")
		f.want(fail(f, "203.0.113.7", "192.0.2.1:1234"), 429, "too_many_attempts")
		f.want(fail(f, "192.0.2.3, made up"), 401, "invalid_credentials")
		f.want(fail(f, "192.0.2.4, made up"), 429, "too_many_attempts")
	})
	t.Run("is ignored from anybody else", func(t *testing.T) {
		f := newFixture(t, few)
		f.want(fail(f, "192.0.2.1"), 401, "invalid_credentials")
		f.want(fail(f, "192.0.2.2"), 429, "too_many_attempts")
	})
}

func TestR44_WeakPasswordsAreRefused(t *testing.T) {
	f := newFixture(t)
	for password, code := range map[string]string{
		"k3#xQ9z": "weak_password", "Password123": "weak_password", email: "weak_password", strings.Repeat("x", 513): "password_too_long",
	} {
		if a := f.post("/api/v1/register", map[string]string{"email": email, "password": password}); a.status != 422 || a.text("error") != code {
			t.Errorf("%.20s: %d %s, want 422 %s", password, a.status, a.raw, code)
		}
	}
	long := strings.Repeat("💂 ", 256)
	f.want(f.post("/api/v1/register", map[string]string{"email": email, "password": long}), 201, "")
	f.want(f.form("/api/v1/login", map[string]string{"email": email, "password": long}), 200, "")
}

// disable does what an operator does, from outside of the server.
func disable(t *testing.T, database string) {
	t.Helper()
	db, err := sql.Open("sqlite", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), `UPDATE account SET disabled_at = 1`); err != nil {
		t.Fatal(err)
	}
}

func TestR33_DisabledAccountIsOut(t *testing.T) {
	var database string
	f := newFixture(t, func(s *Settings) { database = s.Database })
	pair := f.login()
	disable(t, database)
	f.want(f.post("/api/v1/login", map[string]string{"email": email, "password": password}), 403, "account_disabled")
	f.want(f.post("/api/v1/login", map[string]string{"email": email, "password": "a wrong password"}), 401, "invalid_credentials")
	f.want(f.refresh(pair.text("refresh_token")), 401, "invalid_grant")
	f.want(f.bearer("POST", "/api/v1/verify", pair.text("access_token")), 401, "invalid_token")
}

func TestLogoutSucceedsWhateverTheToken(t *testing.T) {
	f := newFixture(t)
	token := f.login().text("refresh_token")
	for _, token := range []string{token, token, "unknown"} {
		f.want(f.post("/api/v1/logout", map[string]string{"refresh_token": token}), 200, "")
	}
	f.want(f.refresh(token), 401, "invalid_grant")
}

func TestRequestsThatCannotBeRead(t *testing.T) {
	f := newFixture(t)
	const login, form = "/api/v1/login", "application/x-www-form-urlencoded"
	for _, c := range []struct {
		name, method, path, contentType, body string
		status                                int
		code                                  string
	}{
		{"no content type", "POST", login, "", `{}`, 415, "unsupported_media_type"},
		{"text", "POST", login, "text/plain", `{}`, 415, "unsupported_media_type"},
		{"multipart", "POST", login, "multipart/form-data; boundary=x", "--x--", 415, "unsupported_media_type"},
		{"charset", "POST", login, "application/json; charset=utf-8", `{}`, 400, "invalid_request"},
		{"no JSON", "POST", login, "application/json", `{"email"`, 400, "invalid_request"},
		{"null", "POST", login, "application/json", `null`, 400, "invalid_request"},
		{"list", "POST", login, "application/json", `[]`, 400, "invalid_request"},
		{"two values", "POST", login, "application/json", `{"email":"a@x.org","password":"p"} {}`, 400, "invalid_request"},
		{"number", "POST", login, "application/json", `{"email":"a@x.org","password":12345678}`, 400, "invalid_request"},
		{"JSON that is no UTF-8", "POST", login, "application/json", "{\"email\":\"a@x.org\",\"password\":\"\xff\xfe\"}", 400, "invalid_request"},
		{"form that is no UTF-8", "POST", login, form, "email=a%40x.org&password=%ff", 400, "invalid_request"},
		{"malformed form", "POST", login, form, "email=%zz", 400, "invalid_request"},
		{"field given twice", "POST", login, form, "email=a&email=b&password=p", 400, "invalid_request"},
		{"password in the address", "POST", login + "?email=a@x.org&password=p", form, "", 400, "invalid_request"},
		{"no password", "POST", login, form, "email=a%40x.org", 400, "invalid_request"},
		{"no refresh token", "POST", "/api/v1/refresh", form, "", 400, "invalid_request"},
		{"no token to log out", "POST", "/api/v1/logout", form, "", 400, "invalid_request"},
		{"no email", "POST", "/api/v1/register", form, "password=k3%23xQ9zw", 400, "invalid_request"},
		{"bad email", "POST", "/api/v1/register", form, "email=alice&password=k3%23xQ9zw", 422, "invalid_email"},
		{"too large", "POST", login, "application/json", `{"email":"` + strings.Repeat("a", 17<<10) + `"}`, 413, "request_too_large"},
		{"method", "GET", login, "", "", 405, "method_not_allowed"},
		{"method", "DELETE", "/about_me", "", "", 405, "method_not_allowed"},
		{"path", "GET", "/api/v2/login", "", "", 404, "not_found"},
		{"root", "GET", "/", "", "", 404, "not_found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := *f
			f.t = t
			a := f.want(f.do(f.request(c.method, c.path, c.contentType, c.body)), c.status, c.code)
			if c.status == 405 && a.header.Get("Allow") == "" {
				t.Error("no Allow header")
			}
		})
	}
}

func TestR28_AnswersAreNotStored(t *testing.T) {
	f := newFixture(t)
	pair := f.login()
	for name, a := range map[string]answer{
		"login":   pair,
		"refresh": f.refresh(pair.text("refresh_token")),
		"refused": f.refresh("unknown"),
		"me":      f.bearer("GET", "/about_me", pair.text("access_token")),
		"missing": f.do(f.request("GET", "/nothing", "", "")),
	} {
		if got := a.header.Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s: Cache-Control = %q, want no-store", name, got)
		}
		if got := a.header.Get("Content-Type"); got != "application/json" {
			t.Errorf("%s: Content-Type = %q, want application/json", name, got)
		}
	}
}

func TestHealth(t *testing.T) {
	f := newFixture(t)
	f.want(f.do(f.request("GET", "/health/live", "", "")), 200, "")
	f.want(f.do(f.request("GET", "/health/ready", "", "")), 200, "")
	f.server.store.Close()
	f.want(f.do(f.request("GET", "/health/live", "", "")), 200, "")
	down := f.want(f.do(f.request("GET", "/health/ready", "", "")), 503, "not_ready")
	if down.header.Get("Cache-Control") != "no-store" {
		t.Error("the answer of a server that is down may be cached")
	}
}

func TestFailureIsOursAndSaysNothing(t *testing.T) {
	f := newFixture(t)
	token := f.login().text("refresh_token")
	f.server.store.Close()
	failed := f.want(f.refresh(token), 500, "internal")
	if strings.Contains(failed.raw, "sql") {
		t.Errorf("the answer shows the error: %s", failed.raw)
	}
	if !strings.Contains(f.log.String(), "database is closed") {
		t.Error("the error was not logged")
	}
}

func TestR8_LogHoldsEventsAndNoSecrets(t *testing.T) {
	f := newFixture(t)
	typedInTheWrongField := "my secret passphrase"
	f.want(f.post("/api/v1/register", map[string]string{"email": email, "password": password}), 201, "")
	pair := f.login()
	f.post("/api/v1/login", map[string]string{"email": email, "password": "a wrong password"})
	f.post("/api/v1/login", map[string]string{"username": typedInTheWrongField, "password": "x"})
	next := f.refresh(pair.text("refresh_token"))
	f.refresh(pair.text("refresh_token"))
	f.clock.advance(time.Minute)
	f.refresh(pair.text("refresh_token"))
	f.refresh(next.text("refresh_token"))
	last := f.login()
	f.post("/api/v1/logout", map[string]string{"refresh_token": last.text("refresh_token")})

	log := f.log.String()
	for _, event := range []string{"registered", "login", "login refused", "refresh", "refresh token reuse detected, family revoked", "refresh refused", "logout"} {
		if !strings.Contains(log, `"msg":"`+event+`"`) {
			t.Errorf("the event %q was not logged", event)
		}
	}
	for name, secret := range map[string]string{
		"password":           password,
		"wrong password":     "a wrong password",
		"wrong field":        typedInTheWrongField,
		"access token":       pair.text("access_token"),
		"refresh token":      pair.text("refresh_token"),
		"next refresh token": next.text("refresh_token"),
		"last refresh token": last.text("refresh_token"),
		"password hash":      "argon2id",
	} {
		if secret == "" || strings.Contains(log, secret) {
			t.Errorf("the log holds the %s", name)
		}
	}
}
