// Package tunnel joins two connections that speak no HTTP any more, as after a
// switch to WebSocket: what comes in at one end goes out at the other, byte by
// byte, until both have nothing more to say. It knows neither whose ends they
// are nor what is spoken on them; package routes hands it the client's, and the
// upstream's as package upstream has brought it.
//
// There is no limit to how long an open tunnel may be silent. Every other wait
// has one, so that no tunnel outlives whoever uses it.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// End is one side of a tunnel.
type End interface {
	io.Reader
	io.Writer
	// CloseWrite tells the other side that nothing more will be sent.
	CloseWrite() error
	// Close ends it, and a Read and a Write that are under way as well. It is
	// called from anywhere and more than once.
	Close() error
}

// Config bounds the waits. The zero value of a field stands for its default.
type Config struct {
	// WriteTimeout bounds the wait for an end to take what was read from the
	// other, a buffer at a time. Default 30 s.
	WriteTimeout time.Duration
	// HalfOpenTimeout bounds the silence of an end whose other end has nothing
	// more to say. Default 30 s.
	HalfOpenTimeout time.Duration
	// LingerTimeout is how long the ends get to hang up once the tunnel is cut.
	// Default 500 ms.
	LingerTimeout time.Duration
}

func (c *Config) withDefaults() {
	for _, f := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.WriteTimeout, 30 * time.Second},
		{&c.HalfOpenTimeout, 30 * time.Second},
		{&c.LingerTimeout, 500 * time.Millisecond},
	} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
}

var (
	errStalled  = errors.New("it takes nothing")
	errHalfOpen = errors.New("it goes on without saying anything")
)

// Broken is a tunnel that did not end in good order on both sides.
type Broken struct {
	End End // whose fault it is
	Err error
}

func (b *Broken) Error() string { return fmt.Sprintf("tunnel: %v", b.Err) }

// Unwrap gives the cause.
func (b *Broken) Unwrap() error { return b.Err }

// buffer is small because an idle tunnel holds two of them.
type buffer [8 << 10]byte

// Join carries bytes between the ends until both have said that nothing more
// comes, and closes both before it returns. An end that says so early is still
// sent to. An end that breaks closes the other.
//
// If ctx ends, nothing is carried any more: both ends are told that nothing more
// comes, get a moment to hang up in turn, and are closed.
//
// The error is nil after an end in good order, the cause of ctx's end, or a
// *Broken.
func Join(ctx context.Context, a, b End, c Config) error {
	c.withDefaults()
	t := &tunnel{Config: c, a: a, b: b}
	defer t.close()
	there, back := t.direction(a, b), t.direction(b, a)
	there.back, back.back = back, there
	stop := context.AfterFunc(ctx, t.leave)
	defer stop()

	var copying sync.WaitGroup
	copying.Go(there.run)
	back.run()
	copying.Wait()
	there.stop()
	back.stop()
	if t.left.Load() {
		return context.Cause(ctx)
	}
	if broken := t.broken.Load(); broken != nil {
		return broken
	}
	return nil
}

type tunnel struct {
	Config
	a, b   End
	left   atomic.Bool // ctx has ended
	broken atomic.Pointer[Broken]
}

func (t *tunnel) close() {
	_ = t.a.Close()
	_ = t.b.Close()
}

// fail notes the first thing that went wrong and closes both ends.
func (t *tunnel) fail(end End, err error) {
	t.broken.CompareAndSwap(nil, &Broken{end, err})
	t.close()
}

// leave says goodbye at both ends. What was passed on before reaches them; a
// close with something unread would take it back.
func (t *tunnel) leave() {
	t.left.Store(true)
	// First, because saying goodbye can wait for a write that is under way.
	time.AfterFunc(t.LingerTimeout, t.close)
	_ = t.a.CloseWrite()
	_ = t.b.CloseWrite()
}

// direction is one half of a tunnel.
type direction struct {
	*tunnel
	from, to End
	back     *direction
	half     atomic.Pointer[time.Timer] // runs once the other direction is over
}

func (t *tunnel) direction(from, to End) *direction {
	return &direction{tunnel: t, from: from, to: to}
}

func (d *direction) run() {
	if d.copy() {
		_ = d.to.CloseWrite()
		end := d.to // which sends, while nobody sends to it any more
		d.back.half.Store(time.AfterFunc(d.HalfOpenTimeout, func() { d.fail(end, errHalfOpen) }))
	}
}

// stop ends the wait for a silent end. Both directions are over.
func (d *direction) stop() {
	if half := d.half.Load(); half != nil {
		half.Stop()
	}
}

// copy carries bytes until from has nothing more to say. It returns false if it
// came to another end.
func (d *direction) copy() bool {
	var buf buffer
	stalled := time.AfterFunc(d.WriteTimeout, func() { d.fail(d.to, errStalled) })
	defer stalled.Stop()
	for {
		stalled.Stop()
		n, err := d.from.Read(buf[:])
		if half := d.half.Load(); half != nil {
			half.Reset(d.HalfOpenTimeout)
		}
		if n > 0 && !d.left.Load() {
			stalled.Reset(d.WriteTimeout)
			if _, err := d.to.Write(buf[:n]); err != nil && !d.left.Load() {
				d.fail(d.to, err)
				return false
			}
		}
		switch {
		case err == io.EOF:
			return true
		case err != nil:
			if !d.left.Load() {
				d.fail(d.from, err)
			}
			return false
		}
	}
}
