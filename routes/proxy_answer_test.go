package routes_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/upstream"
	"cloakroom/routes"
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

func TestEveryCodingIsTold(t *testing.T) {
	f := newRawProxy(t, answering("HTTP/1.1 200 OK\r\nContent-Encoding: br\r\ncontent-encoding: gzip\r\nContent-Length: 2\r\n\r\nok"))
	if resp, body := f.get("/"); body != "ok" || fmt.Sprint(resp.Header["Content-Encoding"]) != "[br, gzip]" {
		t.Errorf("%q of coding %q", body, resp.Header["Content-Encoding"])
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

// A field of the header stays there if the trailer section has one of the same
// name; and what is ours to say, or hidden, is so in the trailer section as well.
func TestTrailersLeaveTheHeaderAlone(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
	for name, trailer := range map[string]string{"announced": "Trailer: Cache-Control, X-A, X-Hidden, X-Request-Id\r\n", "not announced": ""} {
		f := newFront(t, frontConfig{ruled: []routes.Route{{
			Route: upstream.Route{Prefix: "/", Target: parseURL(t, rawUpstream(t, answering(
				head+"Cache-Control: no-store\r\nX-A: 1\r\n"+trailer+"\r\n2\r\nok\r\n0\r\nX-A: 2\r\nX-A: 3\r\nCache-Control: public\r\nX-Hidden: 1\r\nX-Request-Id: 1\r\n\r\n")))},
			HideHeaders: []string{"X-Hidden"},
		}}})
		resp, body := f.get("/")
		h := resp.Header
		if body != "ok" || h.Get("Cache-Control") != "no-store" || fmt.Sprint(h["X-A"]) != "[1]" || h.Get("X-Request-Id") == "" {
			t.Errorf("%s: %q, %v", name, body, h)
		}
		if got := fmt.Sprint(resp.Trailer); got != "map[Cache-Control:[public] X-A:[2 3]]" {
			t.Errorf("%s: trailers %s", name, got)
		}
	}
}

// What the configuration says in a header cannot be said otherwise in a trailer
// section, which some upstreams put together with the header.
func TestClientsTrailersDoNotSayWhatIsSet(t *testing.T) {
	got := make(chan http.Header, 1)
	f := newFront(t, frontConfig{ruled: []routes.Route{{
		Route: upstream.Route{Prefix: "/", Target: parseURL(t, serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			got <- r.Trailer
		})))},
		SetHeaders: []upstream.Field{{Name: "X-Api-Key", Value: "ours"}},
	}}})
	c := f.dial("POST / HTTP/1.1\r\nTrailer: x-api-key, X-Request-Id, X-Up\r\nTransfer-Encoding: chunked",
		"5\r\nhello\r\n0\r\nx-api-key: theirs\r\nX-Request-Id: theirs\r\nX-Up: 7\r\n\r\n")
	c.head("POST")
	if up := receive(t, "the request", got); fmt.Sprint(up) != "map[X-Up:[7]]" {
		t.Errorf("%v", up)
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
