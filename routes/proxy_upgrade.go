package routes

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/infra/httpguard"
	"cloakroom/infra/tunnel"
	"cloakroom/infra/upstream"
)

// errNoTunnel is the answer to who comes when the server stops.
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

var _ tunnel.End = clientEnd{}
