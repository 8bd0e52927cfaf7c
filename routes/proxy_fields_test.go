package routes_test

import (
	"bufio"
	"io"
	"slices"
	"strings"
	"testing"

	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/enginetest"
	"cloakroom/routes"
)

// TestFieldsKeepOrderAndCase looks at what a client has sent without any library in
// between.
func TestFieldsKeepOrderAndCase(t *testing.T) {
	got := make(chan []string, 1)
	answer := func(c enginetest.Conn, r *bufio.Reader) {
		var lines []string
		for {
			line, err := r.ReadString('\n')
			if line = strings.TrimRight(line, "\r\n"); line == "" || err != nil {
				break
			}
			lines = append(lines, line)
		}
		got <- lines
		io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	}
	f := newFront(t, frontConfig{
		routes: []upstream.Route{{Prefix: "/", Target: enginetest.Raw(t, answer).URL}, {Prefix: "/tls", Target: enginetest.RawTLS(t, answer).URL}},
		engine: upstream.Config{TLS: enginetest.Roots()},
	})
	for _, path := range []string{"/", "/tls"} {
		for _, connection := range []string{"keep-alive", "keep-alive, Upgrade\r\nUpgrade: websocket"} {
			f.keepsFields(path, connection, got)
		}
	}
}

func (f *front) keepsFields(path, connection string, got <-chan []string) {
	f.t.Helper()
	sent := []string{"sec-ch-ua: one", "User-agent: two", "X-camelCase:three", "accept: */*", "x-LAST: four ", "X-camelCase: five", "Sec-WebSocket-Key: six"}
	f.dial("GET "+path+" HTTP/1.1\r\nConnection: "+connection+"\r\n"+strings.Join(sent, "\r\n"), "")

	var passed []string
	for _, line := range receive(f.t, "the request", got)[1:] {
		if slices.Contains([]string{"sec-ch-ua", "user-agent", "x-camelcase", "accept", "x-last", "sec-websocket-key"}, strings.ToLower(strings.SplitN(line, ":", 2)[0])) {
			passed = append(passed, line)
		}
	}
	if want := []string{"sec-ch-ua: one", "User-agent: two", "X-camelCase: three", "accept: */*", "x-LAST: four", "X-camelCase: five", "Sec-WebSocket-Key: six"}; !slices.Equal(passed, want) {
		f.t.Errorf("%s: the upstream got\n%q, want\n%q", path, passed, want)
	}
}

// answerLines are what an answer's head and trailer section say after the status
// line, as they came.
func answerLines(t *testing.T, c *conn) (lines []string) {
	t.Helper()
	for ended := 0; ended < 2; {
		line, err := c.r.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %q", err, lines)
		}
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			ended++
		} else {
			lines = append(lines, line)
		}
	}
	return lines[1:]
}

// TestAnswersFieldsKeepOrderAndCase looks at both ends without any library in between.
// What fasthttp takes for its own is left out.
func TestAnswersFieldsKeepOrderAndCase(t *testing.T) {
	head := []string{"ETag: one", "x-lower: two", "X-camelCase: three", "WWW-Authenticate: four", "X-LAST: five", "x-lower: six", "X-Lower: seven", "DPoP-Nonce: eight"}
	trailer := []string{"x-sum: nine", "X-camelTrailer: ten", "ETag: eleven"}
	f := newFront(t, frontConfig{routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, rawUpstream(t, answering(
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, X-camelTrailer\r\n"+strings.Join(head, "\r\n")+
			"\r\n\r\n2\r\nok\r\n0\r\n"+strings.Join(trailer, "\r\n")+"\r\n\r\n")))}}})

	got := answerLines(t, f.dial("GET /x HTTP/1.1\r\nTE: trailers", ""))
	want := slices.Concat(head, []string{"Trailer: x-sum, X-camelTrailer"}, trailer)
	kept := slices.DeleteFunc(slices.Clone(got), func(line string) bool { return !slices.Contains(want, line) })
	if !slices.Equal(kept, want) {
		t.Errorf("the client got\n%q, want among it\n%q", got, want)
	}
}

// TestOddlySpelledFieldsAreFound: the spelling of a field's name decides nothing.
func TestOddlySpelledFieldsAreFound(t *testing.T) {
	f := newFront(t, frontConfig{
		ruled: []routes.Route{{
			Route: upstream.Route{Prefix: "/", Target: parseURL(t, rawUpstream(t, answering("HTTP/1.1 200 OK\r\n"+strings.Join([]string{
				"transfer-Encoding: chunked", "cONNECTION: keep-alive, x-named", "x-named: 1", "keep-alive: timeout=5",
				"cache-control: max-age=60", "vARY: authorization", "access-control-allow-ORIGIN: *", "access-control-allow-credentials: false", "access-control-expose-headers: X-A",
				"content-TYPE: text/csv", "content-encoding: br", "server: theirs", "dATE: Thu, 01 Jan 2026 00:00:00 GMT",
				"set-cookie: a=1", "SET-COOKIE: device_id=evil", "x-request-ID: theirs", "strict-transport-security: max-age=1", "x-HIDDEN: 1",
				"trailer: Access-Control-Allow-Methods, Vary",
			}, "\r\n")+"\r\n\r\n2\r\nok\r\n0\r\nVary: x-trailer\r\nset-Cookie: device_id=evil\r\nx-hidden: 1\r\n\r\n")))},
			HideHeaders: []string{"X-Hidden"},
		}},
		surface: func(c *routes.Config) {
			c.PublicOrigin, c.AllowedOrigins, c.HSTS = "https://app.test", []string{adminOrigin}, "max-age=9"
		},
	})
	got := answerLines(t, f.dial("GET /x HTTP/1.1\r\nOrigin: "+adminOrigin+"\r\nX-Request-Id: request-one", ""))
	slices.Sort(got)
	want := []string{
		"0",
		"2",
		"Access-Control-Allow-Credentials: true",
		"Access-Control-Allow-Origin: " + adminOrigin,
		"Access-Control-Expose-Headers: X-A",
		"Access-Control-Expose-Headers: X-Request-Id",
		"Cache-Control: max-age=60, private",
		"Content-Encoding: br",
		"Content-Type: text/csv",
		"Date: Thu, 01 Jan 2026 00:00:00 GMT",
		"Server: theirs",
		"Set-Cookie: a=1",
		"Strict-Transport-Security: max-age=9",
		"Transfer-Encoding: chunked",
		"Vary: Cookie",
		"Vary: Origin",
		"Vary: authorization",
		"Vary: x-trailer",
		"X-Request-Id: request-one",
		"ok",
	}
	if !slices.Equal(got, want) {
		t.Errorf("the client got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
