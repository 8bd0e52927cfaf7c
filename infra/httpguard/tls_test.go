package httpguard

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"cloakroom/infra/certificate/certtest"
)

// listenTLS guards a TLS listener. The client's configuration trusts it.
func listenTLS(t *testing.T, cfg Config) (net.Listener, *tls.Config) {
	t.Helper()
	authority := certtest.NewAuthority(t)
	pair, err := tls.X509KeyPair(authority.Fresh(t))
	if err != nil {
		t.Fatal(err)
	}
	l := Listener(tls.NewListener(listenTCP(t), &tls.Config{Certificates: []tls.Certificate{pair}}), cfg)
	t.Cleanup(func() { l.Close() })
	return l, &tls.Config{RootCAs: authority.Pool(), ServerName: "localhost"}
}

// fasthttpTLS is how fasthttp recognises a TLS connection.
type fasthttpTLS interface {
	Handshake() error
	ConnectionState() tls.ConnectionState
}

func TestTLSIsRecognised(t *testing.T) {
	l, _ := listenTLS(t, Config{})
	net.Dial("tcp", l.Addr().String())
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(fasthttpTLS); !ok {
		t.Errorf("a connection over TLS is a %T", c)
	}
	if _, ok := Of(c); !ok {
		t.Error("its guard is not found")
	}

	plain := Listener(listenTCP(t), Config{})
	defer plain.Close()
	net.Dial("tcp", plain.Addr().String())
	if c, err = plain.Accept(); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(fasthttpTLS); ok {
		t.Error("a plain connection passes for TLS")
	}
}

// A client that does not get on with the handshake is given up, whether it
// sends nothing or takes its time between the bytes.
func TestHandshakeHasATimeLimit(t *testing.T) {
	l, _ := listenTLS(t, Config{HandshakeTimeout: 50 * time.Millisecond})
	for name, client := range map[string]func(net.Conn){
		"silent": func(net.Conn) {},
		"slow": func(c net.Conn) {
			next := []byte{22, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb} // a hello of 16 KiB begins, in one record
			for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
				if _, err := c.Write(next); err != nil {
					return
				}
				next = []byte{0}
			}
		},
	} {
		other, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go client(other)
		ended := make(chan error, 1)
		go func() { ended <- c.(fasthttpTLS).Handshake() }()
		if err := receive(t, name+" client: Handshake", ended); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s client: Handshake() = %v", name, err)
		}
		c.Close()
	}
}

// Browsers often leave without a farewell. Between requests that is an end like
// any other, inside one it is none.
func TestTLSClientLeavesWithoutFarewell(t *testing.T) {
	for name, tt := range map[string]struct {
		sent string
		want error
	}{
		"between requests": {getHead, io.EOF},
		"in a body":        {postHead + "some", io.ErrUnexpectedEOF},
	} {
		l, trusting := listenTLS(t, Config{})
		tcp, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.WriteString(tls.Client(tcp, trusting), tt.sent)
			tcp.(*net.TCPConn).CloseWrite()
		}()
		if _, err := io.ReadAll(onlyReader{c}); tt.want == io.EOF && err != nil || tt.want != io.EOF && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		c.Close()
		tcp.Close()
	}
}

func TestBreakIsNoEnd(t *testing.T) {
	for name, end := range map[string]func(*Conn){"Break": (*Conn).Break, "Close": func(*Conn) {}} {
		l, trusting := listenTLS(t, Config{})
		tcp, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		client := tls.Client(tcp, trusting)
		go io.WriteString(client, getHead)
		if _, err := c.Read(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "half of it")
		guarded, _ := Of(c)
		end(guarded)
		c.Close()
		if _, err := io.ReadAll(client); (err == nil) != (name == "Close") {
			t.Errorf("after %s the client reads %v", name, err)
		}
	}
}
