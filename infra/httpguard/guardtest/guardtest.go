// Package guardtest holds requests that a server must refuse, and others that
// resemble them and that it must serve. Package httpguard is tested with them,
// and so is every server that stands behind it: the table says what is sent,
// each test says how to look at what arrived.
package guardtest

// Poison is the target of requests that stand, in disguise, behind or inside
// the requests of Cases. No handler may ever see it.
const Poison = "/poison"

// Case is a request to refuse.
type Case struct {
	Name string
	// Ahead is sent before Raw on the same connection, in the same write. It
	// is Served requests long, all of them sound, and all must be served.
	Ahead  string
	Served int
	// Raw is malformed or ambiguous. No handler may take it for a whole
	// request.
	Raw string
	// InBody: the fault lies behind a head that is sound. A handler that
	// streams may begin, if the head arrives by itself, but reading the body
	// has to fail.
	InBody bool
	// Status is the answer: 400 or 431. The connection is closed after it.
	Status int
	// Reason is httpguard's, of type Refusal.
	Reason string
}

// Control is a connection's worth of sound requests, and what a handler must
// see of them.
type Control struct {
	Name string
	Raw  string
	Want []Request
}

// Request is what a handler sees.
type Request struct {
	Method, Target, Body string
}

const (
	host     = "Host: app.test\r\n"
	poisoned = "GET " + Poison + " HTTP/1.1\r\n" + host + "\r\n"

	get     = "GET / HTTP/1.1\r\n" + host
	post    = "POST / HTTP/1.1\r\n" + host
	chunked = post + "Transfer-Encoding: chunked\r\n\r\n"
)
