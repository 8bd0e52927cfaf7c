package routes_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/httpguard"
	"cloakroom/infra/upstream"
)

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

// An upload that stalls does not keep its exchange when the device is signed
// out: the answer comes at once, whatever the engine waits for.
func TestStalledUploadEndsWithItsDevice(t *testing.T) {
	begun, cut := make(chan struct{}, 1), make(chan error, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		_, err := io.Copy(io.Discard, r.Body)
		cut <- err
	})
	secure := httptest.NewTLSServer(h)
	t.Cleanup(secure.Close)
	for _, target := range []string{serve(t, h), secure.URL} {
		f := newFront(t, frontConfig{
			routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, target)}},
			engine: upstream.Config{TLS: secure.Client().Transport.(*http.Transport).TLSClientConfig},
		})
		for _, field := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
			name, _, _ := strings.Cut(target, ":")
			body := strings.Repeat("x", 20_000)
			if strings.HasPrefix(field, "T") {
				body = "5\r\nhello\r\n"
			}
			c := f.dial("POST / HTTP/1.1\r\n"+field, body)
			receive(t, "the request", begun)
			at := time.Now()
			f.handlers.DeviceEnded(f.device())
			if resp := c.head("POST"); resp.StatusCode != 401 || !resp.Close || time.Since(at) > time.Second {
				t.Errorf("%s, %s: %s after %v, closed %v", name, field, resp.Status, time.Since(at), resp.Close)
			}
			if err := receive(t, "the upstream's end of the upload", cut); err == nil {
				t.Errorf("%s, %s: it looks like all of it", name, field)
			}
		}
	}
}

// A trailer that may be none breaks the body off. Whoever sends one is there to be
// told.
func TestForbiddenTrailerIsAnswered(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			t.Error("the upstream takes the body for whole")
		}
	}))
	c := f.dial("POST / HTTP/1.1\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\nX-Forwarded-User: evil\r\n\r\n")
	if resp := c.head("POST"); resp.StatusCode != 400 || !resp.Close {
		t.Errorf("%s, closed %v", resp.Status, resp.Close)
	}
}
