// Package fiberapp builds the Fiber application that serves the broker: limits,
// timeouts, and what becomes of requests that no handler gets to see. It is
// made to stand on a listener of package httpguard, which refuses malformed
// requests and keeps the timeouts of single reads and writes. Routes are added
// by package routes; nothing here knows what is served.
//
// fasthttp's version matters as much as its settings. Fiber asks for one that
// lets encoded and doubled Transfer-Encoding through, and up to 1.74 the unread
// rest of a streamed body was served as the next request. go.mod raises it, and
// a test holds it there.
package fiberapp

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"cloakroom/infra/httpguard"
)

// Config is what the application needs from outside. Zero values stand for
// defaults.
type Config struct {
	// ErrorHandler answers for every error: those that handlers return, and,
	// as a *fiber.Error with a status and no detail, those of requests that no
	// handler answers: 400, 408, 431, 503 for a connection too many, 501, and
	// 500 after a panic. With the first four the Ctx holds an empty request, so
	// that nothing of a refused one can be echoed or logged. Default: the status and its phrase, as text.
	ErrorHandler fiber.ErrorHandler

	// Expect is asked about a request with "Expect: 100-continue" before its
	// body is called for. If it returns false, no handler runs, and it has
	// answered itself unless there is an error, which ErrorHandler answers;
	// otherwise "100 Continue" is sent and the request is routed like any other.
	// Without it, a client is told to go on before anybody has looked at its
	// session. Default: everything is accepted.
	Expect func(c *fiber.Ctx) (ok bool, err error)

	// TrustedProxies are the networks whose X-Forwarded-* fields Fiber
	// believes in c.Protocol, c.Hostname and the like. Default: nobody's.
	TrustedProxies []netip.Prefix

	// MaxHead is the size of a request's head in bytes, and has to be at least
	// httpguard's. Default httpguard.DefaultMaxHead.
	MaxHead int
	// HeadTimeout is httpguard's. Default 10 s.
	HeadTimeout time.Duration
	// IdleTimeout is httpguard's. Default 75 s.
	IdleTimeout time.Duration
	// BodyTimeout bounds the arrival of a whole body, however steadily it comes.
	// It is for those that are read before anybody has looked at the request:
	// the first 8 KiB. A handler that has reason to wait longer for more gives
	// the connection another read deadline. Default 30 s.
	BodyTimeout time.Duration

	// Logger gets what goes wrong below the handlers: never what a client
	// sent, but its address. Default slog.Default().
	Logger *slog.Logger
}

// methods are those that handlers may see; anything else is answered with 501.
// TRACE would show a client's own credentials to its scripts, and CONNECT is
// for forward proxies.
var methods = []string{
	fiber.MethodGet, fiber.MethodHead, fiber.MethodPost, fiber.MethodPut,
	fiber.MethodPatch, fiber.MethodDelete, fiber.MethodOptions,
}

// prefetch is how much of a body of known length fasthttp waits for before it
// calls the handler.
const prefetch = 8 << 10

// New returns an application without routes. Serve it with
// app.Listener(httpguard.Listener(l, …)).
//
// Request bodies are streams and unbounded: BodyLimit means nothing while
// streaming. A handler that takes a body has to count it, and must not call
// c.Body or c.BodyParser, which read to the end whatever comes.
func New(cfg Config) *fiber.App {
	if cfg.ErrorHandler == nil {
		cfg.ErrorHandler = plain
	}
	if cfg.MaxHead <= 0 {
		cfg.MaxHead = httpguard.DefaultMaxHead
	}
	if cfg.HeadTimeout <= 0 {
		cfg.HeadTimeout = 10 * time.Second
	}
	if cfg.IdleTimeout <= 0 {
		cfg.IdleTimeout = 75 * time.Second
	}
	if cfg.BodyTimeout <= 0 {
		cfg.BodyTimeout = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	proxies := make([]string, len(cfg.TrustedProxies))
	for i, p := range cfg.TrustedProxies {
		proxies[i] = p.String()
	}

	app := fiber.New(fiber.Config{
		DisableStartupMessage: true,
		ErrorHandler:          cfg.ErrorHandler,
		RequestMethods:        methods,

		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true, // it would go through temporary files first
		BodyLimit:                    prefetch,

		ReadBufferSize:  cfg.MaxHead, // Fiber's default refuses a head of 4 KiB
		WriteBufferSize: 16 << 10,

		// The guard's deadlines are the ones that count; these stand behind
		// them. On a new connection ReadTimeout runs from the accept on, while
		// the guard waits once for the first byte and once for the head.
		// IdleTimeout has to be set: otherwise the deadline of one upload
		// would stay in force for the requests after it.
		ReadTimeout: 2 * cfg.HeadTimeout,
		IdleTimeout: cfg.IdleTimeout,
		// WriteTimeout would be for a whole answer and cut every long download.
		WriteTimeout: 0,

		// Without it, strings of a Ctx change when their request is over.
		Immutable: true,
		// What decides about access has to see a path as the upstream does.
		CaseSensitive: true,
		StrictRouting: true,
		UnescapePath:  false,

		// Otherwise anybody's X-Forwarded-* fields are believed.
		EnableTrustedProxyCheck: true,
		TrustedProxies:          proxies,

		// An upstream's answer is passed on as it is. Own pages set these.
		DisableDefaultDate:        true,
		DisableDefaultContentType: true,
	})

	s := app.Server()
	f := &front{app: app, cfg: cfg, route: s.Handler}
	s.Handler = f.serve
	s.ErrorHandler = f.refuse
	if cfg.Expect != nil {
		s.ExpectHandler = f.expect
	}
	s.HeaderReceived = func(*fasthttp.RequestHeader) fasthttp.RequestConfig {
		return fasthttp.RequestConfig{ReadTimeout: cfg.BodyTimeout}
	}
	s.Logger = serverLog{cfg.Logger}
	s.SecureErrorLogMessage = true
	s.CloseOnShutdown = true
	return app
}

// plain answers with a status and its phrase.
func plain(c *fiber.Ctx, err error) error {
	status := fiber.StatusInternalServerError
	if e := (*fiber.Error)(nil); errors.As(err, &e) {
		status = e.Code
	}
	c.Set(fiber.HeaderContentType, fiber.MIMETextPlainCharsetUTF8)
	c.Status(status)
	return c.SendString(fasthttp.StatusMessage(status))
}
