package h1

import (
	"net"
	"net/url"
	"testing"
	"time"
)

func parse(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

// pairs returns connections to host, and their other ends.
func pairs(t *testing.T, host string, n int) (near []*conn, far []net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		other, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(); other.Close() })
		near, far = append(near, newConn(c, host)), append(far, other)
	}
	return near, far
}

func isClosed(c net.Conn) bool { return c.SetDeadline(time.Time{}) != nil }

func TestPoolGivesWhatWasUsedLast(t *testing.T) {
	p := newPool(2, time.Minute)
	defer p.close()
	c, _ := pairs(t, "a", 3)
	for _, c := range c {
		p.put(c)
	}
	if !isClosed(c[2]) {
		t.Error("one more than may be kept is open")
	}
	if p.take("b") != nil {
		t.Error("another host's connection")
	}
	for _, want := range []*conn{c[1], c[0], nil} {
		if got := p.take("a"); got != want {
			t.Errorf("%p, want %p", got, want)
		}
	}
}

func TestPoolLooksAtConnections(t *testing.T) {
	p := newPool(10, time.Minute)
	defer p.close()
	c, far := pairs(t, "a", 4)
	for _, c := range c {
		p.put(c)
	}
	far[3].Close()
	far[2].Write([]byte("x"))
	_ = far[1].(*net.TCPConn).SetLinger(0)
	far[1].Close()
	eventually(t, "the news of it", func() bool { return !c[3].quiet() && !c[2].quiet() && !c[1].quiet() })
	// A deadline that was the last request's says nothing about the connection.
	_ = c[0].SetDeadline(time.Unix(1, 0))
	if got := p.take("a"); got != c[0] {
		t.Errorf("%p, want %p", got, c[0])
	}
	for _, c := range c[1:] {
		if !isClosed(c) {
			t.Error("a dead connection is open")
		}
	}
}

func TestPoolClosesWhatIsIdle(t *testing.T) {
	p := newPool(10, 30*time.Millisecond)
	defer p.close()
	a, _ := pairs(t, "a", 3)
	b, _ := pairs(t, "b", 1)
	for _, c := range append(a, b...) {
		p.put(c)
	}
	eventually(t, "the end of idle connections", func() bool { return isClosed(a[0]) && isClosed(a[2]) && isClosed(b[0]) })
	p.mu.Lock()
	if len(p.idle) > 0 {
		t.Errorf("kept: %v", p.idle)
	}
	p.mu.Unlock()
	again, _ := pairs(t, "a", 1)
	p.put(again[0])
	eventually(t, "the end of a later one", func() bool { return isClosed(again[0]) })
}

func TestPoolThatIsClosedKeepsNothing(t *testing.T) {
	p := newPool(10, time.Minute)
	c, _ := pairs(t, "a", 2)
	p.put(c[0])
	p.close()
	p.put(c[1])
	if !isClosed(c[0]) || !isClosed(c[1]) || p.take("a") != nil {
		t.Error("a connection is open")
	}
}

func TestConnectionsInMemoryAreNotKept(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	p := newPool(10, time.Minute)
	defer p.close()
	p.put(newConn(near, "a"))
	if p.take("a") != nil {
		t.Error("a connection that cannot be looked at is used again")
	}
}
