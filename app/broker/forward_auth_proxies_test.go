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
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/certificate/certtest"
	"cloakroom/infra/settings"
	"cloakroom/infra/testreport"
)

// fromTheDocument returns the one block of docs/forward-auth.md in a language,
// with what differs between there and here replaced: each pair is an old text
// and a new one, and each old text has to be there.
func fromTheDocument(t *testing.T, language string, pairs ...string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/forward-auth.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 1 {
		t.Fatalf("%d blocks of %s in the document, want one", len(blocks), language)
	}
	block := blocks[0][1]
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(block, pairs[i]) {
			t.Fatalf("the document's %s does not have %q", language, pairs[i])
		}
		block = strings.ReplaceAll(block, pairs[i], pairs[i+1])
	}
	return block
}

// addresses are what a proxy has to know.
type addresses struct {
	public               string // its own
	pages, check, app    string
	certificate, private string
}

func TestForwardAuthWithNginx(t *testing.T) {
	name, err := exec.LookPath("nginx")
	if err != nil {
		testreport.Missing(t, "nginx", "there is no nginx")
	}
	version, _ := exec.Command(name, "-v").CombinedOutput()
	testreport.Real(t, "nginx", string(version))
	walkThroughAProxy(t, func(dir string, at addresses) *exec.Cmd {
		config := fromTheDocument(t, "nginx",
			"127.0.0.1:8080", at.pages, "127.0.0.1:8081", at.check, "127.0.0.1:9000", at.app,
			"listen 443 ssl", "listen "+at.public+" ssl",
			"/etc/nginx/app.example.crt", at.certificate, "/etc/nginx/app.example.key", at.private)
		around := "daemon off; master_process off; pid " + dir + "/pid; error_log stderr warn;\nevents {}\nhttp {\naccess_log off;\n"
		for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
			around += kind + "_temp_path " + dir + "/" + kind + ";\n"
		}
		file := write(t, filepath.Join(dir, "nginx.conf"), around+config+"}\n")
		return exec.Command(name, "-p", dir, "-e", "stderr", "-c", file)
	})
}

func TestForwardAuthWithCaddy(t *testing.T) {
	name, err := exec.LookPath("caddy")
	if err != nil {
		testreport.Missing(t, "caddy", "there is no caddy")
	}
	version, _ := exec.Command(name, "version").CombinedOutput()
	testreport.Real(t, "caddy", string(version))
	walkThroughAProxy(t, func(dir string, at addresses) *exec.Cmd {
		_, port, _ := net.SplitHostPort(at.public)
		config := fromTheDocument(t, "caddyfile",
			"127.0.0.1:8080", at.pages, "127.0.0.1:8081", at.check, "127.0.0.1:9000", at.app,
			"https://app.example {", "https://localhost:"+port+" {\n\tbind 127.0.0.1\n\ttls "+at.certificate+" "+at.private)
		config = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + config
		c := exec.Command(name, "run", "--adapter", "caddyfile", "--config", write(t, filepath.Join(dir, "Caddyfile"), config))
		c.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "HOME="+dir)
		return c
	})
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// walkThroughAProxy is somebody's day behind a proxy that asks us.
func walkThroughAProxy(t *testing.T, proxy func(dir string, at addresses) *exec.Cmd) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := addresses{public: free.Addr().String()}
	free.Close()
	_, port, _ := net.SplitHostPort(at.public)
	origin := "https://localhost:" + port

	s := newStack(t, func(to *settings.Settings) {
		withForwardAuth(to)
		to.PublicURL, _ = url.Parse(origin)
		to.Routes, to.AuthTrustEmail = nil, true
	})
	s.auth.AddAccount("bob@example.com", password, "editor")
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Whoever is let into HTTP/2 here has a way to the app past the proxy (RFC
		// 7540, section 3.2, says what it takes).
		switches := r.Header.Get("Upgrade") == "websocket" || r.Header.Get("Upgrade") == "h2c" && r.Header.Get("HTTP2-Settings") != ""
		if switches && s.auth.Valid(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			echoUpgraded(w)
			return
		}
		s.serveUpstream(w, r)
	}))
	t.Cleanup(func() { app.CloseClientConnections(); app.Close() })
	authority, files := certtest.NewAuthority(t), certtest.NewFiles(t)
	cert, key := authority.Fresh(t)
	files.Write(t, cert, key)
	at.pages, at.check, at.app = strings.TrimPrefix(s.url, "http://"), strings.TrimPrefix(s.checkURL(), "http://"), strings.TrimPrefix(app.URL, "http://")
	at.certificate, at.private = files.Cert, files.Key
	runProxy(t, proxy(t.TempDir(), at), at.public)

	b := s.browser()
	b.url = origin
	trusting := &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}
	b.client.Transport.(*http.Transport).TLSClientConfig = trusting

	// Nobody is signed in yet.
	a := b.get("/app/page?x=1&y=%2F2", navigate)
	if location := s.parse(a.Header.Get("Location")); a.StatusCode != 303 || location.Host != "localhost:"+port || location.Path != "/auth/login" || location.Query().Get("return_to") != "/app/page?x=1&y=%2F2" {
		t.Errorf("a navigation is sent to %d %s", a.StatusCode, location)
	}
	b.get("/app/page", "Accept: application/json").want(t, 401, "sign_in_required")
	b.do("POST", "/app/page", "x=1", asForm, "Origin: "+origin).want(t, 401, "sign_in_required")
	b.get("/auth/login", navigate).want(t, 200, "")

	// Bob signs in, and the app gets a working token and no cookie of ours.
	form := url.Values{"email": {"bob@example.com"}, "password": {password}, "return_to": {"/app"}}.Encode()
	a = b.do("POST", "/auth/login", form, asForm, navigate, "Origin: "+origin)
	if a.StatusCode != 303 || a.Header.Get("Location") != "/app" || b.ticket() == "" {
		t.Fatalf("sign in: %d %v", a.StatusCode, a.Header)
	}
	type echo struct {
		Method, URI, Body string
		Header            http.Header
	}
	call := func(method, body string, header ...string) (seen echo) {
		t.Helper()
		a := b.do(method, "/app/thing?a=1", body, append(header, "Origin: "+origin)...)
		a.want(t, 200, "")
		if a.StatusCode == 200 {
			a.json(t, &seen)
		}
		return seen
	}
	for _, cookies := range []string{"", "theme=dark; lang=en"} {
		if cookies != "" {
			b.client.Jar.SetCookies(s.parse(origin), []*http.Cookie{{Name: "theme", Value: "dark", Path: "/", Secure: true}, {Name: "lang", Value: "en", Path: "/", Secure: true}})
		}
		seen := call("POST", "hello",
			"Authorization: Basic cm9vdDp4", "X-Auth-Request-User: root", "X-Auth-Request-Email: root@example.com", "X-Auth-Request-Groups: admin",
			"X-Auth-Request-Preferred-Username: root", "X-Auth-Request-Issuer: https://evil.example", "X-Forwarded-User: root", "X-Forwarded-Issuer: https://evil.example", "X-Forwarded-Email: root@example.com", "X-Forwarded-Groups: admin",
			"X_Auth_Request_User: root", "X-Auth_Request-Groups: admin", "X-App-Cookie: admin=1", "X-Forwarded-For: 192.0.2.1")
		if seen.Method != "POST" || seen.URI != "/app/thing?a=1" || seen.Body != "hello" {
			t.Errorf("the app is asked %s %s %q", seen.Method, seen.URI, seen.Body)
		}
		if got := strings.Join(seen.Header["Cookie"], "|"); got != cookies {
			t.Errorf("the app gets the cookies %q, want %q", got, cookies)
		}
		for name, want := range map[string]string{
			"X-Auth-Request-Email": "bob@example.com", "X-Auth-Request-Groups": "editor", "X-Auth-Request-Issuer": "https://auth.test",
			"X-Auth-Request-Preferred-Username": "", "X-Forwarded-User": "", "X-Forwarded-Issuer": "", "X-Forwarded-Email": "", "X-Forwarded-Groups": "",
		} {
			if got := seen.Header.Get(name); got != want || len(seen.Header[name]) > 1 {
				t.Errorf("the app gets %s %q, want %q", name, seen.Header[name], want)
			}
		}
		if user := seen.Header.Get("X-Auth-Request-User"); user == "" || user == "root" {
			t.Errorf("the app gets the user %q", user)
		}
		for name := range seen.Header {
			if strings.Contains(name, "_") { // the same as with hyphens, to CGI and its heirs
				t.Errorf("the app gets %s", name)
			}
		}
		if strings.Contains(seen.Header.Get("X-Forwarded-For"), "192.0.2.1") {
			t.Errorf("the app gets a made-up address: %q", seen.Header["X-Forwarded-For"])
		}
	}

	// Pages of others change nothing and open no WebSocket.
	b.do("POST", "/app/thing", "x=1", asForm, "Origin: https://evil.example").want(t, 403, "foreign_origin")
	b.do("DELETE", "/app/thing", "").want(t, 403, "origin_missing")
	for from, want := range map[string]string{origin: "101", "https://evil.example": "403"} {
		if got := upgrade(t, at.public, trusting, "websocket", from, b.ticket()); got != want {
			t.Errorf("a WebSocket from %s: %s, want %s", from, got, want)
		}
	}
	if got := upgrade(t, at.public, trusting, "h2c", origin, b.ticket()); got == "101" {
		t.Error("a browser can speak HTTP/2 with the app, past the proxy")
	}

	// Nobody gets at the answers that are for the proxy.
	for _, path := range []string{"/auth/check", "/auth/check/app", "/auth/refusal", "/_cloakroom/check", "/_cloakroom/refusal"} {
		for _, says := range []string{"X-Original-Method: GET", "X-Forwarded-Method: GET", "Accept: */*"} {
			if a := b.get(path, says); a.Header.Get("Authorization") != "" || strings.HasPrefix(path, "/auth/") && a.StatusCode != 404 {
				t.Errorf("%s with %s: %d", path, says, a.StatusCode)
			}
		}
	}

	// The token expires, and is refreshed while the proxy asks.
	s.auth.Set(func(o *authapitest.Options) { o.AccessLife = 1500 * time.Millisecond })
	b.do("POST", "/auth/login", form, asForm, navigate, "Origin: "+origin).want(t, 303, "")
	before := s.auth.Granted(authapitest.RefreshPath)
	eventually(t, "two refreshes and a request after them", func() bool {
		after := s.auth.Granted(authapitest.RefreshPath) >= before+2
		return b.get("/app/thing").StatusCode == 200 && after // on a slow machine a token may expire on the way
	})

	// The auth server is away: that is no reason to sign in.
	s.auth.Always(authapitest.RefreshPath, authapitest.Unavailable(""))
	eventually(t, "the token has expired", func() bool {
		a = b.get("/app/thing")
		return a.StatusCode == 503
	})
	a.want(t, 503, "auth_server_unavailable")
	if a.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}

	// A sign-out holds.
	s.auth.Always(authapitest.RefreshPath, nil)
	ticket := b.ticket()
	b.do("POST", "/auth/logout", "", "Origin: "+origin).want(t, 204, "")
	b.get("/app/thing", "Cookie: __Host-device_id="+ticket).want(t, 401, "sign_in_required")

	for _, token := range s.auth.Issued() {
		if strings.Contains(s.said.String(), token) {
			t.Fatal("a browser or the log has seen a token")
		}
	}
}

// runProxy runs a proxy until the test ends.
func runProxy(t *testing.T, c *exec.Cmd, public string) {
	t.Helper()
	complaints := &said{}
	c.Stdout, c.Stderr = complaints, complaints
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = c.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("the proxy says:\n%s", complaints)
		}
	})
	eventually(t, "the proxy listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("the proxy has ended:\n%s", complaints)
		default:
		}
		conn, err := net.Dial("tcp", public)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// upgrade asks for another protocol as a page of some origin would, and returns
// the answer's status. If there is a tunnel, a word goes there and back.
func upgrade(t *testing.T, address string, trusting *tls.Config, protocol, origin, ticket string) string {
	t.Helper()
	c, err := tls.Dial("tcp", address, trusting)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, port, _ := net.SplitHostPort(address)
	fmt.Fprintf(c, "GET /app/ws HTTP/1.1\r\nHost: localhost:%s\r\nConnection: Upgrade\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\nCookie: __Host-device_id=%s\r\n\r\n", port, protocol, origin, ticket)
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		word := make([]byte, 4)
		_, _ = io.WriteString(c, "ping")
		if _, err := io.ReadFull(r, word); err != nil || string(word) != "ping" {
			t.Errorf("through the WebSocket comes %q, %v", word, err)
		}
	}
	return res.Status[:3]
}

// echoUpgraded accepts an upgrade and sends back what comes.
func echoUpgraded(w http.ResponseWriter) {
	c, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	_, _ = io.Copy(c, buffered)
}
