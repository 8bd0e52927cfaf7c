package mongowire

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Fault is something that goes wrong with a command.
type Fault struct {
	Command string            // the command's name, such as "update"
	Only    func(bson.D) bool // which of them; nil for all
	Times   int               // to how many it happens; 0 for one

	Delay      time.Duration   // wait so long before anything else
	Hold       <-chan struct{} // wait until it is closed
	Refuse     *Error          // answer this and do nothing
	Answer     bson.D          // answer this and do nothing
	Lose       bool            // do nothing and close the connection
	LoseAnswer bool            // do what was asked, and close the connection
}

// Error is an answer that says why not.
type Error struct {
	Code    int32
	Name    string
	Message string
	Labels  []string
}

func (e *Error) Error() string { return fmt.Sprintf("(%s) %s", e.Name, e.Message) }

func (e *Error) document() bson.D {
	d := bson.D{{Key: "ok", Value: 0.0}, {Key: "errmsg", Value: e.Message}, {Key: "code", Value: e.Code}, {Key: "codeName", Value: e.Name}}
	if len(e.Labels) > 0 {
		d = append(d, bson.E{Key: "errorLabels", Value: e.Labels})
	}
	return d
}

func fail(code int32, name, format string, args ...any) error {
	return &Error{Code: code, Name: name, Message: fmt.Sprintf(format, args...)}
}

// NotPrimary is what a member of a replica set answers to a write when another
// has become the primary. It has done nothing.
func NotPrimary() *Error {
	return &Error{Code: 10107, Name: "NotWritablePrimary", Message: "not primary", Labels: []string{"RetryableWriteError"}}
}

// faults waits for the commands that faults happen to.
type faults struct {
	mu      sync.Mutex
	waiting []*Fault
	observe func(bson.D)
}

// Inject has a fault happen to the next commands that it is about, after those
// that were injected before.
func (s *Server) Inject(f Fault) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	f.Times = max(f.Times, 1)
	s.faults.waiting = append(s.faults.waiting, &f)
}

// Heal takes back all faults that have not happened yet, and returns how many
// of those injected there were.
func (s *Server) Heal() int {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	left := len(s.faults.waiting)
	s.faults.waiting = nil
	return left
}

// Observe has f see every command from now on, before it is run. Calls come one
// at a time. Nil ends it.
func (s *Server) Observe(f func(command bson.D)) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.observe = f
}

// take returns what happens to a command.
func (f *faults) take(command bson.D) Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.observe != nil {
		f.observe(command)
	}
	for i, fault := range f.waiting {
		if fault.Command != command[0].Key || fault.Only != nil && !fault.Only(command) {
			continue
		}
		if fault.Times--; fault.Times == 0 {
			f.waiting = slices.Delete(f.waiting, i, i+1)
		}
		return *fault
	}
	return Fault{}
}
