package enginetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"cloakroom/infra/upstream"
)

func bodiesAsTheyCome(t *testing.T, s suite) {
	for _, length := range []int64{-1, 10} {
		got := make(chan string)
		up := s.raw(t, func(c Conn, r *bufio.Reader) {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			got <- "head"
			buf := make([]byte, 100)
			for err == nil {
				var n int
				if n, err = req.Body.Read(buf); n > 0 {
					got <- string(buf[:n])
				}
			}
			got <- err.Error()
			io.WriteString(c, empty)
		})
		body, feed := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			Do(t, s.open(upstream.Config{}), up.Post(body, length))
		}()
		if what := Receive(t, "the head", got); what != "head" {
			t.Error(what)
		}
		for _, part := range []string{"hello", "there"} {
			io.WriteString(feed, part)
			if what := Receive(t, part, got); what != part {
				t.Error(what)
			}
		}
		feed.Close()
		if what := Receive(t, "the end", got); what != "EOF" {
			t.Error(what)
		}
		Receive(t, "the answer", done)
	}
}

// hanging is a body of which no more comes, until over is closed.
type hanging struct {
	io.Reader
	over <-chan struct{}
}

func (b hanging) Read(p []byte) (int, error) {
	if n, _ := b.Reader.Read(p); n > 0 {
		return n, nil
	}
	<-b.over
	return 0, errors.New("the client is gone")
}

func earlyAnswer(t *testing.T, s suite) {
	for _, length := range []int64{-1, 1 << 30} {
		closed := make(chan struct{})
		up := s.raw(t, func(c Conn, r *bufio.Reader) {
			defer close(closed)
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge")
			io.Copy(io.Discard, r) // until the engine hangs up
		})
		over := make(chan struct{})
		resp, body := Do(t, s.open(upstream.Config{}), up.Post(hanging{strings.NewReader("hello"), over}, length))
		if resp.Status != 413 || body != "large" {
			t.Errorf("%d %q", resp.Status, body)
		}
		Receive(t, "the end of the connection", closed) // Do has closed the answer
		close(over)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// failing is a body that breaks.
type failing struct{ io.Reader }

var errBroken = errors.New("broken")

func (b failing) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = errBroken
	}
	return n, err
}

func brokenBody(t *testing.T, s suite) {
	for name, c := range map[string]struct {
		body   io.Reader
		length int64
	}{
		"chunked":           {failing{strings.NewReader("hello")}, -1},
		"fixed":             {failing{strings.NewReader("hello")}, 6},
		"fixed, too short":  {io.LimitReader(strings.NewReader("hello"), 5), 6},
		"chunked, at once":  {failing{strings.NewReader("")}, -1},
		"long, too short":   {io.LimitReader(endless{}, 1<<20), 1<<20 + 1},
		"memory, too short": {strings.NewReader("hello"), 6},
	} {
		ended := make(chan error, 1)
		up := s.raw(t, func(c Conn, r *bufio.Reader) {
			req, err := http.ReadRequest(r)
			if err == nil {
				_, err = io.Copy(io.Discard, req.Body)
			}
			if ended <- err; err == nil {
				io.WriteString(c, empty)
			}
		})
		resp, err := s.open(upstream.Config{}).Do(t.Context(), up.Post(c.body, c.length))
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: %d", name, resp.Status)
		} else if kindOf(err) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		if Receive(t, "the end of the body", ended) == nil {
			t.Errorf("%s: the upstream takes it for complete", name)
		}
	}
}

func endsWithContext(t *testing.T, s suite) {
	gone := errors.New("gone")
	begun, over := make(chan struct{}), make(chan struct{})
	answer := ""
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, answer)
		begun <- struct{}{}
		io.Copy(io.Discard, r)
		over <- struct{}{}
	})
	e := s.open(upstream.Config{})
	for name, text := range map[string]string{
		"waiting": "", "in the head": "HTTP/1.1 200 OK\r\nX",
		"fixed":    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
		"chunked":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"for ever": "HTTP/1.1 200 OK\r\n\r\nhello",
	} {
		answer = text
		for kind, length := range map[string]int64{"GET": 0, "upload": -1, "large upload": 1 << 30} {
			ctx, cancel := context.WithCancelCause(t.Context())
			// Not every engine leaves a body alone that somebody waits for.
			r := up.Post(hanging{strings.NewReader("hello"), ctx.Done()}, length)
			go func() { <-begun; cancel(gone) }()
			resp, err := e.Do(ctx, r)
			if err == nil {
				var body []byte
				if body, err = io.ReadAll(resp.Body); err == nil {
					t.Errorf("%s, %s: %q looks like all of it", name, kind, body)
				}
				resp.Body.Close()
			} else if !errors.Is(err, gone) {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
			Receive(t, "the end of the connection", over)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := e.Do(ctx, up.Get("/")); !errors.Is(err, gone) {
		t.Errorf("over before it begins: %v", err)
	}
}

func usesConnectionsAgain(t *testing.T, s suite) {
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, map[string]string{
				"/fixed":   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
				"/chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nA: b\r\n\r\n",
				"/none":    "HTTP/1.1 204 No Content\r\n\r\n",
				"/large":   "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100_000),
				"/old":     "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
			}[req.URL.Path])
		}
	})
	e := s.open(upstream.Config{})
	bodies := map[string]func() (io.Reader, int64){
		"none":     func() (io.Reader, int64) { return nil, 0 },
		"memory":   func() (io.Reader, int64) { return bytes.NewReader(make([]byte, 1000)), 1000 },
		"fixed":    func() (io.Reader, int64) { return io.LimitReader(endless{}, 100_000), 100_000 },
		"chunked":  func() (io.Reader, int64) { return io.LimitReader(endless{}, 100_000), -1 },
		"no bytes": func() (io.Reader, int64) { return strings.NewReader(""), -1 },
	}
	for range 3 {
		for path, want := range map[string]int{"/fixed": 2, "/chunked": 2, "/none": 0, "/large": 100_000, "/old": 2} {
			for name, body := range bodies {
				r := up.Post(body())
				r.Path = path
				if _, got := Do(t, e, r); len(got) != want {
					t.Errorf("%s with body %s: %d bytes", path, name, len(got))
				}
			}
		}
	}
	if n := up.Conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// What an answer leaves on its connection is not the beginning of the next.
func leavesDoubtfulConnections(t *testing.T, s suite) {
	const stray = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
	for name, first := range map[string]string{
		"bytes behind a fixed body":    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + stray,
		"bytes behind a chunked body":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + stray,
		"bytes behind no body":         "HTTP/1.1 304 Not Modified\r\n\r\n" + stray,
		"Connection: close":            "HTTP/1.1 200 OK\r\nConnection: X, Close\r\nContent-Length: 2\r\n\r\nok" + stray,
		"HTTP/1.0":                     "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok" + stray,
		"a body that is not read":      "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\nunread" + stray,
		"chunks that are not read":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
		"a fixed body with half a one": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n",
	} {
		up := s.raw(t, func(c Conn, r *bufio.Reader) {
			for answer := first; ; answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong" {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if req.URL.Path == "/second" {
					answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright"
				}
				io.WriteString(c, answer)
			}
		})
		e := s.open(upstream.Config{})
		for range 5 {
			resp, err := e.Do(t.Context(), up.Get("/first"))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
			if !strings.Contains(name, "not read") {
				io.Copy(io.Discard, resp.Body)
			}
			resp.Body.Close()
			if _, body := Do(t, e, up.Get("/second")); body != "right" {
				t.Errorf("%s: the next answer is %q", name, body)
			}
		}
	}
}

func sendsAgain(t *testing.T, s suite) {
	key := []upstream.Field{{Name: "Idempotency-Key", Value: "1"}}
	hello := func() (io.Reader, bool) { return strings.NewReader("hello"), true }
	for name, c := range map[string]struct {
		change func(*upstream.Request)
		again  bool
	}{
		"GET":             {func(*upstream.Request) {}, true},
		"HEAD":            {func(r *upstream.Request) { r.Method = "HEAD" }, true},
		"DELETE":          {func(r *upstream.Request) { r.Method = "DELETE" }, false},
		"POST":            {func(r *upstream.Request) { r.Method = "POST" }, false},
		"POST with a key": {func(r *upstream.Request) { r.Method, r.Header = "POST", key }, true},
		"POST with a body": {func(r *upstream.Request) {
			r.Method, r.Body, r.Length, r.Rewind = "POST", strings.NewReader("hello"), 5, hello
		}, false},
		"and a key": {func(r *upstream.Request) {
			r.Method, r.Header, r.Body, r.Length, r.Rewind = "POST", key, io.LimitReader(strings.NewReader("hello"), 5), 5, hello
		}, true},
		"and a key, but not held": {func(r *upstream.Request) {
			r.Method, r.Header, r.Body, r.Length = "POST", key, io.LimitReader(strings.NewReader("hello"), 5), 5
		}, false},
	} {
		requests := make(chan string, 10)
		up := s.raw(t, func(c Conn, r *bufio.Reader) {
			for first := true; ; first = false {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				body, _ := io.ReadAll(req.Body)
				if requests <- string(body); req.URL.Path == "/" && !first {
					return // without an answer, on a connection that has carried one
				}
				io.WriteString(c, empty)
			}
		})
		e := s.open(upstream.Config{})
		Do(t, e, up.Get("/warm"))
		Receive(t, "the first request", requests)
		r := up.Get("/")
		c.change(r)
		resp, err := e.Do(t.Context(), r)
		if err == nil {
			resp.Body.Close()
		}
		first := Receive(t, "the request", requests)
		if c.again != (err == nil) || err != nil && kindOf(err) != upstream.Unreachable {
			t.Errorf("%s: %v", name, err)
		} else if err == nil {
			if second := Receive(t, "the request once more", requests); second != first {
				t.Errorf("%s: %q, and then %q", name, first, second)
			}
		}
		select {
		case <-requests:
			t.Errorf("%s: it was sent once too often", name)
		default:
		}
	}
}
