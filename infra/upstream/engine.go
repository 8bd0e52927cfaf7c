// Package upstream is the outbound leg of the reverse proxy: where a request may
// go (route.go, path.go), which header fields travel with it and come back
// (header.go, forwarded.go), and the engine that carries it: Transport, over
// net/http, for HTTP/2, in package h1 a leaner one for HTTP/1.1, and before the two
// a Choice (choice.go). Package enginetest holds what is expected of each.
//
// Package routes turns a Fiber request into a Request and a Response back into
// a Fiber response; it decides who may pass and with which token. This package
// knows neither Fiber nor devices nor tokens. An Engine sends what it is given:
// policy is applied before it and after it, so that another engine can take its
// place.
//
// A request may ask to switch protocols (upgrade.go). An upstream that does so
// without being asked, or to another one, gives an error: the connection would
// become a tunnel past every rule here.
package upstream

import (
	"context"
	"io"
	"net/url"
)

// Engine carries requests to upstreams. It is safe for concurrent use.
//
// An engine may have a method Close, which closes the connections that nobody
// uses; those in use end with their requests, and are not kept afterwards.
type Engine interface {
	// Do sends r and returns the answer as soon as its header is there, which
	// may be before r's body is sent. It follows no redirects and keeps no
	// cookies; interim answers (1xx) are dropped.
	//
	// The caller closes the response's body, whatever it has read of it; until
	// then, and as long as it does not close, the engine goes on sending r's
	// body. If ctx ends, the exchange does, whether or not Do has returned.
	//
	// If there is no answer, the error is the cause of ctx's end, if ctx has
	// ended, or r.Aim's, and else an *Error. That r's body could not be read is an *Error
	// of some kind as well; whoever made the body knows better.
	Do(ctx context.Context, r *Request) (*Response, error)
}

// Request is what an engine sends. Its header is final but for Aim's part: the
// engine adds what frames the body and names the host, and nothing else.
type Request struct {
	Method string
	Target *url.URL // scheme and host count
	Path   string   // the request target, sent as it is
	Header []Field  // without Host and what frames the body
	// Aim, unless it is nil, makes Header fit for Target. Whoever sends the request
	// calls it before it reads Header, so once for each address that is tried. Its
	// error is Do's.
	Aim func() error
	// Upgrade is the list of protocols that the client offers to switch to, as
	// UpgradeOf has it, or "". A request with one has no body.
	Upgrade string

	// Body is nil if there is none. It is read from another goroutine, also
	// after Do has returned.
	Body io.Reader
	// Length is that of Body, -1 if it is not known.
	Length int64
	// Rewind returns Body from its beginning once more, or false if that cannot
	// be had. An engine uses it to try again on another connection when the one
	// that it took from its pool turned out to be dead. May be nil.
	Rewind func() (io.Reader, bool)

	// Trailers are the names of the trailer fields that may follow a body of
	// unknown length, and Trailer returns their values once Body has ended.
	Trailers []string
	Trailer  func() []Field
}

// Response is an upstream's answer.
type Response struct {
	Status int // 200 to 999, or 101 with a Tunnel
	Header []Field
	// Tunnel is the connection after a switch to Protocol, which is one of those
	// that Request.Upgrade offers; nil if there was none. It is Body then.
	Tunnel   Tunnel
	Protocol string
	// Body is never nil. Its end is io.EOF only if all of it has come.
	Body io.ReadCloser
	// Length is that of Body, or, if the answer has none because of the request's
	// method or its status, the one that the answer states; -1 if it is not known.
	Length int64
	// Trailers are the names that the upstream has announced. Trailer returns
	// the trailer fields, announced or not, once Body has ended.
	Trailers []string
	Trailer  func() []Field
}

// Tunnel is a connection that speaks no HTTP any more. The end of the request's
// context does not end it: it belongs to the caller. Close may be called from
// anywhere, and ends what is under way.
type Tunnel interface {
	io.ReadWriteCloser
	// CloseWrite tells the upstream that nothing more will be sent.
	CloseWrite() error
}

// Kind says what went wrong.
type Kind uint8

const (
	// BadTarget: the request's target may not pass.
	BadTarget Kind = iota + 1
	// Unreachable: no connection could be made, or it broke before there was
	// an answer.
	Unreachable
	// TimedOut: the upstream took too long to accept a connection or to begin
	// its answer.
	TimedOut
	// BadAnswer: the upstream answered something that cannot be passed on.
	BadAnswer
)

// Error is a request that has no answer of an upstream. Err is the cause, for
// the log; it may be nil and is not for the client, because it names addresses.
type Error struct {
	Kind Kind
	// Unsent says that no connection could be made and nothing of the request
	// has left: it can be sent to another address, whatever its method, if its
	// body can be had again.
	Unsent bool
	Err    error
}

var kinds = map[Kind]struct {
	status       int
	code, detail string
}{
	BadTarget:   {400, "bad_target", "The address holds characters or path segments that cannot be passed on."},
	Unreachable: {502, "upstream_unreachable", "The service behind this address cannot be reached right now."},
	TimedOut:    {504, "upstream_timeout", "The service behind this address took too long to answer."},
	BadAnswer:   {502, "upstream_bad_answer", "The service behind this address gave an answer that cannot be passed on."},
}

// Status is the HTTP status that tells a client.
func (e *Error) Status() int { return kinds[e.Kind].status }

// Code names the error for programs.
func (e *Error) Code() string { return kinds[e.Kind].code }

// Detail is a sentence for people.
func (e *Error) Detail() string { return kinds[e.Kind].detail }

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Code()
	}
	return e.Code() + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }
