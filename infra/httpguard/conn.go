package httpguard

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// writeSlice is how much of an answer one write deadline covers.
const writeSlice = 32 << 10

// Conn is a guarded connection. One goroutine at a time reads from it, one
// writes to it; everything else may be called from anywhere.
type Conn struct {
	net.Conn // what HTTP is spoken on: a TCP connection, or a TLS one above it

	listener *listener
	place    chan struct{} // the listener's, whose one element it takes
	id       uint64        // the watcher's name for it: descriptors are reused, this is not

	reading   sync.Mutex // held by Read, by the poller's probe and while lingering
	lexer     lexer
	held      []byte    // read from the client, not yet seen by the lexer
	heldErr   error     // came with the held bytes
	broken    error     // nothing is delivered any more but this
	announced bool      // the byte ahead of broken has been delivered, see Read
	begun     bool      // the client has sent something
	headEnds  time.Time // when the head that has begun must be whole

	ended   atomic.Uint64 // the lexer's
	tunnel  atomic.Bool
	refusal atomic.Pointer[Refusal]
	closed  atomic.Bool

	readDeadline, writeDeadline deadline

	goneMu sync.Mutex
	gone   bool
	onGone func()
}

func newConn(nc net.Conn, l *listener) *Conn {
	return &Conn{
		Conn:          nc,
		listener:      l,
		lexer:         lexer{maxHead: l.cfg.MaxHead},
		readDeadline:  deadline{set: nc.SetReadDeadline},
		writeDeadline: deadline{set: nc.SetWriteDeadline},
	}
}

// refuse lets nothing through of what the client sends.
func (c *Conn) refuse(why *Refusal) {
	c.refusal.Store(why)
	c.broken = why
}

// Of returns the guarded connection behind conn, which may be wrapped by
// fasthttp (a hijacked connection) or in a type that embeds a *Conn. It does
// not find one when the server limits connections per address
// (fasthttp.Server.MaxConnsPerIP), whose wrapper hides it.
func Of(conn net.Conn) (*Conn, bool) {
	for conn != nil {
		switch c := conn.(type) {
		case interface{ guarded() *Conn }:
			return c.guarded(), true
		case interface{ UnsafeConn() net.Conn }:
			conn = c.UnsafeConn()
		default:
			return nil, false
		}
	}
	return nil, false
}

func (c *Conn) guarded() *Conn { return c }

// Refusal says why the guard has stopped delivering, or nil if it has not. A
// handler asks it when reading the request's body fails, because fasthttp hides
// the cause where it reads chunks.
func (c *Conn) Refusal() *Refusal { return c.refusal.Load() }

// Receiving reports whether the client has more to send of the connection's
// nth request, counted from 1 as fasthttp's ConnRequestNum does. An answer that
// does not wait for it must say Connection: close, so that the rest cannot be
// taken for a request.
func (c *Conn) Receiving(n uint64) bool { return c.ended.Load() < n }

// AllowTunnel lets everything after a request with the field Upgrade pass
// unjudged and without a read deadline. Call it from the handler of such a
// request, before anybody reads on. If the last request delivered is not one,
// it returns false and nothing changes.
func (c *Conn) AllowTunnel() bool {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.lexer.state != paused {
		return false
	}
	c.tunnel.Store(true)
	return true
}

// Read delivers what the client sends as far as the grammar goes.
//
// Of a message that leaves the grammar nothing more is delivered: the messages
// before it are, and then every Read returns the *Refusal. The end of the
// stream inside a message is io.ErrUnexpectedEOF. Between messages it is
// io.EOF, and so is a client that sends nothing for too long: there is no
// request to answer with 408.
//
// One byte "?" comes ahead of an error where fasthttp would take the error for
// an end. It does so between two requests of a connection, and would close it
// without an answer to the refused one; and at the beginning of a trailer
// section, where it would serve a request that is not whole. The byte fits
// nowhere, so that nothing can come of it but an error.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if c.tunnel.Load() {
		return c.fill(p, time.Time{})
	}
	if c.broken != nil {
		return c.fail(p)
	}
	c.lexer.resume()
	inside := !c.lexer.between()
	n, err := c.fill(p, c.nextDeadline())
	if n == 0 {
		switch {
		case err == io.EOF, err == io.ErrUnexpectedEOF: // TLS calls an end without farewell so
			err = c.lexer.eof()
		case !errors.Is(err, os.ErrDeadlineExceeded):
		case inside:
			c.refusal.CompareAndSwap(nil, errTooSlow)
		default:
			err = io.EOF
		}
		if c.lexer.trailers {
			c.broken = err
			return c.fail(p)
		}
		return 0, err
	}

	c.begun = true
	delivered, refusal := c.lexer.feed(p[:n])
	c.ended.Store(c.lexer.ended)
	if refusal != nil {
		c.refusal.Store(refusal)
		c.broken = refusal
		c.announced = inside && delivered == 0 && !c.lexer.trailers
		if delivered == 0 {
			return c.fail(p)
		}
		return delivered, nil
	}
	if delivered < n {
		c.held = append(append([]byte(nil), p[delivered:n]...), c.held...)
	}
	switch {
	case !c.lexer.inSection():
		c.headEnds = time.Time{}
	case c.headEnds.IsZero():
		c.headEnds = time.Now().Add(c.listener.cfg.HeadTimeout)
	}
	return delivered, nil
}

func (c *Conn) fail(p []byte) (int, error) {
	if !c.announced {
		c.announced = true
		p[0] = '?'
		return 1, nil
	}
	return 0, c.broken
}

// nextDeadline says until when the client must send the next bytes.
func (c *Conn) nextDeadline() time.Time {
	cfg := &c.listener.cfg
	switch {
	case c.lexer.inSection():
		return c.headEnds
	case !c.lexer.between():
		return time.Now().Add(cfg.BodyTimeout)
	case c.begun:
		return time.Now().Add(cfg.IdleTimeout)
	}
	return time.Now().Add(cfg.HeadTimeout)
}

// fill reads held bytes, or else the client's.
func (c *Conn) fill(p []byte, until time.Time) (int, error) {
	if len(c.held) > 0 {
		n := copy(p, c.held)
		c.held = c.held[n:]
		return n, nil
	}
	if c.heldErr != nil {
		return 0, c.heldErr
	}
	if err := c.readDeadline.renew(until); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		c.peerGone()
	}
	if n > 0 && err != nil {
		c.heldErr, err = err, nil
	}
	return n, err
}

// Write sends p. Its deadline is renewed for every slice of p, so that a
// client that reads slowly is served and one that does not read is given up.
func (c *Conn) Write(p []byte) (int, error) {
	written := 0
	for {
		until := time.Now().Add(c.listener.cfg.WriteTimeout)
		if err := c.writeDeadline.renew(until); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(p[written:min(len(p), written+writeSlice)])
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// SetReadDeadline adds a deadline to the guard's own; the earlier one counts.
// A time in the past ends a Read that is under way.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.readDeadline.limit(t) }

// SetWriteDeadline adds a deadline to the guard's own; the earlier one counts.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.writeDeadline.limit(t) }

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.readDeadline.limit(t), c.writeDeadline.limit(t))
}

// deadline joins the guard's own deadline, renewed before every read or write,
// with one that the connection's user has set.
type deadline struct {
	set func(time.Time) error

	mu        sync.Mutex
	own, user time.Time // zero: none
}

func (d *deadline) renew(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.own = t
	return d.apply()
}

func (d *deadline) limit(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.user = t
	return d.apply()
}

// apply runs under the lock: otherwise a renewal could undo a limit that was
// set meanwhile to end the read.
func (d *deadline) apply() error {
	if d.own.IsZero() || !d.user.IsZero() && d.user.Before(d.own) {
		return d.set(d.user)
	}
	return d.set(d.own)
}

// CloseWrite tells the client that nothing more will be sent.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// OnGone registers f to be called once when the client hangs up, its connection
// breaks or it is closed here; it replaces what was registered before. If that has
// happened already, it returns false and never calls f. f must not block, nor
// use the connection.
//
// A client that closes only its sending side counts as gone, as with net/http.
func (c *Conn) OnGone(f func()) bool {
	c.goneMu.Lock()
	defer c.goneMu.Unlock()
	if c.gone {
		return false
	}
	c.onGone = f
	return true
}

// ForgetGone takes back OnGone. A call that has begun may still be under way
// when it returns.
func (c *Conn) ForgetGone() {
	c.goneMu.Lock()
	c.onGone = nil
	c.goneMu.Unlock()
}

func (c *Conn) peerGone() {
	c.goneMu.Lock()
	f := c.onGone
	c.gone, c.onGone = true, nil
	c.goneMu.Unlock()
	if f != nil {
		f()
	}
}

func (c *Conn) peerState() (gone, awaited bool) {
	c.goneMu.Lock()
	defer c.goneMu.Unlock()
	return c.gone, c.onGone != nil
}

// Close closes the connection. If the client may still be sending, because its
// message was refused or answered before its end, that takes up to
// Config.LingerTimeout and goes on after Close has returned; the connection
// counts as open until then.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	c.listener.watch.remove(c)
	lingers := c.beginLinger()
	c.peerGone()
	if lingers {
		go c.linger()
		return nil
	}
	defer c.listener.release(c.place)
	return c.Conn.Close()
}

// beginLinger reports whether to linger, and then holds c.reading. A Read that
// is under way cannot be waited for; closing at once ends it.
func (c *Conn) beginLinger() bool {
	if gone, _ := c.peerState(); gone || c.tunnel.Load() || !c.reading.TryLock() {
		return false
	}
	if c.lexer.between() && c.broken == nil {
		c.reading.Unlock()
		return false
	}
	return true
}

// linger says goodbye, so that the client can read the answer to its end, and
// drops what it still sends.
func (c *Conn) linger() {
	defer c.listener.release(c.place)
	defer c.Conn.Close()
	defer c.reading.Unlock()
	if c.CloseWrite() != nil {
		return
	}
	if c.readDeadline.renew(time.Now().Add(c.listener.cfg.LingerTimeout)) == nil {
		io.Copy(io.Discard, onlyReader{c.Conn})
	}
}

// onlyReader hides the connection's other methods from io.Copy.
type onlyReader struct{ io.Reader }
