package main

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// message returns an OP_MSG with the first field of its document named command.
func message(flags uint32, command string) []byte {
	body := binary.LittleEndian.AppendUint32(nil, flags)
	body = append(body, 0)          // a section of one document
	body = append(body, 9, 0, 0, 0) // its length, which nobody here looks at
	body = append(body, 0x10)       // an int32
	body = append(body, command...)
	body = append(body, 0, 1, 0, 0, 0, 0)
	var m []byte
	for _, n := range []uint32{uint32(headerBytes + len(body)), 1, 0, opMsg} {
		m = binary.LittleEndian.AppendUint32(m, n)
	}
	return append(m, body...)
}

// behind starts a proxy in front of a server that answers every request with
// itself, as told by answer, and returns a way to connect to it.
func behind(t *testing.T, answer func(request []byte)) func() net.Conn {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	server, front := listen(), listen()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for {
					request, err := readMessage(c)
					if err != nil {
						return
					}
					answer(request)
					if !unanswered(request) {
						_, _ = c.Write(request)
					}
				}
			}()
		}
	}()
	p := newProxy(func() (net.Conn, error) { return net.Dial("tcp", server.Addr().String()) })
	go p.serve(front)
	t.Cleanup(p.close)
	return func() net.Conn {
		c, err := net.Dial("tcp", front.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
}

func ask(t *testing.T, c net.Conn, request []byte) {
	t.Helper()
	if _, err := c.Write(request); err != nil {
		t.Error(err)
		return
	}
	if answer, err := readMessage(c); err != nil || string(answer) != string(request) {
		t.Errorf("the answer is %q, %v", answer, err)
	}
}

func TestOneRequestAtATime(t *testing.T) {
	var inside atomic.Int32
	connect := behind(t, func([]byte) {
		if inside.Add(1) != 1 {
			t.Error("two requests at once")
		}
		inside.Add(-1)
	})
	var all sync.WaitGroup
	for range 16 {
		c := connect()
		all.Go(func() {
			for range 50 {
				ask(t, c, message(0, "update"))
			}
		})
	}
	all.Wait()
}

func TestGreetingsDoNotWait(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	connect := behind(t, func(request []byte) {
		if !greets(request) {
			close(entered)
			<-leave
		}
	})
	slow := connect()
	done := make(chan struct{})
	go func() {
		defer close(done)
		ask(t, slow, message(0, "find"))
	}()
	<-entered
	ask(t, connect(), message(0, "hello"))
	ask(t, connect(), message(0, "isMaster"))
	close(leave)
	<-done
}

func TestWhatIsNotAnsweredIsNotWaitedFor(t *testing.T) {
	connect := behind(t, func([]byte) {})
	c := connect()
	if _, err := c.Write(message(moreToCome, "insert")); err != nil {
		t.Fatal(err)
	}
	ask(t, c, message(0, "find"))
}

func TestClientsAreToldThatTheServerIsGone(t *testing.T) {
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	p := newProxy(func() (net.Conn, error) { return nil, io.ErrUnexpectedEOF })
	go p.serve(front)
	defer p.close()
	c, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := readMessage(c); err == nil {
		t.Error("an answer by nobody")
	}
}
