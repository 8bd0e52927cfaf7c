package authapitest

import (
	"io"
	"net/http"
	"strconv"
)

// Reply is an answer that is not sent yet.
type Reply struct {
	Status int
	Header http.Header // may be nil
	Body   string
}

// Send writes the reply.
func (p Reply) Send(w http.ResponseWriter) {
	for name, values := range p.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(p.Status)
	_, _ = io.WriteString(w, p.Body) // a client that has gone misses it, as it should
}

func reply(status int, body map[string]any) Reply {
	return Reply{Status: status, Header: jsonHeader(), Body: string(marshal(body))}
}

func refusal(status int, code, detail string) Reply {
	body := map[string]any{"detail": detail}
	if code != "" {
		body["error"] = code
	}
	return reply(status, body)
}

func deadToken() Reply {
	return refusal(http.StatusBadRequest, "invalid_grant", "The refresh token is not valid any more")
}

func jsonHeader() http.Header { return http.Header{"Content-Type": {"application/json"}} }

// Behaviour answers a request in the server's stead. work does what the server
// would have done, once, and returns what it would have answered. A behaviour
// that does not call it leaves accounts and tokens as they are.
type Behaviour func(w http.ResponseWriter, r *http.Request, work func() Reply)

// script is what is to come at a path.
type script struct {
	next   []Behaviour
	always Behaviour
}

// Next scripts the next requests at a path, one each, after those that are
// scripted already and before what Always says.
func (s *Server) Next(path string, behaviours ...Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.script(path)
	at.next = append(at.next, behaviours...)
}

// Always scripts all requests at a path. A nil behaviour, like Normal, ends it.
func (s *Server) Always(path string, behaviour Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script(path).always = behaviour
}

func (s *Server) script(path string) *script {
	if s.scripts[path] == nil {
		s.scripts[path] = &script{}
	}
	return s.scripts[path]
}

// next expects the lock to be held.
func (s *Server) next(path string) Behaviour {
	at := s.script(path)
	if len(at.next) > 0 {
		first := at.next[0]
		at.next = at.next[1:]
		return first
	}
	if at.always != nil {
		return at.always
	}
	return Normal
}

// Normal works and answers.
func Normal(w http.ResponseWriter, _ *http.Request, work func() Reply) { work().Send(w) }

// Answer sends what it is given: a status, a body and pairs of header names
// and values. A body that starts with a brace or bracket is called JSON.
func Answer(status int, body string, header ...string) Behaviour {
	p := Reply{Status: status, Header: http.Header{}, Body: body}
	if body != "" && (body[0] == '{' || body[0] == '[') {
		p.Header = jsonHeader()
	}
	for i := 0; i+1 < len(header); i += 2 {
		p.Header.Add(header[i], header[i+1])
	}
	return func(w http.ResponseWriter, _ *http.Request, _ func() Reply) { p.Send(w) }
}

// Unavailable answers 503. An empty retryAfter leaves the header out.
func Unavailable(retryAfter string) Behaviour {
	return busy(http.StatusServiceUnavailable, retryAfter)
}

// TooMany answers 429. An empty retryAfter leaves the header out.
func TooMany(retryAfter string) Behaviour {
	return busy(http.StatusTooManyRequests, retryAfter)
}

func busy(status int, retryAfter string) Behaviour {
	const body = `{"detail":"Try again later"}`
	if retryAfter == "" {
		return Answer(status, body)
	}
	return Answer(status, body, "Retry-After", retryAfter)
}

// Refuse answers 400 with an error code of RFC 6749, section 5.2.
func Refuse(code string) Behaviour { return Answer(http.StatusBadRequest, `{"error":"`+code+`"}`) }

// Garbage answers 200 with a page. Nothing was done.
func Garbage(w http.ResponseWriter, _ *http.Request, _ func() Reply) {
	Reply{Status: http.StatusOK, Body: "<!doctype html><title>Welcome</title>"}.Send(w)
}

// Half works, which rotates the token, and cuts the answer in two.
func Half(w http.ResponseWriter, _ *http.Request, work func() Reply) {
	p := work()
	w.Header().Set("Content-Length", strconv.Itoa(len(p.Body)))
	p.Body = p.Body[:len(p.Body)/2]
	p.Send(w)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// Lost works, which rotates the token, and cuts the connection: the answer
// never arrives.
func Lost(_ http.ResponseWriter, _ *http.Request, work func() Reply) {
	work()
	panic(http.ErrAbortHandler)
}

// Cut cuts the connection before anything is done.
func Cut(http.ResponseWriter, *http.Request, func() Reply) { panic(http.ErrAbortHandler) }

// Gate holds requests until it is opened.
type Gate struct {
	// Arrived receives once for each request that has come to the gate.
	Arrived <-chan struct{}

	arrived chan struct{}
	open    chan struct{}
}

// gateQueue is how many arrivals a gate remembers that nobody has asked for.
const gateQueue = 1024

// NewGate makes a closed gate.
func NewGate() *Gate {
	arrived := make(chan struct{}, gateQueue)
	return &Gate{Arrived: arrived, arrived: arrived, open: make(chan struct{})}
}

// Open lets everybody through, now and later. It is called once.
func (g *Gate) Open() { close(g.open) }

// Before is a behaviour: it waits at the gate, then works and answers. A client
// that goes away meanwhile is never worked for.
func (g *Gate) Before(w http.ResponseWriter, r *http.Request, work func() Reply) {
	g.wait(r)
	work().Send(w)
}

// After is a behaviour: it works, which rotates the token, waits at the gate,
// then answers.
func (g *Gate) After(w http.ResponseWriter, r *http.Request, work func() Reply) {
	p := work()
	g.wait(r)
	p.Send(w)
}

func (g *Gate) wait(r *http.Request) {
	select {
	case g.arrived <- struct{}{}:
	default:
	}
	select {
	case <-g.open:
	case <-r.Context().Done(): // the client or the test has gone
		panic(http.ErrAbortHandler)
	}
}
