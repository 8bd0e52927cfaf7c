package authserver

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	email    = "alice@example.com"
	password = "k3#xQ9zw correct"
)

// testClock stands still until it is moved.
type testClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// syncBuffer collects the log of several goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// fixture is an auth server behind real HTTP, on a file of its own.
type fixture struct {
	t      *testing.T
	server *Server
	url    string
	clock  *testClock
	log    *syncBuffer
}

func cheapSettings(t *testing.T) Settings {
	t.Helper()
	s := Defaults()
	s.Listen = "127.0.0.1:0"
	s.Database = filepath.Join(t.TempDir(), "data", "auth.db")
	s.Issuer = "https://auth.example.com"
	s.Audience = "api"
	s.HashMemoryKiB, s.HashPasses, s.HashLanes = 8, 1, 1
	s.InsecureHashing = true
	return s
}

func newFixture(t *testing.T, change ...func(*Settings)) *fixture {
	t.Helper()
	s := cheapSettings(t)
	for _, c := range change {
		c(&s)
	}
	f := &fixture{t: t, clock: &testClock{at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, log: &syncBuffer{}}
	var err error
	f.server, err = open(t.Context(), s, slog.New(slog.NewJSONHandler(f.log, nil)), f.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(f.server.Handler())
	f.url = listener.URL
	t.Cleanup(func() {
		listener.Close()
		if err := f.server.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// answer is a response that has been read.
type answer struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
}

func (a answer) text(name string) string { s, _ := a.body[name].(string); return s }

func (f *fixture) do(r *http.Request) answer {
	f.t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
	if err := json.Unmarshal(raw, &a.body); err != nil {
		f.t.Fatalf("%s %s answered %d with no JSON object: %q", r.Method, r.URL.Path, a.status, raw)
	}
	return a
}

func (f *fixture) request(method, path, contentType, body string) *http.Request {
	f.t.Helper()
	r, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

func (f *fixture) post(path string, fields map[string]string) answer {
	f.t.Helper()
	body, err := json.Marshal(fields)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.do(f.request("POST", path, "application/json", string(body)))
}

func (f *fixture) form(path string, fields map[string]string) answer {
	f.t.Helper()
	form := url.Values{}
	for name, value := range fields {
		form.Set(name, value)
	}
	return f.do(f.request("POST", path, "application/x-www-form-urlencoded", form.Encode()))
}

func (f *fixture) bearer(method, path, token string) answer {
	f.t.Helper()
	r := f.request(method, path, "", "")
	r.Header.Set("Authorization", "Bearer "+token)
	return f.do(r)
}

func (f *fixture) login() answer {
	f.t.Helper()
	if err := f.server.EnsureAccount(f.t.Context(), email, password); err != nil {
		f.t.Fatal(err)
	}
	return f.want(f.post("/api/v1/login", map[string]string{"email": email, "password": password}), 200, "")
}

func (f *fixture) refresh(token string) answer {
	f.t.Helper()
	return f.post("/api/v1/refresh", map[string]string{"refresh_token": token})
}

// want checks the status, and the error code where that is not 2xx.
func (f *fixture) want(a answer, status int, code string) answer {
	f.t.Helper()
	if a.status != status || a.text("error") != code {
		f.t.Fatalf("answer = %d %q, want %d %q: %s", a.status, a.text("error"), status, code, a.text("detail"))
	}
	if detail := a.text("detail"); code != "" && !strings.HasSuffix(detail, ".") {
		f.t.Errorf("detail = %q, want a sentence", detail)
	}
	return a
}

func TestRestartKeepsAccountsAndTokens(t *testing.T) {
	var database string
	f := newFixture(t, func(s *Settings) { database = s.Database })
	pair := f.login()
	keys := f.do(f.request("GET", "/.well-known/jwks.json", "", ""))
	if got := keys.header.Get("Cache-Control"); got != "public, max-age=300" {
		t.Errorf("Cache-Control of the keys = %q", got)
	}

	again := newFixture(t, func(s *Settings) { s.Database = database })
	if got := again.do(again.request("GET", "/.well-known/jwks.json", "", "")); got.raw != keys.raw {
		t.Errorf("after a restart the keys are %s, want %s", got.raw, keys.raw)
	}
	again.want(again.bearer("POST", "/api/v1/verify", pair.text("access_token")), 200, "")
	again.want(again.refresh(pair.text("refresh_token")), 200, "")
}

func TestOpenSweepsDeadFamilies(t *testing.T) {
	var database string
	f := newFixture(t, func(s *Settings) { database = s.Database })
	f.login()
	f.clock.advance(1000 * time.Hour)
	late := f.clock.now()

	s := cheapSettings(t)
	s.Database = database
	server, err := open(t.Context(), s, slog.New(slog.DiscardHandler), func() time.Time { return late })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	db, err := sql.Open("sqlite", database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	patience, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for left := 1; left > 0; <-poll.C {
		if err := db.QueryRowContext(patience, `SELECT count(*) FROM family`).Scan(&left); err != nil {
			t.Fatal(err)
		}
	}
}

func TestServeAnswersWhatRunsWhenItEnds(t *testing.T) {
	server, err := Open(t.Context(), cheapSettings(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	entered, leave := make(chan struct{}), make(chan struct{})
	handler := server.handler
	server.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-leave
		handler.ServeHTTP(w, r)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()

	answered := make(chan int, 1)
	go func() {
		resp, err := http.Get("http://" + listener.Addr().String() + "/health/ready")
		if err != nil {
			answered <- 0
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	<-entered
	end()
	// The listener closes before the requests are waited for.
	for {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			break
		}
		conn.Close()
	}
	close(leave)
	if status := <-answered; status != 200 {
		t.Errorf("the request that ran was answered with %d, want 200", status)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}

func TestRunEndsCleanly(t *testing.T) {
	log := &syncBuffer{}
	ctx, end := context.WithCancel(t.Context())
	listening := make(chan struct{})
	handler := slog.NewTextHandler(io.MultiWriter(log, writerFunc(func(p []byte) {
		if bytes.Contains(p, []byte("auth server listens")) {
			close(listening)
		}
	})), nil)
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cheapSettings(t), slog.New(handler)) }()
	<-listening
	end()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

func TestRunReportsATakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := cheapSettings(t)
	s.Listen = taken.Addr().String()
	if err := Run(t.Context(), s, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), s.Listen) {
		t.Errorf("Run = %v, want an error that names %s", err, s.Listen)
	}
}
