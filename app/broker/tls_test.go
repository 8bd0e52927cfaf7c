package broker_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cloakroom/app/broker"
	"cloakroom/infra/certificate/certtest"
	"cloakroom/infra/settings"
)

// tlsStack is a stack that ends TLS itself.
type tlsStack struct {
	*stack
	authority *certtest.Authority
	files     certtest.Files
	trusting  *tls.Config
}

func newTLSStack(t *testing.T, change func(*settings.Settings)) *tlsStack {
	s := &tlsStack{authority: certtest.NewAuthority(t), files: certtest.NewFiles(t)}
	cert, key := s.authority.Fresh(t)
	s.files.Write(t, cert, key)
	s.trusting = &tls.Config{RootCAs: s.authority.Pool(), ServerName: "localhost"}
	s.stack = newStack(t, func(to *settings.Settings) {
		to.TLSCert, to.TLSKey = s.files.Cert, s.files.Key
		to.PublicURL = &url.URL{Scheme: "https", Host: "localhost"}
		if change != nil {
			change(to)
		}
	})
	return s
}

func (s *tlsStack) browser() *browser {
	b := s.stack.browser()
	b.client.Transport.(*http.Transport).TLSClientConfig = s.trusting.Clone()
	return b
}

// dial opens a connection of its own; the TCP connection is below it.
func (s *tlsStack) dial(cfg *tls.Config) (*tls.Conn, error) {
	return tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), cfg)
}

func (s *tlsStack) serial() int64 {
	s.Helper()
	c, err := s.dial(s.trusting)
	if err != nil {
		s.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// TestR14_ADayOverOurOwnTLS signs in, uses the proxy and signs out.
func TestR14_ADayOverOurOwnTLS(t *testing.T) {
	s := newTLSStack(t, func(to *settings.Settings) {
		to.HSTS = "max-age=63072000; includeSubDomains"
		to.AllowedOrigins = []*url.URL{{Scheme: "https", Host: "other.example"}}
	})
	b := s.browser()
	b.get("/app", navigate).want(t, 303, "")
	page := b.get("/auth/login?return_to=%2Fapp", navigate)
	if page.StatusCode != 200 || !strings.Contains(page.body, "<form") {
		t.Errorf("the login page: %d %s", page.StatusCode, page.body)
	}
	a := b.do("POST", "/auth/login", url.Values{"email": {email}, "password": {password}, "return_to": {"/app"}}.Encode(), asForm, "Origin: https://localhost", navigate)
	if a.StatusCode != 303 || a.Header.Get("Location") != "/app" || len(a.Cookies()) != 1 {
		t.Fatalf("sign in: %d %v", a.StatusCode, a.Header)
	}
	if c := a.Cookies()[0]; c.Name != "__Host-device_id" || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" {
		t.Errorf("cookie = %v", c)
	}
	var seen struct{ Header http.Header }
	proxied := b.get("/app")
	proxied.json(t, &seen)
	if proto := seen.Header.Get("X-Forwarded-Proto"); proto != "https" {
		t.Errorf("the upstream learns of %q", proto)
	}
	preflight := b.do("OPTIONS", "/app", "", "Origin: https://other.example", "Access-Control-Request-Method: PUT")
	preflight.want(t, 204, "")
	for _, a := range []answer{page, a, proxied, preflight, b.get("/auth/devices"), b.get("/auth/nothing")} {
		if got := a.Header.Values("Strict-Transport-Security"); len(got) != 1 || got[0] != "max-age=63072000; includeSubDomains" {
			t.Errorf("%s: Strict-Transport-Security = %q", a.Request.URL.Path, got)
		}
	}
	b.do("POST", "/auth/logout", "", "Origin: https://localhost").want(t, 204, "")
	b.get("/app").want(t, 401, "sign_in_required")
}

func TestHSTSOfAnUpstream(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=0")
	}))
	defer up.Close()
	for _, tt := range []struct {
		scheme, ours, want string
	}{
		{"https", "max-age=31536000", "max-age=31536000"},
		{"https", "", "max-age=0"},
		{"http", "max-age=31536000", "max-age=0"}, // browsers take it over https alone
	} {
		s := newStack(t, func(to *settings.Settings) {
			to.PublicURL, to.HSTS = &url.URL{Scheme: tt.scheme, Host: "localhost"}, tt.ours
			to.Routes[0].Upstreams = upstreamsAt(t, up.URL)
		})
		b := s.browser()
		cookie := b.signIn(email).Cookies()[0]
		b.client.Jar = nil // which would not send it over plain HTTP
		a := b.get("/", "Cookie: "+cookie.Name+"="+cookie.Value)
		a.want(t, 200, "")
		if got := a.Header.Values("Strict-Transport-Security"); len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s with %q of ours: Strict-Transport-Security = %q, want %q", tt.scheme, tt.ours, got, tt.want)
		}
	}
}

func TestTLSVersionsAndProtocols(t *testing.T) {
	s := newTLSStack(t, nil)
	for _, tt := range []struct {
		name   string
		change func(*tls.Config)
		ok     bool
	}{
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, true},
		{"TLS 1.3", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, true},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, false},
		{"HTTP/2 or 1.1", func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, true},
		{"HTTP/2 alone", func(c *tls.Config) { c.NextProtos = []string{"h2"} }, false},
	} {
		cfg := s.trusting.Clone()
		tt.change(cfg)
		c, err := s.dial(cfg)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err != nil {
			continue
		}
		if p := c.ConnectionState().NegotiatedProtocol; p == "h2" || p == "" && len(cfg.NextProtos) > 0 {
			t.Errorf("%s: speaks %q", tt.name, p)
		}
		c.Close()
	}
}

// A client that leaves is noticed upstream over TLS as well, with or without a
// farewell, before the answer and in the middle of it.
func TestDisconnectOverTLSReachesTheUpstream(t *testing.T) {
	arrived, left := make(chan struct{}), make(chan struct{})
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			_, _ = io.WriteString(w, "begun\n")
			_ = http.NewResponseController(w).Flush()
		}
		arrived <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	}))
	defer up.Close()
	s := newTLSStack(t, func(to *settings.Settings) { to.Routes[0].Upstreams = upstreamsAt(t, up.URL) })
	b := s.browser()
	b.signIn(email)
	for _, path := range []string{"/waiting", "/begun"} {
		for name, leave := range map[string]func(*tls.Conn){
			"farewell":    func(c *tls.Conn) { c.Close() },
			"no farewell": func(c *tls.Conn) { c.NetConn().Close() },
		} {
			c, err := s.dial(s.trusting)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: localhost\r\nCookie: __Host-device_id=%s\r\n\r\n", path, b.ticket())
			<-arrived
			if path == "/begun" {
				if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
					t.Fatalf("%q, %v", line, err)
				}
			}
			since := time.Now()
			leave(c)
			select {
			case <-left:
				if took := time.Since(since); took > time.Second {
					t.Errorf("%s, %s: noticed after %v", path, name, took)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s, %s: not noticed", path, name)
			}
		}
	}
}

func TestSocketOverTLSEndsWithTheDevice(t *testing.T) {
	s := newTLSStack(t, nil)
	b := s.browser()
	b.signIn(email)
	ended := b.openSocket(t)
	b.do("POST", "/auth/logout", "", "Origin: https://localhost").want(t, 204, "")
	if took := ended(); took > time.Second {
		t.Errorf("the WebSocket ended %v after the sign-out", took)
	}
}

// A broken answer never looks complete, not even where its end is the
// connection's.
func TestBrokenAnswerOverTLSHasNoFarewell(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 50_000))
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/broken" {
			panic(http.ErrAbortHandler)
		}
	}))
	defer up.Close()
	s := newTLSStack(t, func(to *settings.Settings) { to.Routes[0].Upstreams = upstreamsAt(t, up.URL) })
	b := s.browser()
	b.signIn(email)
	for _, path := range []string{"/whole", "/broken"} {
		c, err := s.dial(s.trusting)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET %s HTTP/1.0\r\nHost: localhost\r\nCookie: __Host-device_id=%s\r\n\r\n", path, b.ticket())
		if _, err := io.ReadAll(c); (err == nil) != (path == "/whole") {
			t.Errorf("%s: the client reads %v", path, err)
		}
		c.Close()
	}
}

// TestCertificateIsRenewedUnderTraffic renews the certificate again and again
// while requests come on new connections and old ones. None of them fails.
func TestCertificateIsRenewedUnderTraffic(t *testing.T) {
	s := newTLSStack(t, nil)
	b := s.browser()
	b.signIn(email)
	ticket := b.ticket()
	var requests atomic.Int64
	var clients sync.WaitGroup
	done := make(chan struct{})
	for i := range 6 {
		transport := &http.Transport{TLSClientConfig: s.trusting.Clone(), DisableKeepAlives: i%2 == 0}
		defer transport.CloseIdleConnections()
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				req, _ := http.NewRequest("GET", s.url+"/app", nil)
				req.Header.Set("Cookie", "__Host-device_id="+ticket)
				res, err := transport.RoundTrip(req)
				if err != nil {
					t.Errorf("request: %v", err)
					return
				}
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 {
					t.Errorf("request: %s, %v", res.Status, err)
					return
				}
				requests.Add(1)
			}
		})
	}
	for range 5 {
		before, served := s.serial(), requests.Load()
		cert, key := s.authority.Fresh(t)
		s.files.Write(t, cert, key)
		s.hangUps <- syscall.SIGHUP
		eventually(t, "the new certificate is in use", func() bool { return s.serial() != before && requests.Load() >= served+20 })
	}
	// A broken one changes nothing and is told at once.
	before := s.serial()
	s.files.Write(t, []byte("broken"), []byte("broken"))
	s.hangUps <- syscall.SIGHUP
	eventually(t, "the log tells of a broken certificate", func() bool {
		return strings.Contains(s.said.String(), "the new certificate cannot be used; the old one stays")
	})
	if s.serial() != before {
		t.Error("a broken certificate is in use")
	}
	close(done)
	clients.Wait()
}

func TestUnusableCertificateEndsServeWithASentence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := settings.Defaults()
	s.Store = settings.Store{Kind: settings.Memory}
	s.PublicURL = &url.URL{Scheme: "https", Host: "localhost"}
	s.TLSCert, s.TLSKey = "/nowhere/tls.crt", "/nowhere/tls.key"
	const want = "tls-cert: the file does not exist; give the path of one that does"
	if err := broker.Serve(t.Context(), l, s, nil); err == nil || err.Error() != want {
		t.Errorf("Serve() = %v, want %s", err, want)
	}
	if err := broker.CheckCertificate(s); err == nil || err.Error() != want {
		t.Errorf("CheckCertificate() = %v, want %s", err, want)
	}
}
