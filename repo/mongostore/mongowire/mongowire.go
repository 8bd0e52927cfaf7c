// Package mongowire is a double of a MongoDB server for tests. It keeps
// documents in memory and speaks MongoDB's wire protocol over TCP, so that the
// real driver can be tested against it. Each command is atomic, as MongoDB's
// are for one document.
//
// It knows what mongostore and infra/db ask for, answers everything else with
// an error, and adds what a real server does not offer: it loses answers, waits,
// refuses, goes away and comes back at a test's command. Having the same authors
// as the code that it tests, it shares their misconceptions; it proves that the
// driver is used as intended and nothing about MongoDB.
package mongowire

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// Options is what kind of server to be.
type Options struct {
	// Standalone servers are no replica set: they have no change streams and no
	// majority to read from, and do not remember what they have answered to
	// whom, so that no write can be retried blindly. Otherwise the server poses
	// as a set of one member.
	Standalone bool
	// Forgetful replica sets do not remember either, though the driver, being
	// told of a replica set, retries writes blindly.
	Forgetful bool
	// NoTTL refuses indexes that expire documents as not implemented, as some
	// services with MongoDB's protocol do.
	NoTTL bool
	// WireVersion is the newest version of the protocol that the server says it
	// speaks; 0 for that of MongoDB 7.0.
	WireVersion int32
}

// Server is a server on a loopback port. Get one from Start.
type Server struct {
	options Options
	address string

	net   sync.Mutex // guards the next three
	entry net.Listener
	conns map[net.Conn]struct{}
	gone  chan struct{} // closed while the server is stopped
	serve sync.WaitGroup

	faults faults

	mu          sync.Mutex // held for the length of a command; guards the rest
	collections map[string]*collection
	cursors     map[int64]*cursor
	lastCursor  int64
	log         changeLog
	sessions    map[string]answered
}

// Start returns a server without documents.
func Start(options Options) (*Server, error) {
	s := &Server{
		options:     options,
		collections: make(map[string]*collection),
		cursors:     make(map[int64]*cursor),
		sessions:    make(map[string]answered),
	}
	s.log.grown = make(chan struct{})
	return s, s.listen("127.0.0.1:0")
}

// URI returns the address, without a database.
func (s *Server) URI() string { return "mongodb://" + s.address }

func (s *Server) listen(address string) error {
	entry, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("mongowire: %w", err)
	}
	s.net.Lock()
	defer s.net.Unlock()
	s.address = entry.Addr().String()
	s.entry, s.conns, s.gone = entry, make(map[net.Conn]struct{}), make(chan struct{})
	s.serve.Go(func() { s.accept(entry, s.gone) })
	return nil
}

// Stop closes the port and all connections, if they are not closed already. The
// documents stay; cursors do not.
func (s *Server) Stop() {
	s.net.Lock()
	if s.conns == nil {
		s.net.Unlock()
		return
	}
	close(s.gone)
	_ = s.entry.Close()
	for c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
	s.net.Unlock()
	s.serve.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.cursors)
}

// Restart comes back at the same port after Stop.
func (s *Server) Restart() error { return s.listen(s.address) }

func (s *Server) accept(entry net.Listener, gone <-chan struct{}) {
	for {
		c, err := entry.Accept()
		if err != nil {
			return
		}
		s.net.Lock()
		if s.conns == nil {
			s.net.Unlock()
			_ = c.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.serve.Go(func() {
			s.converse(c, gone)
			_ = c.Close()
			s.net.Lock()
			delete(s.conns, c)
			s.net.Unlock()
		})
		s.net.Unlock()
	}
}

// converse answers the requests of one connection until it ends.
func (s *Server) converse(c net.Conn, gone <-chan struct{}) {
	for {
		m, err := readMessage(c)
		if err != nil {
			return
		}
		answer, keep := s.answer(m.command, gone)
		if !keep {
			return
		}
		if m.oneWay {
			continue
		}
		if err := m.reply(c, answer); err != nil {
			return
		}
	}
}

// answer runs a command, or has a fault happen to it. It reports whether the
// connection goes on.
func (s *Server) answer(command bson.D, gone <-chan struct{}) (answer bson.D, keep bool) {
	fault := s.faults.take(command)
	if fault.Delay > 0 {
		select {
		case <-time.After(fault.Delay):
		case <-gone:
			return nil, false
		}
	}
	if fault.Hold != nil {
		select {
		case <-fault.Hold:
		case <-gone:
			return nil, false
		}
	}
	switch {
	case fault.Refuse != nil:
		return fault.Refuse.document(), true
	case fault.Answer != nil:
		return fault.Answer, true
	case fault.Lose:
		return nil, false
	}
	result, err := s.execute(command, gone)
	if fault.LoseAnswer {
		return nil, false
	}
	var refusal *Error
	switch {
	case errors.Is(err, io.ErrClosedPipe): // the server was stopped meanwhile
		return nil, false
	case errors.As(err, &refusal):
		return refusal.document(), true
	case err != nil:
		return (&Error{Code: 8, Name: "UnknownError", Message: err.Error()}).document(), true
	}
	return append(result, bson.E{Key: "ok", Value: 1.0}), true
}
