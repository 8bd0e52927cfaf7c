package routes

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/infra/httpguard"
	"cloakroom/infra/upstream"
	"cloakroom/usecase"
)

// smallAnswer is how long an answer of known length may be to be handed to the
// client in one piece. It is read whole first, so one that breaks is a 502.
const smallAnswer = 16 << 10

// statusClientGone stands in the log for a request whose client hung up before
// there was an answer. It is sent to nobody.
const statusClientGone = 499

// proxy hands a request on to the upstream that its path belongs to, with the
// access token of the device and without anything that the client must not say,
// and the upstream's answer back. Both bodies are streams.
func (h *handlers) proxy(c *fiber.Ctx) error {
	to, v, cookies, err := h.admit(c)
	if err != nil {
		return err
	}
	c.Locals(requestLogKey).(*requestLog).route = to.Name
	x := h.newExchange(c, v)
	r, err := h.answerOf(c, x, v, cookies, to)
	if err != nil {
		return x.fail(c, err)
	}
	return h.pass(c, x, r)
}

// expected refuses what there is no sense in sending a body for.
func (h *handlers) expected(c *fiber.Ctx) error {
	if h.isOwn(c.Path()) {
		return nil
	}
	to, v, _, err := h.admit(c)
	if err != nil {
		return err
	}
	_, _, err = h.signedIn(c.UserContext(), v, to.Route)
	return err
}

// reply is an upstream's answer and what of its request decides how to pass it
// on. The request itself is not looked at any more once it is on its way: the
// rest of its body may still be coming in, and with it trailers.
type reply struct {
	*upstream.Response
	route    *Route
	head     bool // the request's method is HEAD
	http10   bool // the client does not know chunks
	personal bool // the answer may depend on who is signed in
}

// answerOf asks the upstream. If that rejects the access token, it asks for
// another one and then once more, provided that the request's body can be had
// again.
func (h *handlers) answerOf(c *fiber.Ctx, x *exchange, v usecase.Visit, cookies string, to destination) (reply, error) {
	// Not under the context that ends with the device: if it is this request's
	// refresh that is refused, the person is to be told so.
	session, known, err := h.signedIn(x.client, v, to.Route)
	if err != nil {
		return reply{}, err
	}
	if known {
		x.until(h.broker.Lifetimes.EndsAt(session.Record))
	}
	r := reply{route: to.Route, head: c.Method() == fiber.MethodHead, http10: !c.Request().Header.IsHTTP11(), personal: to.Auth != AuthNone}
	out := h.outgoing(c, cookies, to, known)
	if x.body, err = receive(x.ctx, c.Context(), out, to.MaxBody); err != nil {
		return reply{}, err
	}
	x.body.limitWait(to.FirstByteTimeout, func() { x.cut(errUpstreamSilent) })
	out.Upgrade = upgradeOf(c)
	var tokens domain.Tokens // none on a route that everybody may use
	if known {
		out.Header = to.Identity.appendTo(out.Header, session.Record)
		tokens = session.Record.Tokens
	}
	if r.Response, err = h.ask(x, to, out, tokens); err != nil {
		return reply{}, err
	}
	if r.Status != fiber.StatusUnauthorized || !known {
		return r, nil
	}

	session, ok, err := h.broker.Rejected(x.client, v, session.Record.Tokens.Access)
	if err != nil {
		return reply{}, err
	}
	if !ok || !x.body.sendAgain(out) {
		return r, nil // the upstream's 401 is the answer
	}
	finish(r.Response)
	if r.Response, err = h.ask(x, to, out, session.Record.Tokens); err != nil {
		return reply{}, err
	}
	return r, nil
}

// ask sends a request and waits until its answer begins.
func (x *exchange) ask(to destination, out *upstream.Request) (*upstream.Response, error) {
	r, err := to.Engine.Do(x.ctx, out)
	if err != nil {
		return nil, err
	}
	x.body.answer()
	if to.IdleTimeout > 0 && r.Tunnel == nil {
		r.Body = upstream.LimitSilence(r.Body, to.IdleTimeout, func() { x.cut(errUpstreamSilent) })
	}
	x.answer = r.Body
	return r, nil
}

// outgoing is the request to the upstream, still without body and bearer. Known
// says that there will be a bearer.
func (h *handlers) outgoing(c *fiber.Ctx, cookies string, to destination, known bool) *upstream.Request {
	from := upstream.Client{
		Peer:    peerAddr(c),
		Addr:    h.clientIP(c),
		Trusted: h.trustedPeer(c),
		Host:    h.publicHost(c, to.Host),
		Proto:   h.publicProto(c),
	}
	authorization := ""
	switch {
	case known:
		authorization = "Bearer"
	case to.PassAuthorization:
		authorization = c.Get(fiber.HeaderAuthorization)
	}
	return &upstream.Request{
		Method: c.Method(),
		Target: to.Destination.Target,
		Path:   to.Path,
		Header: upstream.RequestHeader(fieldsOf(&c.Request().Header), from, cookies, authorization, to.SetHeaders...),
	}
}

// publicHost is the host that browsers use to reach us, or the one that the route
// is for. What a request says in Host counts only where nothing better is known,
// which is on loopback: upstreams make links of it.
func (h *handlers) publicHost(c *fiber.Ctx, ofRoute string) string {
	if ofRoute != "" {
		return ofRoute + h.publicPort()
	}
	if _, host, ok := strings.Cut(h.PublicOrigin, "://"); ok {
		return host
	}
	return string(c.Request().Host())
}

// publicPort is the port in addresses that browsers use, with its colon, or "".
func (h *handlers) publicPort() string {
	if i := strings.LastIndexByte(h.PublicOrigin, ':'); i > len("https") {
		return h.PublicOrigin[i:]
	}
	return ""
}

// ask sends a request to its upstream with the device's access token, if it has
// one.
func (h *handlers) ask(x *exchange, to destination, out *upstream.Request, t domain.Tokens) (*upstream.Response, error) {
	switch {
	case t.Access.Empty():
	case bound(t):
		return h.askWithProof(x, to, out, t)
	default:
		setAuthorization(out, "Bearer", t.Access)
	}
	return x.ask(to, out)
}

// setAuthorization puts the token into the place that RequestHeader has kept for
// it.
func setAuthorization(r *upstream.Request, scheme string, token domain.Secret) {
	for i := range r.Header {
		if f := &r.Header[i]; f.Name == fiber.HeaderAuthorization {
			f.Value = scheme + " " + token.Reveal()
		}
	}
}

// finishWait is how long an answer that nobody wants may take.
const finishWait = 50 * time.Millisecond

// finish reads an answer that nobody wants, if it is a small one, so that its
// connection can be used again.
func finish(r *upstream.Response) {
	if 0 <= r.Length && r.Length <= 4<<10 {
		late := time.AfterFunc(finishWait, func() { r.Body.Close() })
		defer late.Stop()
		_, _ = io.Copy(io.Discard, r.Body)
	}
	r.Body.Close()
}

// exchange is one request with its answer on their way through the proxy, and
// everything that has to be given back when it is over.
type exchange struct {
	client context.Context // ends with the client's connection
	leave  context.CancelCauseFunc
	ctx    context.Context // ends with that, or with the device
	cancel context.CancelCauseFunc
	live   *live
	device domain.DeviceID // whose ticket the request carries, zero if it has none
	conn   net.Conn
	guard  *httpguard.Conn // nil if the client's connection is not guarded
	body   *upload         // nil if the request has none
	answer io.Closer       // the upstream's, nil as long as there is none
	once   sync.Once
}

// newExchange begins to watch the client and the device: if the one hangs up or
// the other is signed out, the work for it stops.
func (h *handlers) newExchange(c *fiber.Ctx, v usecase.Visit) *exchange {
	x := &exchange{conn: c.Context().Conn(), live: &h.underway}
	x.client, x.leave = context.WithCancelCause(c.UserContext())
	x.ctx, x.cancel = context.WithCancelCause(c.UserContext()) // hangUp ends both: cheaper than a child
	if guard, ok := httpguard.Of(x.conn); ok {
		x.guard = guard
		if !guard.OnGone(x.hangUp) {
			x.hangUp()
		}
	}
	if ticket, err := domain.ParseTicket(v.Ticket); err == nil {
		x.device = ticket.DeviceID
		x.live.add(x.device, x)
	}
	return x
}

func (x *exchange) hangUp() {
	x.leave(errClientGone)
	x.cancel(errClientGone)
}

// cut stops what is under way.
func (x *exchange) cut(why error) { x.cancel(why) }

// until notes when the device ends, if nothing more is heard of it.
func (x *exchange) until(end time.Time) {
	if !x.device.IsZero() {
		x.live.until(x.device, end)
	}
}

// cause says why the exchange was cut: errClientGone or errDeviceEnded. It is nil
// if it was not, and means nothing after end.
func (x *exchange) cause() error { return context.Cause(x.ctx) }

// end gives everything back. Nothing reads from the client after it.
func (x *exchange) end() {
	x.once.Do(func() {
		if x.guard != nil {
			x.guard.ForgetGone()
		}
		if x.answer != nil {
			x.answer.Close()
		}
		x.body.detach(x.conn) // before the context's end would wake its reader up
		x.cancel(nil)
		x.leave(nil)
		if !x.device.IsZero() {
			x.live.remove(x.device, x)
		}
	})
}

// fail ends an exchange that has brought no answer. A client that has gone, or
// has cut its own upload, is no error of ours: the log line says so and nothing
// else does.
func (x *exchange) fail(c *fiber.Ctx, err error) error {
	why := x.cause()
	x.end()
	switch cut := x.body.failure(); {
	case cut == nil && (why == nil || errors.Is(err, domain.ErrSignedOut)):
		return err
	case errors.Is(why, errDeviceEnded):
		return domain.ErrBadTicket
	case errors.Is(why, errUpstreamSilent):
		return &upstream.Error{Kind: upstream.TimedOut, Err: why}
	case errors.Is(cut, errTooLarge):
		return errTooLarge
	case cut != nil && x.guard != nil && x.guard.Refusal() != nil:
		return fiber.NewError(x.guard.Refusal().Status)
	case errors.Is(cut, os.ErrDeadlineExceeded):
		return fiber.ErrRequestTimeout
	case cut != nil && why == nil && x.guard != nil:
		// The guard would know if the client had gone. It is fasthttp that does
		// not like what has come: a trailer that it allows nobody.
		c.Context().SetConnectionClose()
		return fiber.ErrBadRequest
	}
	c.Context().SetConnectionClose()
	c.Status(statusClientGone)
	return nil
}
