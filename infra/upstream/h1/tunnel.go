package h1

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"cloakroom/infra/upstream"
)

// tunnel is the connection of an exchange whose upstream has switched protocols.
type tunnel struct {
	*conn
	protocol string
	early    []byte // came right behind the answer's head
}

var _ upstream.Tunnel = (*tunnel)(nil)

// switchProtocols takes the connection out of the exchange. From then on no
// context and no deadline ends it, and it never goes back to the pool.
func (x *exchange) switchProtocols() error {
	protocol, ok := upstream.SwitchedTo(x.r.Upgrade, x.head.fields)
	if !ok || x.send != nil {
		return malformed("it switches to a protocol that was not asked for")
	}
	if err := x.c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if !x.forget() {
		return x.ctx.Err()
	}
	x.after = &tunnel{conn: x.c, protocol: protocol, early: slices.Clone(x.in.buf[x.in.r:x.in.w])}
	x.in.free()
	return nil
}

func (t *tunnel) Read(p []byte) (int, error) {
	if len(t.early) == 0 {
		return t.conn.Read(p)
	}
	n := copy(p, t.early)
	if t.early = t.early[n:]; len(t.early) == 0 {
		t.early = nil
	}
	return n, nil
}

func (t *tunnel) CloseWrite() error {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return fmt.Errorf("closing one half: %w", errors.ErrUnsupported)
}
