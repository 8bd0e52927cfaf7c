package broker_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"cloakroom/infra/settings"
)

// TestAnswersThatEndWithTheirConnectionSurviveTheStop: such an answer, which is
// what a client of HTTP/1.0 gets, is waited for as long as the grace is, and
// then breaks instead of looking whole. That is how nginx asks by default.
func TestAnswersThatEndWithTheirConnectionSurviveTheStop(t *testing.T) {
	for name, c := range map[string]struct {
		grace time.Duration
		whole bool
	}{
		"within the grace": {20 * time.Second, true},
		"beyond the grace": {50 * time.Millisecond, false},
	} {
		t.Run(name, func(t *testing.T) {
			more := make(chan struct{})
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "begun,")
				_ = http.NewResponseController(w).Flush()
				select {
				case <-more:
				case <-r.Context().Done():
				}
				_, _ = io.WriteString(w, "done")
			}))
			t.Cleanup(upstream.Close)
			s := newStack(t, func(s *settings.Settings) {
				s.ShutdownGrace = c.grace
				s.Routes = []settings.Route{{Prefix: "/", Upstreams: upstreamsAt(t, upstream.URL), Auth: settings.AuthNone}}
			})
			conn, err := net.Dial("tcp", s.parse(s.url).Host)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
			var got []byte
			for buf := make([]byte, 4096); len(got) < 6 || string(got[len(got)-6:]) != "begun,"; {
				n, err := conn.Read(buf)
				if got = append(got, buf[:n]...); err != nil {
					t.Fatalf("%q, %v", got, err)
				}
			}
			const later = 200 * time.Millisecond
			begun := time.Now()
			if c.whole {
				time.AfterFunc(later, func() { close(more) })
			}
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); c.whole && took < later {
				t.Errorf("it stopped after %v, before the answer's end", took)
			}
			rest, err := io.ReadAll(conn)
			if c.whole && (string(rest) != "done" || err != nil) {
				t.Errorf("%q, %v, want the rest", rest, err)
			}
			if !c.whole && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%q, %v, want a connection that breaks", rest, err)
			}
		})
	}
}
