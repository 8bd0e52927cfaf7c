package routes_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
)

// choosy is an upstream that takes every token but the ones that it was told to
// reject, and says what it has received.
type choosy struct {
	mu       sync.Mutex
	rejected map[string]bool
	requests atomic.Int64
}

func (u *choosy) reject(token string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.rejected == nil {
		u.rejected = map[string]bool{}
	}
	u.rejected["Bearer "+token] = true
}

func (u *choosy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.requests.Add(1)
	u.mu.Lock()
	no := u.rejected[r.Header.Get("Authorization")] || u.rejected["Bearer *"]
	u.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	if no {
		w.Header().Set("Www-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
	}
	sum := 0
	for _, b := range body {
		sum += int(b)
	}
	fmt.Fprintf(w, "%d bytes, sum %d", len(body), sum)
}

// aged is a front whose upstream rejects the token that was issued at the
// sign-in, some time after that.
func aged(t *testing.T) (*front, *choosy) {
	u := &choosy{}
	f := newProxy(t, u)
	u.reject(f.token())
	f.late.Store(int64(time.Minute))
	return f, u
}

func (f *front) refreshes() int { return f.auth.Granted(authapitest.RefreshPath) }

func TestRejectedTokenIsRefreshedAndTheRequestSentAgain(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		length int // -n: n bytes in chunks
		again  bool
	}{
		"GET":                       {"GET", 0, true},
		"HEAD":                      {"HEAD", 0, true},
		"empty POST":                {"POST", 0, true},
		"small":                     {"POST", 5, true},
		"all that is received":      {"POST", 8 << 10, true},
		"all that is held":          {"PUT", 96 << 10, true},
		"chunks":                    {"POST", -(96 << 10), true},
		"more than is held":         {"POST", 96<<10 + 1, false},
		"chunks, more than is held": {"POST", -(96<<10 + 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			f, u := aged(t)
			var body io.Reader
			length := max(c.length, -c.length)
			if length > 0 {
				body = strings.NewReader(strings.Repeat("ab", length/2) + strings.Repeat("a", length%2))
			}
			r := f.request(c.method, "/", body)
			if c.length < 0 {
				r.ContentLength = -1
			}
			resp, got := f.do(r)
			status, requests := 200, int64(2)
			if !c.again {
				status, requests = 401, 1
			}
			if resp.StatusCode != status || u.requests.Load() != requests || f.refreshes() != 1 {
				t.Errorf("%s after %d requests and %d refreshes", resp.Status, u.requests.Load(), f.refreshes())
			}
			want := fmt.Sprintf("%d bytes, sum %d", length, length/2*('a'+'b')+length%2*'a')
			if c.method != "HEAD" && got != want {
				t.Errorf("the upstream has seen %s, want %s", got, want)
			}
			if resp, _ := f.get("/"); resp.StatusCode != 200 || f.refreshes() != 1 {
				t.Errorf("the next request: %s after %d refreshes", resp.Status, f.refreshes())
			}
		})
	}
}

// What a rejection says is of no interest any more, and not worth a wait.
func TestRejectionThatDoesNotEnd(t *testing.T) {
	var requests atomic.Int64
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 1 {
			fmt.Fprint(w, "ok")
			return
		}
		w.Header().Set("Content-Length", "10")
		w.WriteHeader(http.StatusUnauthorized)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	f.late.Store(int64(time.Minute))
	if resp, body := f.get("/"); resp.StatusCode != 200 || body != "ok" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

func TestRejectedTokenWithTheUploadUnderWay(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		io.ReadFull(r.Body, make([]byte, 5))
		w.WriteHeader(http.StatusUnauthorized)
	}))
	f.late.Store(int64(time.Minute))
	c := f.dial("POST / HTTP/1.1\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n")
	if resp := c.head("POST"); resp.StatusCode != 401 || !resp.Close {
		t.Errorf("%s, closed %v", resp.Status, resp.Close)
	}
}

func TestRejectionIsAnsweredOnce(t *testing.T) {
	f, u := aged(t)
	u.reject("*")
	resp, body := f.get("/")
	if resp.StatusCode != 401 || body != "0 bytes, sum 0" || resp.Header.Get("Www-Authenticate") == "" || u.requests.Load() != 2 {
		t.Errorf("%s %q after %d requests", resp.Status, body, u.requests.Load())
	}
	// An upstream that rejects everything must not make a refresh of each request.
	f.get("/")
	if f.refreshes() != 1 {
		t.Errorf("%d refreshes", f.refreshes())
	}
}

func TestForbiddenIsNoRejection(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	f.late.Store(int64(time.Minute))
	if resp, _ := f.get("/"); resp.StatusCode != 403 || f.refreshes() != 0 {
		t.Errorf("%s after %d refreshes", resp.Status, f.refreshes())
	}
}

func TestRejectedTokenThatCannotBeRefreshed(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		f, u := aged(t)
		f.auth.Always(authapitest.RefreshPath, authapitest.Refuse("invalid_grant"))
		resp, body := f.get("/")
		if resp.StatusCode != 401 || !strings.Contains(body, `"signed_out"`) || u.requests.Load() != 1 {
			t.Errorf("%s %s", resp.Status, body)
		}
	})
	t.Run("auth server away", func(t *testing.T) {
		f, u := aged(t)
		f.auth.Always(authapitest.RefreshPath, authapitest.Unavailable(""))
		resp, body := f.get("/")
		// The upstream's 401 would read as "signed out", and nobody is.
		if resp.StatusCode != 503 || !strings.Contains(body, `"auth_server_unavailable"`) || u.requests.Load() != 1 {
			t.Errorf("%s %s", resp.Status, body)
		}
	})
}

func TestManyRejectionsMakeOneRefresh(t *testing.T) {
	f, _ := aged(t)
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			resp, err := browser.RoundTrip(f.request("POST", "/", strings.NewReader("hello")))
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || !strings.HasPrefix(string(body), "5 bytes") {
				t.Errorf("%s %s", resp.Status, body)
			}
		})
	}
	clients.Wait()
	if f.refreshes() != 1 {
		t.Errorf("%d refreshes", f.refreshes())
	}
}

func TestExpiredTokenIsRefreshedFirst(t *testing.T) {
	u := &choosy{}
	f := newProxy(t, u)
	u.reject(f.token())
	f.late.Store(int64(9*time.Minute + 57*time.Second)) // past the margin
	if resp, _ := f.get("/"); resp.StatusCode != 200 || u.requests.Load() != 1 || f.refreshes() != 1 {
		t.Errorf("%s after %d requests and %d refreshes", resp.Status, u.requests.Load(), f.refreshes())
	}
}

func TestClientThatLeavesDuringTheRefresh(t *testing.T) {
	u := &choosy{}
	f := newProxy(t, u)
	gate := authapitest.NewGate()
	f.auth.Always(authapitest.RefreshPath, gate.Before)
	f.late.Store(int64(9*time.Minute + 57*time.Second))
	c := f.dial("GET /left HTTP/1.1", "")
	receive(t, "the refresh", gate.Arrived)
	c.Close()
	f.logged.lines(t, "request", 2) // the request is over, its refresh is not
	gate.Open()
	if resp, _ := f.get("/"); resp.StatusCode != 200 || u.requests.Load() != 1 || f.refreshes() != 1 {
		t.Errorf("%s after %d requests and %d refreshes", resp.Status, u.requests.Load(), f.refreshes())
	}
}

// What one request says must never be found in another: fasthttp's strings are
// its buffers.
func TestRequestsDoNotMix(t *testing.T) {
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.RequestURI, r.Header.Get("X-Mark"), r.Header.Get("Cookie"), body)
	}))
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for j := range 100 {
				mark := fmt.Sprintf("%d-%d-%s", i, j, strings.Repeat(string(rune('a'+i)), 10+j%50))
				r := f.request("POST", "/"+mark, strings.NewReader(mark), "X-Mark", mark)
				r.Header.Set("Cookie", "m="+mark+"; "+f.cookie)
				resp, err := browser.RoundTrip(r)
				if err != nil {
					t.Error(err)
					return
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if want := fmt.Sprintf("/%s %s m=%s %s", mark, mark, mark, mark); string(body) != want {
					t.Errorf("%q, want %q", body, want)
				}
			}
		})
	}
	clients.Wait()
}
