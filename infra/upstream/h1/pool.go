package h1

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// conn is a connection to an upstream. At any time it belongs to one exchange,
// or to the pool.
type conn struct {
	net.Conn                 // over TLS, perhaps
	under    net.Conn        // without it
	raw      syscall.RawConn // nil if there is no socket to look at
	host     string          // of the target, by which the pool knows it

	peek   func(fd uintptr) // for quiet
	peeked error

	used  bool      // for a request before this one
	since time.Time // when it became idle
}

func newConn(nc net.Conn, host string) *conn {
	c := &conn{Conn: nc, under: nc, host: host}
	if over, ok := nc.(*tls.Conn); ok {
		c.under = over.NetConn()
	}
	if s, ok := c.under.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
		c.peek = newPeek(c)
	}
	return c
}

// cut ends the connection at once. Close would tell an upstream over TLS first
// that nothing more comes, and could be waiting for it to listen; and what the
// upstream says to that would come in time to be taken for an answer.
func (c *conn) cut() { c.under.Close() }

// past is a deadline at which nothing is waited for.
var past = time.Unix(1, 0)

// drained reports whether nothing has come in that was decrypted, or is about to
// be, and that nobody has read. quiet cannot see that.
func (c *conn) drained() bool {
	if c.under == c.Conn {
		return true
	}
	if err := c.SetReadDeadline(past); err != nil {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// pool keeps the connections that no exchange needs. The one used last is used
// next, so that after a peak those too many grow old.
type pool struct {
	most    int // of each host
	timeout time.Duration

	mu     sync.Mutex
	idle   map[string][]*conn // by host, the one used last at the end
	timer  *time.Timer        // until sweep
	armed  bool
	closed bool
}

func newPool(most int, timeout time.Duration) *pool {
	return &pool{most: most, timeout: timeout, idle: make(map[string][]*conn)}
}

// take returns a connection that is open and on which nothing has come in, or
// nil. An upstream that hung up meanwhile is noticed here, and what it has said
// without being asked is not taken for the next answer.
func (p *pool) take(host string) *conn {
	for {
		c := p.pop(host)
		if c == nil || time.Since(c.since) < p.timeout && c.quiet() {
			return c
		}
		c.Close()
	}
}

func (p *pool) pop(host string) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[host]
	if len(list) == 0 {
		return nil
	}
	last := len(list) - 1
	c := list[last]
	list[last] = nil
	p.idle[host] = list[:last]
	return c
}

// put keeps a connection for the next request, or closes it.
func (p *pool) put(c *conn) {
	c.used, c.since = true, time.Now()
	if c.raw == nil || !c.drained() || !p.keep(c) {
		c.Close()
	}
}

func (p *pool) keep(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle[c.host]) >= p.most {
		return false
	}
	p.idle[c.host] = append(p.idle[c.host], c)
	p.arm(p.timeout)
	return true
}

// arm sees to it that sweep runs in d, if it is not to run anyway. The lock is
// held.
func (p *pool) arm(d time.Duration) {
	switch {
	case p.armed:
		return
	case p.timer == nil:
		p.timer = time.AfterFunc(d, p.sweep)
	default:
		p.timer.Reset(d)
	}
	p.armed = true
}

// sweep closes what has been idle for too long.
func (p *pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	now, next := time.Now(), time.Duration(-1)
	for host, list := range p.idle {
		old := 0
		for old < len(list) && now.Sub(list[old].since) >= p.timeout {
			list[old].Close()
			old++
		}
		if old == len(list) {
			delete(p.idle, host)
			continue
		}
		p.idle[host] = slices.Delete(list, 0, old)
		if left := p.timeout - now.Sub(p.idle[host][0].since); next < 0 || left < next {
			next = left
		}
	}
	if next >= 0 && !p.closed {
		p.arm(next)
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	for _, list := range p.idle {
		for _, c := range list {
			c.Close()
		}
	}
	clear(p.idle)
}
