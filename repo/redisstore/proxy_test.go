package redisstore

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// proxy stands between a client and a server and loses what it is told to lose.
type proxy struct {
	addr string

	mu sync.Mutex
	// lose: the answer to the next request that contains it is lost, with the
	// connection. Nil is none.
	lose  []byte
	links []*link
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	cut            bool // the next answer is lost
	subscribed     bool // events come over it
	deaf           bool // it stays open, and no answer comes over it
}

func newProxy(t *testing.T, server string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	var copies sync.WaitGroup
	copies.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			link := &link{client: client, server: upstream}
			p.mu.Lock()
			p.links = append(p.links, link)
			p.mu.Unlock()
			copies.Go(func() { pump(link, client, upstream, func(b []byte) bool { return p.request(link, b) }) })
			copies.Go(func() { pump(link, upstream, client, func([]byte) bool { return p.answer(link) }) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, link := range p.links {
			_ = link.client.Close()
			_ = link.server.Close()
		}
		p.mu.Unlock()
		copies.Wait()
	})
	return p
}

// pump passes on what passes, until the connection ends.
func pump(link *link, from, to net.Conn, passes func([]byte) bool) {
	defer link.client.Close()
	defer link.server.Close()
	buffer := make([]byte, 1<<20)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if !passes(buffer[:n]) {
			continue
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) request(link *link, b []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose != nil && bytes.Contains(b, p.lose) {
		p.lose, link.cut = nil, true
	}
	link.subscribed = link.subscribed || bytes.Contains(b, []byte("subscribe"))
	return true
}

func (p *proxy) answer(link *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if link.cut {
		_ = link.client.Close()
	}
	return !link.cut && !link.deaf
}

// loseAnswer loses the answer to the next request that contains text.
func (p *proxy) loseAnswer(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = []byte(text)
}

// lost reports whether the answer was lost.
func (p *proxy) lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lose == nil
}

// deafen makes the connections that are subscribed now deaf.
func (p *proxy) deafen() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, link := range p.links {
		if link.subscribed {
			link.deaf = true
			n++
		}
	}
	return n
}
