package h1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"cloakroom/infra/upstream"
)

// readAnswer reads an answer from src as an exchange does. rest is what is left
// in the buffer behind it.
func readAnswer(src io.Reader, method string) (h head, b body, text []byte, rest int, err error) {
	in := newReader(src)
	defer in.free()
	if err := in.head(&h); err != nil || h.status == 101 {
		return h, b, nil, 0, err
	}
	b = bodyOf(&h, method)
	p := make([]byte, 700) // less than the buffer
	for err == nil {
		var n int
		n, err = b.read(&in, p)
		text = append(text, p[:n]...)
	}
	if err == io.EOF {
		err = nil
	}
	return h, b, text, in.buffered(), err
}

// FuzzAnswer holds the reader of answers against net/http's, which is more
// lenient: whatever is taken here is the same answer there. And it must not
// matter in which pieces an answer comes.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		okAnswer,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n5;x=y\r\nhello\r\n1 \r\n!\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.0 404 Not Found\r\nConnection: keep-alive, x\r\n\r\nuntil the end",
		"HTTP/1.1 204 No Content\r\nX:\r\n\r\nmore", "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n",
		"HTTP/1.1 200\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 200 OK\nX: y\n\n",
	} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, answer []byte, isHead bool) {
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		h, b, text, rest, err := readAnswer(bytes.NewReader(answer), method)
		h2, b2, text2, _, err2 := readAnswer(iotest.OneByteReader(bytes.NewReader(answer)), method)
		if (err == nil) != (err2 == nil) || !bytes.Equal(text, text2) || h.status != h2.status || b.reusable != b2.reusable || b.ended != b2.ended {
			t.Fatalf("byte by byte: %q, %v, and at once: %q, %v", text2, err2, text, err)
		}
		if err != nil || h.status == 101 {
			return
		}
		if h.status < 200 {
			t.Fatalf("status %d", h.status)
		}
		for _, f := range h.fields {
			if strings.ContainsAny(f.Name+f.Value, "\r\n\x00") || f.Name == "" {
				t.Fatalf("field %q", f)
			}
		}
		compare(t, answer, method, h, b, text, rest)
	})
}

func compare(t *testing.T, answer []byte, method string, h head, b body, text []byte, rest int) {
	src := bufio.NewReaderSize(bytes.NewReader(answer), len(answer)+16)
	var want *http.Response
	for want == nil || want.StatusCode < 200 {
		var err error
		if want, err = http.ReadResponse(src, &http.Request{Method: method}); err != nil {
			t.Fatalf("net/http refuses %q: %v", answer, err)
		}
	}
	wantText, err := io.ReadAll(want.Body)
	if err != nil || want.StatusCode != h.status || !bytes.Equal(wantText, text) {
		t.Fatalf("%d %q, and by net/http %d %q, %v", h.status, text, want.StatusCode, wantText, err)
	}
	count := func(fields []upstream.Field) (n int) {
		for _, f := range fields {
			if !frames(f.Name) && !strings.EqualFold(f.Name, "Connection") && !strings.EqualFold(f.Name, "Pragma") {
				n++
			}
		}
		return n
	}
	n := 0
	for name, values := range want.Header {
		if !frames(name) && name != "Connection" && name != "Pragma" && name != "Cache-Control" {
			n += len(values)
		}
	}
	for _, f := range h.fields {
		if strings.EqualFold(f.Name, "Cache-Control") {
			n++ // net/http adds one for Pragma
		}
	}
	if got := count(h.fields); got != n {
		t.Fatalf("%d fields, and by net/http %d: %q", got, n, h.fields)
	}
	if b.reusable && want.Close {
		t.Fatalf("net/http would not use the connection again after %q", answer)
	}
	if left := src.Buffered(); b.reusable && b.ended && left != rest && rest+8192 > len(answer) {
		t.Fatalf("%d bytes are left, and by net/http %d", rest, left)
	}
}
