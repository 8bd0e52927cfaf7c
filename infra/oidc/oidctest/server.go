// Package oidctest is OpenID providers for tests. Server is a small one in this
// process, real HTTP on loopback, that shows every failure that a good provider
// never does: tests change what it says and signs. NodeProvider is a real one
// that somebody else wrote, in a process of its own.
package oidctest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Where Server listens, below URL.
const (
	DiscoveryPath  = "/.well-known/openid-configuration"
	AuthorizePath  = "/authorize" // sends the browser straight back, signed in
	KeysPath       = "/keys"
	TokenPath      = "/token"
	UserInfoPath   = "/userinfo"
	RevokePath     = "/revoke"
	EndSessionPath = "/logout"
)

// The one client that Server knows.
const (
	ClientID     = "broker"
	ClientSecret = "not so secret: %&+ " // has to be encoded twice on its way
)

// Subject is whom Server signs in.
const Subject = "user-1"

// Request is one that the server has received.
type Request struct {
	Header http.Header
	Form   url.Values
}

// Server is a provider. All methods are safe for concurrent use.
type Server struct {
	URL string
	Now func() time.Time

	mu       sync.Mutex
	keys     []Key
	codes    map[string]url.Values // what was asked for, by code
	serial   int
	requests map[string][]Request
	handlers map[string]http.HandlerFunc
	claims   func(claims map[string]any)
	answer   func(answer map[string]any)
	document func(document map[string]any)
	token    func(claims map[string]any) string
}

// Key signs tokens under a name.
type Key struct {
	ID      string
	Private *rsa.PrivateKey
}

// NewKey makes a key. It takes a moment.
func NewKey(t testing.TB, id string) Key {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return Key{ID: id, Private: private}
}

var firstKey = sync.OnceValue(func() *rsa.PrivateKey {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return private
})

// New starts a provider that ends with the test.
func New(t testing.TB) *Server {
	s := &Server{
		Now:      time.Now,
		keys:     []Key{{"key-1", firstKey()}},
		codes:    map[string]url.Values{},
		requests: map[string][]Request{},
		handlers: map[string]http.HandlerFunc{},
		claims:   func(map[string]any) {},
		answer:   func(map[string]any) {},
		document: func(map[string]any) {},
	}
	s.token = func(claims map[string]any) string { return s.Sign(nil, claims) }
	web := httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(web.Close)
	s.URL = web.URL
	return s
}

// Claims has the claims of ID tokens changed from now on.
func (s *Server) Claims(change func(claims map[string]any)) { s.set(func() { s.claims = change }) }

// Answer has the token endpoint's answers changed from now on.
func (s *Server) Answer(change func(answer map[string]any)) { s.set(func() { s.answer = change }) }

// Document has the discovery document changed from now on.
func (s *Server) Document(change func(document map[string]any)) {
	s.set(func() { s.document = change })
}

// Token has ID tokens made otherwise than by Sign from now on.
func (s *Server) Token(make func(claims map[string]any) string) { s.set(func() { s.token = make }) }

// Handle has a path served otherwise from now on; nil takes that back.
func (s *Server) Handle(path string, h http.HandlerFunc) { s.set(func() { s.handlers[path] = h }) }

// Keys has the provider publish these keys and sign with the first.
func (s *Server) Keys(keys ...Key) { s.set(func() { s.keys = keys }) }

func (s *Server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// Requests returns what was asked at a path so far.
func (s *Server) Requests(path string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests[path])
}

// Sign makes a token with the first key. Members of header are added to its
// own, over them.
func (s *Server) Sign(header map[string]any, claims map[string]any) string {
	s.mu.Lock()
	key := s.keys[0]
	s.mu.Unlock()
	return SignWith(key, header, claims)
}

// SignWith makes a token with any key.
func SignWith(key Key, header map[string]any, claims map[string]any) string {
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims(claims))
	token.Header["kid"] = key.ID
	for name, value := range header {
		if token.Header[name] = value; value == nil {
			delete(token.Header, name)
		}
	}
	signed, err := token.SignedString(key.Private)
	if err != nil {
		panic(err)
	}
	return signed
}

// IDClaims returns the claims of a good ID token.
func (s *Server) IDClaims(nonce string) map[string]any {
	now := s.Now().Unix()
	c := map[string]any{
		"iss": s.URL, "sub": Subject, "aud": ClientID, "iat": now, "exp": now + 300, "auth_time": now,
		"sid": "session-1", "email": "Ann@Example.com", "email_verified": true, "name": "Ann",
	}
	if nonce != "" {
		c["nonce"] = nonce
	}
	return c
}

// LogoutClaims returns the claims of a good logout token.
func (s *Server) LogoutClaims() map[string]any {
	now := s.Now().Unix()
	return map[string]any{
		"iss": s.URL, "sub": Subject, "aud": ClientID, "iat": now, "exp": now + 120, "jti": rand.Text(), "sid": "session-1",
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	}
}

// LogoutToken makes a logout token out of claims.
func (s *Server) LogoutToken(claims map[string]any) string {
	return s.Sign(map[string]any{"typ": "logout+jwt"}, claims)
}

// Authorize does what the person and the browser do at the address that a
// sign-in begins with, and returns the parameters that the browser comes back
// with.
func (s *Server) Authorize(t testing.TB, address string) url.Values {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for name, want := range map[string]string{
		"response_type": "code", "client_id": ClientID, "code_challenge_method": "S256",
	} {
		if q.Get(name) != want {
			t.Errorf("the authorization request has %s=%q, want %q", name, q.Get(name), want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge", "redirect_uri"} {
		if q.Get(name) == "" {
			t.Errorf("the authorization request has no %s", name)
		}
	}
	if !slices.Contains(strings.Fields(q.Get("scope")), "openid") {
		t.Errorf("the authorization request asks for the scopes %q", q.Get("scope"))
	}
	return s.approve(q)
}

func (s *Server) approve(q url.Values) url.Values {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	code := fmt.Sprintf("code-%d", s.serial)
	s.codes[code] = q
	return url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {s.URL}}
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	_ = r.ParseForm()
	s.mu.Lock()
	s.requests[r.URL.Path] = append(s.requests[r.URL.Path], Request{Header: r.Header.Clone(), Form: maps.Clone(r.Form)})
	handler := s.handlers[r.URL.Path]
	s.mu.Unlock()
	switch {
	case handler != nil:
		handler(w, r)
	case r.URL.Path == DiscoveryPath:
		s.discovery(w)
	case r.URL.Path == AuthorizePath:
		back := s.approve(r.URL.Query())
		http.Redirect(w, r, r.Form.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
	case r.URL.Path == KeysPath:
		s.jwks(w)
	case r.URL.Path == TokenPath:
		s.tokens(w, r)
	case r.URL.Path == UserInfoPath:
		Reply(w, 200, map[string]any{"sub": Subject, "email": "ann@example.com", "email_verified": true, "groups": []string{"staff"}})
	case r.URL.Path == RevokePath && clientIs(r):
		w.WriteHeader(200)
	default:
		http.NotFound(w, r)
	}
}

// Reply writes a JSON answer.
func Reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (s *Server) discovery(w http.ResponseWriter) {
	document := map[string]any{
		"issuer":                 s.URL,
		"authorization_endpoint": s.URL + AuthorizePath,
		"token_endpoint":         s.URL + TokenPath,
		"jwks_uri":               s.URL + KeysPath,
		"userinfo_endpoint":      s.URL + UserInfoPath,
		"revocation_endpoint":    s.URL + RevokePath,
		"end_session_endpoint":   s.URL + EndSessionPath + "?ui=1",
		"authorization_response_iss_parameter_supported": true,
		"id_token_signing_alg_values_supported":          []string{"RS256", "HS256", "none"},
	}
	s.mu.Lock()
	change := s.document
	s.mu.Unlock()
	change(document)
	Reply(w, 200, document)
}

func (s *Server) jwks(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := []any{}
	for _, key := range s.keys {
		keys = append(keys, key.public("sig", key.ID))
	}
	Reply(w, 200, map[string]any{"keys": keys})
}

// PublicKey returns the first key as the provider would publish it for that use
// and under that id.
func (s *Server) PublicKey(use, id string) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[0].public(use, id)
}

func (k Key) public(use, id string) map[string]string {
	encode := base64.RawURLEncoding.EncodeToString
	return map[string]string{
		"kty": "RSA", "use": use, "kid": id, "alg": "RS256",
		"n": encode(k.Private.N.Bytes()), "e": encode(big.NewInt(int64(k.Private.E)).Bytes()),
	}
}

func clientIs(r *http.Request) bool {
	if id, secret, ok := r.BasicAuth(); ok {
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
		return id == ClientID && secret == ClientSecret
	}
	return r.Form.Get("client_id") == ClientID && (r.Form.Get("client_secret") == ClientSecret || r.Form.Get("client_assertion") != "")
}

func (s *Server) tokens(w http.ResponseWriter, r *http.Request) {
	if !clientIs(r) {
		Reply(w, 401, map[string]any{"error": "invalid_client"})
		return
	}
	s.mu.Lock()
	var nonce string
	switch r.Form.Get("grant_type") {
	case "authorization_code":
		asked, ok := s.codes[r.Form.Get("code")]
		delete(s.codes, r.Form.Get("code"))
		sum := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
		if !ok || asked.Get("redirect_uri") != r.Form.Get("redirect_uri") || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			s.mu.Unlock()
			Reply(w, 400, map[string]any{"error": "invalid_grant"})
			return
		}
		nonce = asked.Get("nonce")
	case "refresh_token":
		if !strings.HasPrefix(r.Form.Get("refresh_token"), "refresh-") {
			s.mu.Unlock()
			Reply(w, 400, map[string]any{"error": "invalid_grant", "error_description": "no such token: " + r.Form.Get("refresh_token")})
			return
		}
	}
	s.serial++
	access, refresh := fmt.Sprintf("access-%d", s.serial), fmt.Sprintf("refresh-%d", s.serial)
	change, answerChange, token := s.claims, s.answer, s.token
	s.mu.Unlock()

	claims := s.IDClaims(nonce)
	sum := sha256.Sum256([]byte(access))
	claims["at_hash"] = base64.RawURLEncoding.EncodeToString(sum[:16])
	change(claims)
	answer := map[string]any{
		"access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": 300, "refresh_expires_in": 1800,
		"id_token": token(claims),
	}
	answerChange(answer)
	Reply(w, 200, answer)
}

// PublishedKey returns the key that the provider signs with.
func PublishedKey(s *Server) *rsa.PrivateKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys[0].Private
}
