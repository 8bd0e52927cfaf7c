package routes

import (
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/infra/metrics"
	"cloakroom/infra/upstream"
)

var (
	errClientGone     = errors.New("the client hung up")
	errUpstreamSilent = errors.New("the upstream fell silent")
)

// pass hands the upstream's answer to the client.
func (h *handlers) pass(c *fiber.Ctx, x *exchange, r reply) error {
	out := c.Response()
	out.SetStatusCode(r.Status)
	h.passHeader(&out.Header, r)
	if r.personal && r.Tunnel == nil {
		personal(&out.Header)
	}
	if x.body.unread() {
		// The answer came before the body's end. What is still to come must
		// not be taken for the next request.
		c.Context().SetConnectionClose()
	}
	if r.Tunnel != nil {
		return h.openTunnel(c, x, r)
	}
	switch {
	case r.head || r.Length == 0 || r.Status == fiber.StatusNoContent || r.Status == fiber.StatusNotModified:
		x.end()
		if r.Length >= 0 && (r.head || r.Status == fiber.StatusNotModified) {
			// The length that the answer to a GET would have.
			out.Header.Set(fiber.HeaderContentLength, strconv.FormatInt(r.Length, 10))
		}
		return nil
	case 0 < r.Length && r.Length <= smallAnswer:
		return x.passWhole(c, r)
	}
	untilClose := r.Length < 0 && r.http10
	if untilClose && !h.untilClose.add(x) {
		return x.fail(c, errNoTunnel)
	}
	s := &stream{exchange: x, route: r.route, response: out, from: r.Body, trailer: r.Trailer, log: logLater(c)}
	h.Metrics.StreamOpened()
	switch {
	case r.Length > 0:
		out.SetBodyStream(s, int(r.Length))
	case untilClose:
		s.untilClose(c.Context())
	default:
		s.announce(r.Trailers)
		out.SetBodyStream(s, -1)
	}
	out.ImmediateHeaderFlush = true
	return nil
}

// passHeader puts the upstream's fields into the answer, in their order and case.
// The few that fasthttp takes for its own it writes where and as it does.
func (h *handlers) passHeader(out *fasthttp.ResponseHeader, r reply) {
	date := ""
	for _, f := range upstream.ResponseHeader(r.Header, h.cookieName(), workCookie+"*", "__Host-"+workCookie+"*") {
		switch {
		case h.withholds(r.route, f.Name):
		case strings.EqualFold(f.Name, fiber.HeaderDate):
			date = f.Value
		case strings.EqualFold(f.Name, fiber.HeaderContentEncoding):
			if coding := out.ContentEncoding(); len(coding) > 0 {
				f.Value = string(coding) + ", " + f.Value // fasthttp has one line for it
			}
			out.SetContentEncoding(f.Value)
		case adapted(f.Name):
			out.EnableNormalizing()
			out.Add(f.Name, f.Value)
		default:
			out.DisableNormalizing()
			out.Add(f.Name, f.Value)
		}
	}
	out.EnableNormalizing()
	if date == "" {
		// RFC 9110, section 6.6.1: who passes on an answer without one adds it.
		date = string(fasthttp.AppendHTTPDate(nil, h.Now()))
	}
	setDate(out, date)
	h.insistOnTLS(out)
}

// withholds reports whether an upstream's field of this name is not for the
// client: because the route says so, or because it is ours to say. HSTS speaks
// for the whole host.
func (h *handlers) withholds(r *Route, name string) bool {
	return r.hides(name) || strings.EqualFold(name, headerRequestID) ||
		h.HSTS != "" && strings.EqualFold(name, fiber.HeaderStrictTransportSecurity)
}

// adapted reports whether a field of this name may be changed before the answer
// leaves, see personal and allowOrigin. fasthttp finds fields by their exact names,
// so these have the usual one.
func adapted(name string) bool {
	const cors = "Access-Control-"
	return strings.EqualFold(name, fiber.HeaderCacheControl) || strings.EqualFold(name, fiber.HeaderVary) ||
		len(name) > len(cors) && strings.EqualFold(name[:len(cors)], cors)
}

// setDate sets the Date field, which fasthttp takes for its own and ignores. As a
// trailer it is an ordinary field, and remains one when it is a trailer no more.
func setDate(out *fasthttp.ResponseHeader, date string) {
	if out.SetTrailer(fiber.HeaderDate) == nil {
		out.Set(fiber.HeaderDate, date)
		_ = out.SetTrailer("")
	}
}

// buffers are for bodies on their way through.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// passWhole hands on a small answer in one piece.
func (x *exchange) passWhole(c *fiber.Ctx, r reply) error {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	body := buffer[:r.Length]
	if _, err := io.ReadFull(r.Body, body); err != nil {
		return x.fail(c, &upstream.Error{Kind: upstream.BadAnswer, Err: err})
	}
	c.Response().SetBody(body)
	x.end()
	return nil
}

// stream is an answer's body on its way to the client. fasthttp reads it after
// the handler has returned, and then closes it, whether it came to its end or
// not.
type stream struct {
	*exchange
	route    *Route
	response *fasthttp.Response
	from     io.Reader // the upstream's body
	trailer  func() []upstream.Field
	log      *requestLog
	cut      error // why it was not read to its end
	complete bool
}

// announce makes place for the trailer section, which needs a body in chunks.
// What the header has as well is not announced: fasthttp would take it from
// there. Nor is what may still come into the header, which it would put here.
func (s *stream) announce(trailers []string) {
	s.response.Header.DisableNormalizing()
	defer s.response.Header.EnableNormalizing()
	for _, name := range trailers {
		if s.passesTrailer(name) && !adapted(name) && len(s.response.Header.Peek(name)) == 0 {
			_ = s.response.Header.AddTrailer(name)
		}
	}
}

func (s *stream) passesTrailer(name string) bool {
	return upstream.PassesTrailer(name) && !s.log.h.withholds(s.route, name)
}

// Read implements io.Reader. An end that is not the answer's is an error, upon
// which fasthttp closes the connection without the mark of the body's end.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	switch {
	case err == io.EOF:
		s.finish()
	case err != nil:
		s.cut = err
	}
	return n, err
}

// finish notes that all of the body has come, and passes on what follows it.
func (s *stream) finish() {
	s.complete = true
	if s.response.Header.ContentLength() != -1 {
		return
	}
	s.response.Header.DisableNormalizing()
	defer s.response.Header.EnableNormalizing()
	for _, f := range s.trailer() {
		if s.passesTrailer(f.Name) && s.response.Header.AddTrailer(f.Name) == nil {
			s.response.Header.Add(f.Name, f.Value)
		}
	}
}

// SupportsBodyWriteTo lets fasthttp use WriteTo: its own buffer is an eighth of
// ours, and each of its reads becomes a chunk and a system call.
func (s *stream) SupportsBodyWriteTo() bool { return true }

// WriteTo implements io.WriterTo with nothing held back between a read and its
// write.
func (s *stream) WriteTo(w io.Writer) (total int64, err error) {
	buffer := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buffer)
	for {
		n, readErr := s.Read(buffer[:])
		if n > 0 {
			written, err := w.Write(buffer[:n])
			total += int64(written)
			if err != nil {
				s.complete, s.cut = false, errClientGone
				return total, err
			}
		}
		if readErr == io.EOF {
			return total, nil
		}
		if readErr != nil {
			return total, readErr
		}
	}
}

// Close gives everything back and writes the log line.
func (s *stream) Close() error {
	switch {
	case s.complete:
		s.cut = nil
	case s.cause() != nil:
		s.cut = s.cause()
	case s.cut == nil:
		s.cut = errClientGone
	}
	s.end()
	s.log.h.Metrics.StreamEnded(cutBy(s.cut))
	s.log.end(s.cut)
	return nil
}

// cutBy says in a metric's word who cut a stream, "" for nobody.
func cutBy(cause error) string {
	switch {
	case cause == nil:
		return ""
	case errors.Is(cause, errDeviceEnded):
		return metrics.CutByDevice
	case errors.Is(cause, errClientGone):
		return metrics.CutByClient
	case errors.Is(cause, errStopping):
		return metrics.CutByStop
	}
	return metrics.CutByUpstream
}

// untilClose sends an answer of unknown length to a client that does not know
// chunks: its end is the connection's (RFC 9112, section 6.3). fasthttp would
// send chunks regardless.
func (s *stream) untilClose(fctx *fasthttp.RequestCtx) {
	s.response.Header.SetConnectionClose()
	end := func() {
		_ = s.Close()
		s.log.h.untilClose.remove(s.exchange)
	}
	s.hijack(fctx, func(client net.Conn) {
		defer end()
		_, err := client.Write(s.response.Header.Header())
		if err == nil {
			_, err = s.WriteTo(client)
		}
		if err != nil && s.guard != nil {
			s.guard.Break()
		}
	}, func(error) { end() })
}

var _ fasthttp.BodyWriterTo = (*stream)(nil)
