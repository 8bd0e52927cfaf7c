package dpop_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"cloakroom/domain"
	"cloakroom/infra/dpop"
)

func newKey(t *testing.T) domain.Secret {
	t.Helper()
	key, err := dpop.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// proof is what a server reads in one. Another library than ours checks the
// signature, by the key that the proof itself brings.
type proof struct {
	Type  string
	Key   string // its thumbprint
	ID    string `json:"jti"`
	Verb  string `json:"htm"`
	URL   string `json:"htu"`
	At    int64  `json:"iat"`
	Hash  string `json:"ath"`
	Nonce string `json:"nonce"`
}

func read(t testing.TB, text string) (p proof) {
	t.Helper()
	signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	header := signed.Signatures[0].Protected
	payload, err := signed.Verify(header.JSONWebKey)
	if err != nil || !header.JSONWebKey.IsPublic() {
		t.Fatalf("the proof is not signed by its key: %v", err)
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		t.Fatal(err)
	}
	sum, _ := header.JSONWebKey.Thumbprint(crypto.SHA256)
	p.Type, _ = header.ExtraHeaders["typ"].(string)
	p.Key = fmt.Sprintf("%x", sum)
	return p
}

func TestProof(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	text := newKey(t)
	key, err := dpop.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse("https://user:pass@api.example/items?token=x#part")
	access := domain.NewSecret("the-access-token")
	raw, err := key.Proof(dpop.Use{Method: "GET", URL: u, Access: access, Nonce: "n-1"}, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, raw)
	sum := sha256.Sum256([]byte("the-access-token"))
	want := proof{
		Type: "dpop+jwt", Key: got.Key, ID: got.ID, Verb: "GET", URL: "https://api.example/items", At: now.Unix(),
		Hash: base64.RawURLEncoding.EncodeToString(sum[:]), Nonce: "n-1",
	}
	if got != want {
		t.Errorf("the proof is %+v, want %+v", got, want)
	}
	second, err := key.Proof(dpop.Use{Method: "POST", URL: u}, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if again := read(t, second); again.ID == got.ID || again.Key != got.Key || again.Hash != "" || again.Nonce != "" {
		t.Errorf("the second proof is %+v after %+v", again, got)
	}
	if private, _ := json.Marshal(got); strings.Contains(string(private), text.Reveal()) || strings.Contains(raw, `"d"`) {
		t.Error("the proof holds the private key")
	}
	other, _ := dpop.ParseKey(newKey(t))
	raw, _ = other.Proof(dpop.Use{Method: "GET", URL: u}, now, rand.Reader)
	if read(t, raw).Key == got.Key {
		t.Error("two devices have the same key")
	}
}

func TestParseKeyRefuses(t *testing.T) {
	for _, text := range []string{"", "x", "!!", base64.RawURLEncoding.EncodeToString([]byte("no key at all"))} {
		if _, err := dpop.ParseKey(domain.NewSecret(text)); !errors.Is(err, dpop.ErrKey) || text != "" && strings.Contains(err.Error(), text) && len(text) > 1 {
			t.Errorf("ParseKey(%q): %v", text, err)
		}
	}
}

// server asks for a nonce as a provider (in the body) or an upstream (in the
// challenge) does.
type server struct {
	*httptest.Server
	nonce     string
	challenge bool
	never     bool // no nonce is ever right
	proofs    []proof
	bodies    []string
}

func newServer(t *testing.T) *server {
	s := &server{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.bodies = append(s.bodies, string(body))
		if r.Header.Get("DPoP") == "" {
			s.proofs = append(s.proofs, proof{})
			return
		}
		p := read(t, r.Header.Get("DPoP"))
		s.proofs = append(s.proofs, p)
		if s.nonce == "" || p.Nonce == s.nonce && !s.never {
			fmt.Fprint(w, "fine")
			return
		}
		if s.never {
			s.nonce += "x"
		}
		w.Header().Set("DPoP-Nonce", s.nonce)
		if s.challenge {
			w.Header().Set("WWW-Authenticate", `DPoP realm="r", error="use_dpop_nonce", error_description="n"`)
			w.WriteHeader(401)
			return
		}
		w.WriteHeader(400)
		fmt.Fprint(w, `{"error":"use_dpop_nonce","error_description":"n"}`)
	}))
	t.Cleanup(s.Close)
	return s
}

func TestTransport(t *testing.T) {
	for _, challenge := range []bool{false, true} {
		s := newServer(t)
		s.challenge = challenge
		client := &http.Client{Transport: &dpop.Transport{Base: http.DefaultTransport, Nonces: new(dpop.Nonces), Now: time.Now, Random: rand.Reader}}
		key := newKey(t)
		send := func(body io.Reader) (int, string) {
			t.Helper()
			req, err := http.NewRequestWithContext(dpop.WithKey(t.Context(), key), "POST", s.URL+"/x", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "DPoP abc")
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(text)
		}

		if status, text := send(strings.NewReader("one")); status != 200 || text != "fine" || len(s.proofs) != 1 {
			t.Errorf("without nonces: %d %s in %d requests", status, text, len(s.proofs))
		}
		s.nonce = "n-1"
		if status, text := send(strings.NewReader("two")); status != 200 || text != "fine" || len(s.proofs) != 3 || s.bodies[1] != "two" || s.bodies[2] != "two" {
			t.Errorf("a nonce is asked for: %d %s, requests %q", status, text, s.bodies)
		}
		if status, _ := send(strings.NewReader("three")); status != 200 || len(s.proofs) != 4 || s.proofs[3].Nonce != "n-1" || s.proofs[3].Hash == "" {
			t.Errorf("the nonce is known: %d in %d requests", status, len(s.proofs))
		}
		// A body that streams cannot be sent twice: the answer stands, and can
		// be read whole.
		s.nonce = "n-2"
		status, text := send(io.MultiReader(strings.NewReader("stream")))
		if len(s.proofs) != 5 || status == 200 || !challenge && !strings.Contains(text, "use_dpop_nonce") {
			t.Errorf("a stream: %d %s in %d requests", status, text, len(s.proofs))
		}
		if status, _ := send(io.MultiReader(strings.NewReader("stream"))); status != 200 {
			t.Errorf("the next stream has the nonce: %d", status)
		}
		s.never = true
		before := len(s.proofs)
		if status, text := send(strings.NewReader("four")); status == 200 || len(s.proofs) != before+2 || !challenge && !strings.Contains(text, "use_dpop_nonce") {
			t.Errorf("no nonce is ever right: %d %s in %d requests", status, text, len(s.proofs)-before)
		}
		seen := map[string]bool{}
		for _, p := range s.proofs {
			if seen[p.ID] || p.Verb != "POST" || p.URL != s.URL+"/x" {
				t.Errorf("a proof is used twice or wrong: %+v", p)
			}
			seen[p.ID] = true
		}

		key = domain.Secret{}
		if status, _ := send(strings.NewReader("")); status != 200 || s.proofs[len(s.proofs)-1] != (proof{}) {
			t.Error("a request without a key is proved")
		}
		key = domain.NewSecret("no key")
		req, _ := http.NewRequestWithContext(dpop.WithKey(t.Context(), key), "GET", s.URL, nil)
		if _, err := client.Do(req); !errors.Is(err, dpop.ErrKey) || strings.Contains(err.Error(), "no key") {
			t.Errorf("with a key that is none: %v", err)
		}
	}
}

// TestTransportSideBySide: requests that all lack the nonce are all sent again
// with it, whoever has learned it first.
func TestTransportSideBySide(t *testing.T) {
	const many = 10
	var waiting sync.WaitGroup
	waiting.Add(many)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("DPoP-Nonce", "n-1")
		if read(t, r.Header.Get("DPoP")).Nonce == "n-1" {
			return
		}
		waiting.Done()
		waiting.Wait() // until none of them can have heard of the nonce
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(web.Close)
	client := &http.Client{Transport: &dpop.Transport{Base: http.DefaultTransport, Nonces: new(dpop.Nonces), Now: time.Now, Random: rand.Reader}}
	key := newKey(t)
	var done sync.WaitGroup
	for range many {
		done.Go(func() {
			req, err := http.NewRequestWithContext(dpop.WithKey(t.Context(), key), http.MethodGet, web.URL, nil)
			if err != nil {
				t.Error(err)
				return
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("answered %s", resp.Status)
			}
		})
	}
	done.Wait()
}

func TestNoncesAreBounded(t *testing.T) {
	var n dpop.Nonces
	for i := range 10_000 {
		u := &url.URL{Scheme: "https", Host: fmt.Sprintf("h%d.example", i)}
		if !n.Learn(u, http.Header{"Dpop-Nonce": {"x"}}, "") || n.For(u) != "x" {
			t.Fatal("a nonce is not kept")
		}
	}
	if n.Len() > 256 {
		t.Errorf("%d nonces are kept", n.Len())
	}
	u := &url.URL{Scheme: "https", Host: "a.example"}
	if n.Learn(u, http.Header{"Dpop-Nonce": {strings.Repeat("x", 2000)}}, "") || n.For(u) != "" {
		t.Error("a huge nonce is kept")
	}
}

// BenchmarkProof is what DPoP costs a request to an upstream: the key is read
// and a proof signed.
func BenchmarkProof(b *testing.B) {
	text, err := dpop.NewKey()
	if err != nil {
		b.Fatal(err)
	}
	u, _ := url.Parse("https://api.example/items")
	use := dpop.Use{Method: "GET", URL: u, Access: domain.NewSecret(strings.Repeat("a", 1000)), Nonce: "n"}
	for b.Loop() {
		key, err := dpop.ParseKey(text)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := key.Proof(use, time.Now(), rand.Reader); err != nil {
			b.Fatal(err)
		}
	}
}
