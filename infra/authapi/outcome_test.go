package authapi_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/authcall"
)

func wantUnavailable(t *testing.T, err error, kind authcall.Kind, retry time.Duration) {
	t.Helper()
	var u *domain.Unavailable
	if !errors.As(err, &u) || !errors.Is(err, domain.ErrAuthUnavailable) || errors.Is(err, domain.ErrInvalidGrant) {
		t.Errorf("got %v, want *domain.Unavailable of ErrAuthUnavailable", err)
		return
	}
	if u.Retry != retry {
		t.Errorf("retry in %v, want %v", u.Retry, retry)
	}
	wantKind(t, err, kind)
}

func wantKind(t *testing.T, err error, kind authcall.Kind) {
	t.Helper()
	var e *authcall.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Errorf("%v is not an Error of kind %s", err, kind)
	}
}

func wantOutcome(t *testing.T, err, outcome error, kind authcall.Kind) {
	t.Helper()
	for _, other := range []error{domain.ErrInvalidGrant, domain.ErrAuthMisconfigured, domain.ErrAuthUnavailable} {
		if errors.Is(err, other) != (other == outcome) {
			t.Errorf("got %v, want %v", err, outcome)
			return
		}
	}
	wantKind(t, err, kind)
}

func wantRefused(t *testing.T, err error, want domain.Refused) {
	t.Helper()
	var got *domain.Refused
	if !errors.As(err, &got) || *got != want {
		t.Errorf("got %#v, want %#v", err, want)
	}
}

// page is what stands where an auth server should be.
const page = "<!doctype html><h1>Hello</h1>"

func TestCredentialsRefused(t *testing.T) {
	const missing = `{"detail":[{"type":"missing","loc":["body","email"],"msg":"Field required","input":{"password":"` + password + `"}},` +
		`{"type":"x","loc":["body",0],"msg":"Too short"},{"loc":["body"],"msg":"No body"},"plain",7]}`
	long := strings.Repeat("ä", 400)
	for name, tc := range map[string]struct {
		answer authapitest.Behaviour
		want   domain.Refused
	}{
		"a sentence":         {authapitest.Answer(401, `{"detail":"Wrong password"}`), domain.Refused{Status: 401, Detail: "Wrong password"}},
		"conflict":           {authapitest.Answer(409, `{"detail":"User already exists"}`), domain.Refused{Status: 409, Detail: "User already exists"}},
		"no such user":       {authapitest.Answer(404, `{"detail":"User not found"}`), domain.Refused{Status: 404, Detail: "User not found"}},
		"FastAPI's list":     {authapitest.Answer(422, missing), domain.Refused{Status: 422, Detail: "email: Field required; Too short; No body; plain"}},
		"list of sentences":  {authapitest.Answer(400, `{"message":["a","b"]}`), domain.Refused{Status: 400, Detail: "a; b"}},
		"error_description":  {authapitest.Answer(400, `{"error":"invalid_grant","error_description":"No"}`), domain.Refused{Status: 400, Detail: "No"}},
		"message":            {authapitest.Answer(403, `{"detail":null,"message":"Locked"}`), domain.Refused{Status: 403, Detail: "Locked"}},
		"unknown code":       {authapitest.Answer(401, `{"error":"Unauthorized"}`), domain.Refused{Status: 401}},
		"an object":          {authapitest.Answer(400, `{"detail":{"a":1}}`), domain.Refused{Status: 400}},
		"no JSON":            {authapitest.Answer(401, "Unauthorized"), domain.Refused{Status: 401}},
		"no body":            {authapitest.Answer(401, ""), domain.Refused{Status: 401}},
		"control characters": {authapitest.Answer(400, `{"detail":" a\r\n\u0000b\u001b[31m "}`), domain.Refused{Status: 400, Detail: "a b [31m"}},
		"too long":           {authapitest.Answer(400, `{"detail":"`+long+`"}`), domain.Refused{Status: 400, Detail: long[:299*len("ä")] + "…"}},
		"throttled":          {authapitest.TooMany("30"), domain.Refused{Status: 429, Detail: "Try again later", Retry: 30 * time.Second}},
		"throttled to date": {authapitest.TooMany(noon.Add(2 * time.Minute).Format(http.TimeFormat)),
			domain.Refused{Status: 429, Detail: "Try again later", Retry: 2 * time.Minute}},
		"throttled until past": {authapitest.TooMany(noon.Add(-time.Minute).Format(http.TimeFormat)), domain.Refused{Status: 429, Detail: "Try again later"}},
		"throttled for ever":   {authapitest.TooMany("99999999999999999999999"), domain.Refused{Status: 429, Detail: "Try again later", Retry: 24 * time.Hour}},
		"throttled somehow":    {authapitest.TooMany("-3"), domain.Refused{Status: 429, Detail: "Try again later"}},
		"throttled by gateway": {authapitest.Answer(429, page), domain.Refused{Status: 429}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.Always(authapitest.LoginPath, tc.answer)
			s.Always(authapitest.RegisterPath, tc.answer)
			c := newClient(t, s.URL)
			_, _, err := c.SignIn(t.Context(), person)
			wantRefused(t, err, tc.want)
			wantRefused(t, c.Register(t.Context(), person), tc.want)
		})
	}
}

func TestCredentialsToAMisconfiguredServer(t *testing.T) {
	for name, answer := range map[string]authapitest.Behaviour{
		"not found":            authapitest.Answer(404, page),
		"not found, no detail": authapitest.Answer(404, `{"status":404}`),
		"wrong method":         authapitest.Answer(405, `{"detail":"Method Not Allowed"}`),
		"wrong media type":     authapitest.Answer(415, `{"detail":"Unsupported"}`),
		"redirect":             authapitest.Answer(307, "", "Location", "/login/"),
		"see other":            authapitest.Answer(303, "", "Location", "/"),
		"not modified":         authapitest.Answer(304, ""),
		"invalid_client":       authapitest.Answer(401, `{"error":"invalid_client"}`),
		"unauthorized_client":  authapitest.Refuse("unauthorized_client"),
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.Always(authapitest.LoginPath, answer)
			s.Always(authapitest.RegisterPath, answer)
			c := newClient(t, s.URL)
			_, _, err := c.SignIn(t.Context(), person)
			wantOutcome(t, err, domain.ErrAuthMisconfigured, authcall.ClientError)
			wantOutcome(t, c.Register(t.Context(), person), domain.ErrAuthMisconfigured, authcall.ClientError)
			if n := len(s.Requests(authapitest.LoginPath)); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
		})
	}
}

// broken is success in another protocol.
var broken = map[string]authapitest.Behaviour{
	"page":                 authapitest.Garbage,
	"nothing":              authapitest.Answer(204, ""),
	"a list":               authapitest.Answer(200, `[]`),
	"null":                 authapitest.Answer(200, "null"),
	"no access token":      authapitest.Answer(200, `{"refresh_token":"r"}`),
	"empty access token":   authapitest.Answer(200, `{"access_token":""}`),
	"access token, number": authapitest.Answer(200, `{"access_token":7}`),
	"access token, lines":  authapitest.Answer(200, `{"access_token":"a\r\nX-Evil: 1"}`),
	"refresh token, list":  authapitest.Answer(200, `{"access_token":"a","refresh_token":["r"]}`),
	"two objects":          authapitest.Answer(200, `{"access_token":"a"}{"access_token":"b"}`),
	"cut JSON":             authapitest.Answer(200, `{"access_token":"a","refr`),
	"too big":              authapitest.Answer(200, `{"access_token":"a"}`+strings.Repeat(" ", 1<<20)),
	"endless":              endless,
}

// endless answers until the client has enough.
func endless(w http.ResponseWriter, _ *http.Request, _ func() authapitest.Reply) {
	for spaces := strings.Repeat(" ", 64<<10); ; {
		if _, err := io.WriteString(w, spaces); err != nil {
			return
		}
	}
}

func TestBrokenAnswers(t *testing.T) {
	for name, answer := range broken {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.Always(authapitest.LoginPath, answer)
			s.Always(authapitest.RefreshPath, answer)
			c := newClient(t, s.URL)
			_, _, err := c.SignIn(t.Context(), person)
			wantOutcome(t, err, domain.ErrAuthMisconfigured, authcall.BrokenAnswer)
			_, err = c.Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
			wantUnavailable(t, err, authcall.BrokenAnswer, 0)
		})
	}
}

func TestRegisterTakesAnySuccessButAPage(t *testing.T) {
	s := newServer(t)
	s.Next(authapitest.RegisterPath, authapitest.Answer(204, ""), authapitest.Answer(201, `{"id":1}`), authapitest.Garbage)
	c := newClient(t, s.URL)
	for _, what := range []string{"nothing", "JSON"} {
		if err := c.Register(t.Context(), person); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantOutcome(t, c.Register(t.Context(), person), domain.ErrAuthMisconfigured, authcall.BrokenAnswer)
}

func TestTokenRefused(t *testing.T) {
	final, ours := domain.ErrInvalidGrant, domain.ErrAuthMisconfigured
	for name, tc := range map[string]struct {
		answer authapitest.Behaviour
		want   error
	}{
		"400 invalid_grant":          {authapitest.Refuse("invalid_grant"), final},
		"401 invalid_grant":          {authapitest.Answer(401, `{"error":"invalid_grant"}`), final},
		"403 invalid_grant":          {authapitest.Answer(403, `{"error":"invalid_grant","detail":"x"}`), final},
		"401 with a detail":          {authapitest.Answer(401, `{"detail":"Invalid refresh token"}`), final},
		"401 with Bearer":            {authapitest.Answer(401, `{"detail":"Expired"}`, "WWW-Authenticate", "bearer"), final},
		"401 with null":              {authapitest.Answer(401, `{"error":null}`), final},
		"401 with an object alone":   {authapitest.Answer(401, `{}`), final},
		"404 invalid_grant":          {authapitest.Answer(404, `{"error":"invalid_grant"}`), ours},
		"400 with a detail":          {authapitest.Answer(400, `{"detail":"invalid_grant"}`), ours},
		"403 with a detail":          {authapitest.Answer(403, `{"detail":"Forbidden"}`), ours},
		"401 page of a gateway":      {authapitest.Answer(401, page), ours},
		"401 page that says it":      {authapitest.Answer(401, `error: invalid_grant`), ours},
		"401 without a body":         {authapitest.Answer(401, ""), ours},
		"401 string":                 {authapitest.Answer(401, `"invalid_grant"`), ours},
		"401 gateway asks for Basic": {authapitest.Answer(401, `{"message":"Unauthorized"}`, "WWW-Authenticate", `Basic realm="x"`), ours},
		"401 other code":             {authapitest.Answer(401, `{"error":"invalid_grant_type"}`), ours},
		"401 error object":           {authapitest.Answer(401, `{"error":{"code":"invalid_grant"}}`), ours},
		"401 empty error":            {authapitest.Answer(401, `{"error":""}`), ours},
		"invalid_client":             {authapitest.Answer(401, `{"error":"invalid_client"}`), ours},
		"unauthorized_client":        {authapitest.Refuse("unauthorized_client"), ours},
		"unsupported_grant_type":     {authapitest.Refuse("unsupported_grant_type"), ours},
		"invalid_request":            {authapitest.Refuse("invalid_request"), ours},
		"invalid_scope":              {authapitest.Refuse("invalid_scope"), ours},
		"404":                        {authapitest.Answer(404, `{"detail":"Not Found"}`), ours},
		"405":                        {authapitest.Answer(405, `{"detail":"Method Not Allowed"}`), ours},
		"422":                        {authapitest.Answer(422, `{"detail":[]}`), ours},
		"redirect":                   {authapitest.Answer(307, "", "Location", "/refresh/"), ours},
		"switching protocols":        {hijacked("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), ours},
	} {
		t.Run(name, func(t *testing.T) {
			kind := authcall.ClientError
			if tc.want == final {
				kind = authcall.InvalidGrant
			}
			s := newServer(t)
			s.Always(authapitest.RefreshPath, tc.answer)
			s.Always(authapitest.RevokePath, tc.answer)
			c := newClient(t, s.URL)
			_, err := c.Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
			wantOutcome(t, err, tc.want, kind)
			err = c.Revoke(t.Context(), domain.NewSecret("r"), domain.NewSecret("a"))
			wantOutcome(t, err, tc.want, kind)
		})
	}
}

// hijacked answers with bytes and leaves the connection open until the client
// or the test is gone.
func hijacked(text string) authapitest.Behaviour {
	return func(w http.ResponseWriter, _ *http.Request, _ func() authapitest.Reply) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(text)); err != nil {
			return
		}
		_, _ = conn.Read(make([]byte, 1)) // returns when the client closes
	}
}

func TestWhatPasses(t *testing.T) {
	for name, tc := range map[string]struct {
		answer authapitest.Behaviour
		kind   authcall.Kind
		retry  time.Duration
	}{
		"500":                  {authapitest.Answer(500, page), authcall.Upstream5xx, 0},
		"502 of a gateway":     {authapitest.Answer(502, page), authcall.Upstream5xx, 0},
		"503":                  {authapitest.Unavailable("7"), authcall.Upstream5xx, 7 * time.Second},
		"503 to date":          {authapitest.Unavailable(noon.Add(time.Minute).Format(http.TimeFormat)), authcall.Upstream5xx, time.Minute},
		"500 invalid_grant":    {authapitest.Answer(500, `{"error":"invalid_grant"}`), authcall.Upstream5xx, 0},
		"408":                  {authapitest.Answer(408, "", "Retry-After", "1"), authcall.Timeout, time.Second},
		"425":                  {authapitest.Answer(425, ""), authcall.Throttled, 0},
		"cut":                  {authapitest.Cut, authcall.Network, 0},
		"answer lost":          {authapitest.Lost, authcall.Network, 0},
		"half an answer":       {authapitest.Half, authcall.Network, 0},
		"no HTTP":              {hijacked("SSH-2.0-OpenSSH_9.2\r\n"), authcall.Network, 0},
		"header without limit": {hijacked("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100<<10)), authcall.Network, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			c := newClient(t, s.URL)
			grant := signIn(t, c)
			for _, path := range []string{authapitest.LoginPath, authapitest.RegisterPath, authapitest.RefreshPath, authapitest.RevokePath} {
				s.Always(path, tc.answer)
			}
			_, _, err := c.SignIn(t.Context(), person)
			wantUnavailable(t, err, tc.kind, tc.retry)
			wantUnavailable(t, c.Register(t.Context(), person), tc.kind, tc.retry)
			_, err = c.Refresh(t.Context(), domain.Renewal{Refresh: grant.Refresh})
			wantUnavailable(t, err, tc.kind, tc.retry)
			wantUnavailable(t, c.Revoke(t.Context(), grant.Refresh, grant.Access), tc.kind, tc.retry)
		})
	}
}

func TestThrottledRefreshPasses(t *testing.T) {
	s := newServer(t)
	s.Always(authapitest.RefreshPath, authapitest.TooMany("5"))
	_, err := newClient(t, s.URL).Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
	wantUnavailable(t, err, authcall.Throttled, 5*time.Second)
}

func TestNoConnection(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains of the handshake
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := newServer(t)
	for name, base := range map[string]string{
		"refused":      closed.URL,
		"no such name": "http://auth.invalid",
		"not trusted":  secure.URL,
		"no TLS":       strings.Replace(plain.URL, "http:", "https:", 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newClient(t, base).Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
			wantUnavailable(t, err, authcall.Network, 0)
		})
	}
}

// R8: whatever the auth server does, no error repeats what was sent or
// answered, nor what stands in the URL beside the host.
func TestR8_ErrorsHoldNoSecret(t *testing.T) {
	const refresh, access, user = "the-refresh-token", "the-access-token", "the-url-user"
	echo := func(status int, format string) authapitest.Behaviour {
		return authapitest.Answer(status, fmt.Sprintf(format, refresh+" "+access+" "+password))
	}
	answers := map[string]authapitest.Behaviour{
		"page":       echo(200, "<p>%s"),
		"refusal":    echo(400, `{"error":"%s"}`),
		"5xx":        echo(500, "%s"),
		"status":     hijacked("HTTP/1.1 " + refresh + access + password + "\r\n\r\n"),
		"no HTTP":    hijacked(refresh + access + password + "\r\n\r\n"),
		"header":     hijacked("HTTP/1.1 200 OK\r\n" + refresh + access + password + "\r\n\r\n"),
		"length":     hijacked("HTTP/1.1 200 OK\r\nContent-Length: " + refresh + "\r\n\r\n"),
		"encoding":   hijacked("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + refresh + "\r\n\r\n"),
		"cut":        authapitest.Cut,
		"redirected": authapitest.Answer(302, "", "Location", "http://x/?token="+refresh),
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			for _, path := range []string{authapitest.LoginPath, authapitest.RegisterPath, authapitest.RefreshPath, authapitest.RevokePath} {
				s.Always(path, answer)
			}
			base := strings.Replace(s.URL, "://", "://"+user+":"+user+"@", 1) + "/?key=" + user
			c := newClient(t, base)
			_, _, signInErr := c.SignIn(t.Context(), person)
			_, refreshErr := c.Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret(refresh)})
			revokeErr := c.Revoke(t.Context(), domain.NewSecret(refresh), domain.NewSecret(access))
			if signInErr == nil || refreshErr == nil {
				t.Error("no error")
			}
			for _, err := range []error{signInErr, c.Register(t.Context(), person), refreshErr, revokeErr} {
				for _, text := range []string{fmt.Sprint(err), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
					for _, secret := range []string{refresh, access, password, user} {
						if strings.Contains(text, secret) {
							t.Errorf("the error shows %q: %s", secret, text)
						}
					}
				}
			}
		})
	}
}

func TestErrorSaysWhatWasAskedAndAnswered(t *testing.T) {
	s := newServer(t)
	s.Always(authapitest.RefreshPath, authapitest.Refuse("invalid_client"))
	_, err := newClient(t, s.URL).Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
	const want = "refresh: auth server refuses the broker: answered 400 invalid_client"
	if err == nil || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	var e *authcall.Error
	if errors.As(err, &e); e.Status != 400 {
		t.Errorf("status %d, want 400", e.Status)
	}

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	_, err = newClient(t, "http://"+listener.Addr().String()).Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %q, which does not say why", err)
	}
}
