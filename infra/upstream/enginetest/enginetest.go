// Package enginetest is the suite that every upstream.Engine for HTTP/1.1
// passes, plain and over TLS: the contract of package upstream, tried on upstreams
// that listen on loopback. What one engine does beyond it, its own tests hold.
package enginetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/upstream"
)

// Run runs the suite over plain TCP. open makes an engine for the test, which
// closes it.
func Run(t *testing.T, open func(*testing.T, upstream.Config) upstream.Engine) { run(t, open, tests) }

// RunTLS runs the suite over TLS, and RunHandshakes.
func RunTLS(t *testing.T, open func(*testing.T, upstream.Config) upstream.Engine) {
	runTLS(t, open, tests)
	RunHandshakes(t, open)
}

var tests = map[string]func(*testing.T, suite){
	"sends what it is given":                 sendsWhatItIsGiven,
	"aims before it sends":                   aimsBeforeItSends,
	"tells errors apart":                     tellsErrorsApart,
	"passes on answers without a body":       answersWithoutBody,
	"passes trailers both ways":              trailersBothWays,
	"drops interim answers":                  dropsInterimAnswers,
	"has no end for an answer that breaks":   brokenAnswers,
	"hands on each read as it comes":         readsAsTheyCome,
	"sends a body as it comes":               bodiesAsTheyCome,
	"relays an answer before the body's end": earlyAnswer,
	"sends no end of a body that breaks":     brokenBody,
	"ends with its context":                  endsWithContext,
	"uses connections again":                 usesConnectionsAgain,
	"sends again what may be sent again":     sendsAgain,
}

func run(t *testing.T, open func(*testing.T, upstream.Config) upstream.Engine, tests map[string]func(*testing.T, suite)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test(t, suite{func(c upstream.Config) upstream.Engine { return open(t, c) }, Raw})
		})
	}
}

func runTLS(t *testing.T, open func(*testing.T, upstream.Config) upstream.Engine, tests map[string]func(*testing.T, suite)) {
	for name, test := range tests {
		t.Run(name+", over TLS", func(t *testing.T) {
			test(t, suite{func(c upstream.Config) upstream.Engine {
				if c.TLS == nil {
					c.TLS = Roots()
				}
				return open(t, c)
			}, RawTLS})
		})
	}
}

type suite struct {
	open func(upstream.Config) upstream.Engine
	raw  func(testing.TB, func(Conn, *bufio.Reader)) *Upstream
}

// Do sends r and returns the answer with all of its body. An answer is an error
// of the test's if it does not come, or not to its end.
func Do(t testing.TB, e upstream.Engine, r *upstream.Request) (*upstream.Response, string) {
	t.Helper()
	resp, err := e.Do(t.Context(), r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.Path, err)
	}
	return resp, string(body)
}

// Within is how long a test waits for what has to happen.
const Within = 10 * time.Second

// Receive waits for a value.
func Receive[T any](t testing.TB, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(Within):
		t.Fatalf("never happened: %s", what)
	}
	return v
}

func kindOf(err error) upstream.Kind {
	if e, ok := errors.AsType[*upstream.Error](err); ok {
		return e.Kind
	}
	return 0
}

const empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

func sendsWhatItIsGiven(t *testing.T, s suite) {
	heads := make(chan string, 1)
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		var head strings.Builder
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if head.WriteString(line); line == "\r\n" {
				heads <- head.String()
				head.Reset()
				io.WriteString(c, empty)
			}
		}
	})
	e := s.open(upstream.Config{})
	for _, path := range []string{"/", "/?", "/a%20b;c/%7e?q=%2F&x", "/x?u=http://a.test//b?c", "/|?{}^`|", "/%e4", "/a'(b)*!$&+,=:@~"} {
		r := up.Get(path)
		r.Header = []upstream.Field{{Name: "X-A", Value: "1"}, {Name: "Accept", Value: "*/*"}, {Name: "X-A", Value: "2"}}
		Do(t, e, r)
		lines := strings.Split(strings.TrimSuffix(<-heads, "\r\n\r\n"), "\r\n")
		first, rest := lines[0], lines[1:]
		slices.Sort(rest)
		want := []string{"Accept: */*", "Host: " + up.URL.Host, "X-A: 1", "X-A: 2"}
		if first != "GET "+path+" HTTP/1.1" || !slices.Equal(rest, want) {
			t.Errorf("%q, %q, want %q", first, rest, want)
		}
	}
	Do(t, e, up.Post(nil, 0))
	if head := <-heads; !strings.Contains(head, "\r\nContent-Length: 0\r\n") {
		t.Errorf("a POST without a body: %q", head)
	}
}

func aimsBeforeItSends(t *testing.T, s suite) {
	seen := make(chan string, 1)
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			seen <- req.Header.Get("X-For")
			io.WriteString(c, empty)
		}
	})
	e := s.open(upstream.Config{})
	r, aimed := up.Get("/"), 0
	r.Aim = func() error {
		aimed++
		r.Header = append(r.Header, upstream.Field{Name: "X-For", Value: r.Target.Host})
		return nil
	}
	Do(t, e, r)
	if got := <-seen; got != up.URL.Host || aimed != 1 {
		t.Errorf("aimed at %q, %d times", got, aimed)
	}
	failed := errors.New("cannot aim")
	r.Aim = func() error { return failed }
	if _, err := e.Do(t.Context(), r); err != failed || len(seen) > 0 {
		t.Errorf("a request that cannot be aimed: %v, sent: %v", err, len(seen) > 0)
	}
}

func tellsErrorsApart(t *testing.T, s suite) {
	gone := s.raw(t, func(_ Conn, r *bufio.Reader) { _, _ = http.ReadRequest(r) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	down := &upstream.Request{Method: "GET", Target: &url.URL{Scheme: gone.URL.Scheme, Host: l.Addr().String()}, Path: "/"}
	mute := s.raw(t, func(c Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
	e := s.open(upstream.Config{HeaderTimeout: 100 * time.Millisecond})
	for name, c := range map[string]struct {
		r    *upstream.Request
		want upstream.Kind
	}{
		"down":                     {down, upstream.Unreachable},
		"hangs up":                 {gone.Get("/"), upstream.Unreachable},
		"slow":                     {mute.Get("/"), upstream.TimedOut},
		"slow, with a body":        {mute.Post(strings.NewReader("hello"), 5), upstream.TimedOut},
		"slow, with a long body":   {mute.Post(strings.NewReader(strings.Repeat("x", 1<<20)), 1<<20), upstream.TimedOut},
		"slow, with a stream":      {mute.Post(strings.NewReader("hello"), -1), upstream.TimedOut},
		"no HTTP":                  {s.raw(t, Answering("SSH-2.0-OpenSSH_9.2\r\n\r\n")).Get("/"), 0},
		"switch nobody asked for":  {s.raw(t, Answering("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")).Get("/"), 0},
		"two lengths":              {s.raw(t, Answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nxxxx")).Get("/"), 0},
		"unknown coding":           {s.raw(t, Answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxxxx")).Get("/"), 0},
		"bad status":               {s.raw(t, Answering("HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n")).Get("/"), 0},
		"a head without end":       {s.raw(t, Answering("HTTP/1.1 200 OK\r\nX: "+strings.Repeat("y", 200<<10))).Get("/"), 0},
		"interim answers for ever": {s.raw(t, Answering(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 10_000))).Get("/"), 0},
	} {
		resp, err := e.Do(t.Context(), c.r)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: %d", name, resp.Status)
		} else if kind := kindOf(err); kind == 0 || c.want != 0 && kind != c.want {
			t.Errorf("%s: %v, of kind %d", name, err, kind)
		}
	}
}

func answersWithoutBody(t *testing.T, s suite) {
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 "+strings.ReplaceAll(req.URL.RawQuery, "_", "\r\n")+"\r\n\r\n")
		}
	})
	e := s.open(upstream.Config{})
	var before int64 // an engine may close a connection after HEAD, or a length without a body
	for _, c := range []struct {
		method, answer string
		status         int
		length         int64
	}{
		{"HEAD", "200_Content-Length:100", 200, 100},
		{"HEAD", "200_Transfer-Encoding:chunked", 200, -1},
		{"HEAD", "404_X:y", 404, -1},
		{"GET", "304_Content-Length:100", 304, 100},
		{"GET", "204_X:y", 204, 0},
		{"GET", "304_X:y", 304, -1},
		{"GET", "200_Content-Length:0", 200, 0},
	} {
		r := up.Get("/?" + c.answer)
		r.Method = c.method
		resp, body := Do(t, e, r)
		if resp.Status != c.status || resp.Length != c.length || body != "" {
			t.Errorf("%v: %d, %d bytes stated, body %q", c, resp.Status, resp.Length, body)
		}
		if c.method == "HEAD" || c.length > 0 {
			before = up.Conns.Load()
		}
	}
	if n := up.Conns.Load() - before; n > 1 {
		t.Errorf("%d connections", n)
	}
}

func trailersBothWays(t *testing.T, s suite) {
	got := make(chan http.Header, 1)
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		got <- req.Trailer
		io.WriteString(c, "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 5\r\nX-Late: 6\r\n\r\n")
	})
	r := up.Post(strings.NewReader("hello"), -1)
	r.Trailers = []string{"X-Up"}
	r.Trailer = func() []upstream.Field {
		return []upstream.Field{{Name: "X-Up", Value: "7"}, {Name: "X-Unannounced", Value: "8"}}
	}
	resp, body := Do(t, s.open(upstream.Config{}), r)
	if fmt.Sprint(<-got) != "map[X-Up:[7]]" {
		t.Errorf("up: %v", <-got)
	}
	down := resp.Trailer()
	slices.SortFunc(down, func(a, b upstream.Field) int { return strings.Compare(a.Name, b.Name) })
	if body != "hello" || !slices.Equal(resp.Trailers, []string{"X-Sum"}) || fmt.Sprint(down) != "[{X-Late 6} {X-Sum 5}]" {
		t.Errorf("%q, %v, announced %v", body, down, resp.Trailers)
	}
}

func dropsInterimAnswers(t *testing.T, s suite) {
	up := s.raw(t, Answering("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
	e := s.open(upstream.Config{})
	for range 3 {
		if resp, body := Do(t, e, up.Get("/")); resp.Status != 200 || body != "ok" {
			t.Errorf("%d %q", resp.Status, body)
		}
	}
}

func brokenAnswers(t *testing.T, s suite) {
	for name, text := range map[string]string{
		"fixed":                   "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello",
		"fixed, nothing of it":    "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
		"chunked, nothing of it":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
		"chunked, at a chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"chunked, in a chunk":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello",
		"chunked, behind a chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
		"chunked, bad size":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
		"chunked, too long":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloooo\r\n0\r\n\r\n",
		"chunked, size too large": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
		"chunked, last but no":    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
		"chunked, in the trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n",
	} {
		up := s.raw(t, func(c Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				io.WriteString(c, text)
			}
		})
		resp, err := s.open(upstream.Config{}).Do(t.Context(), up.Get("/"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if body, err := io.ReadAll(resp.Body); err == nil || !strings.HasPrefix("helloooo", string(body)) {
			t.Errorf("%s: %q looks like all of it", name, body)
		}
		resp.Body.Close()
	}
}

func readsAsTheyCome(t *testing.T, s suite) {
	for name, c := range map[string]struct{ head, format, end string }{
		"chunked":     {"Transfer-Encoding: chunked", "1\r\n%d\r\n", "0\r\n\r\n"},
		"fixed":       {"Content-Length: 3", "%d", ""},
		"until close": {"X: y", "%d", ""},
	} {
		goOn := make(chan struct{})
		up := s.raw(t, func(conn Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+c.head+"\r\n\r\n")
			for i := range 3 {
				<-goOn
				fmt.Fprintf(conn, c.format, i)
			}
			io.WriteString(conn, c.end)
		})
		resp, err := s.open(upstream.Config{}).Do(t.Context(), up.Get("/"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		buf := make([]byte, 100_000)
		for i := range 3 {
			goOn <- struct{}{}
			if n, err := resp.Body.Read(buf); string(buf[:n]) != fmt.Sprint(i) || err != nil && err != io.EOF {
				t.Errorf("%s: %q, %v", name, buf[:n], err)
			}
		}
		if n, err := resp.Body.Read(buf); n != 0 || err != io.EOF {
			t.Errorf("%s: %q, %v", name, buf[:n], err)
		}
		resp.Body.Close()
	}
}
