package enginetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"cloakroom/infra/upstream"
)

// RunHandshakes runs what is expected of every engine that speaks TLS, whatever is
// spoken above that.
func RunHandshakes(t *testing.T, open func(*testing.T, upstream.Config) upstream.Engine) {
	runTLS(t, open, map[string]func(*testing.T, suite){
		"verifies upstreams":                       verifiesUpstreams,
		"takes no answer to a request that breaks": answersToBrokenRequests,
		"says that TLS has not come about":         saysThatTLSDidNotComeAbout,
	})
}

func verifiesUpstreams(t *testing.T, s suite) {
	up := s.raw(t, Answering(empty))
	_, err := s.open(upstream.Config{TLS: new(tls.Config)}).Do(t.Context(), up.Get("/"))
	var unverified *tls.CertificateVerificationError
	if e, ok := errors.AsType[*upstream.Error](err); !ok || e.Kind != upstream.Unreachable || !e.Unsent || !errors.As(err, &unverified) {
		t.Errorf("by other roots: %v", err)
	}
	r := up.Get("/")
	other := *r.Target
	other.Host = net.JoinHostPort("localhost", other.Port()) // which the certificate does not name
	r.Target = &other
	_, err = s.open(upstream.Config{}).Do(t.Context(), r)
	if !errors.As(err, &unverified) {
		t.Errorf("by another name: %v", err)
	}
}

// An address that accepts connections and does nothing with them is like one that
// does not.
func saysThatTLSDidNotComeAbout(t *testing.T, s suite) {
	for name, c := range map[string]struct {
		meet   func(net.Conn)
		within time.Duration // 0: the default, so that a busy machine changes nothing
		kind   upstream.Kind
	}{
		"hangs up":    {func(c net.Conn) { c.Close() }, 0, upstream.Unreachable},
		"speaks HTTP": {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }, 0, upstream.Unreachable},
		"is silent":   {func(net.Conn) {}, 100 * time.Millisecond, upstream.TimedOut},
	} {
		over := make(chan struct{}, 10)
		up := Raw(t, func(conn Conn, r *bufio.Reader) {
			c.meet(conn)
			io.Copy(io.Discard, r)
			over <- struct{}{}
		})
		target := &url.URL{Scheme: "https", Host: up.URL.Host}
		_, err := s.open(upstream.Config{ConnectTimeout: c.within}).Do(t.Context(), &upstream.Request{Method: "POST", Target: target, Path: "/"})
		if e, ok := errors.AsType[*upstream.Error](err); !ok || !e.Unsent || e.Kind != c.kind {
			t.Errorf("an upstream that %s: %+v", name, err)
		}
		Receive(t, "the end of the connection", over)
	}
}

// readerFunc is a reader that has nothing to give.
type readerFunc func() error

func (f readerFunc) Read([]byte) (int, error) { return 0, f() }

// What an upstream says to a request that broke off is no answer to it. Over TLS
// it could come in time, if the upstream is told of the end before TCP is closed.
func answersToBrokenRequests(t *testing.T, s suite) {
	cut := errors.New("cut")
	begun := make(chan struct{})
	up := s.raw(t, func(c Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			begun <- struct{}{}
			if _, err := io.Copy(io.Discard, req.Body); err == nil {
				t.Error("it looks like all of it")
			}
			io.WriteString(c, empty)
		}
	})
	e := s.open(upstream.Config{})
	for name, length := range map[string]int64{"chunked": -1, "fixed": 1 << 20} {
		for how, end := range map[string]error{"ctx": cut, "body": cut, "too short": io.EOF} {
			if length < 0 && end == io.EOF {
				continue // that is its end
			}
			for range 60 {
				ctx, cancel := context.WithCancelCause(t.Context())
				more := readerFunc(func() error {
					<-begun
					if how == "ctx" {
						cancel(cut)
					}
					return end
				})
				resp, err := e.Do(ctx, up.Post(io.MultiReader(bytes.NewReader(make([]byte, 32<<10)), more), length))
				if err == nil {
					resp.Body.Close()
					t.Fatalf("%s, %s: %d", name, how, resp.Status)
				}
				if how == "ctx" && !errors.Is(err, cut) {
					t.Fatalf("%s, %s: %v", name, how, err)
				}
				cancel(nil)
			}
		}
	}
}
