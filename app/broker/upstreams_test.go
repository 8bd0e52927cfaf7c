package broker_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/settings"
)

// named is a handler that answers with its name and how it was reached.
func named(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s %s", name, r.Proto, r.Host, r.RequestURI, body)
	}
}

// TestUpstreamsOfEveryKind reaches each as the settings name it.
func TestUpstreamsOfEveryKind(t *testing.T) {
	secure := httptest.NewUnstartedServer(named("tls"))
	secure.EnableHTTP2 = true
	secure.StartTLS()
	t.Cleanup(func() { secure.CloseClientConnections(); secure.Close() })
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}))

	older := httptest.NewTLSServer(named("older"))
	t.Cleanup(func() { older.CloseClientConnections(); older.Close() })

	clear := httptest.NewUnstartedServer(named("h2c"))
	clear.Config.Protocols = new(http.Protocols)
	clear.Config.Protocols.SetUnencryptedHTTP2(true)
	clear.Start()
	t.Cleanup(func() { clear.CloseClientConnections(); clear.Close() })

	file := filepath.Join(t.TempDir(), "up.sock")
	l, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	socket := &http.Server{Handler: named("unix")}
	go func() { _ = socket.Serve(l) }()
	t.Cleanup(func() { socket.Close() })

	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else it would not notice who leaves
		<-r.Context().Done()
	}))
	t.Cleanup(func() { slow.CloseClientConnections(); slow.Close() })
	late := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-time.After(400 * time.Millisecond)
		named("late")(w, r)
	}))
	t.Cleanup(func() { late.CloseClientConnections(); late.Close() })

	soon, never := 200*time.Millisecond, time.Duration(0)
	s := newStack(t, func(to *settings.Settings) {
		to.UpstreamHeaderTimeout = 300 * time.Millisecond
		to.Routes = []settings.Route{
			{Prefix: "/tls", Upstreams: upstreamsAt(t, secure.URL+"/base"), CA: ca},
			{Prefix: "/older", Upstreams: upstreamsAt(t, older.URL), CA: ca}, // which has the same certificate
			{Prefix: "/untrusted", Upstreams: upstreamsAt(t, secure.URL)},
			{Prefix: "/h2c", Upstreams: upstreamsAt(t, strings.Replace(clear.URL, "http", "h2c", 1)), StripPrefix: true},
			{Prefix: "/unix", Upstreams: upstreamsAt(t, "unix:"+file), RewritePrefix: "/r"},
			{Prefix: "/slow", Upstreams: upstreamsAt(t, slow.URL), FirstByteTimeout: &soon},
			{Prefix: "/general", Upstreams: upstreamsAt(t, slow.URL)},
			{Prefix: "/late", Upstreams: upstreamsAt(t, late.URL), FirstByteTimeout: &never},
			{Prefix: "/nobody", Upstreams: upstreamsAt(t, "http://127.0.0.1:1", "http://127.0.0.1:2")},
			{Prefix: "/some", Upstreams: upstreamsAt(t, "http://127.0.0.1:1", late.URL), FirstByteTimeout: &never},
		}
	})
	b := s.browser()
	b.signIn(email)
	host := func(url string) string { _, h, _ := strings.Cut(url, "://"); return h }
	for target, want := range map[string]string{
		"/tls/x?y":   "tls HTTP/2.0 " + host(secure.URL) + " /base/tls/x?y body",
		"/older":     "older HTTP/1.1 " + host(older.URL) + " /older body",
		"/h2c/x":     "h2c HTTP/2.0 " + host(clear.URL) + " /x body",
		"/unix/x":    "unix HTTP/1.1 localhost /r/x body",
		"/late":      "late HTTP/1.1 " + host(late.URL) + " /late body",
		"/some":      "late HTTP/1.1 " + host(late.URL) + " /some body",
		"/untrusted": "502 upstream_unreachable",
		"/slow":      "504 upstream_timeout",
		"/general":   "504 upstream_timeout",
		"/nobody":    "502 upstream_unreachable",
		"/other":     "404 not_found",
	} {
		for range 2 {
			a := b.do("POST", target, "body", asScript)
			if status, code, isError := strings.Cut(want, " "); isError && len(status) == 3 && status[0] != 'h' && status != "tls" {
				a.want(t, map[string]int{"502": 502, "504": 504, "404": 404}[status], code)
			} else if a.StatusCode != 200 || a.body != want {
				t.Errorf("%s: %d %s, want %s", target, a.StatusCode, a.body, want)
			}
		}
	}
	// More than is held of a body, to addresses that nobody knows of yet.
	s.stop()
	s.start()
	b.url = s.url
	long := strings.Repeat("x", 300_000)
	for range 3 {
		if a := b.do("POST", "/some", long, asScript); a.StatusCode != 200 || !strings.HasSuffix(a.body, long) {
			t.Errorf("a long body: %d %.100s", a.StatusCode, a.body)
		}
	}
	if n := strings.Count(s.said.String(), "an upstream's address is out"); n != 4 {
		t.Errorf("the log says %d times that an address is out, want it of three, and of one more after a restart", n)
	}
}

// TestOverlapsAreToldAtTheStart reads the log.
func TestOverlapsAreToldAtTheStart(t *testing.T) {
	s := newStack(t, func(to *settings.Settings) {
		up := to.Routes[0].Upstreams
		to.Routes = append(to.Routes, settings.Route{Prefix: "/open", Upstreams: up, Auth: settings.AuthNone}, settings.Route{Prefix: "/api", Upstreams: up})
	})
	for _, want := range []string{
		`level=WARN msg="route /open takes requests from /, and asks for less: auth is required there and none here"`,
		`level=INFO msg="route /api takes requests from /"`,
	} {
		eventually(t, "the log says "+want, func() bool { return strings.Contains(s.said.String(), want) })
	}
}
