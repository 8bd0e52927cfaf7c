package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

//go:embed page
var pageFiles embed.FS

// sample is the API behind the proxy, as any team would write one: it has never
// heard of Cloakroom. It wants a bearer token of its auth server and checks it
// by that server's published keys.
type sample struct {
	keysURL string
	client  *http.Client
	parser  *jwt.Parser
	log     *slog.Logger

	mu   sync.Mutex
	keys map[string]*ecdsa.PublicKey // by kid
}

// claims is what the sample reads of an access token.
type claims struct {
	jwt.RegisteredClaims
	Email string `json:"email"`
	Role  string `json:"role"`
}

// newSample returns the API and its page. Tokens have to be issued by issuer
// for audience, under a key found at keysURL.
func newSample(keysURL, issuer, audience string, log *slog.Logger) http.Handler {
	s := &sample{
		keysURL: keysURL,
		client:  &http.Client{Timeout: 5 * time.Second},
		log:     log,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
			jwt.WithIssuer(issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		),
	}
	page, err := fs.Sub(pageFiles, "page")
	if err != nil {
		panic(err) // the folder is named above
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(page))
	mux.HandleFunc("GET /api/whoami", s.signedIn(s.whoami))
	mux.HandleFunc("GET /api/ticks", s.signedIn(s.ticks))
	mux.HandleFunc("POST /api/echo", s.signedIn(s.echo))
	return mux
}

// signedIn lets a request through to next if its token is good.
func (s *sample) signedIn(next func(http.ResponseWriter, *http.Request, claims)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		var c claims
		if ok {
			_, err := s.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
				kid, _ := t.Header["kid"].(string)
				return s.key(r.Context(), kid)
			})
			ok = err == nil
			if err != nil {
				s.log.InfoContext(r.Context(), "token refused", "error", err)
			}
		}
		if !ok {
			w.Header().Set("WWW-Authenticate", "Bearer")
			writeJSON(w, http.StatusUnauthorized, map[string]any{"error": "invalid_token"})
			return
		}
		next(w, r, c)
	}
}

// whoami tells what the token says, but not the token.
func (s *sample) whoami(w http.ResponseWriter, r *http.Request, c claims) {
	writeJSON(w, http.StatusOK, map[string]any{
		"email":   c.Email,
		"subject": c.Subject,
		"role":    c.Role,
		"token": map[string]any{
			"number":     c.ID, // the claim jti, another one with every token
			"issued_at":  c.IssuedAt.Time.UTC(),
			"expires_at": c.ExpiresAt.Time.UTC(),
		},
		"seen_by_the_api": map[string]any{
			"cookies":         len(r.Cookies()),
			"x_forwarded_for": r.Header.Get("X-Forwarded-For"),
		},
	})
}

// ticks sends the time every second for as long as the client stays, as
// server-sent events.
func (s *sample) ticks(w http.ResponseWriter, r *http.Request, _ claims) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	flush := http.NewResponseController(w)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if _, err := fmt.Fprintf(w, "data: %s\n\n", time.Now().UTC().Format(time.RFC3339)); err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

// echo sends the body back as it comes.
func (s *sample) echo(w http.ResponseWriter, r *http.Request, _ claims) {
	w.Header().Set("Content-Type", "application/octet-stream")
	_ = http.NewResponseController(w).EnableFullDuplex()
	if _, err := io.Copy(w, r.Body); err != nil {
		s.log.InfoContext(r.Context(), "echo cut short", "error", err)
	}
}

// key returns the auth server's public key with that id. The keys are fetched
// when one is asked for that is not known.
func (s *sample) key(ctx context.Context, kid string) (*ecdsa.PublicKey, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key, ok := s.keys[kid]; ok {
		return key, nil
	}
	keys, err := s.fetchKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetch the auth server's keys: %w", err)
	}
	s.keys = keys
	if key, ok := keys[kid]; ok {
		return key, nil
	}
	return nil, errors.New("the token is signed with an unknown key")
}

func (s *sample) fetchKeys(ctx context.Context) (map[string]*ecdsa.PublicKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.keysURL, nil)
	if err != nil {
		return nil, err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	// RFC 7517, section 5, and RFC 7518, section 6.2.1.
	var set struct {
		Keys []struct {
			Kid string `json:"kid"`
			Crv string `json:"crv"`
			X   string `json:"x"`
			Y   string `json:"y"`
		} `json:"keys"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&set); err != nil {
		return nil, err
	}
	keys := make(map[string]*ecdsa.PublicKey)
	for _, k := range set.Keys {
		x, errX := base64.RawURLEncoding.DecodeString(k.X)
		y, errY := base64.RawURLEncoding.DecodeString(k.Y)
		if k.Crv != "P-256" || errX != nil || errY != nil {
			continue
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		if err != nil {
			continue // not a point of the curve
		}
		keys[k.Kid] = key
	}
	return keys, nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}
