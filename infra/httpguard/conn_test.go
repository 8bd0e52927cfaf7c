package httpguard

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloakroom/infra/httpguard/guardtest"
)

const (
	getHead     = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
	postHead    = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 1000\r\n\r\n"
	upgradeHead = "GET /ws HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\n\r\n"
)

type noWatcher struct{}

func (noWatcher) add(*Conn) error { return nil }
func (noWatcher) remove(*Conn)    {}
func (noWatcher) stop()           {}

// guard makes a guarded connection of nc, as if it had been accepted.
func guard(nc net.Conn, cfg Config) *Conn {
	l := newListener(nil, cfg.withDefaults(), noWatcher{})
	l.places <- struct{}{}
	l.open = 1
	c := newConn(nc, l)
	c.place = l.places
	return c
}

// pipe returns a guarded connection in memory and its client's end.
func pipe(t *testing.T, cfg Config) (*Conn, net.Conn) {
	server, client := net.Pipe()
	t.Cleanup(func() { server.Close(); client.Close() })
	return guard(server, cfg), client
}

// stream is a connection that its client sends the given pieces on, one a
// read, and then end.
type stream struct {
	net.Conn
	pieces []string
	end    error
	joined bool // the last piece comes together with end
}

func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

func (s *stream) Read(p []byte) (int, error) {
	if len(s.pieces) == 0 {
		return 0, s.end
	}
	n := copy(p, s.pieces[0])
	if s.pieces[0] = s.pieces[0][n:]; s.pieces[0] == "" {
		s.pieces = s.pieces[1:]
	}
	if s.joined && len(s.pieces) == 0 {
		return n, s.end
	}
	return n, nil
}

// sent returns a guarded connection on which the pieces arrive, and then EOF.
func sent(pieces ...string) *Conn {
	return guard(&stream{pieces: pieces, end: io.EOF}, Config{})
}

// readAll reads c to its end.
func readAll(c *Conn) (string, error) {
	var all strings.Builder
	p := make([]byte, 4<<10)
	for {
		n, err := c.Read(p)
		all.Write(p[:n])
		if err != nil {
			return all.String(), err
		}
	}
}

func TestReadRefuses(t *testing.T) {
	const broken = "GET / HTTP/1.1\nHost: app.test\r\n\r\n"
	tests := []struct {
		name   string
		pieces []string
		want   string
	}{
		{"at once", []string{broken}, "?"},
		{"behind a request in the same piece", []string{getHead + broken}, getHead + "?"},
		{"behind a request", []string{getHead, broken}, getHead + "?"},
		{"behind an empty line", []string{"\r\n", broken}, "\r\n?"},
		{"behind the CR of an empty line", []string{"\r", "\n" + broken}, "\r?"},
		{"part of it delivered", []string{"GET", " / HTTP/1.1\nHost: app.test\r\n\r\n"}, "GET"},
		{"in a body that has begun", []string{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1 \r\nx\r\n"},
			"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"in a trailer section", []string{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X : y\r\n\r\n"},
			"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := sent(append(tt.pieces, getHead)...)
			got, err := readAll(c)
			if got != tt.want {
				t.Errorf("delivered %q, want %q", got, tt.want)
			}
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal != c.Refusal() {
				t.Errorf("error %v, Refusal() %v, want the same refusal", err, c.Refusal())
			}
			if n, again := c.Read(make([]byte, 10)); n != 0 || again != err {
				t.Errorf("read again: %d, %v, want 0, %v", n, again, err)
			}
		})
	}
}

func TestReadEnds(t *testing.T) {
	reset := errors.New("connection reset")
	tests := []struct {
		name string
		conn *stream
		want error
		more string // delivered besides
	}{
		{"before anything", &stream{end: io.EOF}, io.EOF, ""},
		{"between messages", &stream{pieces: []string{getHead}, end: io.EOF}, io.EOF, ""},
		{"together with the last bytes", &stream{pieces: []string{getHead}, end: io.EOF, joined: true}, io.EOF, ""},
		{"in a head", &stream{pieces: []string{"GET / HT"}, end: io.EOF}, io.ErrUnexpectedEOF, ""},
		{"in a head, together with it", &stream{pieces: []string{"GET / HT"}, end: io.EOF, joined: true}, io.ErrUnexpectedEOF, ""},
		{"in a body", &stream{pieces: []string{postHead, "abc"}, end: io.EOF}, io.ErrUnexpectedEOF, ""},
		{"behind an upgrade", &stream{pieces: []string{upgradeHead}, end: io.EOF}, io.EOF, ""},
		{"by a reset", &stream{pieces: []string{postHead}, end: reset}, reset, ""},
		{"in a trailer section", &stream{pieces: []string{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"}, end: io.EOF}, io.ErrUnexpectedEOF, "?"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := strings.Join(tt.conn.pieces, "") + tt.more
			c := guard(tt.conn, Config{})
			if got, err := readAll(c); got != want || err != tt.want {
				t.Errorf("read %q, %v, want %q, %v", got, err, want, tt.want)
			}
			if c.OnGone(func() {}) {
				t.Error("the client does not count as gone")
			}
		})
	}
}

func TestReadStopsAfterUpgrade(t *testing.T) {
	const frames = "\x81\x05hello\n\x00"
	p := make([]byte, 4<<10)
	for _, pieces := range [][]string{{upgradeHead + frames}, {upgradeHead, frames}} {
		c := sent(pieces...)
		if n, err := c.Read(p); string(p[:n]) != upgradeHead || err != nil {
			t.Fatalf("read %q, %v, want the upgrade request alone", p[:n], err)
		}
		if !c.AllowTunnel() {
			t.Fatal("AllowTunnel() = false")
		}
		if got, err := readAll(c); got != frames || err != io.EOF {
			t.Errorf("tunnel: read %q, %v, want %q", got, err, frames)
		}
	}

	c := sent(upgradeHead + frames)
	if _, err := c.Read(p); err != nil {
		t.Fatal(err)
	}
	if got, _ := readAll(c); got != "?" || c.Refusal() == nil {
		t.Errorf("no tunnel: read %q, refusal %v, want a refusal", got, c.Refusal())
	}

	c = sent(upgradeHead+upgradeHead+getHead, getHead)
	if got, err := readAll(c); got != upgradeHead+upgradeHead+getHead+getHead || err != io.EOF {
		t.Errorf("no tunnel: read %q, %v, want all requests in order", got, err)
	}

	c = sent(getHead + frames)
	if _, err := c.Read(p); err != nil {
		t.Fatal(err)
	}
	if c.AllowTunnel() {
		t.Error("AllowTunnel() = true behind a request that asked for none")
	}
}

// Receiving tells requests apart that arrive together.
func TestReceiving(t *testing.T) {
	steps := []struct {
		piece string
		want  [4]bool // of requests 1 to 4
	}{
		{"GET /", [4]bool{true, true, true, true}},
		{" HTTP/1.1\r\nHost: a\r\n\r\n", [4]bool{false, true, true, true}},
		{postHead, [4]bool{false, true, true, true}},
		{strings.Repeat("x", 1000) + upgradeHead, [4]bool{false, false, false, true}},
		{"GET /", [4]bool{false, false, false, true}},
	}
	s := &stream{end: io.EOF}
	for _, step := range steps {
		s.pieces = append(s.pieces, step.piece)
	}
	c := guard(s, Config{})
	for _, step := range steps {
		if _, err := c.Read(make([]byte, 4<<10)); err != nil {
			t.Fatal(err)
		}
		for n, want := range step.want {
			if got := c.Receiving(uint64(n + 1)); got != want {
				t.Errorf("after %q: Receiving(%d) = %v, want %v", step.piece, n+1, got, want)
			}
		}
	}
}

func TestReadIntoSmallBuffers(t *testing.T) {
	want := upgradeHead + "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + getHead
	c := sent(want)
	var got []byte
	p := make([]byte, 7)
	for {
		n, err := c.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if string(got) != want {
		t.Errorf("read %q, want %q", got, want)
	}
}

// lasts reports how long f takes by the bubble's clock.
func lasts(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func TestReadTimeouts(t *testing.T) {
	cfg := Config{HeadTimeout: 10 * time.Second, IdleTimeout: 60 * time.Second, BodyTimeout: 20 * time.Second}
	dribble := func(client net.Conn, s string, every time.Duration) {
		for i := range len(s) {
			time.Sleep(every) // the client's pace, by the bubble's clock
			if _, err := client.Write([]byte(s[i : i+1])); err != nil {
				return
			}
		}
	}
	tests := []struct {
		name   string
		client func(net.Conn)
		after  time.Duration
		want   error
	}{
		{"silent from the start", func(net.Conn) {}, 10 * time.Second, io.EOF},
		{"silent after a request", func(c net.Conn) { io.WriteString(c, getHead) }, 60 * time.Second, io.EOF},
		{"silent after an empty line", func(c net.Conn) { io.WriteString(c, "\r\n") }, 60 * time.Second, io.EOF},
		{"stalls in a head", func(c net.Conn) { io.WriteString(c, "GET / ") }, 10 * time.Second, os.ErrDeadlineExceeded},
		{"dribbles a head", func(c net.Conn) { dribble(c, getHead, 3*time.Second) }, 13 * time.Second, os.ErrDeadlineExceeded},
		{"dribbles a second head", func(c net.Conn) { io.WriteString(c, getHead); dribble(c, getHead, 3*time.Second) }, 13 * time.Second, os.ErrDeadlineExceeded},
		{"stalls in a body", func(c net.Conn) { io.WriteString(c, postHead+"x") }, 20 * time.Second, os.ErrDeadlineExceeded},
		{"dribbles a body, then stalls", func(c net.Conn) {
			io.WriteString(c, postHead)
			dribble(c, "abcd", 19*time.Second)
		}, 96 * time.Second, os.ErrDeadlineExceeded},
		{"stalls in a trailer section", func(c net.Conn) {
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ")
		}, 10 * time.Second, os.ErrDeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, client := pipe(t, cfg)
				var clients sync.WaitGroup
				clients.Go(func() { tt.client(client) })
				var err error
				after := lasts(func() { _, err = readAll(c) })
				if after != tt.after || !errors.Is(err, tt.want) {
					t.Errorf("ended after %v with %v, want %v with %v", after, err, tt.after, tt.want)
				}
				client.Close()
				clients.Wait()
			})
		})
	}
}

func TestTunnelHasNoReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client := pipe(t, Config{})
		go func() {
			io.WriteString(client, upgradeHead)
			time.Sleep(24 * time.Hour)
			io.WriteString(client, "late")
			client.Close()
		}()
		p := make([]byte, 100)
		if _, err := c.Read(p); err != nil || !c.AllowTunnel() {
			t.Fatal("no tunnel", err)
		}
		if got, err := readAll(c); got != "late" || err != io.EOF {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

// A deadline of the user's ends a read that is under way, and does not outlive
// its removal.
func TestSetReadDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, client := pipe(t, Config{})
		go io.WriteString(client, postHead)
		p := make([]byte, 1000)
		if _, err := c.Read(p); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { _, err := c.Read(p); ended <- err }()
		synctest.Wait()
		c.SetReadDeadline(time.Unix(1, 0))
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("interrupted read: %v", err)
		}
		if after := lasts(func() { c.Read(p) }); after != 0 {
			t.Errorf("read under the past deadline lasted %v", after)
		}
		c.SetDeadline(time.Time{})
		go io.WriteString(client, "x")
		if n, err := c.Read(p); n != 1 || err != nil {
			t.Errorf("read after the deadline was removed: %d, %v", n, err)
		}
		if c.OnGone(func() {}) == false {
			t.Error("a deadline counts as a client that has gone")
		}
	})
}

func TestWriteTimeout(t *testing.T) {
	answer := make([]byte, 4*writeSlice)
	synctest.Test(t, func(t *testing.T) {
		c, client := pipe(t, Config{WriteTimeout: 30 * time.Second})
		go func() {
			for range 4 {
				time.Sleep(29 * time.Second) // slow, but reading
				io.CopyN(io.Discard, client, writeSlice)
			}
		}()
		if n, err := c.Write(answer); n != len(answer) || err != nil {
			t.Errorf("slow reader: wrote %d, %v", n, err)
		}
		go io.CopyN(io.Discard, client, writeSlice+5)
		var n int
		var err error
		after := lasts(func() { n, err = c.Write(answer) })
		if n != writeSlice+5 || !errors.Is(err, os.ErrDeadlineExceeded) || after != 30*time.Second {
			t.Errorf("reader that stops: wrote %d, %v after %v", n, err, after)
		}
		c.SetWriteDeadline(time.Now().Add(time.Second))
		if after := lasts(func() { c.Write(answer) }); after != time.Second {
			t.Errorf("own deadline: ended after %v", after)
		}
	})
}

func TestCloseTwice(t *testing.T) {
	c, _ := pipe(t, Config{})
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
}

type wrapped struct{ *Conn }

type hijacked struct{ net.Conn }

func (h hijacked) UnsafeConn() net.Conn { return h.Conn }

func TestOf(t *testing.T) {
	c, client := pipe(t, Config{})
	for _, conn := range []net.Conn{c, wrapped{c}, hijacked{c}, hijacked{wrapped{c}}} {
		if got, ok := Of(conn); got != c || !ok {
			t.Errorf("Of(%T) = %v, %v", conn, got, ok)
		}
	}
	for _, conn := range []net.Conn{nil, client, hijacked{nil}} {
		if got, ok := Of(conn); got != nil || ok {
			t.Errorf("Of(%T) = %v, %v", conn, got, ok)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	c := guard(&repeated{s: guardtest.Browser}, Config{})
	p := make([]byte, 32<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Read(p); err != nil {
			b.Fatal(err)
		}
	}
}

type repeated struct {
	stream
	s string
}

func (r *repeated) Read(p []byte) (int, error) { return copy(p, r.s), nil }
