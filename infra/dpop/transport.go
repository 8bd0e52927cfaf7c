package dpop

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"cloakroom/domain"
)

const (
	// maxOrigins is how many servers' nonces are kept. The providers and
	// upstreams of one broker are far fewer.
	maxOrigins = 256
	// maxNonce is the length of the longest nonce that is kept, in bytes.
	maxNonce = 1024
	// maxRefusal is how much of a refusal is read to find out its reason.
	maxRefusal = 64 << 10
)

// Nonces remembers the nonce that each server gave last (RFC 9449, section 8).
// The zero value is ready.
type Nonces struct {
	mu       sync.Mutex
	byOrigin map[string]string
}

// For returns what the server of u gave last, or nothing.
func (n *Nonces) For(u *url.URL) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.byOrigin[origin(u)]
}

// Learn keeps the nonce of an answer from u, if it has one, and reports whether
// it is another than the one that was used. Whether it is news to others does
// not matter: requests side by side all learn the same.
func (n *Nonces) Learn(u *url.URL, h http.Header, used string) bool {
	nonce := h.Get("DPoP-Nonce")
	if nonce == "" || len(nonce) > maxNonce {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	at := origin(u)
	if _, known := n.byOrigin[at]; !known && len(n.byOrigin) >= maxOrigins {
		clear(n.byOrigin) // the price is one more round trip to each
	}
	if n.byOrigin == nil {
		n.byOrigin = map[string]string{}
	}
	n.byOrigin[at] = nonce
	return nonce != used
}

func origin(u *url.URL) string { return u.Scheme + "://" + strings.ToLower(u.Host) }

type keyInContext struct{}

// WithKey has Transport prove possession of key with requests made under the
// context. An empty key proves nothing.
func WithKey(ctx context.Context, key domain.Secret) context.Context {
	return context.WithValue(ctx, keyInContext{}, key)
}

// Transport adds a proof to each request whose context has a key, bound to the
// token of its Authorization header if there is one. A server that asks for a
// nonce gets the request again with it, once; a body that cannot be had twice is
// not sent again. Requests without a key pass as they are.
type Transport struct {
	Base   http.RoundTripper
	Nonces *Nonces
	Now    func() time.Time
	Random io.Reader
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	text, _ := req.Context().Value(keyInContext{}).(domain.Secret)
	if text.Empty() {
		return t.Base.RoundTrip(req)
	}
	key, err := ParseKey(text)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	nonce := t.Nonces.For(req.URL)
	resp, err := t.prove(req, key, nonce)
	if err != nil || !t.Nonces.Learn(req.URL, resp.Header, nonce) {
		return resp, err
	}
	if req.Body != nil && req.GetBody == nil || !wantsNonce(resp) {
		return resp, nil
	}
	resp.Body.Close()
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	nonce = t.Nonces.For(req.URL)
	resp, err = t.prove(again, key, nonce)
	if err == nil {
		t.Nonces.Learn(req.URL, resp.Header, nonce)
	}
	return resp, err
}

// prove sends a copy of req with a proof.
func (t *Transport) prove(req *http.Request, key Key, nonce string) (*http.Response, error) {
	use := Use{Method: req.Method, URL: req.URL, Nonce: nonce}
	if scheme, token, ok := strings.Cut(req.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, TokenType) {
		use.Access = domain.NewSecret(token)
	}
	proof, err := key.Proof(use, t.Now(), t.Random)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	proved := req.Clone(req.Context())
	proved.Header.Set("DPoP", proof)
	return t.Base.RoundTrip(proved)
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// wantsNonce reports whether the answer says that a nonce is missing: an
// authorization server in the body (RFC 9449, section 8), a resource server in
// its challenge (section 9). The body can be read again afterwards.
func wantsNonce(resp *http.Response) bool {
	if resp.StatusCode != http.StatusBadRequest && resp.StatusCode != http.StatusUnauthorized {
		return false
	}
	for _, challenge := range resp.Header.Values("WWW-Authenticate") {
		if strings.Contains(challenge, `error="use_dpop_nonce"`) {
			return true
		}
	}
	start, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), failed(err), resp.Body), resp.Body}
	var answer struct {
		Error string `json:"error"`
	}
	return json.Unmarshal(start, &answer) == nil && answer.Error == "use_dpop_nonce"
}

// failed returns a reader that ends, or fails if err is not nil.
func failed(err error) io.Reader {
	if err == nil {
		return bytes.NewReader(nil)
	}
	return readerFunc(func([]byte) (int, error) { return 0, err })
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
