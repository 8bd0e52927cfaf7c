// Package httpguard stands between the network and the HTTP server that Fiber
// runs on. It makes up for three things that fasthttp lacks:
//
//   - a strict HTTP/1.1 lexer (lexer.go, grammar.go): no byte of a malformed or
//     ambiguous message gets past it, and a stream that ends in the middle of a
//     message is an error, not an end;
//   - a watcher (watch.go) that notices a client that hangs up while its
//     request is being answered;
//   - deadlines for each read and write, so that a client that sends or reads
//     nothing gives up its connection, while one that goes on slowly does not.
//
// Package fiberapp builds the server above it and answers what it refuses;
// routes asks it, through Of, when a client has gone. It knows neither Fiber
// nor fasthttp, but its Conn is shaped by how fasthttp reads: see Conn.Read.
//
// # TLS
//
// A TLS listener belongs below this one: Listener(tls.NewListener(l, c), cfg).
// The lexer then reads plaintext and the watcher finds the TCP socket under it
// through NetConn; see tls.go.
package httpguard

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// Config bounds what a client may take. The zero value of every field stands
// for its default.
type Config struct {
	// MaxHead is the size of a request's head, in bytes, past which it is
	// refused with 431. Default DefaultMaxHead. The server's read buffer must
	// hold as much.
	MaxHead int
	// MaxConns is how many connections are served at once. Some beyond it are
	// accepted to be told so by 503, and further clients wait in the kernel's
	// queue. Default 10000.
	MaxConns int

	// HandshakeTimeout bounds the TLS handshake, if there is one. Default 10 s.
	HandshakeTimeout time.Duration
	// HeadTimeout bounds the wait for a connection's first byte and then each
	// request head, from its first byte to its last. Default 10 s.
	HeadTimeout time.Duration
	// IdleTimeout bounds the wait for the next request. Default 75 s.
	IdleTimeout time.Duration
	// BodyTimeout bounds the wait for the next bytes of a request's body.
	// Default 30 s.
	BodyTimeout time.Duration
	// WriteTimeout bounds the wait for the client to take the next 32 KiB of
	// an answer. Default 30 s.
	WriteTimeout time.Duration
	// LingerTimeout is for how long a connection that is closed while its
	// client is still sending takes in and drops the rest. Closing at once
	// would make the client's kernel throw away the answer. Default 1 s.
	LingerTimeout time.Duration

	// Logger is told when the system refuses to accept connections. Default:
	// nobody.
	Logger *slog.Logger
}

// DefaultMaxHead is the default of Config.MaxHead.
const DefaultMaxHead = 32 << 10

// maxRefused is how many connections beyond Config.MaxConns are open at once,
// each for no longer than an answer and Config.LingerTimeout take.
const maxRefused = 128

func (cfg Config) withDefaults() Config {
	setDefault(&cfg.MaxHead, DefaultMaxHead)
	setDefault(&cfg.MaxConns, 10_000)
	setDefault(&cfg.HandshakeTimeout, 10*time.Second)
	setDefault(&cfg.HeadTimeout, 10*time.Second)
	setDefault(&cfg.IdleTimeout, 75*time.Second)
	setDefault(&cfg.BodyTimeout, 30*time.Second)
	setDefault(&cfg.WriteTimeout, 30*time.Second)
	setDefault(&cfg.LingerTimeout, time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// Listener returns a listener that accepts from l and guards each connection.
// Its connections are *Conn or embed one, which Of finds. Closing it closes l; the connections live
// on, and go on being watched until the last of them is closed.
func Listener(l net.Listener, cfg Config) net.Listener {
	return newListener(l, cfg.withDefaults(), newWatcher())
}

type listener struct {
	net.Listener
	cfg     Config
	watch   watcher
	places  chan struct{} // one for each connection that is served and for a waiting Accept
	refused chan struct{} // the same for those that are one too many
	closing chan struct{}

	mu     sync.Mutex
	closed bool
	open   int // connections accepted and not yet closed
}

func newListener(l net.Listener, cfg Config, w watcher) *listener {
	return &listener{
		Listener: l,
		cfg:      cfg,
		watch:    w,
		places:   make(chan struct{}, cfg.MaxConns),
		refused:  make(chan struct{}, maxRefused),
		closing:  make(chan struct{}),
	}
}

// Accept waits for a place, to serve or at least to refuse, and then for a
// connection. It outlasts a shortage of descriptors or memory, which would end
// fasthttp's server.
func (l *listener) Accept() (net.Conn, error) {
	place := l.places
	select {
	case l.places <- struct{}{}:
	default:
		select {
		case l.places <- struct{}{}:
		case l.refused <- struct{}{}:
			place = l.refused
		case <-l.closing:
			return nil, net.ErrClosed
		}
	}
	const longest = time.Second
	for delay := 5 * time.Millisecond; ; delay = min(2*delay, longest) {
		c, err := l.acceptOne(place)
		if err == nil {
			return c, nil
		}
		if !shortage(err) {
			<-place
			return nil, err
		}
		l.cfg.Logger.Warn("cannot accept connections", "error", err)
		select {
		case <-time.After(delay):
		case <-l.closing:
			<-place
			return nil, net.ErrClosed
		}
	}
}

func (l *listener) acceptOne(place chan struct{}) (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		nc.Close()
		return nil, net.ErrClosed
	}
	c := newConn(nc, l)
	if err := l.watch.add(c); err != nil {
		// Served unwatched, it would keep an upstream busy for a client that
		// has gone.
		nc.Close()
		return nil, err
	}
	l.open++
	if c.place = l.better(place); c.place == l.refused {
		c.refuse(errTooManyConns)
	}
	if over, ok := nc.(*tls.Conn); ok {
		return &tlsConn{Conn: c, tls: over}, nil
	}
	return c, nil
}

// shortage reports whether err means that the system is out of something that
// other connections will give back. ENOSPC is epoll's word for it.
func shortage(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ENOSPC} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// better changes a place to refuse for one to serve, if there is one by now.
func (l *listener) better(place chan struct{}) chan struct{} {
	if place == l.places {
		return place
	}
	select {
	case l.places <- struct{}{}:
		<-place
		return l.places
	default:
		return place
	}
}

// release takes back the place of a connection that has been closed.
func (l *listener) release(place chan struct{}) {
	l.mu.Lock()
	l.open--
	last := l.closed && l.open == 0
	l.mu.Unlock()
	if last {
		l.watch.stop()
	}
	<-place
}

func (l *listener) Close() error {
	l.mu.Lock()
	first, last := !l.closed, l.open == 0
	l.closed = true
	l.mu.Unlock()
	if first {
		close(l.closing)
		if last {
			l.watch.stop()
		}
	}
	return l.Listener.Close()
}
