package routes_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/fiberapp"
	"cloakroom/infra/httpguard"
	"cloakroom/infra/upstream"
)

// dribble sends bytes one by one, each well in time, until it is cut.
func (c *conn) dribble(text string) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range len(text) {
		<-tick.C
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			return
		}
	}
}

// TestSlowClientsAreCut: steadily slow ones, who never let a single wait run out,
// before anybody has looked at their sessions.
func TestSlowClientsAreCut(t *testing.T) {
	const most = 200 * time.Millisecond
	rec := newRecorder()
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, serve(t, rec))}},
		guard:  httpguard.Config{HeadTimeout: most},
		app:    fiberapp.Config{BodyTimeout: most},
	})
	form := "Content-Type: application/x-www-form-urlencoded\r\n"
	long := strings.Repeat("x", 9000)
	for name, c := range map[string]struct{ sent, slowly string }{
		"head":                     {"GET / HTTP/1.1\r\nHost: a.test\r\n", strings.Repeat("X-Slow: 1\r\n", 1000)},
		"form":                     {"POST /auth/login HTTP/1.1\r\nHost: a.test\r\nX-Csrf: 1\r\n" + form + "Content-Length: 9000\r\n\r\n", long},
		"form, longer":             {"POST /auth/login HTTP/1.1\r\nHost: a.test\r\nX-Csrf: 1\r\n" + form + "Content-Length: 18000\r\n\r\n", long},
		"form, the end of it":      {"POST /auth/login HTTP/1.1\r\nHost: a.test\r\nX-Csrf: 1\r\n" + form + "Content-Length: 16000\r\n\r\n" + long, long},
		"form, in chunks":          {"POST /auth/login HTTP/1.1\r\nHost: a.test\r\nX-Csrf: 1\r\n" + form + "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\nx\r\n", 1000)},
		"a small upload":           {"POST / HTTP/1.1\r\nHost: a.test\r\nX-Csrf: 1\r\nContent-Length: 8000\r\n\r\n", long},
		"the beginning of one":     {"POST / HTTP/1.1\r\nHost: a.test\r\nX-Csrf: 1\r\nContent-Length: 800000\r\n\r\n", long},
		"after Expect: somebody's": {"POST / HTTP/1.1\r\nHost: a.test\r\nX-Csrf: 1\r\nCookie: " + f.cookie + "\r\nExpect: 100-continue\r\nContent-Length: 8000\r\n\r\n", long},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			c0 := f.connect(t)
			c0.send(c.sent)
			go c0.dribble(c.slowly)
			resp := c0.head("POST")
			if resp.StatusCode == 100 {
				resp = c0.head("POST")
			}
			body, _ := io.ReadAll(resp.Body)
			if took := time.Since(begun); resp.StatusCode != http.StatusRequestTimeout || !resp.Close || !strings.Contains(string(body), `"request_timeout"`) || took < most || took > 5*time.Second {
				t.Errorf("%s %s, closed %v, after %v", resp.Status, body, resp.Close, took)
			}
		})
	}
	t.Cleanup(func() { rec.none(t) })
}

// An upload of somebody who is signed in may take its time.
func TestSlowUploadPasses(t *testing.T) {
	rec := newRecorder()
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, serve(t, rec))}},
		app:    fiberapp.Config{BodyTimeout: 100 * time.Millisecond},
	})
	c := f.dial("POST / HTTP/1.1\r\nContent-Length: 9050", strings.Repeat("x", 9000))
	c.dribble(strings.Repeat("x", 50))
	if resp := c.head("POST"); resp.StatusCode != 200 || resp.Close {
		t.Errorf("%s, closed %v", resp.Status, resp.Close)
	}
	if got := receive(t, "the request", rec.got); len(got.Body) != 9050 {
		t.Errorf("%d bytes", len(got.Body))
	}
}

func TestLargeHeadIsRefused(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	for n, want := range map[int]int{20_000: 200, 40_000: 431, 400_000: 431} {
		c := f.connect(t)
		go io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nCookie: "+f.cookie+"\r\nX-Large: "+strings.Repeat("x", n)+"\r\n\r\n")
		resp := c.head("GET")
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != want || resp.Close != (want != 200) || err != nil || want == 431 && !strings.Contains(string(body), `"headers_too_large"`) {
			t.Errorf("%d bytes: %s %s, closed %v, %v", n, resp.Status, body, resp.Close, err)
		}
	}
}

// At the limit, who comes next is told so, until a place is free.
func TestConnectionsAreLimited(t *testing.T) {
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, serve(t, newRecorder()))}},
		guard:  httpguard.Config{MaxConns: 10, HeadTimeout: time.Minute},
	})
	browser.CloseIdleConnections()
	var idle []*conn
	for range 10 {
		c := f.dial("GET / HTTP/1.1", "")
		if resp := c.head("GET"); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		idle = append(idle, c)
	}
	for range 20 {
		resp := f.dial("POST / HTTP/1.1\r\nContent-Length: 5", "hello").head("POST")
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != 503 || !resp.Close || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(body), `"too_many_connections"`) || err != nil {
			t.Fatalf("one too many: %s %v %s, %v", resp.Status, resp.Header, body, err)
		}
	}
	idle[0].Close()
	eventually(t, "a place is free", func() bool { return f.dial("GET / HTTP/1.1", "").head("GET").StatusCode == 200 })
	idle[1].send(fmt.Sprintf("GET / HTTP/1.1\r\nHost: a.test\r\nCookie: %s\r\n\r\n", f.cookie))
	if resp := idle[1].head("GET"); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

// An upstream that breaks while the client has more to send is not the client's
// fault.
func TestUpstreamThatBreaksDuringAnUpload(t *testing.T) {
	f := newRawProxy(t, func(c net.Conn, r *bufio.Reader) {
		_, _ = r.Peek(1)
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	for range 5 {
		for _, field := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
			body := strings.Repeat("x", 20_000)
			if strings.HasPrefix(field, "T") {
				body = "5\r\nhello\r\n"
			}
			c := f.dial("POST / HTTP/1.1\r\n"+field, body)
			go c.dribble(strings.Repeat(body, 10)) // which is how net/http notices
			if resp := c.head("POST"); resp.StatusCode != http.StatusBadGateway || !resp.Close {
				t.Errorf("%s: %s, closed %v", field, resp.Status, resp.Close)
			}
		}
	}
}
