package metrics_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/metrics"
)

func newMetrics() *metrics.Metrics {
	return metrics.New(metrics.Words{
		Outcomes: []string{"ok", "shared"}, Shared: "shared", Providers: []string{"Password"}, Results: []string{"ok"},
		Reasons: []string{"signed_out"}, Revocations: []string{"done"}, Refusals: []string{"foreign_origin"},
		Routes: []string{"/api"}, StoreOps: []string{"get"},
	})
}

// TestCountingAllocatesNothing is about what happens with every request.
func TestCountingAllocatesNothing(t *testing.T) {
	m := newMetrics()
	for name, count := range map[string]func(){
		"a proxied request":  func() { m.Proxied("/api", 200) },
		"one by a new route": func() { m.Proxied("/new", 200) },
		"a stream":           func() { m.StreamOpened(); m.StreamEnded(metrics.CutByClient) },
		"a store operation":  func() { m.StoreAsked("get", time.Millisecond, true) },
		"a shared refresh":   func() { m.RefreshShared(); m.RefreshAwaited(); m.RefreshWaited(time.Second) },
		"a refresh":          func() { m.Refreshed("ok", time.Second) },
	} {
		if n := testing.AllocsPerRun(100, count); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// TestNobodyNeedsMetrics calls everything on a nil *Metrics.
func TestNobodyNeedsMetrics(t *testing.T) {
	var m *metrics.Metrics
	m.Proxied("/api", 200)
	m.StreamOpened()
	m.StreamEnded("")
	m.StoreAsked("get", time.Second, false)
	m.RefreshShared()
	m.RefreshAwaited()
	m.RefreshWaited(time.Second)
	m.Refreshed("ok", time.Second)
	m.LeaseLost()
	m.AuthRefusesBroker("Password", true)
	m.SignedIn("Password", "ok")
	m.SessionEnded("signed_out")
	m.Revoked("done")
	m.CSRFRefused("foreign_origin")
}

func TestServeShowsMetricsAndNothingElse(t *testing.T) {
	m := newMetrics()
	for _, status := range []int{101, 204, 302, 404, 499, 503, 999} {
		m.Proxied("/api", status)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Serve(ctx, l, slog.New(slog.DiscardHandler))
	}()
	url := "http://" + l.Addr().String()
	for _, c := range []struct {
		method, path string
		want         int
	}{{"GET", "/metrics", 200}, {"HEAD", "/metrics", 200}, {"POST", "/metrics", 405}, {"GET", "/", 404}, {"GET", "/metrics/x", 404}, {"GET", "/debug/pprof/", 404}} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != c.want {
			t.Errorf("%s %s = %d, %v; want %d", c.method, c.path, res.StatusCode, err, c.want)
		}
		if c.method != "GET" || c.want != 200 {
			continue
		}
		for class, n := range map[string]string{"1xx": "1", "2xx": "1", "3xx": "1", "4xx": "1", "5xx": "2", "client_gone": "1"} {
			if line := `cloakroom_proxied_requests_total{route="/api",status="` + class + `"} ` + n; !strings.Contains(string(body), line+"\n") {
				t.Errorf("no line %s", line)
			}
		}
	}
	idle, err := net.Dial("tcp", l.Addr().String()) // says nothing, and holds nothing up
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	stop()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("Serve goes on after its context has ended")
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the address is still open")
	}
}
