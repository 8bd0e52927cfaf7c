package routes

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/infra/httpguard"
	"cloakroom/infra/tunnel"
	"cloakroom/infra/upstream"
)

// errStopping is why a tunnel is cut when the server stops.
var errStopping = errors.New("the server stops")

// errNoTunnel is the answer to who comes then.
var errNoTunnel = &refusal{503, "stopping", "This server is about to stop; try again."}

// upgradeOf is what a request asks to switch to, "" if nothing that may pass.
func upgradeOf(c *fiber.Ctx) string {
	header := &c.Request().Header
	if len(header.Peek(fiber.HeaderUpgrade)) == 0 || !header.IsHTTP11() {
		return ""
	}
	return upstream.UpgradeOf(header.All())
}

// openTunnel passes on that the upstream has switched protocols, and then
// whatever the two have to say to each other.
func (h *handlers) openTunnel(c *fiber.Ctx, x *exchange, r reply) error {
	if !h.tunnels.add(x) {
		return x.fail(c, errNoTunnel)
	}
	if x.guard == nil || !x.guard.AllowTunnel() {
		h.tunnels.remove(x)
		return x.fail(c, &upstream.Error{Kind: upstream.BadAnswer, Err: errors.New("switched protocols for a client that cannot follow")})
	}
	header := &c.Response().Header
	log := logLater(c)
	h.Metrics.StreamOpened()
	end := func(why error) {
		h.tunnels.remove(x)
		h.Metrics.StreamEnded(cutBy(why))
		x.end()
		log.end(why)
	}
	x.hijack(c.Context(), func(conn net.Conn) {
		client := clientEnd{conn, x.guard}
		// From now on a client that has nothing more to say may still listen.
		x.guard.ForgetGone()
		header.ResetConnectionClose() // fasthttp's, when it shuts down
		header.Set(fiber.HeaderConnection, "Upgrade")
		header.Set(fiber.HeaderUpgrade, r.Protocol)
		_, err := conn.Write(header.Header())
		if err == nil {
			err = tunnel.Join(x.ctx, client, r.Tunnel, h.Tunnel)
		}
		if broken := (*tunnel.Broken)(nil); errors.As(err, &broken) && broken.End == client {
			err = errClientGone
		}
		end(err)
	}, end)
	return nil
}

// clientEnd reads what the client has sent behind its request as well.
type clientEnd struct {
	net.Conn // fasthttp's
	guard    *httpguard.Conn
}

func (e clientEnd) CloseWrite() error { return e.guard.CloseWrite() }

// Close ends what is under way, which fasthttp's own does not.
func (e clientEnd) Close() error { return e.guard.Close() }

// hijack takes the client's connection over from fasthttp once the handler has
// returned, and gives it to serve, which has to send the answer as well. If that
// does not come about, because the exchange is cut or the connection breaks
// before, never is called with the cause.
func (x *exchange) hijack(fctx *fasthttp.RequestCtx, serve func(net.Conn), never func(error)) {
	var decided atomic.Bool
	forget := context.AfterFunc(x.ctx, func() {
		if decided.CompareAndSwap(false, true) {
			never(x.cause())
		}
	})
	fctx.HijackSetNoResponse(true)
	fctx.Hijack(func(conn net.Conn) {
		if decided.CompareAndSwap(false, true) {
			forget()
			serve(conn)
		}
	})
}

// tunnels are the exchanges that have switched protocols. fasthttp does not wait
// for them when it shuts down. The zero value is ready.
type tunnels struct {
	mu   sync.Mutex
	open map[*exchange]struct{}
	over chan struct{} // nil until close; then closed when none is open any more
}

// add returns false if there are to be no more.
func (t *tunnels) add(x *exchange) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over != nil {
		return false
	}
	if t.open == nil {
		t.open = make(map[*exchange]struct{})
	}
	t.open[x] = struct{}{}
	return true
}

func (t *tunnels) remove(x *exchange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, x)
	if t.over != nil && len(t.open) == 0 {
		close(t.over)
	}
}

// close cuts all that are open. The channel is closed when they are over.
func (t *tunnels) close() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over != nil {
		return t.over
	}
	t.over = make(chan struct{})
	if len(t.open) == 0 {
		close(t.over)
	}
	for x := range t.open {
		x.cut(errStopping)
	}
	return t.over
}

// CloseTunnels ends every WebSocket and the like, lets no more begin, and
// returns when the last one is over or ctx ends. They have no end of their own
// that could be waited for, and their clients connect anew.
func (h *Handlers) CloseTunnels(ctx context.Context) {
	select {
	case <-h.tunnels.close():
	case <-ctx.Done():
	}
}

var _ tunnel.End = clientEnd{}
