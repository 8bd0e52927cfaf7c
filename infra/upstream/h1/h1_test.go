package h1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/enginetest"
)

func TestEngine(t *testing.T) {
	open := func(t *testing.T, c upstream.Config) upstream.Engine {
		return open(t, Config{ConnectTimeout: c.ConnectTimeout, HeaderTimeout: c.HeaderTimeout, IdleTimeout: c.IdleTimeout, MaxIdlePerHost: c.MaxIdlePerHost, TLS: c.TLS})
	}
	enginetest.Run(t, open)
	enginetest.RunTLS(t, open)
	enginetest.RunHTTP1(t, open)
}

func open(t testing.TB, c Config) *Engine {
	e := New(c)
	t.Cleanup(e.Close)
	return e
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(enginetest.Within); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func TestFieldsKeepOrderAndCase(t *testing.T) {
	for _, raw := range []func(testing.TB, func(enginetest.Conn, *bufio.Reader)) *enginetest.Upstream{enginetest.Raw, enginetest.RawTLS} {
		fieldsKeepOrderAndCase(t, raw)
	}
}

func fieldsKeepOrderAndCase(t *testing.T, raw func(testing.TB, func(enginetest.Conn, *bufio.Reader)) *enginetest.Upstream) {
	got := make(chan string, 1)
	up := raw(t, func(c enginetest.Conn, r *bufio.Reader) {
		var head strings.Builder
		for line := ""; line != "\r\n"; head.WriteString(line) {
			line, _ = r.ReadString('\n')
		}
		got <- head.String()
		io.WriteString(c, "HTTP/1.1 299 Fine\r\nx-b: 1\r\nX-a:2\r\nX-B: \t3 \r\nempty:\r\ncontent-length: 0\r\n\r\n")
	})
	r := up.Get("/?a")
	r.Header = []upstream.Field{{Name: "x-b", Value: "1"}, {Name: "X-a", Value: "2"}, {Name: "X-B", Value: "3"}}
	r.Upgrade = "some, other"
	resp, _ := enginetest.Do(t, open(t, Config{TLS: enginetest.Roots()}), r)
	if want := "GET /?a HTTP/1.1\r\nHost: " + up.URL.Host + "\r\nx-b: 1\r\nX-a: 2\r\nX-B: 3\r\nConnection: Upgrade\r\nUpgrade: some, other\r\n\r\n"; <-got != want {
		t.Errorf("sent other than %q", want)
	}
	want := []upstream.Field{{Name: "x-b", Value: "1"}, {Name: "X-a", Value: "2"}, {Name: "X-B", Value: "3"}, {Name: "empty", Value: ""}, {Name: "content-length", Value: "0"}}
	if resp.Status != 299 || !slices.Equal(resp.Header, want) {
		t.Errorf("%d %q", resp.Status, resp.Header)
	}
}

func TestRequestIsOneRequest(t *testing.T) {
	up := enginetest.Raw(t, enginetest.Answering(okAnswer))
	for name, change := range map[string]func(*upstream.Request){
		"value":         func(r *upstream.Request) { r.Header[0].Value = "a\r\nX-Injected: b" },
		"LF in a value": func(r *upstream.Request) { r.Header[0].Value = "a\nX-Injected: b" },
		"CR in a value": func(r *upstream.Request) { r.Header[0].Value = "a\rb" },
		"NUL":           func(r *upstream.Request) { r.Header[0].Value = "a\x00b" },
		"name":          func(r *upstream.Request) { r.Header[0].Name = "X: a\r\nX-Injected" },
		"path":          func(r *upstream.Request) { r.Path = "/ HTTP/1.1\r\nX-Injected: b" },
		"two targets":   func(r *upstream.Request) { r.Path = "/a /b" },
		"no target":     func(r *upstream.Request) { r.Path = "" },
		"upgrade":       func(r *upstream.Request) { r.Upgrade = "a\r\nX-Injected: b" },
		"method":        func(r *upstream.Request) { r.Method = "GET /x HTTP/1.1\r\nX: y\r\n\r\nGET" },
	} {
		r := up.Get("/")
		r.Header = []upstream.Field{{Name: "X", Value: "y"}}
		change(r)
		_, err := open(t, Config{}).Do(t.Context(), r)
		if e, ok := errors.AsType[*upstream.Error](err); !ok || e.Kind != upstream.BadTarget {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := up.Post(io.LimitReader(strings.NewReader("hello"), 5), -1)
	r.Trailers = []string{"X"}
	r.Trailer = func() []upstream.Field { return []upstream.Field{{Name: "X", Value: "a\r\nY: b"}} }
	if _, err := open(t, Config{}).Do(t.Context(), r); !errors.Is(err, errBadRequest) {
		t.Errorf("trailer: %v", err)
	}
	// Framing is the engine's to say.
	r = up.Get("/")
	r.Header = []upstream.Field{{Name: "content-length", Value: "100"}, {Name: "Transfer-Encoding", Value: "chunked"}, {Name: "HOST", Value: "x"}}
	if head, err := appendRequest(nil, r, nil); err != nil || string(head) != "GET / HTTP/1.1\r\nHost: "+up.URL.Host+"\r\n\r\n" {
		t.Errorf("%q, %v", head, err)
	}
}

func TestOddAnswersAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"both framings":          "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
		"equal lengths":          "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"list of lengths":        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
		"signed length":          "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
		"empty length":           "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
		"length too large":       "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
		"two codings":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"chunked twice":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks in HTTP/1.0":     "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"folded line":            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
		"folded first line":      "HTTP/1.1 200 OK\r\n X: a\r\nContent-Length: 2\r\n\r\nok",
		"bare LF":                "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok",
		"bare LF at the end":     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
		"bare LF throughout":     "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"bare CR":                "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok",
		"NUL":                    "HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\nok",
		"NUL in a name":          "HTTP/1.1 200 OK\r\nX\x00: a\r\nContent-Length: 2\r\n\r\nok",
		"space before the colon": "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
		"no name":                "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok",
		"no colon":               "HTTP/1.1 200 OK\r\nContent-Length 2\r\n\r\nok",
		"version":                "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"another version":        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"status 099":             "HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
		"long status":            "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok",
		"short status":           "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok",
		"tab in the status line": "HTTP/1.1\t200 OK\r\nContent-Length: 2\r\n\r\nok",
		"control in the reason":  "HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok",
		"line before":            "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"interim with a body":    "HTTP/1.1 103 Early\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"many fields":            "HTTP/1.1 200 OK\r\n" + strings.Repeat("X:\r\n", 2000) + "Content-Length: 2\r\n\r\nok",
	} {
		up := enginetest.Raw(t, enginetest.Answering(text))
		resp, err := open(t, Config{}).Do(t.Context(), up.Get("/"))
		if err == nil {
			resp.Body.Close()
		}
		if e, ok := errors.AsType[*upstream.Error](err); !ok || e.Kind != upstream.BadAnswer {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOddChunksAreNoEnd(t *testing.T) {
	for name, chunks := range map[string]string{
		"no size": "\r\nok\r\n0\r\n\r\n", "sign": "+2\r\nok\r\n0\r\n\r\n", "prefix": "0x2\r\nok\r\n0\r\n\r\n", "underscore": "0_2\r\nok\r\n0\r\n\r\n",
		"space before": " 2\r\nok\r\n0\r\n\r\n", "overflow": "10000000000000002\r\nok\r\n0\r\n\r\n",
		"bare LF behind a size": "2\nok\r\n0\r\n\r\n", "bare LF behind a chunk": "2\r\nok\n0\r\n\r\n", "bare CR": "2\rok\r\n0\r\n\r\n",
		"NUL in an extension": "2;\x00\r\nok\r\n0\r\n\r\n", "long extension": "2;" + strings.Repeat("x", 400) + "\r\nok\r\n0\r\n\r\n",
		"end with bare LF": "2\r\nok\r\n0\r\n\n", "folded trailer": "2\r\nok\r\n0\r\nX: a\r\n b\r\n\r\n", "trailer without a name": "2\r\nok\r\n0\r\nX\r\n\r\n",
		"long trailer": "2\r\nok\r\n0\r\nX: " + strings.Repeat("y", 10_000) + "\r\n\r\n",
	} {
		up := enginetest.Raw(t, enginetest.Answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunks))
		e := open(t, Config{})
		for range 2 {
			resp, err := e.Do(t.Context(), up.Get("/"))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if body, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("%s: %q looks like all of it", name, body)
			}
			resp.Body.Close()
		}
		if n := up.Conns.Load(); n != 2 {
			t.Errorf("%s: the connection is used again", name)
		}
	}
}

func TestLenientWhereNothingIsInDoubt(t *testing.T) {
	for name, text := range map[string]string{
		"no reason":           "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
		"empty reason":        "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
		"reason in Latin-1":   "HTTP/1.1 200 Gr\xfc\xdfe\r\nContent-Length: 2\r\n\r\nok",
		"value in Latin-1":    "HTTP/1.1 200 OK\r\nX: Gr\xfc\xdfe\r\nContent-Length: 2\r\n\r\nok",
		"Chunked":             "HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: Chunked\r\n\r\n00002  ; a=\"b\"\r\nok\r\n0\r\n\r\n",
		"long head":           "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 60_000) + "\r\nContent-Length: 2\r\n\r\nok",
		"a status of its own": "HTTP/1.1 999 Denied\r\nContent-Length: 2\r\n\r\nok",
	} {
		up := enginetest.Raw(t, enginetest.Answering(text))
		e := open(t, Config{})
		for range 2 {
			if _, body := enginetest.Do(t, e, up.Get("/")); body != "ok" {
				t.Errorf("%s: %q", name, body)
			}
		}
		if n := up.Conns.Load(); n != 1 {
			t.Errorf("%s: %d connections", name, n)
		}
	}
}

// A request that must not be sent twice does not go out on a connection that the
// upstream has closed, if only it has done so before. Over TLS it says so, and TCP
// goes on.
func TestDeadPooledConnectionIsNotUsed(t *testing.T) {
	hungUp := make(chan struct{}, 1)
	closing := func(c enginetest.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(c, okAnswer)
		_ = c.CloseWrite() // without having said so
		hungUp <- struct{}{}
		io.Copy(io.Discard, r)
	}
	for name, up := range map[string]*enginetest.Upstream{"plain": enginetest.Raw(t, closing), "TLS": enginetest.RawTLS(t, closing)} {
		e := open(t, Config{TLS: enginetest.Roots()})
		for range 50 {
			if resp, body := enginetest.Do(t, e, up.Post(io.LimitReader(endless{}, 100), 100)); resp.Status != 200 || body != "ok" {
				t.Fatalf("%s: %d %q", name, resp.Status, body)
			}
			enginetest.Receive(t, "the upstream's end of the connection", hungUp)
		}
	}
}

// An upstream that sends the body to HEAD as well may do so late, when the next
// request is on its way; and what is in the body may be anybody's to choose.
func TestBodyToHEADIsNoAnswer(t *testing.T) {
	for _, framing := range []string{"Content-Length: 43", "Transfer-Encoding: chunked", "X: y"} {
		up := enginetest.Raw(t, func(c enginetest.Conn, r *bufio.Reader) {
			for late := ""; ; {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if req.Method == "HEAD" {
					io.WriteString(c, "HTTP/1.1 200 OK\r\n"+framing+"\r\n\r\n")
					late = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
					continue
				}
				io.WriteString(c, late+"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright")
			}
		})
		e := open(t, Config{})
		r := up.Get("/")
		r.Method = "HEAD"
		enginetest.Do(t, e, r)
		if _, body := enginetest.Do(t, e, up.Get("/")); body != "right" {
			t.Errorf("%s: %q", framing, body)
		}
	}
}

// Nor is what comes late behind a status that has no body, but says how long it is.
func TestBodyThatCannotBeIsNoAnswer(t *testing.T) {
	for _, head := range []string{
		"HTTP/1.1 204 No Content\r\nContent-Length: 40", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 40", "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked",
	} {
		up := enginetest.Raw(t, enginetest.Answering(head+"\r\n\r\n"))
		e := open(t, Config{})
		for range 3 {
			enginetest.Do(t, e, up.Get("/"))
		}
		if n := up.Conns.Load(); n != 3 {
			t.Errorf("%s: %d connections", head, n)
		}
	}
}

// hanging is a body of which nothing comes.
type hanging struct{ reads chan struct{} }

func (b hanging) Read([]byte) (int, error) {
	b.reads <- struct{}{}
	select {}
}

// Whoever waits for the client's next byte is no reason to go on waiting.
func TestContextEndsWhileTheBodyIsWaitedFor(t *testing.T) {
	gone := errors.New("gone")
	up := enginetest.Raw(t, func(c enginetest.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) })
	ctx, cancel := context.WithCancelCause(t.Context())
	body := hanging{make(chan struct{})}
	go func() { <-body.reads; cancel(gone) }()
	if _, err := open(t, Config{}).Do(ctx, up.Post(body, -1)); !errors.Is(err, gone) {
		t.Errorf("%v", err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An upstream that refuses a body may hang up before it has taken it.
func TestRefusalIsRelayedAlthoughTheBodyBreaksOff(t *testing.T) {
	up := enginetest.Raw(t, func(c enginetest.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge")
			io.CopyN(io.Discard, r, 1<<20)
		}
	})
	e := open(t, Config{})
	for range 20 {
		if resp, body := enginetest.Do(t, e, up.Post(endless{}, -1)); resp.Status != 413 || body != "large" {
			t.Errorf("%d %q", resp.Status, body)
		}
	}
}

// No timeout but the caller's bounds an upload or an answer that goes on.
func TestHeaderTimeoutIsForTheHeadAlone(t *testing.T) {
	const timeout = 50 * time.Millisecond
	up := enginetest.Raw(t, func(c enginetest.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
		<-time.After(2 * timeout)
		io.WriteString(c, "ok")
	})
	body, feed := io.Pipe()
	go func() {
		for range 4 {
			<-time.After(timeout / 2)
			io.WriteString(feed, "x")
		}
		feed.Close()
	}()
	e := open(t, Config{HeaderTimeout: timeout})
	if _, got := enginetest.Do(t, e, up.Post(body, -1)); got != "ok" {
		t.Errorf("%q", got)
	}
	if _, got := enginetest.Do(t, e, up.Get("/")); got != "ok" {
		t.Errorf("%q", got)
	}
}

func TestConnectTimeout(t *testing.T) {
	e := open(t, Config{ConnectTimeout: 20 * time.Millisecond, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	_, err := e.Do(t.Context(), &upstream.Request{Method: "GET", Target: parse("http://x.test"), Path: "/"})
	if e, ok := errors.AsType[*upstream.Error](err); !ok || e.Kind != upstream.TimedOut {
		t.Errorf("%v", err)
	}
}

func TestDial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) })}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	dials := 0
	e := open(t, Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials++; network != "tcp" || address != "app.test:80" {
			t.Errorf("%s %s", network, address)
		}
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}})
	for range 3 {
		if _, body := enginetest.Do(t, e, &upstream.Request{Method: "GET", Target: parse("http://app.test"), Path: "/"}); body != "app.test" {
			t.Errorf("%q", body)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections", dials)
	}
}

// Answers never get into each other's way, however requests end.
func TestNoAnswerIsAnothers(t *testing.T) {
	s := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 && !strings.HasSuffix(r.URL.Path, "9") {
			io.Copy(io.Discard, r.Body)
		}
		text := strings.Repeat(r.URL.Path, 1+len(r.URL.Path)*300)
		if strings.HasSuffix(r.URL.Path, "3") {
			_ = http.NewResponseController(w).Flush()
		}
		io.WriteString(w, text)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	before, files := runtime.NumGoroutine(), openFiles(t)
	e := open(t, Config{})
	var clients sync.WaitGroup
	for i := range 32 {
		clients.Go(func() {
			for j := range 150 {
				ctx, cancel := context.WithCancel(t.Context())
				r := &upstream.Request{Method: "POST", Target: parse("http://" + l.Addr().String()), Path: fmt.Sprintf("/%d/%d", i, j)}
				if j%3 == 0 {
					r.Body, r.Length = io.LimitReader(endless{}, 50_000), 50_000
				}
				if j%7 == 0 {
					go cancel()
				}
				resp, err := e.Do(ctx, r)
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					cancel()
					continue
				}
				if j%5 == 0 {
					go resp.Body.Close() // in the middle of a read
				}
				body, err := io.ReadAll(resp.Body)
				want := strings.Repeat(r.Path, 1+len(r.Path)*300)
				if err == nil && string(body) != want || !strings.HasPrefix(want, string(body)) {
					t.Errorf("%s: %.40q, %v", r.Path, body, err)
				}
				if err != nil && j%5 != 0 && ctx.Err() == nil {
					t.Error(err)
				}
				resp.Body.Close()
				cancel()
			}
		})
	}
	clients.Wait()
	e.Close()
	s.Close()
	eventually(t, "the end of all goroutines and connections", func() bool {
		return runtime.NumGoroutine() <= before && openFiles(t) <= files
	})
}

func openFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // not Linux
	}
	return len(list)
}

// TestClosingTwiceTakesNobodysConnection closes an answer once more while the first
// call, which has given the connection back, is about to return.
func TestClosingTwiceTakesNobodysConnection(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(s.Close)
	e := open(t, Config{})
	post := func() *exchange {
		resp, err := e.Do(t.Context(), &upstream.Request{Method: "POST", Target: parse(s.URL), Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body.(*exchange)
	}
	x := post()
	x.Close()
	x.mu.Lock()
	go func() {
		defer x.mu.Unlock()
		next := post()
		if next.c != x.c {
			t.Error("the connection was not used again; the test looks at the wrong place")
		}
		next.Close()
	}()
	x.Close()
	x.mu.Lock() // the other request is done
}
