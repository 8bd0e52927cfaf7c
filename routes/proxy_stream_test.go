package routes_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/httpguard"
	"cloakroom/infra/upstream"
)

func TestEventsArriveAsTheyAreSent(t *testing.T) {
	events := make(chan string)
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case e, more := <-events:
				if !more {
					return
				}
				fmt.Fprint(w, e)
				_ = http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	}))
	resp, err := browser.RoundTrip(f.request("GET", "/events", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := make([]byte, 100)
	for i := range 3 {
		want := fmt.Sprintf("data: %d\n\n", i)
		events <- want // none but the one before has been sent so far
		n, err := resp.Body.Read(got)
		if err != nil || string(got[:n]) != want {
			t.Fatalf("%q, %v, want %q", got[:n], err, want)
		}
	}
	close(events)
	if _, err := resp.Body.Read(got); err != io.EOF {
		t.Errorf("%v, want the end", err)
	}
}

func TestAnswersHeadComesBeforeItsBody(t *testing.T) {
	for _, length := range []string{"", "100000"} {
		goOn := make(chan struct{})
		f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-goOn:
			case <-r.Context().Done():
			}
			w.Write(make([]byte, 100000))
		}))
		resp, err := browser.RoundTrip(f.request("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		close(goOn)
		if n, err := io.Copy(io.Discard, resp.Body); n != 100000 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		resp.Body.Close()
	}
}

// zeros is a body that nobody holds.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

const big = 256 << 20

// withinMemory runs f and fails if the heap grows by more than what pools and
// buffers take.
func withinMemory(t *testing.T, f func()) {
	t.Helper()
	const bound = 16 << 20
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before, peak := heap(), atomic.Uint64{}
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				peak.Store(max(peak.Load(), heap()))
			case <-done:
				return
			}
		}
	})
	f()
	close(done)
	watching.Wait()
	if p := peak.Load(); p > before+bound {
		t.Errorf("the heap grew by %d MiB", (p-before)>>20)
	}
}

func TestBigBodiesPassInConstantMemory(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprintf(w, "%d %v", n, err)
			return
		}
		if r.URL.Path == "/fixed" {
			w.Header().Set("Content-Length", fmt.Sprint(big))
		}
		io.CopyN(w, zeros{}, big)
	}))
	for _, target := range []string{"/fixed", "/chunked"} {
		withinMemory(t, func() {
			resp, err := browser.RoundTrip(f.request("GET", target, nil))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); n != big || err != nil {
				t.Errorf("%s: %d bytes, %v", target, n, err)
			}
		})
		withinMemory(t, func() {
			r := f.request("POST", target, io.LimitReader(zeros{}, big))
			r.ContentLength = -1
			if target == "/fixed" {
				r.ContentLength = big
			}
			if _, body := f.do(r); body != fmt.Sprintf("%d <nil>", big) {
				t.Errorf("%s: the upstream has read %s", target, body)
			}
		})
	}
}

func TestUploadArrivesAsItIsSent(t *testing.T) {
	for name, c := range map[string]struct{ field, first, rest string }{
		"fixed":   {"Content-Length: 100000", strings.Repeat("a", 8192) + "b", strings.Repeat("c", 100000-8193)},
		"chunked": {"Transfer-Encoding: chunked", "1\r\nb\r\n", "3\r\nccc\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			first, rest := make(chan string, 1), make(chan string, 1)
			f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var got []byte
				buf := make([]byte, 1<<16)
				for !bytes.HasSuffix(got, []byte("b")) {
					n, err := r.Body.Read(buf)
					got = append(got, buf[:n]...)
					if err != nil {
						break
					}
				}
				first <- string(got)
				last, err := io.ReadAll(r.Body)
				rest <- fmt.Sprintf("%d %v", len(last), err)
			}))
			client := f.dial("POST / HTTP/1.1\r\n"+c.field, c.first)
			if got := receive(t, "the first bytes", first); !strings.HasSuffix(got, "b") {
				t.Fatalf("%q came first", got)
			}
			client.send(c.rest)
			want := fmt.Sprintf("%d <nil>", strings.Count(c.rest, "c"))
			if got := receive(t, "the rest", rest); got != want {
				t.Errorf("then came %s, want %s", got, want)
			}
			if resp := client.head("POST"); resp.StatusCode != 200 || resp.Close {
				t.Errorf("%s, closed %v", resp.Status, resp.Close)
			}
		})
	}
}

func TestEarlyAnswerIsRelayedDuringTheUpload(t *testing.T) {
	for name, c := range map[string]struct {
		head   string
		answer int // length, -1 for chunks
	}{
		"fixed, small":    {"Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 10000), 5},
		"fixed, empty":    {"Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 10000), 0},
		"fixed, large":    {"Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 10000), 100_000},
		"chunked, small":  {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 5},
		"chunked, chunks": {"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", -1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = http.NewResponseController(w).EnableFullDuplex()
				io.ReadFull(r.Body, make([]byte, 5))
				length := c.answer
				if length < 0 {
					length = 7
				}
				if c.answer >= 0 {
					w.Header().Set("Content-Length", fmt.Sprint(c.answer))
				}
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				if c.answer < 0 { // chunks
					_ = http.NewResponseController(w).Flush()
				}
				w.Write(make([]byte, length))
			}))
			head, body, _ := strings.Cut(c.head, "\r\n\r\n")
			client := f.dial("POST / HTTP/1.1\r\n"+head, body)
			resp := client.head("POST")
			if resp.StatusCode != http.StatusRequestEntityTooLarge || !resp.Close {
				t.Fatalf("%s, closed %v", resp.Status, resp.Close)
			}
			if got, err := io.ReadAll(resp.Body); err != nil {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if b, err := client.r.ReadByte(); err == nil {
				t.Errorf("%q follows the answer", b)
			}
		})
	}
}

// rawUpstream answers each connection with what serve writes on it.
func rawUpstream(t testing.TB, serve func(c net.Conn, r *bufio.Reader)) string {
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// answering reads one request's head and writes text.
func answering(text string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(c, text)
		}
	}
}

func newRawProxy(t testing.TB, serve func(net.Conn, *bufio.Reader)) *front {
	return newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, rawUpstream(t, serve))}},
		engine: upstream.Config{HeaderTimeout: time.Second},
	})
}

func TestAnswerThatBreaksNeverLooksComplete(t *testing.T) {
	const part = 50_000
	body := strings.Repeat("x", part)
	for name, text := range map[string]string{
		"fixed":                   "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + body,
		"fixed, nothing of it":    "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
		"chunked, at a chunk":     fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", part, body),
		"chunked, in a chunk":     fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s", part*2, body),
		"chunked, bad size":       fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\nxyz\r\n", part, body),
		"chunked, in the trailer": fmt.Sprintf("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\nX-A: b\r\n", part, body),
	} {
		t.Run(name, func(t *testing.T) {
			f := newRawProxy(t, answering(text))
			for _, version := range []string{"HTTP/1.1", "HTTP/1.0"} {
				c := f.dial("GET / "+version, "")
				resp := c.head("GET")
				if n, err := io.Copy(io.Discard, resp.Body); resp.StatusCode != 200 || err == nil {
					t.Errorf("%s: %s, %d bytes look like all of it", version, resp.Status, n)
				}
			}
			for _, line := range f.logged.lines(t, "request", 3)[1:] { // the first is the sign-in
				if line["cut"] == nil {
					t.Errorf("the log says nothing: %v", line)
				}
			}
		})
	}
	for name, text := range map[string]string{
		"small and cut":           "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nxxx",
		"nothing":                 "",
		"half a head":             "HTTP/1.1 200 OK\r\nContent-Le",
		"two lengths":             "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nxxxx",
		"bad length":              "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nxxxx",
		"unknown coding":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxxxx",
		"no HTTP":                 "SSH-2.0-OpenSSH_9.2\r\n\r\n",
		"bad status":              "HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
		"status 99":               "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
		"switch nobody asked for": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
		"NUL in a name":           "HTTP/1.1 200 OK\r\nX\x00: y\r\nContent-Length: 0\r\n\r\n",
		"huge head":               "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 200<<10) + "\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := newRawProxy(t, answering(text))
			resp, body := f.get("/")
			if resp.StatusCode != 502 || !strings.Contains(body, `"upstream_`) {
				t.Errorf("%d %s", resp.StatusCode, body)
			}
		})
	}
}

func TestUpstreamThatIsAway(t *testing.T) {
	l := listen(t)
	l.Close()
	full := listen(t) // accepts nobody
	slow := make(chan struct{})
	defer close(slow)
	f := newFront(t, frontConfig{
		routes: []upstream.Route{
			{Prefix: "/down", Target: parseURL(t, "http://"+l.Addr().String())},
			{Prefix: "/slow", Target: parseURL(t, serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-slow })))},
			{Prefix: "/mute", Target: parseURL(t, "http://"+full.Addr().String())},
		},
		engine: upstream.Config{HeaderTimeout: 200 * time.Millisecond},
	})
	for target, want := range map[string]string{"/down": "502 upstream_unreachable", "/slow": "504 upstream_timeout", "/mute": "504 upstream_timeout"} {
		resp, body := f.get(target)
		status, code, _ := strings.Cut(want, " ")
		if fmt.Sprint(resp.StatusCode) != status || !strings.Contains(body, `"`+code+`"`) {
			t.Errorf("%s: %d %s", target, resp.StatusCode, body)
		}
		if strings.Contains(body, "127.0.0.1") {
			t.Errorf("%s: the answer names the upstream: %s", target, body)
		}
	}
}

func TestCutUploadNeverLooksComplete(t *testing.T) {
	begun, got := make(chan struct{}, 1), make(chan error, 1)
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
	}))
	const fixed, chunked = "Content-Length: 100000", "Transfer-Encoding: chunked"
	part := strings.Repeat("x", 20_000)
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(part), part)
	for name, c := range map[string]struct{ field, first, rest string }{
		"fixed":               {fixed, part, part},
		"chunked, at a chunk": {chunked, chunk, chunk},
		"chunked, in a chunk": {chunked, chunk, fmt.Sprintf("%x\r\n%s", 2*len(part), part)},
		"chunked, in a size":  {chunked, chunk, "1"},
		"chunked, at the end": {chunked, chunk, "0\r\n"},
		"chunked, malformed":  {chunked, chunk, "0 \r\n\r\n"},
	} {
		for how, cut := range map[string]func(*conn){
			"FIN":        func(c *conn) { c.Close() },
			"RST":        (*conn).reset,
			"half-close": func(c *conn) { _ = c.CloseWrite() },
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				for range 20 {
					client := f.dial("POST / HTTP/1.1\r\n"+c.field, c.first)
					receive(t, "the request", begun)
					client.send(c.rest)
					cut(client)
					if err := receive(t, "the upload's end", got); err == nil {
						t.Fatal("it looks like all of it")
					}
				}
			})
		}
	}
}

// A small body is received before the upstream is asked, so a cut one is never
// seen there.
func TestCutSmallUploadIsNotPassedOn(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	c := f.dial("POST / HTTP/1.1\r\nContent-Length: 100", "xxx")
	_ = c.CloseWrite()
	if resp, err := http.ReadResponse(c.r, nil); err == nil && resp.StatusCode < 400 {
		t.Error(resp.Status)
	}
	rec.none(t)
}

func TestRefusedBodyIsTheClientsFault(t *testing.T) {
	begun := make(chan struct{}, 1)
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		io.Copy(io.Discard, r.Body)
	}))
	c := f.dial("POST / HTTP/1.1\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n")
	receive(t, "the request", begun)
	c.send("x\r\n")
	if resp := c.head("POST"); resp.StatusCode != 400 || !resp.Close {
		t.Errorf("%s, closed %v", resp.Status, resp.Close)
	}
}

func TestStalledUploadIsGivenUp(t *testing.T) {
	cut := make(chan error, 1)
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			cut <- err
		})))}},
		guard: httpguard.Config{BodyTimeout: 100 * time.Millisecond},
	})
	for _, field := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
		body := strings.Repeat("x", 20_000)
		if strings.HasPrefix(field, "T") {
			body = "5\r\nhello\r\n"
		}
		c := f.dial("POST / HTTP/1.1\r\n"+field, body)
		if resp := c.head("POST"); resp.StatusCode != http.StatusRequestTimeout || !resp.Close {
			t.Errorf("%s: %s, closed %v", field, resp.Status, resp.Close)
		}
		if err := receive(t, "the upstream's end of the upload", cut); err == nil {
			t.Errorf("%s: it looks like all of it", field)
		}
	}
}

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
	noticed := make(chan struct{}, 1)
	f := newRawProxy(t, func(c net.Conn, r *bufio.Reader) {
		closing(c, r)
		r.ReadByte() // until the proxy hangs up in turn
		noticed <- struct{}{}
	})
	for range 20 {
		resp, body := f.do(f.request("POST", "/", strings.NewReader("hello")))
		if resp.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		receive(t, "the proxy's end of the connection", noticed)
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
		resp := client.head(method)
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode >= 300 || resp.Close {
			t.Fatalf("request %d: %s, %v, closed %v", i, resp.Status, err, resp.Close)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
}

func TestAnswersWithoutBody(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Etag", `"x"`)
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		case "/0":
			w.Header().Set("Content-Length", "0")
		case "/long":
			w.Header().Set("Content-Length", "100000")
			w.Write(make([]byte, 100_000))
		case "/chunks":
			_ = http.NewResponseController(w).Flush()
			w.Write(make([]byte, 100_000))
		}
	}))
	c := f.dial("HEAD /long HTTP/1.1", "")
	for i, want := range []struct{ method, target, status, length string }{
		{"HEAD", "/long", "200", "100000"},
		{"HEAD", "/chunks", "200", ""},
		{"HEAD", "/0", "200", "0"},
		{"HEAD", "/304", "304", ""},
		{"HEAD", "/204", "204", ""},
		{"GET", "/204", "204", ""},
		{"GET", "/304", "304", ""},
		{"GET", "/0", "200", "0"},
		{"POST", "/204", "204", ""},
		{"GET", "/long", "200", "100000"},
	} {
		if i > 0 {
			c.send(want.method + " " + want.target + " HTTP/1.1\r\nHost: app.test\r\nX-Csrf: 1\r\nCookie: " + f.cookie + "\r\n\r\n")
		}
		resp := c.head(want.method)
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%v: %v", want, err)
		}
		if fmt.Sprint(resp.StatusCode) != want.status || resp.Header.Get("Content-Length") != want.length || resp.Header.Get("Etag") != `"x"` || resp.Close {
			t.Errorf("%v: %s %v, closed %v", want, resp.Status, resp.Header, resp.Close)
		}
		if want.target != "/long" && len(body) > 0 {
			t.Errorf("%v: %d bytes", want, len(body))
		}
		if len(resp.TransferEncoding) > 0 {
			t.Errorf("%v: %v", want, resp.TransferEncoding)
		}
	}
}

func TestLengthStatedInA304Passes(t *testing.T) {
	f := newRawProxy(t, answering("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"))
	if resp, _ := f.get("/"); resp.StatusCode != 304 || resp.Header.Get("Content-Length") != "5" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
}

func TestRangesAndCodingsPassUntouched(t *testing.T) {
	packed := []byte("\x1f\x8b\x08 not really")
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/packed" {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("X-Accepts", r.Header.Get("Accept-Encoding"))
			w.Write(packed)
			return
		}
		http.ServeContent(w, r, "x.txt", time.Time{}, strings.NewReader("0123456789"))
	}))
	resp, body := f.get("/file", "Range", "bytes=2-4")
	if resp.StatusCode != 206 || body != "234" || resp.Header.Get("Content-Range") != "bytes 2-4/10" {
		t.Errorf("%s %q %v", resp.Status, body, resp.Header)
	}
	if resp, _ := f.get("/file", "Range", "bytes=20-"); resp.StatusCode != 416 || resp.Header.Get("Content-Range") != "bytes */10" {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	resp, body = f.get("/packed", "Accept-Encoding", "br;q=1")
	if body != string(packed) || resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("X-Accepts") != "br;q=1" {
		t.Errorf("%q %v", body, resp.Header)
	}
	if resp, _ := f.get("/packed"); resp.Header.Get("X-Accepts") != "" {
		t.Errorf("the upstream was told to pack: %q", resp.Header.Get("X-Accepts"))
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	got := make(chan http.Header, 1)
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got <- r.Trailer
		w.Header().Set("Trailer", "X-Sum")
		_ = http.NewResponseController(w).Flush()
		fmt.Fprint(w, "hello")
		w.Header().Set("X-Sum", "5")
		w.Header().Set(http.TrailerPrefix+"X-Late", "6")
		w.Header().Set(http.TrailerPrefix+"Set-Cookie", "device_id=evil")
	}))
	c := f.dial("POST / HTTP/1.1\r\nTE: trailers\r\nTrailer: X-Up, X-Auth-Request-User\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\nX-Up: 7\r\nX-Auth-Request-User: root\r\nX-Unsaid: 8\r\n\r\n")
	resp := c.head("POST")
	if fmt.Sprint(resp.Trailer) != "map[X-Sum:[]]" {
		t.Errorf("announced: %v", resp.Trailer)
	}
	if body, err := io.ReadAll(resp.Body); string(body) != "hello" || err != nil {
		t.Fatalf("%q, %v", body, err)
	}
	if fmt.Sprint(resp.Trailer) != "map[X-Late:[6] X-Sum:[5]]" {
		t.Errorf("down: %v", resp.Trailer)
	}
	if up := receive(t, "the request", got); fmt.Sprint(up) != "map[X-Up:[7]]" {
		t.Errorf("up: %v", up)
	}
}

func TestOldClientsGetNoChunks(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_ = http.NewResponseController(w).Flush()
		fmt.Fprintf(w, "%d %s", len(body), strings.Repeat("x", 100_000))
	}))
	for _, field := range []string{"Connection: keep-alive", "Accept: */*"} {
		c := f.dial("POST / HTTP/1.0\r\n"+field+"\r\nContent-Length: 20000", strings.Repeat("y", 20_000))
		resp := c.head("POST")
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "20000 "+strings.Repeat("x", 100_000) || len(resp.TransferEncoding) > 0 || !resp.Close {
			t.Errorf("%s: %s %v, %d bytes, %v", field, resp.Status, resp.Header, len(body), err)
		}
	}
	if lines := f.logged.lines(t, "request", 3); lines[2]["cut"] != nil {
		t.Errorf("%v", lines[2])
	}
}

func TestExpectIsAnsweredAfterTheSessionIsChecked(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	c := f.dial("POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5", "")
	line, err := c.r.ReadString('\n')
	if err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	rec.none(t)
	if line, err := c.r.ReadString('\n'); err != nil || line != "\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c.send("hello")
	if resp := c.head("POST"); resp.StatusCode != 200 {
		t.Errorf("%s", resp.Status)
	}
	if got := receive(t, "the request", rec.got); got.Body != "hello" || got.Header.Get("Expect") != "" {
		t.Errorf("%v", got)
	}

	f.cookie = "device_id=none"
	for target, want := range map[string]int{"/": 401, "/a/../b": 400} {
		c = f.dial("POST "+target+" HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5", "")
		if resp := c.head("POST"); resp.StatusCode != want || !resp.Close {
			t.Errorf("%s: %s, closed %v", target, resp.Status, resp.Close)
		}
	}
	rec.none(t)
}

func TestUpgradesDoNotPass(t *testing.T) {
	rec := newRecorder()
	f := newProxy(t, rec)
	for _, fields := range []string{
		"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x",
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
	} {
		c := f.dial("GET / HTTP/1.1\r\n"+fields, "")
		if resp := c.head("GET"); resp.StatusCode != 200 {
			t.Errorf("%s: %s", fields, resp.Status)
		}
		got := receive(t, "the request", rec.got)
		for _, name := range []string{"Connection", "Upgrade", "Http2-Settings"} {
			if v := got.Header.Get(name); v != "" {
				t.Errorf("%s: %s: %q", fields, name, v)
			}
		}
	}
}

func TestInterimAnswersAreDropped(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</x.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusProcessing)
		fmt.Fprint(w, "ok")
	}))
	c := f.dial("GET / HTTP/1.1", "")
	if resp := c.head("GET"); resp.StatusCode != 200 {
		t.Errorf("%s", resp.Status)
	}
}

func TestNothingIsLeftOfAbortedRequests(t *testing.T) {
	up := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upload":
			io.Copy(io.Discard, r.Body)
		case "/early":
			w.Header().Set("Content-Length", "100000")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		default:
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	}))
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, up)}},
		// A connection that was made for a request that is gone stays in the pool.
		engine: upstream.Config{IdleTimeout: 50 * time.Millisecond},
	})

	heads := []string{
		"GET /events HTTP/1.1", "GET /events HTTP/1.0", "POST /upload HTTP/1.1\r\nContent-Length: 100000",
		"POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked", "POST /early HTTP/1.1\r\nContent-Length: 100000",
	}
	var clients sync.WaitGroup
	for i := range 20 {
		clients.Go(func() {
			for j := range 50 {
				head, body := heads[(i+j)%len(heads)], ""
				if strings.Contains(head, "POST") {
					body = strings.Repeat("x", 10_000)
				}
				if strings.Contains(head, "chunked") {
					body = "5\r\nhello\r\n"
				}
				c, err := net.Dial("tcp", f.addr)
				if err != nil {
					t.Error(err)
					return
				}
				fmt.Fprintf(c, "%s\r\nHost: app.test\r\nX-Csrf: 1\r\nCookie: %s\r\n\r\n%s", head, f.cookie, body)
				if strings.HasPrefix(head, "GET") || j%3 == 0 {
					_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
					c.Read(make([]byte, 1))
				}
				if j%2 == 0 {
					_ = c.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
			}
		})
	}
	clients.Wait()
	browser.CloseIdleConnections() // other tests' clients
	var left []string
	defer func() {
		if t.Failed() {
			t.Log(strings.Join(left, "\n\n"))
		}
	}()
	eventually(t, "the end of all goroutines that serve requests", func() bool {
		var profile bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&profile, 2)
		left = slices.DeleteFunc(strings.Split(profile.String(), "\n\n"), func(stack string) bool {
			ours := strings.Contains(stack, "cloakroom/routes.(") || strings.Contains(stack, "httpguard.(*Conn)")
			engine := strings.Contains(stack, "net/http.(*") && !strings.Contains(stack, "Serve(") // and the upstream's
			return !ours && !engine
		})
		return len(left) == 0
	})
}
