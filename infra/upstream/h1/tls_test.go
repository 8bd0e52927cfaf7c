package h1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cloakroom/infra/upstream"
	"cloakroom/infra/upstream/enginetest"
)

// What has come in behind an answer may be decrypted already, or lie where TLS
// keeps what it has taken from the socket. It is not the beginning of the next
// answer.
func TestWhatTLSHoldsIsNoAnswer(t *testing.T) {
	const stray = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
	for name, write := range map[string]func(c io.Writer, answer string){
		"in the same record": func(c io.Writer, answer string) { io.WriteString(c, answer+stray) },
		"in the next record": func(c io.Writer, answer string) { io.WriteString(c, answer); io.WriteString(c, stray) },
	} {
		written := make(chan struct{}, 1)
		up := enginetest.RawTLS(t, func(c enginetest.Conn, r *bufio.Reader) {
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				if req.URL.Path == "/second" {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright")
					continue
				}
				n := req.Header.Get("X-Length")
				var length int
				fmt.Sscan(n, &length)
				write(c, "HTTP/1.1 200 OK\r\nContent-Length: "+n+"\r\n\r\n"+strings.Repeat("x", length))
				written <- struct{}{}
			}
		})
		e := open(t, Config{TLS: enginetest.Roots()})
		for length := 16_000; length < 33_000; length += 500 { // of one record and of two
			r := up.Get("/first")
			r.Header = []upstream.Field{{Name: "X-Length", Value: fmt.Sprint(length)}}
			resp, err := e.Do(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			enginetest.Receive(t, "the end of the answer", written)
			if _, err := io.ReadFull(resp.Body, make([]byte, length)); err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if _, body := enginetest.Do(t, e, up.Get("/second")); body != "right" {
				t.Fatalf("%s, behind %d bytes: the next answer is %q", name, length, body)
			}
		}
	}
}

// An upstream that is told of the end before TCP closes could answer in time.
func TestAnswerBehindTheContextIsNone(t *testing.T) {
	gone := errors.New("gone")
	up := enginetest.RawTLS(t, func(c enginetest.Conn, r *bufio.Reader) {
		if req, err := http.ReadRequest(r); err == nil {
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, okAnswer)
		}
	})
	e := open(t, Config{TLS: enginetest.Roots()})
	for range 100 {
		ctx, cancel := context.WithCancelCause(t.Context())
		body := hanging{make(chan struct{})}
		go func() { <-body.reads; cancel(gone) }()
		resp, err := e.Do(ctx, up.Post(body, -1))
		if err == nil {
			resp.Body.Close()
			t.Fatalf("%d", resp.Status)
		}
		if !errors.Is(err, gone) {
			t.Fatal(err)
		}
	}
}

// The name is the target's, whoever dials whatever; plain http to the same name is
// another connection.
func TestNameOfTLS(t *testing.T) {
	s := httptest.NewTLSServer(nil) // whose certificate is for example.com as well
	s.Close()
	dir := t.TempDir()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nothing"
		if r.TLS != nil {
			name = r.TLS.ServerName + " " + r.TLS.NegotiatedProtocol
		}
		fmt.Fprint(w, r.Host, " by ", name)
	})
	for _, scheme := range []string{"http", "https"} {
		l, err := net.Listen("unix", filepath.Join(dir, scheme))
		if err != nil {
			t.Fatal(err)
		}
		if scheme == "https" {
			l = tls.NewListener(l, &tls.Config{Certificates: s.TLS.Certificates, NextProtos: []string{"http/1.1"}})
		}
		server := &http.Server{Handler: handler}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
	}
	var dials []string
	e := open(t, Config{TLS: enginetest.Roots(), Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		dials = append(dials, address)
		file := map[string]string{"example.com:80": "http", "example.com:443": "https"}[address]
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, file))
	}})
	for range 2 {
		for scheme, want := range map[string]string{"http": "example.com by nothing", "https": "example.com by example.com http/1.1"} {
			if _, body := enginetest.Do(t, e, &upstream.Request{Method: "GET", Target: parse(scheme + "://example.com"), Path: "/"}); body != want {
				t.Errorf("%s: %q", scheme, body)
			}
		}
	}
	if slices.Sort(dials); !slices.Equal(dials, []string{"example.com:443", "example.com:80"}) {
		t.Errorf("%v", dials)
	}
}
