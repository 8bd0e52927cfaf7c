package fiberapp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/infra/httpguard"
)

// front stands between fasthttp's server and Fiber's routes.
type front struct {
	app   *fiber.App
	cfg   Config
	route fasthttp.RequestHandler
}

// serve routes a request. fasthttp does not recover from a panic: it would end
// the process and every other client's session with it.
func (f *front) serve(fctx *fasthttp.RequestCtx) {
	defer f.rescue(fctx)
	if !known(fctx.Method()) {
		f.answer(fctx, fiber.StatusNotImplemented)
		return
	}
	f.route(fctx)
	f.closeIfReceiving(fctx)
}

// closeIfReceiving ends a connection whose request was answered before all of
// it had come. fasthttp would read on and drop up to 256 KiB, at the client's
// pace; and the versions that did not do so served the rest as a request. A
// streamed answer may still be reading: its handler decides.
func (f *front) closeIfReceiving(fctx *fasthttp.RequestCtx) {
	if fctx.Response.IsBodyStream() || fctx.Hijacked() {
		return
	}
	if c, ok := httpguard.Of(fctx.Conn()); ok && c.Receiving(fctx.ConnRequestNum()) {
		fctx.SetConnectionClose()
	}
}

// refuse answers a request that fasthttp could not read.
//
// When the guard's Read returns an error in the middle of a head, fasthttp
// wraps it, without the head's bytes thanks to SecureErrorLogMessage, hands it
// to this function, adds Connection: close to the answer, sends it and closes
// the connection. An error before the first byte gets here only on a new
// connection; on one that was kept alive it counts as the client's leaving.
// That is why the guard sends a byte ahead of a refusal. An error in a body
// gets here if the body is of known length and up to 8 KiB long; of others the
// handler learns from the body's stream.
func (f *front) refuse(fctx *fasthttp.RequestCtx, err error) {
	defer f.rescue(fctx)
	status := fiber.StatusBadRequest
	log := f.cfg.Logger.With("remote", fctx.RemoteAddr().String())
	switch refusal := refusalOf(fctx, err); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		status = fiber.StatusRequestTimeout
		log.Debug("request not received in time")
	case refusal != nil:
		status = refusal.Status
		log.Info("request refused", "status", status, "reason", refusal.Reason)
	case errors.As(err, new(*fasthttp.ErrSmallBuffer)):
		status = fiber.StatusRequestHeaderFieldsTooLarge
		log.Info("request refused", "status", status, "reason", "head over the buffer")
	default:
		log.Debug("request not received", "cause", fmt.Sprintf("%T", err))
	}
	fctx.Request.Reset() // what there is of it must not be echoed
	f.answer(fctx, status)
}

func refusalOf(fctx *fasthttp.RequestCtx, err error) (r *httpguard.Refusal) {
	if errors.As(err, &r) {
		return r
	}
	if c, ok := httpguard.Of(fctx.Conn()); ok {
		return c.Refusal()
	}
	return nil
}

// expect decides for fasthttp about a request with "Expect: 100-continue". It
// returns 100 to accept it, otherwise the status of the answer, which it has
// filled in: fasthttp sends that without calling serve, and closes.
func (f *front) expect(fctx *fasthttp.RequestCtx) int {
	if f.accepts(fctx) {
		return fiber.StatusContinue
	}
	if fctx.Response.StatusCode() < fiber.StatusOK {
		fctx.SetStatusCode(fiber.StatusInternalServerError)
	}
	return fctx.Response.StatusCode()
}

func (f *front) accepts(fctx *fasthttp.RequestCtx) bool {
	defer f.rescue(fctx)
	if !known(fctx.Method()) {
		f.answer(fctx, fiber.StatusNotImplemented)
		return false
	}
	c := f.app.AcquireCtx(fctx)
	defer f.app.ReleaseCtx(c)
	ok, err := f.cfg.Expect(c)
	if err != nil {
		f.handleError(c, err)
	}
	return ok && err == nil
}

// answer ends a request that no handler has seen, or that one has died of.
func (f *front) answer(fctx *fasthttp.RequestCtx, status int) {
	fctx.Response.Reset()
	c := f.app.AcquireCtx(fctx)
	defer f.app.ReleaseCtx(c)
	f.handleError(c, fiber.NewError(status))
	fctx.SetConnectionClose()
}

func (f *front) handleError(c *fiber.Ctx, err error) {
	if f.cfg.ErrorHandler(c, err) != nil {
		c.Context().Response.Reset()
		c.Status(fiber.StatusInternalServerError)
	}
}

// rescue answers a panic with 500. What was panicked with is not logged, unless
// it is the runtime's: it may quote the request.
func (f *front) rescue(fctx *fasthttp.RequestCtx) {
	cause := recover()
	if cause == nil {
		return
	}
	attrs := []any{"type", fmt.Sprintf("%T", cause), "stack", string(debug.Stack())}
	if err, ok := cause.(runtime.Error); ok {
		attrs = append(attrs, "error", err.Error())
	}
	f.cfg.Logger.Error("panic while serving a request", attrs...)
	defer func() {
		if recover() != nil { // the error handler's own
			fctx.Response.Reset()
			fctx.SetStatusCode(fiber.StatusInternalServerError)
			fctx.SetConnectionClose()
		}
	}()
	f.answer(fctx, fiber.StatusInternalServerError)
}

func known(method []byte) bool { return slices.Contains(methods, string(method)) }

// serverLog passes on what fasthttp has to say of itself. Its formats are
// constants, but their arguments may quote a request: of those, only numbers
// and what the network said are kept.
type serverLog struct{ *slog.Logger }

func (l serverLog) Printf(format string, args ...any) {
	level := slog.LevelWarn
	if strings.HasPrefix(format, "error when serving connection") {
		level = slog.LevelDebug // refuse has said so already, or the client has gone
	}
	attrs := []slog.Attr{slog.String("event", format)}
	for _, arg := range args {
		switch arg := arg.(type) {
		case int:
			attrs = append(attrs, slog.Int("count", arg))
		case error:
			if op := (*net.OpError)(nil); errors.As(arg, &op) {
				attrs = append(attrs, slog.String("error", op.Error()))
			}
		}
	}
	l.LogAttrs(context.Background(), level, "http server", attrs...)
}
