package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// proxy forwards MongoDB's wire protocol and has one request under way at a
// time, whatever connection it came by. A request that waits, as one on a
// tailable cursor does, holds up all others. Greetings alone do not wait for
// their turn: a driver whose greeting is not answered soon takes the server for
// lost.
type proxy struct {
	dial func() (net.Conn, error)
	turn sync.Mutex // held from a request to its answer

	mu    sync.Mutex
	open  map[net.Conn]struct{}
	shut  bool
	conns sync.WaitGroup
}

func newProxy(dial func() (net.Conn, error)) *proxy {
	return &proxy{dial: dial, open: make(map[net.Conn]struct{})}
}

// serve accepts connections until the listener is closed.
func (p *proxy) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		if !p.keep(client) {
			return
		}
		go p.forward(client)
	}
}

// keep notes a connection that close has to end.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut {
		_ = c.Close()
		return false
	}
	p.open[c] = struct{}{}
	p.conns.Add(1)
	return true
}

// close ends all connections and waits until they have ended.
func (p *proxy) close() {
	p.mu.Lock()
	p.shut = true
	for c := range p.open {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.conns.Wait()
}

// forward serves one client with a connection to the server of its own.
func (p *proxy) forward(client net.Conn) {
	defer p.conns.Done()
	defer func() {
		_ = client.Close()
		p.mu.Lock()
		delete(p.open, client)
		p.mu.Unlock()
	}()
	server, err := p.dial()
	if err != nil {
		return
	}
	defer server.Close()
	for {
		request, err := readMessage(client)
		if err != nil {
			return
		}
		answer, err := p.exchange(server, request)
		if err != nil {
			return
		}
		if _, err := client.Write(answer); err != nil {
			return
		}
	}
}

// exchange sends a request and waits for its answer, if it gets one.
func (p *proxy) exchange(server net.Conn, request []byte) ([]byte, error) {
	if !greets(request) {
		p.turn.Lock()
		defer p.turn.Unlock()
	}
	if _, err := server.Write(request); err != nil {
		return nil, err
	}
	if unanswered(request) {
		return nil, nil
	}
	return readMessage(server)
}

// The header of a message: length, request id, response to, opcode; the flags
// of an OP_MSG follow it.
const (
	headerBytes = 16
	opMsg       = 2013
	moreToCome  = 1 << 1
	longest     = 64 << 20
)

// readMessage reads one message with its header.
func readMessage(r io.Reader) ([]byte, error) {
	header := make([]byte, headerBytes)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(header)
	if length < headerBytes || length > longest {
		return nil, errors.New("not a message")
	}
	message := append(header, make([]byte, length-headerBytes)...)
	_, err := io.ReadFull(r, message[headerBytes:])
	return message, err
}

// greets reports whether a message is a greeting. The command is the name of the
// first field of the document that follows flags and kind; before OP_MSG, it was
// the only thing that is still asked.
func greets(message []byte) bool {
	const name = headerBytes + 4 + 1 + 4 + 1
	if binary.LittleEndian.Uint32(message[12:]) != opMsg {
		return true
	}
	for _, command := range []string{"hello\x00", "isMaster\x00", "ismaster\x00"} {
		if len(message) >= name && bytes.HasPrefix(message[name:], []byte(command)) {
			return true
		}
	}
	return false
}

// unanswered reports whether the sender of an OP_MSG waits for no answer.
func unanswered(message []byte) bool {
	return binary.LittleEndian.Uint32(message[12:]) == opMsg && len(message) >= headerBytes+4 &&
		binary.LittleEndian.Uint32(message[headerBytes:])&moreToCome != 0
}
