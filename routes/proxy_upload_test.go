package routes

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// clientConn is a client's connection of which only the deadline matters.
type clientConn struct {
	net.Conn
	past chan struct{} // closed by a deadline that has passed
	set  []time.Time
}

func newClientConn() *clientConn { return &clientConn{past: make(chan struct{})} }

func (c *clientConn) SetReadDeadline(t time.Time) error {
	c.set = append(c.set, t)
	if !t.IsZero() && t.Before(time.Now()) {
		close(c.past)
	}
	return nil
}

// waiting is a body whose client sends nothing.
type waiting struct {
	client *clientConn
	reads  atomic.Int64
}

func (w *waiting) Read([]byte) (int, error) {
	w.reads.Add(1)
	<-w.client.past
	return 0, os.ErrDeadlineExceeded
}

func TestNothingReadsFromTheClientAfterDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := newClientConn()
		src := &waiting{client: client}
		u := &upload{src: src, length: -1, holding: true}
		read := make(chan error, 1)
		r := &reading{upload: u}
		go func() {
			_, err := r.Read(make([]byte, 10))
			read <- err
		}()
		synctest.Wait() // until it waits for the client

		u.detach(client)
		if err := <-read; err != errUploadOver || u.failure() != nil {
			t.Errorf("the read under way ended with %v", err)
		}
		if n, err := r.Read(make([]byte, 10)); n != 0 || err == nil || err == io.EOF {
			t.Errorf("a read afterwards: %d, %v", n, err)
		}
		if src.reads.Load() != 1 {
			t.Errorf("%d reads from the client", src.reads.Load())
		}
		// The guard reads on when it closes, so that the client gets to see
		// the answer.
		if last := client.set[len(client.set)-1]; !last.IsZero() {
			t.Errorf("the deadline %v is left on the connection", last)
		}
	})
}

func TestDetachLeavesAnIdleConnectionAlone(t *testing.T) {
	client := newClientConn()
	src := strings.NewReader("hello")
	u := &upload{src: src, length: -1, holding: true}
	r := &reading{upload: u}
	if _, err := r.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	u.detach(client)
	if len(client.set) > 0 {
		t.Errorf("deadlines %v", client.set)
	}
	if _, err := r.Read(make([]byte, 2)); !errors.Is(err, errUploadOver) || src.Len() != 3 {
		t.Errorf("a read afterwards: %v, %d bytes are left", err, src.Len())
	}
	if u.failure() != nil {
		t.Errorf("an answer in the middle of a body is the failure %v", u.failure())
	}
	var none *upload
	none.detach(client)
	if none.unread() || none.failure() != nil {
		t.Error("no body is unread or broken")
	}
}

func TestUploadIsReadAnewFromWhatIsHeld(t *testing.T) {
	body := strings.Repeat("0123456789", 1000)
	u := &upload{src: strings.NewReader(body), length: -1, holding: true}
	first := &reading{upload: u}
	if _, err := io.ReadFull(first, make([]byte, 1234)); err != nil {
		t.Fatal(err)
	}
	second, ok := u.rewind()
	if !ok {
		t.Fatal("it cannot be rewound")
	}
	got, err := io.ReadAll(second)
	if err != nil || string(got) != body {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	rest, err := io.ReadAll(first) // what the second has read is held for it
	if err != nil || string(rest) != body[1234:] {
		t.Errorf("%d bytes, %v", len(rest), err)
	}
}

func TestUploadIsHeldUpToABound(t *testing.T) {
	u := &upload{src: bytes.NewReader(make([]byte, heldUpload+1)), length: -1, holding: true}
	first, second := &reading{upload: u}, &reading{upload: u}
	if _, err := io.ReadFull(first, make([]byte, heldUpload)); err != nil {
		t.Fatal(err)
	}
	if _, ok := u.rewind(); !ok || len(u.held) != heldUpload {
		t.Errorf("%d bytes are held, %v", len(u.held), ok)
	}
	if _, err := io.Copy(io.Discard, first); err != nil {
		t.Fatal(err)
	}
	if _, ok := u.rewind(); ok || u.held != nil {
		t.Errorf("%d bytes are held, %v", len(u.held), ok)
	}
	if _, err := second.Read(make([]byte, 1)); !errors.Is(err, errUploadNotHeld) {
		t.Errorf("a second pass: %v", err)
	}
}

func TestUploadThatIsTooShortHasNotEnded(t *testing.T) {
	u := &upload{src: strings.NewReader("hello"), length: 6}
	if _, err := io.Copy(io.Discard, &reading{upload: u}); !errors.Is(err, io.ErrUnexpectedEOF) || !u.unread() || !errors.Is(u.failure(), io.ErrUnexpectedEOF) {
		t.Errorf("%v, unread %v", err, u.unread())
	}
}
