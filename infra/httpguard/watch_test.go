package httpguard

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cloakroom/infra/testreport"
)

// waitFor waits until cond holds.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !cond() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func receive[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: not within 10 s", what)
	}
	return v
}

func listenTCP(t *testing.T) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dial connects to l and returns both ends.
func dial(t *testing.T, l net.Listener) (*Conn, *net.TCPConn) {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); c.Close() })
	guarded, _ := Of(c)
	return guarded, client.(*net.TCPConn)
}

// watchers makes the system's watcher and the portable one.
var watchers = map[string]func() watcher{
	"system":   newWatcher,
	"portable": func() watcher { return newPoller() },
}

func eachWatcher(t *testing.T, test func(t *testing.T, l *listener)) {
	for name, make := range watchers {
		t.Run(name, func(t *testing.T) {
			l := newListener(listenTCP(t), Config{}.withDefaults(), make())
			t.Cleanup(func() { l.Close() })
			test(t, l)
		})
	}
}

func hangUp(c *net.TCPConn)    { c.Close() }
func halfClose(c *net.TCPConn) { c.CloseWrite() }
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// A client that goes while its request is being answered is noticed although
// nobody reads.
func TestWatcherNoticesClient(t *testing.T) {
	ways := map[string]func(*net.TCPConn){"FIN": hangUp, "half-close": halfClose, "RST": reset}
	for name, leave := range ways {
		t.Run(name, func(t *testing.T) {
			eachWatcher(t, func(t *testing.T, l *listener) {
				c, client := dial(t, l)
				other, _ := dial(t, l)
				io.WriteString(client, getHead)
				if _, err := c.Read(make([]byte, 1000)); err != nil {
					t.Fatal(err)
				}
				gone := make(chan struct{})
				if !c.OnGone(func() { close(gone) }) {
					t.Fatal("gone before it left")
				}
				other.OnGone(func() { t.Error("the other client counts as gone") })
				leave(client)
				receive(t, "OnGone", gone)
				if c.OnGone(func() { t.Error("called twice") }) {
					t.Error("OnGone() = true after the client left")
				}
				if !other.OnGone(func() {}) {
					t.Error("the other client counts as gone")
				}
			})
		})
	}
}

// Only on Linux: the portable watcher sees no further than one byte.
func TestWatcherNoticesClientBehindUnreadBytes(t *testing.T) {
	if runtime.GOOS != "linux" {
		testreport.Missing(t, "watcher", "the one that sees beyond unread bytes needs epoll, and so Linux")
	}
	testreport.Real(t, "watcher", "epoll")
	l := Listener(listenTCP(t), Config{})
	defer l.Close()
	c, client := dial(t, l)
	gone := make(chan struct{})
	c.OnGone(func() { close(gone) })
	io.WriteString(client, getHead+getHead)
	client.Close()
	receive(t, "OnGone", gone)
}

// Requests that come and go on one connection raise no alarm, and none of
// their bytes is lost to the watcher.
func TestWatcherKeepsQuiet(t *testing.T) {
	eachWatcher(t, func(t *testing.T, l *listener) {
		c, client := dial(t, l)
		var alarms atomic.Int32
		p := make([]byte, 1000)
		for range 20 {
			io.WriteString(client, postHead)
			for read := 0; read < len(postHead)+1000; {
				if !c.OnGone(func() { alarms.Add(1) }) {
					t.Fatal("counts as gone")
				}
				if read == len(postHead) {
					io.WriteString(client, strings.Repeat("x", 1000))
				}
				if p, ok := l.watch.(*poller); ok {
					p.probeAll()
				}
				n, err := c.Read(p)
				if err != nil {
					t.Fatal(err)
				}
				read += n
				c.ForgetGone()
			}
			io.WriteString(c, "answer")
			if _, err := io.ReadFull(client, p[:6]); err != nil {
				t.Fatal(err)
			}
		}
		if n := alarms.Load(); n != 0 {
			t.Errorf("%d alarms", n)
		}
		client.Close()
		if _, err := c.Read(p); err != io.EOF {
			t.Errorf("end: %v", err)
		}
		if n := alarms.Load(); n != 0 {
			t.Error("alarm after ForgetGone")
		}
	})
}

func TestWatcherForgetsClosedConnections(t *testing.T) {
	eachWatcher(t, func(t *testing.T, l *listener) {
		set := func() int {
			switch w := l.watch.(type) {
			case interface{ all() []*Conn }:
				return len(w.all())
			}
			t.Fatal("no set")
			return 0
		}
		var conns []*Conn
		for range 10 {
			c, _ := dial(t, l)
			conns = append(conns, c)
		}
		if n := set(); n != 10 {
			t.Errorf("%d connections watched, want 10", n)
		}
		for _, c := range conns {
			c.Close()
		}
		if n := set(); n != 0 {
			t.Errorf("%d connections watched after all were closed", n)
		}
	})
}

// While a server drains, its last connections are still watched; then the
// watcher ends.
func TestWatcherOutlivesListener(t *testing.T) {
	eachWatcher(t, func(t *testing.T, l *listener) {
		c, client := dial(t, l)
		d, _ := dial(t, l)
		l.Close()
		gone := make(chan struct{})
		c.OnGone(func() { close(gone) })
		client.Close()
		receive(t, "OnGone after the listener was closed", gone)
		c.Close()
		d.Close()
		waitFor(t, "end of the loop", func() bool {
			all := make([]byte, 1<<20)
			stacks := string(all[:runtime.Stack(all, true)])
			return !strings.Contains(stacks, "(*epoll).loop") && !strings.Contains(stacks, "(*poller).loop")
		})
	})
}

// The guard reads plaintext while its watcher watches the socket below.
func TestWatcherBelowTLS(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	defer certified.Close()
	eachWatcher(t, func(t *testing.T, l *listener) {
		l.Listener = tls.NewListener(l.Listener, &tls.Config{Certificates: certified.TLS.Certificates})
		c, tcp := dial(t, l)
		go io.WriteString(tls.Client(tcp, &tls.Config{InsecureSkipVerify: true}), getHead)
		p := make([]byte, 1000)
		if n, err := c.Read(p); string(p[:n]) != getHead || err != nil {
			t.Fatalf("read %q, %v", p[:n], err)
		}
		gone := make(chan struct{})
		c.OnGone(func() { close(gone) })
		tcp.Close()
		receive(t, "OnGone", gone)
	})
}

// A client that is still sending when its request is answered reads the
// answer to its end, not a reset.
func TestCloseLingers(t *testing.T) {
	l := Listener(listenTCP(t), Config{MaxConns: 1, LingerTimeout: 10 * time.Second})
	defer l.Close()
	c, client := dial(t, l)
	io.WriteString(client, postHead+"beginning")
	if _, err := c.Read(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	io.WriteString(client, "unread")
	io.WriteString(c, "answer")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(client, strings.Repeat("x", 500)); err != nil {
		t.Errorf("client goes on sending: %v", err)
	}
	if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
		t.Errorf("client read %q, %v", got, err)
	}
	client.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
	dial(t, l) // the place is free again
}

// A client that never stops sending does not hold its connection.
func TestLingerEnds(t *testing.T) {
	l := Listener(listenTCP(t), Config{MaxConns: 1, LingerTimeout: 20 * time.Millisecond})
	defer l.Close()
	c, client := dial(t, l)
	go func() {
		for {
			if _, err := io.WriteString(client, "garbage\n"); err != nil {
				return
			}
		}
	}()
	for {
		if _, err := c.Read(make([]byte, 1000)); err != nil {
			break
		}
	}
	c.Close()
	dial(t, l) // the place is free again
}

// Past MaxConns connections are refused, and past a number of these Accept waits
// for a place.
func TestMaxConns(t *testing.T) {
	l := Listener(listenTCP(t), Config{MaxConns: 2})
	first, _ := dial(t, l)
	dial(t, l)
	for range maxRefused {
		c, _ := dial(t, l)
		if c.Refusal() != errTooManyConns {
			t.Fatalf("one too many: %v", c.Refusal())
		}
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error)
	accept := func() {
		c, err := l.Accept()
		if err == nil {
			if guard, ok := Of(c); !ok || guard.Refusal() != nil {
				err = guard.Refusal()
			}
			t.Cleanup(func() { c.Close() })
		}
		accepted <- err
	}
	go accept()
	waitFor(t, "Accept to wait for a place", func() bool { return blockedOnPlace() })
	select {
	case err := <-accepted:
		t.Fatalf("third connection accepted: %v", err)
	default:
	}
	first.Close()
	if err := receive(t, "Accept", accepted); err != nil {
		t.Errorf("after a place was free: %v", err)
	}
	go accept()
	waitFor(t, "Accept to wait for a place", func() bool { return blockedOnPlace() })
	l.Close()
	if err := receive(t, "Accept", accepted); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the listener was closed: %v", err)
	}
}

// blockedOnPlace reports whether an Accept of ours waits, and not in the
// kernel.
func blockedOnPlace() bool {
	all := make([]byte, 1<<20)
	for stack := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(stack, "[select") && strings.Contains(stack, "(*listener).Accept") {
			return true
		}
	}
	return false
}

// failing is a listener that fails a few times, then accepts one connection.
type failing struct {
	net.Listener
	errs []error
}

func (l *failing) Close() error { return nil }

func (l *failing) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	c, _ := net.Pipe()
	return c, nil
}

func TestAcceptOutlastsShortage(t *testing.T) {
	shortage := &net.OpError{Op: "accept", Err: syscall.EMFILE}
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		l := newListener(&failing{errs: []error{shortage, shortage, shortage}}, Config{}.withDefaults(), noWatcher{})
		if c, err := l.Accept(); c == nil || err != nil {
			t.Errorf("Accept() = %v, %v", c, err)
		}

		l = newListener(&failing{errs: []error{broken}}, Config{MaxConns: 1}.withDefaults(), noWatcher{})
		if _, err := l.Accept(); err != broken {
			t.Errorf("Accept() = %v, want %v", err, broken)
		}
		if _, err := l.Accept(); err != nil {
			t.Errorf("a failed Accept has kept its place: %v", err)
		}

		l = newListener(&failing{errs: make([]error, 1000)}, Config{}.withDefaults(), noWatcher{})
		for i := range l.Listener.(*failing).errs {
			l.Listener.(*failing).errs[i] = shortage
		}
		ended := make(chan error)
		go func() { _, err := l.Accept(); ended <- err }()
		synctest.Wait()
		l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed during a shortage: %v", err)
		}
	})
}
