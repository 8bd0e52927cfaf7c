package authapi_test

import (
	"context"
	"errors"
	"fmt"
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
	"cloakroom/infra/authcall"
)

const (
	email    = "Ann@Example.com"
	password = "correct horse battery"
)

var (
	person = domain.Credentials{Email: email, Password: domain.NewSecret(password), IP: "203.0.113.7"}
	noon   = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

func newServer(t *testing.T) *authapitest.Server {
	s := authapitest.New(t)
	s.AddAccount(email, password, "admin")
	return s
}

func newClient(t *testing.T, base string, changes ...func(*authapi.Config)) *authapi.Client {
	t.Helper()
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	cfg := authapi.Config{
		BaseURL:      u,
		RegisterPath: authapitest.RegisterPath,
		LoginPath:    authapitest.LoginPath,
		RefreshPath:  authapitest.RefreshPath,
		RevokePath:   authapitest.RevokePath,
		Timeout:      10 * time.Second,
		Now:          func() time.Time { return noon },
	}
	for _, change := range changes {
		change(&cfg)
	}
	c := authapi.New(cfg)
	t.Cleanup(c.Close)
	return c
}

func signIn(t *testing.T, c *authapi.Client) domain.Grant {
	t.Helper()
	_, grant, err := c.SignIn(t.Context(), person)
	if err != nil {
		t.Fatalf("sign-in: %v", err)
	}
	return grant
}

func TestWholeLife(t *testing.T) {
	s := authapitest.New(t)
	s.Set(func(o *authapitest.Options) { o.RefreshLife = time.Hour })
	c := newClient(t, s.URL)

	if err := c.Register(t.Context(), person); err != nil {
		t.Fatalf("register: %v", err)
	}
	who, first, err := c.SignIn(t.Context(), person)
	if err != nil {
		t.Fatalf("sign-in: %v", err)
	}
	if who.Subject != "subject-1" || who.Email != "ann@example.com" || who.EmailVerified {
		t.Errorf("identity: %+v", who)
	}
	if first.TokenType != "bearer" || first.AccessLife != 10*time.Minute || first.RefreshLife != time.Hour {
		t.Errorf("grant: %+v", first)
	}
	second, err := c.Refresh(t.Context(), domain.Renewal{Refresh: first.Refresh})
	if err != nil {
		t.Fatalf("refresh: %v", err)
	}
	if !s.Valid(second.Access.Reveal()) || second.Access.Equal(first.Access) || second.Refresh.Equal(first.Refresh) {
		t.Error("refresh did not bring a new pair")
	}
	if err := c.Revoke(t.Context(), second.Refresh, second.Access); err != nil {
		t.Fatalf("revoke: %v", err)
	}
	want := []authapitest.Revocation{{Refresh: second.Refresh.Reveal(), Access: second.Access.Reveal()}}
	if got := s.Revocations(); !slices.Equal(got, want) {
		t.Error("the auth server was not told both tokens")
	}
	if _, err := c.Refresh(t.Context(), domain.Renewal{Refresh: second.Refresh}); !errors.Is(err, domain.ErrInvalidGrant) {
		t.Errorf("refresh after revocation: %v, want ErrInvalidGrant", err)
	}
}

func TestWhatIsNotThereIsNotAsked(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s.URL, func(cfg *authapi.Config) { cfg.RegisterPath, cfg.RevokePath = "", "" })
	if err := c.Register(t.Context(), person); !errors.Is(err, domain.ErrNoRegistration) {
		t.Errorf("register: %v, want ErrNoRegistration", err)
	}
	if err := c.Revoke(t.Context(), domain.NewSecret("r"), domain.NewSecret("a")); err != nil {
		t.Errorf("revoke: %v", err)
	}
	if err := newClient(t, s.URL).Revoke(t.Context(), domain.Secret{}, domain.Secret{}); err != nil {
		t.Errorf("revoke nothing: %v", err)
	}
	if len(s.Requests(authapitest.RegisterPath))+len(s.Requests(authapitest.RevokePath))+len(s.Requests("/")) != 0 {
		t.Error("something was asked")
	}
}

func TestRequests(t *testing.T) {
	const login, refresh = authapitest.LoginPath, authapitest.RefreshPath
	for name, tc := range map[string]struct {
		change            func(*authapi.Config)
		loginKind, userIn string
		refreshKind       string
	}{
		"JSON": {func(*authapi.Config) {}, "application/json", "email", "application/json"},
		"form": {func(c *authapi.Config) { c.Form, c.EmailField = true, "username" },
			"application/x-www-form-urlencoded", "username", "application/x-www-form-urlencoded"},
		"login form": {func(c *authapi.Config) { c.LoginForm, c.EmailField = true, "username" },
			"application/x-www-form-urlencoded", "username", "application/json"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			c := newClient(t, s.URL, tc.change)
			grant := signIn(t, c)
			if _, err := c.Refresh(t.Context(), domain.Renewal{Refresh: grant.Refresh}); err != nil {
				t.Fatalf("refresh: %v", err)
			}

			in := s.Requests(login)[0]
			if got := in.Header.Get("Content-Type"); got != tc.loginKind {
				t.Errorf("sign-in is %s, want %s", got, tc.loginKind)
			}
			if in.Fields[tc.userIn] != email || in.Fields["password"] != password || len(in.Fields) != 2 {
				t.Errorf("sign-in holds %v", in.Fields)
			}
			if got := in.Header.Get("X-Forwarded-For"); got != person.IP {
				t.Errorf("X-Forwarded-For = %q, want %q", got, person.IP)
			}
			again := s.Requests(refresh)[0]
			if got := again.Header.Get("Content-Type"); got != tc.refreshKind {
				t.Errorf("refresh is %s, want %s", got, tc.refreshKind)
			}
			if again.Fields["refresh_token"] != grant.Refresh.Reveal() || len(again.Fields) != 1 {
				t.Errorf("refresh holds %v", again.Fields)
			}
			if _, there := again.Header["X-Forwarded-For"]; there {
				t.Error("a refresh names a browser's address")
			}
		})
	}
}

func TestOwnNamesAndPathsBelowTheBase(t *testing.T) {
	var asked []string
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, pass, _ := r.BasicAuth()
		asked = append(asked, r.URL.Path+" "+user+":"+pass)
		fmt.Fprint(w, `{"at":"access","rt":"refresh","ttl":60,"rttl":"3600","tt":"Bearer"}`)
	}))
	t.Cleanup(web.Close)
	c := newClient(t, strings.Replace(web.URL, "http://", "http://broker:pw@", 1)+"/api/v1", func(c *authapi.Config) {
		c.LoginPath, c.RefreshPath = "auth/login/", "/auth/renew"
		c.AccessTokenAnswer, c.RefreshTokenAnswer = "at", "rt"
		c.ExpiresInAnswer, c.RefreshExpiresInAnswer, c.TokenTypeAnswer = "ttl", "rttl", "tt"
	})
	g := signIn(t, c)
	if g.Access.Reveal() != "access" || g.Refresh.Reveal() != "refresh" ||
		g.TokenType != "Bearer" || g.AccessLife != time.Minute || g.RefreshLife != time.Hour {
		t.Errorf("grant: %+v", g)
	}
	if _, err := c.Refresh(t.Context(), domain.Renewal{Refresh: g.Refresh}); err != nil {
		t.Errorf("refresh: %v", err)
	}
	want := []string{"/api/v1/auth/login/ broker:pw", "/api/v1/auth/renew broker:pw"}
	if !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

func TestExpiresIn(t *testing.T) {
	const years = 100 * 365 * 24 * time.Hour
	for text, want := range map[string]time.Duration{
		`,"expires_in":600`:                    10 * time.Minute,
		`,"expires_in":600.5`:                  600500 * time.Millisecond,
		`,"expires_in":6e2`:                    10 * time.Minute,
		`,"expires_in":"600"`:                  10 * time.Minute,
		`,"expires_in":" 600 "`:                10 * time.Minute,
		``:                                     0,
		`,"expires_in":null`:                   0,
		`,"expires_in":0`:                      0,
		`,"expires_in":-5`:                     0,
		`,"expires_in":"soon"`:                 0,
		`,"expires_in":"NaN"`:                  0,
		`,"expires_in":true`:                   0,
		`,"expires_in":{"s":1}`:                0,
		`,"expires_in":9223372036854775807`:    years,
		`,"expires_in":1e999`:                  years,
		`,"expires_in":"99999999999999999999"`: years,
	} {
		s := newServer(t)
		s.Always(authapitest.RefreshPath, authapitest.Answer(200, `{"access_token":"a"`+text+`}`))
		g, err := newClient(t, s.URL).Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
		if err != nil || g.AccessLife != want {
			t.Errorf("%s: %v, %v, want %v", text, g.AccessLife, err, want)
		}
	}
}

func TestRefreshWithoutASuccessor(t *testing.T) {
	s := newServer(t)
	s.Set(func(o *authapitest.Options) { o.KeepRefresh = true })
	c := newClient(t, s.URL)
	g, err := c.Refresh(t.Context(), domain.Renewal{Refresh: signIn(t, c).Refresh})
	if err != nil || !g.Refresh.Empty() || g.Access.Empty() {
		t.Errorf("refresh: %+v, %v", g, err)
	}
}

// A device waits for one refresh and no longer, whatever the auth server does.
func TestTimeoutIsOfTheWholeCall(t *testing.T) {
	short := func(c *authapi.Config) { c.Timeout = 50 * time.Millisecond }

	t.Run("no answer", func(t *testing.T) {
		s := newServer(t)
		s.Always(authapitest.RefreshPath, authapitest.NewGate().Before)
		_, err := newClient(t, s.URL, short).Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
		wantTimeout(t, err)
	})
	t.Run("half an answer", func(t *testing.T) {
		s := newServer(t)
		s.Always(authapitest.RefreshPath, func(w http.ResponseWriter, r *http.Request, _ func() authapitest.Reply) {
			fmt.Fprint(w, `{"access_token":`)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		_, err := newClient(t, s.URL, short).Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
		wantTimeout(t, err)
	})
	t.Run("no free connection", func(t *testing.T) {
		s := newServer(t)
		gate := authapitest.NewGate()
		s.Always(authapitest.LoginPath, gate.Before)
		c := newClient(t, s.URL, short, func(c *authapi.Config) { c.MaxConns = 1 })
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, _, err := c.SignIn(t.Context(), person)
				wantTimeout(t, err)
			})
		}
		wg.Wait()
		if got := s.Peak(authapitest.LoginPath); got != 1 {
			t.Errorf("%d calls at once, want 1", got)
		}
	})
	t.Run("no TLS handshake", func(t *testing.T) {
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { silent.Close() })
		_, err = newClient(t, "https://"+silent.Addr().String(), short).Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
		wantTimeout(t, err)
	})
}

func wantTimeout(t *testing.T, err error) {
	t.Helper()
	wantUnavailable(t, err, authcall.Timeout, 0)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v is not context.DeadlineExceeded", err)
	}
}

func TestCallerWhoLeaves(t *testing.T) {
	s := newServer(t)
	gate := authapitest.NewGate()
	s.Always(authapitest.RefreshPath, gate.Before)
	c := newClient(t, s.URL)

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-gate.Arrived
		cancel()
	}()
	_, err := c.Refresh(ctx, domain.Renewal{Refresh: domain.NewSecret("r")})
	wantUnavailable(t, err, authcall.Canceled, 0)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v is not context.Canceled", err)
	}

	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = c.Refresh(ctx, domain.Renewal{Refresh: domain.NewSecret("r")})
	wantTimeout(t, err)
}

// A refresh token may be spent by a request whose answer never came, so the
// client may not send it again on its own.
func TestNothingIsSentTwice(t *testing.T) {
	s := newServer(t)
	c := newClient(t, s.URL)
	token := signIn(t, c).Refresh // the connection is in the pool now
	s.Next(authapitest.RefreshPath, authapitest.Lost)
	_, err := c.Refresh(t.Context(), domain.Renewal{Refresh: token})
	wantUnavailable(t, err, authcall.Network, 0)
	if n := len(s.Requests(authapitest.RefreshPath)); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestConnectionsAreReused(t *testing.T) {
	var opened atomic.Int32
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"detail":"no"}`, http.StatusUnauthorized)
	}))
	web.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	web.Start()
	t.Cleanup(web.Close)
	c := newClient(t, web.URL)
	for range 10 {
		_, _ = c.Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("r")})
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("%d connections for 10 calls, want 1", n)
	}
}
