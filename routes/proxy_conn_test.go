package routes_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/upstream"
	"cloakroom/routes"
)

func TestDisconnectReachesTheUpstream(t *testing.T) {
	const soon = time.Second
	begun, over := make(chan struct{}, 1), make(chan time.Time, 1)
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { over <- time.Now() }()
		switch r.URL.Path {
		case "/events":
			_ = http.NewResponseController(w).Flush()
		case "/download":
			begun <- struct{}{}
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		case "/upload":
			begun <- struct{}{}
			io.Copy(io.Discard, r.Body)
			return
		}
		begun <- struct{}{}
		<-r.Context().Done()
	}))
	for name, head := range map[string]string{
		"waiting":         "GET /wait HTTP/1.1",
		"events":          "GET /events HTTP/1.1",
		"events over 1.0": "GET /events HTTP/1.0",
		"download":        "GET /download HTTP/1.1",
		"upload":          "POST /upload HTTP/1.1\r\nContent-Length: 1000000",
		"chunked upload":  "POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked",
		"POST":            "POST /wait HTTP/1.1\r\nContent-Length: 0",
	} {
		for how, leave := range map[string]func(*conn){"FIN": func(c *conn) { c.Close() }, "RST": (*conn).reset} {
			t.Run(name+", "+how, func(t *testing.T) {
				body := ""
				if strings.Contains(head, "1000000") {
					body = strings.Repeat("x", 20_000)
				} else if strings.Contains(head, "chunked") {
					body = "5\r\nhello\r\n"
				}
				c := f.dial(head, body)
				receive(t, "the request", begun)
				left := time.Now()
				leave(c)
				if took := receive(t, "the upstream's end", over).Sub(left); took > soon {
					t.Errorf("it took %v", took)
				}
			})
		}
	}
	for _, line := range f.logged.lines(t, "request", 15) {
		if line["level"] != "INFO" {
			t.Errorf("%v", line)
		}
	}
	if log := f.logged.String(); strings.Contains(log, `"WARN"`) || strings.Contains(log, `"ERROR"`) {
		t.Errorf("a client that leaves is an error: %s", log)
	}
}

// closing answers one request and closes the connection without having said so.
func closing(c net.Conn, r *bufio.Reader) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	io.Copy(io.Discard, req.Body)
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	_ = c.(*net.TCPConn).CloseWrite()
}

func TestDeadPooledConnectionCostsNobodyHisRequest(t *testing.T) {
	hungUp := make(chan struct{}, 1)
	f := newRawProxy(t, func(c net.Conn, r *bufio.Reader) {
		closing(c, r)
		hungUp <- struct{}{}
		r.ReadByte() // until the proxy hangs up in turn
	})
	for range 20 {
		resp, body := f.do(f.request("POST", "/", strings.NewReader("hello")))
		if resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		receive(t, "the upstream's end of the connection", hungUp)
	}
}

func TestGETIsSentAgainIfTheConnectionDies(t *testing.T) {
	f := newRawProxy(t, closing)
	for range 200 {
		if resp, body := f.get("/"); resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
	}
}

// An HTTP/2 upstream that is about to close a connection tells which requests it
// will not look at (RFC 9113, section 6.8). By then as much of their bodies has come
// as it lets come unasked, and those that are larger are not all held.
func TestUploadOutlivesTheEndOfAnHTTP2Connection(t *testing.T) {
	const headers, data, settings, goAway, windowUpdate = 1, 0, 4, 7, 8
	const endStream, ack = 1, 1
	var conns atomic.Int64
	seen := make(chan int, 1)
	up := rawUpstream(t, func(c net.Conn, r *bufio.Reader) {
		first := conns.Add(1) == 1
		send := func(kind, flags, stream byte, payload ...byte) {
			_, _ = c.Write(append([]byte{0, 0, byte(len(payload)), kind, flags, 0, 0, 0, stream}, payload...))
		}
		send(settings, 0, 0, 0, 5, 0, 0xff, 0xff, 0xff) // frames may be as long as they can
		if !first {
			send(windowUpdate, 0, 0, 0x10, 0, 0, 0)
		}
		_, _ = r.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		for come := 0; ; {
			var head [9]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				return
			}
			length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
			_, _ = r.Discard(length)
			switch kind, flags := head[3], head[4]; {
			case kind == settings && flags&ack == 0:
				send(settings, ack, 0)
			case kind == headers && !first:
				send(windowUpdate, 0, head[8], 0x10, 0, 0, 0)
			case kind == data:
				come += length
				if first && come == 65535 {
					send(goAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
				} else if flags&endStream != 0 {
					seen <- come
					send(headers, 4|endStream, head[8], 0x88) // :status 200
				}
			}
		}
	})
	for _, length := range []int64{1 << 20, -1} {
		conns.Store(0)
		engine := upstream.NewTransport(upstream.Config{H2C: true})
		t.Cleanup(engine.Close)
		f := newFront(t, frontConfig{ruled: []routes.Route{{Route: upstream.Route{Prefix: "/", Target: parseURL(t, up)}, Engine: engine}}})
		r := f.request("POST", "/", io.LimitReader(endless{}, 1<<20))
		r.ContentLength = length
		if resp, body := f.do(r); resp.StatusCode != 200 {
			t.Errorf("of %d bytes: %d %s", length, resp.StatusCode, body)
		} else if n := receive(t, "the upload", seen); n != 1<<20 {
			t.Errorf("of %d bytes: %d have come", length, n)
		}
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	var conns atomic.Int64
	s := http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			switch r.URL.Path {
			case "/chunked":
				_ = http.NewResponseController(w).Flush()
			case "/large":
				w.Write(make([]byte, 100_000))
			case "/none":
				w.WriteHeader(http.StatusNoContent)
			}
			fmt.Fprint(w, "ok")
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				conns.Add(1)
			}
		},
	}
	l := listen(t)
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	f := newFront(t, frontConfig{routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, "http://"+l.Addr().String())}}})
	client := f.dial("GET / HTTP/1.1", "")
	want := int64(1)
	for i := range 60 {
		method, target, body := "GET", []string{"/", "/chunked", "/large", "/none"}[i%4], ""
		if i%3 == 0 {
			method, body = "POST", "hello"
		}
		if i%7 == 0 {
			method, body = "HEAD", ""
		}
		if i > 0 {
			client.send(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: app.test\r\nX-Csrf: 1\r\nCookie: %s\r\nContent-Length: %d\r\n\r\n%s", method, target, f.cookie, len(body), body))
		} else {
			method = "GET"
		}
		if method == "HEAD" && target != "/none" {
			want++ // the engine takes no chances with a body that may come late
		}
		resp := client.head(method)
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode >= 300 || resp.Close {
			t.Fatalf("request %d: %s, %v, closed %v", i, resp.Status, err, resp.Close)
		}
	}
	if n := conns.Load(); n != want {
		t.Errorf("%d connections to the upstream, want %d", n, want)
	}
}
