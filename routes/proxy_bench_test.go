package routes_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"testing"

	"cloakroom/infra/upstream"
)

// BenchmarkProxy sends one small request after the other through the proxy, with
// a client and an upstream that cost next to nothing.
func BenchmarkProxy(b *testing.B) {
	const body = `{"name":"Ada","items":[1,2,3,4,5,6,7,8,9,10],"text":"a small answer, as APIs give it by the thousand"}`
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Tue, 15 Nov 1994 08:12:31 GMT\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	up := rawUpstream(b, func(c net.Conn, r *bufio.Reader) {
		for skipHead(r) == nil {
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	})
	f := newFront(b, frontConfig{routes: []upstream.Route{{Prefix: "/", Target: parseURL(b, up)}}})
	request := "GET /api/items?page=2 HTTP/1.1\r\nHost: app.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
		"Accept: application/json\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://app.test/\r\n" +
		"Sec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-origin\r\nCookie: theme=dark; " + f.cookie + "; lang=en\r\n\r\n"
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.WriteString(c, request); err != nil {
			b.Fatal(err)
		}
		if err := skipHead(r); err != nil {
			b.Fatal(err)
		}
		if _, err := r.Discard(len(body)); err != nil {
			b.Fatal(err)
		}
	}
}

func skipHead(r *bufio.Reader) error {
	for {
		line, err := r.ReadSlice('\n')
		if err != nil || len(line) == 2 {
			return err
		}
	}
}
