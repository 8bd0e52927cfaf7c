package routes_test

import (
	"bufio"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"cloakroom/infra/upstream"
)

// TestFieldsKeepOrderAndCase looks at what a client has sent without any library in
// between.
func TestFieldsKeepOrderAndCase(t *testing.T) {
	got := make(chan []string, 1)
	f := newFront(t, frontConfig{routes: []upstream.Route{{Prefix: "/", Target: parseURL(t, rawUpstream(t, func(c net.Conn, r *bufio.Reader) {
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
	}))}}})
	sent := []string{"sec-ch-ua: one", "User-agent: two", "X-camelCase:three", "accept: */*", "x-LAST: four ", "X-camelCase: five"}
	f.dial("GET /x HTTP/1.1\r\nConnection: keep-alive\r\n"+strings.Join(sent, "\r\n"), "")

	var passed []string
	for _, line := range receive(t, "the request", got)[1:] {
		if slices.Contains([]string{"sec-ch-ua", "user-agent", "x-camelcase", "accept", "x-last"}, strings.ToLower(strings.SplitN(line, ":", 2)[0])) {
			passed = append(passed, line)
		}
	}
	if want := []string{"sec-ch-ua: one", "User-agent: two", "X-camelCase: three", "accept: */*", "x-LAST: four", "X-camelCase: five"}; !slices.Equal(passed, want) {
		t.Errorf("the upstream got\n%q, want\n%q", passed, want)
	}
}
