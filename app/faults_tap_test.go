package main

import (
	"net"
	"sync"
	"testing"
)

// tap is a wire between the broker and a server. What passes is counted in
// messages: what one side says until the other has it, which is a command or an
// answer in all protocols here.
type tap struct {
	t       *testing.T
	address string
	to      string

	mu      sync.Mutex
	entry   net.Listener
	conns   map[net.Conn]bool // both ends of each
	open    int
	peak    int
	message func() (pass bool) // nil: everything passes
}

func newTap(t *testing.T, to string) *tap {
	t.Helper()
	w := &tap{t: t, to: to, address: "127.0.0.1:0", conns: map[net.Conn]bool{}}
	w.listen()
	t.Cleanup(w.refuse)
	return w
}

// listen takes connections, again after refuse, at the same address.
func (w *tap) listen() {
	w.t.Helper()
	l, err := net.Listen("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.entry, w.address = l, l.Addr().String()
	w.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.join(c)
		}
	}()
}

// refuse cuts everything and takes no connections.
func (w *tap) refuse() {
	w.mu.Lock()
	_ = w.entry.Close()
	w.mu.Unlock()
	w.cut()
}

// cut cuts the connections that there are.
func (w *tap) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

// onMessage has f asked before each message is passed on, from now on.
func (w *tap) onMessage(f func() (pass bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.message = f
}

// most returns how many connections there were at once.
func (w *tap) most() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.peak
}

func (w *tap) join(client net.Conn) {
	server, err := net.Dial("tcp", w.to)
	if err != nil {
		_ = client.Close()
		return
	}
	w.mu.Lock()
	w.conns[client], w.conns[server] = true, true
	w.open++
	w.peak = max(w.peak, w.open)
	w.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { w.pass(server, client) })
	both.Go(func() { w.pass(client, server) })
	both.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, client)
	delete(w.conns, server)
	w.open--
}

func (w *tap) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			w.mu.Lock()
			ask := w.message
			w.mu.Unlock()
			if ask != nil && !ask() {
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
