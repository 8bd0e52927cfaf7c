package httpguard

import (
	"errors"
	"os"
	"sync"
	"time"
)

// watcher calls peerGone on each of its connections when the client hangs up,
// whether or not anybody reads from it.
type watcher interface {
	add(c *Conn) error
	remove(c *Conn)
	stop()
}

// watched is a watcher's set of connections. It names them by a counter: a
// descriptor may belong to another connection by the time an event is looked
// at.
type watched struct {
	mu    sync.Mutex
	last  uint64
	conns map[uint64]*Conn
}

func (w *watched) enter(c *Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conns == nil {
		w.conns = make(map[uint64]*Conn)
	}
	w.last++
	c.id = w.last
	w.conns[c.id] = c
}

func (w *watched) remove(c *Conn) {
	w.mu.Lock()
	delete(w.conns, c.id)
	w.mu.Unlock()
}

func (w *watched) find(id uint64) *Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns[id]
}

func (w *watched) all() []*Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]*Conn, 0, len(w.conns))
	for _, c := range w.conns {
		all = append(all, c)
	}
	return all
}

const (
	pollEvery = 250 * time.Millisecond
	probeFor  = time.Millisecond
)

// poller is the watcher for systems without epoll, which means machines to
// develop on: it asks one waiting connection after the other. It sees no
// further than one byte: a client that sends its next request ahead and then
// hangs up is noticed only when the answer is written.
type poller struct {
	watched
	stopped chan struct{}
}

func newPoller() *poller {
	w := &poller{stopped: make(chan struct{})}
	go w.loop()
	return w
}

func (w *poller) add(c *Conn) error {
	w.enter(c)
	return nil
}

func (w *poller) stop() { close(w.stopped) }

func (w *poller) loop() {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-w.stopped:
			return
		}
		w.probeAll()
	}
}

func (w *poller) probeAll() {
	for _, c := range w.all() {
		if _, awaited := c.peerState(); awaited {
			c.probe()
		}
	}
}

// probe reads one byte ahead to see whether the stream has ended; fill notes
// it if so. While somebody else reads it has nothing to do: they will see.
func (c *Conn) probe() {
	if !c.reading.TryLock() {
		return
	}
	defer c.reading.Unlock()
	if c.closed.Load() || len(c.held) > 0 || c.heldErr != nil {
		return
	}
	var b [1]byte
	n, err := c.fill(b[:], time.Now().Add(probeFor))
	c.held = append(c.held, b[:n]...)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.heldErr = err
	}
}
