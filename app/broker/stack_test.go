package broker_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"cloakroom/app/broker"
	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/logging"
	"cloakroom/infra/seal"
	"cloakroom/infra/settings"
)

const (
	email    = "ada@example.com"
	password = "correct horse"
)

// stack is a whole broker as serve runs it, between an auth server and an
// upstream, all over loopback. Everything that the broker says, in answers and
// in its log, is collected in said.
type stack struct {
	*testing.T
	auth     *authapitest.Server
	upstream *httptest.Server
	settings settings.Settings
	said     *said
	hangUps  chan os.Signal // for one of the replicas: read the settings again

	url  string
	stop func() error // ends the broker and returns what Serve returned
}

type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newStack starts all three. change may be nil.
func newStack(t *testing.T, change func(*settings.Settings)) *stack {
	t.Helper()
	s := &stack{T: t, auth: authapitest.New(t), said: &said{}, hangUps: make(chan os.Signal)}
	s.auth.AddAccount(email, password)
	s.upstream = httptest.NewServer(http.HandlerFunc(s.serveUpstream))
	t.Cleanup(s.upstream.Close)
	key, err := seal.GenerateKey(rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.settings = settings.Defaults()
	s.settings.AuthURL = s.parse(s.auth.URL)
	s.settings.LogLevel = -8 // everything
	s.settings.AuthIssuer = "https://auth.test"
	s.settings.SealKeys = []domain.Secret{key}
	s.settings.Store = settings.Store{Kind: settings.SQLite, Path: filepath.Join(t.TempDir(), "broker.db")}
	s.settings.Routes = []settings.Route{{Prefix: "/", Upstreams: upstreamsAt(t, s.upstream.URL)}}
	if change != nil {
		change(&s.settings)
	}
	s.start()
	return s
}

// upstreamsAt is addresses as the settings have them.
func upstreamsAt(t *testing.T, addresses ...string) []settings.Upstream {
	t.Helper()
	list := make([]settings.Upstream, len(addresses))
	for i, address := range addresses {
		if err := list[i].UnmarshalText([]byte(address)); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func (s *stack) parse(text string) *url.URL {
	u, err := url.Parse(text)
	if err != nil {
		s.Fatal(err)
	}
	return u
}

// start runs a broker with the settings; stop before it starts another.
func (s *stack) start() {
	s.Helper()
	s.url, s.stop = s.replica()
}

// replica runs one more broker with the settings, which ends with the test or
// when stop is called. stop returns what Serve returned.
func (s *stack) replica() (url string, stop func() error) {
	s.Helper()
	l, err := broker.Listen("127.0.0.1:0")
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	again := broker.Reload{When: s.hangUps, Load: func() (settings.Settings, error) { return s.settings, nil }}
	go func() {
		ended <- broker.ServeReloading(ctx, l, s.settings, again, logging.New(s.said, false, s.settings.LogLevel))
	}()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() { cancel(); result = <-ended })
		return result
	}
	s.Cleanup(func() {
		if err := stop(); err != nil {
			s.Errorf("Serve = %v", err)
		}
	})
	if s.settings.TLSCert != "" {
		return "https://" + l.Addr().String(), stop
	}
	return "http://" + l.Addr().String(), stop
}

// serveUpstream wants a token that works, and tells what it was asked; at
// /stream it goes on for as long as it is let, and at /socket it opens a
// WebSocket and says what it hears.
func (s *stack) serveUpstream(w http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !s.auth.Valid(token) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	r.Header.Del("Authorization")
	if r.URL.Path == "/stream" {
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			_, _ = io.WriteString(w, "tick\n")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	}
	if r.URL.Path == "/socket" {
		s.serveSocket(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "uri": r.RequestURI, "header": r.Header, "body": string(body)})
}

func (s *stack) serveSocket(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	for err == nil {
		var kind websocket.MessageType
		var message []byte
		if kind, message, err = ws.Read(context.Background()); err == nil {
			err = ws.Write(context.Background(), kind, message)
		}
	}
}

// browser is a client with a cookie jar that follows no redirects.
type browser struct {
	s      *stack
	url    string // of the replica that it talks to
	client *http.Client
	header http.Header // sent with every request
}

func (s *stack) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	s.Cleanup(transport.CloseIdleConnections)
	return &browser{s: s, url: s.url, header: http.Header{}, client: &http.Client{
		Jar: jar, Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// answer is a response that was read whole.
type answer struct {
	*http.Response
	body string
}

// do sends a request with the header lines given as "Name: value".
func (b *browser) do(method, path, body string, header ...string) answer {
	b.s.Helper()
	req, err := http.NewRequestWithContext(b.s.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.s.Fatal(err)
	}
	for name, values := range b.header {
		req.Header[name] = values
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	res, err := b.client.Do(req)
	if err != nil {
		b.s.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.s.Fatalf("%s %s: %v", method, path, err)
	}
	fmt.Fprintln(b.s.said, method, path, res.StatusCode, res.Header, string(text))
	return answer{res, string(text)}
}

func (b *browser) get(path string, header ...string) answer { return b.do("GET", path, "", header...) }

const (
	asScript = "X-CSRF: 1"
	asJSON   = "Content-Type: application/json"
	asForm   = "Content-Type: application/x-www-form-urlencoded"
	navigate = "Sec-Fetch-Mode: navigate"
	fromUs   = "Sec-Fetch-Site: same-origin"
)

// signIn signs in as a script and fails the test if that is refused.
func (b *browser) signIn(who string) answer {
	b.s.Helper()
	body, _ := json.Marshal(map[string]any{"email": who, "password": password})
	a := b.do("POST", "/auth/login", string(body), asJSON, asScript)
	if a.StatusCode != http.StatusOK {
		b.s.Fatalf("sign in as %s: %d %s", who, a.StatusCode, a.body)
	}
	return a
}

// ticket returns the cookie's value, "" if there is none.
func (b *browser) ticket() string {
	for _, c := range b.client.Jar.Cookies(b.s.parse(b.url)) {
		if c.Name == "device_id" || c.Name == "__Host-device_id" {
			return c.Value
		}
	}
	return ""
}

func (a answer) json(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		t.Fatalf("not JSON: %v in %q", err, a.body)
	}
}

// want checks a status and, if code is not "", the error's code.
func (a answer) want(t *testing.T, status int, code string) {
	t.Helper()
	if a.StatusCode != status {
		t.Errorf("%s %s = %d %s, want %d", a.Request.Method, a.Request.URL.Path, a.StatusCode, a.body, status)
		return
	}
	if code == "" {
		return
	}
	var e struct{ Error, Detail string }
	a.json(t, &e)
	if e.Error != code || e.Detail == "" {
		t.Errorf("%s %s = %s, want the error %s with a detail", a.Request.Method, a.Request.URL.Path, a.body, code)
	}
}
