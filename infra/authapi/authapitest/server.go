// Package authapitest is an auth server for tests: real HTTP on loopback,
// accounts in memory, single-use refresh tokens whose reuse it takes for
// theft. behaviour.go has the ways in which it can be told to misbehave.
//
// It counts what it is asked and remembers every token that it issues, so that
// a test can say that one refresh happened, and that no token is in a log.
package authapitest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// Where it listens, below URL. Everything takes POST, in JSON or as a form.
const (
	RegisterPath = "/register" // email (or username), password
	LoginPath    = "/login"    // the same
	RefreshPath  = "/refresh"  // refresh_token
	RevokePath   = "/logout"   // refresh_token, and the access token as bearer
)

const maxRequest = 1 << 20

// Options can be changed at any time with Set. They hold for tokens issued
// from then on.
type Options struct {
	AccessLife  time.Duration                  // 10 min
	RefreshLife time.Duration                  // 0: without end, and answers do not speak of it
	ReuseWindow time.Duration                  // a spent refresh token gives the same successor for this long
	KeepRefresh bool                           // no rotation: refresh answers without a refresh token
	Opaque      bool                           // access tokens are no JWTs
	Claims      map[string]any                 // are added to those of access tokens, over them
	ExpiresIn   func(access time.Duration) any // what stands in expires_in; nil for no such field; by default seconds
	Now         func() time.Time               // time.Now
}

// Request is one that the server has received.
type Request struct {
	Header http.Header
	Fields map[string]string // of the body
}

// Revocation is what somebody asked to revoke.
type Revocation struct{ Refresh, Access string }

// Server is an auth server. All methods are safe for concurrent use.
type Server struct {
	URL string

	web  *httptest.Server
	stop context.CancelFunc // ends what is held

	mu      sync.Mutex
	options Options
	bank    bank
	scripts map[string]*script
	traffic map[string]*traffic
}

type traffic struct {
	requests  []Request
	now, peak int
	granted   int
}

// New starts a server that ends with the test, and with it all requests that
// it still holds.
func New(t testing.TB) *Server {
	s := &Server{
		options: Options{AccessLife: 10 * time.Minute, Now: time.Now},
		bank:    newBank(),
		scripts: map[string]*script{},
		traffic: map[string]*traffic{},
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.web = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.web.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.web.Start()
	s.URL = s.web.URL
	t.Cleanup(s.Close)
	return s
}

// Close takes the server down: what it holds is cut, and its address refuses
// connections from then on.
func (s *Server) Close() {
	s.stop()
	s.web.Close()
}

// Set changes the options.
func (s *Server) Set(change func(*Options)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.options)
}

// AddAccount adds an account and returns the subject of its tokens.
func (s *Server) AddAccount(email, password string, roles ...string) (subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bank.open(email, password, roles).subject
}

// Disable ends all tokens of an account and refuses it from then on.
func (s *Server) Disable(email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bank.disable(email)
}

// Valid reports whether a token is an access token that an upstream should
// take: issued here, not expired, not revoked.
func (s *Server) Valid(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bank.valid(token, s.options.Now())
}

// Issued returns every token that was ever issued, answers that got lost
// included.
func (s *Server) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bank.issued)
}

// Thefts counts the spent refresh tokens that came again outside the reuse
// window.
func (s *Server) Thefts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bank.thefts
}

// Revocations returns what was revoked, in order.
func (s *Server) Revocations() []Revocation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bank.revocations)
}

// Requests returns what arrived at a path, in order.
func (s *Server) Requests(path string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.at(path).requests)
}

// Granted counts the grants of a path: tokens issued at LoginPath, at
// RefreshPath. A grant counts even if its answer gets lost; the same successor
// answered again inside the reuse window does not count again.
func (s *Server) Granted(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(path).granted
}

// Peak returns how many requests were at a path at once, at most.
func (s *Server) Peak(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at(path).peak
}

// at expects the lock to be held.
func (s *Server) at(path string) *traffic {
	if s.traffic[path] == nil {
		s.traffic[path] = &traffic{}
	}
	return s.traffic[path]
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	fields, err := read(r)
	behave := s.begin(r, fields)
	defer s.end(r.URL.Path)

	work := sync.OnceValue(func() Reply {
		switch {
		case r.Method != http.MethodPost:
			return refusal(http.StatusMethodNotAllowed, "", "Method Not Allowed")
		case err != nil:
			return refusal(http.StatusUnprocessableEntity, "invalid_request", "The body cannot be read")
		}
		return s.work(r, fields)
	})
	behave(w, r, work)
}

func (s *Server) begin(r *http.Request, fields map[string]string) Behaviour {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.at(r.URL.Path)
	at.requests = append(at.requests, Request{Header: r.Header.Clone(), Fields: fields})
	at.now++
	at.peak = max(at.peak, at.now)
	return s.next(r.URL.Path)
}

func (s *Server) end(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at(path).now--
}

// work is what the server does when nothing is scripted.
func (s *Server) work(r *http.Request, f map[string]string) Reply {
	s.mu.Lock()
	defer s.mu.Unlock()

	email := f["email"]
	if email == "" {
		email = f["username"]
	}
	switch r.URL.Path {
	case RegisterPath:
		return s.bank.register(email, f["password"])
	case LoginPath:
		reply, granted := s.bank.signIn(s.options, email, f["password"])
		s.count(LoginPath, granted)
		return reply
	case RefreshPath:
		reply, granted := s.bank.renew(s.options, f["refresh_token"])
		s.count(RefreshPath, granted)
		return reply
	case RevokePath:
		return s.bank.revoke(f["refresh_token"], bearer(r))
	}
	return refusal(http.StatusNotFound, "", "Not Found")
}

func (s *Server) count(path string, granted bool) {
	if granted {
		s.at(path).granted++
	}
}

func read(r *http.Request) (map[string]string, error) {
	fields := map[string]string{}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return fields, err
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch kind {
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(string(body))
		for name := range form {
			fields[name] = form.Get(name)
		}
		return fields, err
	case "application/json":
		return fields, json.Unmarshal(body, &fields)
	}
	return fields, fmt.Errorf("cannot read %q", kind)
}
