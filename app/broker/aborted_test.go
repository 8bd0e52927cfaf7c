package broker_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"cloakroom/infra/settings"
)

const aborted = 10_000

// abortions are the points at which a client hangs up: what it has sent by then,
// and whether an answer has begun.
var abortions = []struct {
	head, body string
	answered   bool
}{
	{"", "", false}, // nothing at all
	{"GET /wait HTTP/1.1\r\nHost:", "", false}, // in the middle of the head
	{"GET /wait HTTP/1.1", "", false},
	{"GET /download HTTP/1.1", "", true},
	{"GET /download HTTP/1.0", "", true},
	{"GET /events HTTP/1.1", "", true},
	{"POST /upload HTTP/1.1\r\nContent-Length: 5000", "x", false}, // before a handler sees it
	{"POST /upload HTTP/1.1\r\nContent-Length: 100000", strings.Repeat("x", 10_000), false},
	{"POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n7", false},
	{"POST /events HTTP/1.1\r\nContent-Length: 100000", strings.Repeat("x", 10_000), true}, // answered before all has come
	{"POST /upload HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5", "", true},
	{"GET /socket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket", "", true},
	{"GET /socket HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket", "some frames", true},
	{"GET /auth/session HTTP/1.1", "", false},
	{"POST /auth/login HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 50", "{", false},
}

// endless is an upstream for requests that nobody lets come to their end.
func endless(w http.ResponseWriter, r *http.Request) {
	flow := http.NewResponseController(w)
	switch r.URL.Path {
	case "/upload":
		_, _ = io.Copy(io.Discard, r.Body)
	case "/download":
		for tick := time.NewTicker(time.Millisecond); ; <-tick.C {
			if _, err := w.Write(make([]byte, 8<<10)); err != nil {
				return
			}
		}
	case "/events":
		_ = flow.EnableFullDuplex()
		_, _ = io.WriteString(w, "data: 1\n\n")
		_ = flow.Flush()
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			<-r.Context().Done()
		}
	case "/socket":
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.WriteHeader(http.StatusSwitchingProtocols)
		if c, buffered, err := flow.Hijack(); err == nil {
			_, _ = io.Copy(c, buffered)
			c.Close()
		}
	case "/wait":
		<-r.Context().Done()
	}
}

// TestNothingIsLeftOfAbortedRequests: no goroutine, no descriptor and no memory.
func TestNothingIsLeftOfAbortedRequests(t *testing.T) {
	up := httptest.NewServer(http.HandlerFunc(endless))
	t.Cleanup(up.Close)
	s := newStack(t, func(c *settings.Settings) {
		c.Routes[0].Upstreams = upstreamsAt(t, up.URL)
		c.Store = settings.Store{Kind: settings.Memory} // no files of its own
	})
	storm := func(n int) {
		b := s.browser()
		b.signIn(email)
		var clients sync.WaitGroup
		const atOnce = 20
		for i := range atOnce {
			clients.Go(func() {
				for j := range n / atOnce {
					abort(t, s.url, b.ticket(), i*7+j)
				}
			})
		}
		clients.Wait()
		nobodyServes(t)
		b.get("/auth/session").want(t, 200, "")
		b.client.CloseIdleConnections()
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
	}
	storm(20 * len(abortions))
	before := rest(s)
	s.start()
	storm(aborted)
	var after remains
	for deadline := time.Now().Add(20 * time.Second); ; {
		after = rest(s)
		grown := after.heap - before.heap
		if after.goroutines <= before.goroutines && after.descriptors <= before.descriptors && grown < 4<<20 {
			t.Logf("%d goroutines, %d descriptors, %d KiB more than before", after.goroutines, after.descriptors, grown>>10)
			return
		}
		if time.Now().After(deadline) {
			var stacks bytes.Buffer
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			t.Fatalf("left behind: %+v, before %+v\n%s", after, before, stacks.String())
		}
		<-time.After(10 * time.Millisecond)
	}
}

func abort(t *testing.T, broker, ticket string, n int) {
	c, err := net.Dial("tcp", strings.TrimPrefix(broker, "http://"))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	at := abortions[n%len(abortions)]
	switch {
	case at.head == "" || strings.HasSuffix(at.head, ":"):
		_, _ = io.WriteString(c, at.head)
	default:
		fmt.Fprintf(c, "%s\r\nHost: app.test\r\nX-CSRF: 1\r\nCookie: device_id=%s\r\n\r\n%s", at.head, ticket, at.body)
	}
	if at.answered {
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 ") {
			t.Errorf("%s: %q, %v", at.head, line, err)
		}
	} else if n%2 == 0 { // the other half goes at once
		_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, _ = c.Read(make([]byte, 1))
	}
	if n/len(abortions)%2 == 0 {
		_ = c.(*net.TCPConn).SetLinger(0)
	}
}

// nobodyServes waits until no request is under way at all, while the broker goes
// on.
func nobodyServes(t *testing.T) {
	t.Helper()
	var busy string
	for deadline := time.Now().Add(20 * time.Second); ; {
		var stacks bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 2)
		busy = ""
		for goroutine := range strings.SplitSeq(stacks.String(), "\n\n") {
			for _, at := range []string{"routes.(*exchange)", "routes.(*stream)", "routes.(*handlers)", "infra/tunnel.", "broker_test.endless", "fasthttp.hijackConnHandler"} {
				if strings.Contains(goroutine, at) {
					busy = goroutine
				}
			}
		}
		if busy == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a request that nobody waits for goes on:\n%s", busy)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// remains is what a process holds.
type remains struct {
	goroutines, descriptors int
	heap                    int64
}

func rest(s *stack) remains {
	s.said.mu.Lock()
	s.said.b = bytes.Buffer{}
	s.said.mu.Unlock()
	runtime.GC()
	runtime.GC() // what was in pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, _ := os.ReadDir("/proc/self/fd") // none on other systems
	return remains{runtime.NumGoroutine(), len(fds), int64(m.HeapAlloc)}
}
