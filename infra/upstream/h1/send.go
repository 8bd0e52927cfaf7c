package h1

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloakroom/infra/upstream"
)

const (
	// smallBody is how long a body that is in memory may be to be sent together
	// with the head, in bytes.
	smallBody = 16 << 10
	// bodyBuffer is for bodies on their way, and the longest chunk.
	bodyBuffer = 32 << 10
)

var (
	headBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}
	bodyBuffers = sync.Pool{New: func() any { return new([bodyBuffer]byte) }}
)

func putHead(b *[]byte) {
	if cap(*b) <= 2*smallBody {
		headBuffers.Put(b)
	}
}

// appendRequest writes the request's head. What would make more or other lines
// of it than there are fields is refused, whoever has let it come this far.
func appendRequest(b []byte, r *upstream.Request, body io.Reader) ([]byte, error) {
	b = append(append(append(append(b, r.Method...), ' '), r.Path...), " HTTP/1.1\r\nHost: "...)
	b = append(append(b, r.Target.Host...), "\r\n"...)
	if r.Method == "" || r.Path == "" || bytes.Count(b, []byte{' '}) != 3 {
		return b, fmt.Errorf("%w: its method or target", errBadRequest)
	}
	lines := 2
	for _, f := range r.Header {
		if !frames(f.Name) {
			b = appendField(b, f.Name, f.Value)
			lines++
		}
	}
	if r.Upgrade != "" {
		b = appendField(append(b, "Connection: Upgrade\r\n"...), "Upgrade", r.Upgrade)
		lines += 2
	}
	switch {
	case body == nil && (r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH"):
		b = append(b, "Content-Length: 0\r\n"...) // RFC 9110, section 8.6
		lines++
	case body == nil:
	case r.Length > 0:
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), r.Length, 10), "\r\n"...)
		lines++
	default:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		lines++
		if len(r.Trailers) > 0 {
			b = appendField(b, "Trailer", strings.Join(r.Trailers, ", "))
			lines++
		}
	}
	if !hasLines(b, lines) {
		return b, fmt.Errorf("%w: its header", errBadRequest)
	}
	return append(b, "\r\n"...), nil
}

func appendField(b []byte, name, value string) []byte {
	return append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
}

// hasLines reports whether b is so many lines and holds no NUL.
func hasLines(b []byte, lines int) bool {
	return bytes.Count(b, []byte{'\n'}) == lines && bytes.Count(b, []byte{'\r'}) == lines && bytes.IndexByte(b, 0) < 0
}

// frames reports whether a field is the engine's to write.
func frames(name string) bool {
	switch len(name) {
	case len("Host"):
		return strings.EqualFold(name, "Host")
	case len("Trailer"):
		return strings.EqualFold(name, "Trailer")
	case len("Content-Length"):
		return strings.EqualFold(name, "Content-Length")
	case len("Transfer-Encoding"):
		return strings.EqualFold(name, "Transfer-Encoding")
	}
	return false
}

// appendSmall writes a body behind the head, if it is in memory and a small one:
// one system call and no goroutine.
func appendSmall(b []byte, r *upstream.Request, body io.Reader) (_ []byte, ok bool, err error) {
	memory, ok := body.(interface{ Len() int })
	if !ok || r.Length > smallBody || int64(memory.Len()) != r.Length {
		return b, false, nil
	}
	n := len(b)
	b = slices.Grow(b, int(r.Length))[:n+int(r.Length)]
	_, err = io.ReadFull(body, b[n:])
	return b, true, err
}

// sender sends a request's body from a goroutine of its own. It ends when the
// body does, at the first error, and when the connection is closed; but if it
// waits for the body, which is the client's to send, it does not before that.
type sender struct {
	x    *exchange
	done chan struct{} // closed at the end

	mu      sync.Mutex
	reading bool  // from the body
	ended   bool  // the body has; what is left is a write
	stopped bool  // the body is not read any more
	isOver  bool  // the answer's head is there, or none will come
	cause   error // why the body could not be read to its end
	err     error // anything that kept the body from being sent
}

func (x *exchange) startSending() *sender {
	s := &sender{x: x, done: make(chan struct{})}
	go s.run()
	return s
}

func (s *sender) run() {
	defer close(s.done)
	buf := bodyBuffers.Get().(*[bodyBuffer]byte)
	defer bodyBuffers.Put(buf)
	var err error
	if s.x.r.Length > 0 {
		err = s.sendFixed(buf[:])
	} else {
		err = s.sendChunks(buf[:])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	if s.cause != nil || s.stopped && !s.ended {
		// The upstream is not to take for complete what is not.
		s.x.c.cut()
	} else if !s.isOver {
		// Sent, or the upstream does not want more: the answer's time begins.
		_ = s.x.c.SetReadDeadline(s.x.e.answerBy())
	}
}

func (s *sender) sendFixed(buf []byte) error {
	for left := s.x.r.Length; left > 0; {
		n, err := s.next(buf[:min(int64(len(buf)), left)], left)
		if left -= int64(n); n > 0 {
			if _, err := s.x.c.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sendChunks writes what each read brings as a chunk, in one write.
func (s *sender) sendChunks(buf []byte) error {
	const front, back = len("8000\r\n"), len("\r\n")
	for {
		n, err := s.next(buf[front:len(buf)-back], -1)
		if err != nil && err != io.EOF {
			return err
		}
		var chunk []byte
		if n > 0 {
			var size [front]byte
			line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
			copy(buf[front-len(line):], line)
			chunk = append(buf[front-len(line):front+n], "\r\n"...)
		}
		if err == io.EOF {
			if chunk, err = s.appendEnd(chunk); err != nil {
				return err
			}
			_, err = s.x.c.Write(chunk)
			return err
		}
		if n > 0 {
			if _, err := s.x.c.Write(chunk); err != nil {
				return err
			}
		}
	}
}

// appendEnd writes the last chunk and the trailer section.
func (s *sender) appendEnd(b []byte) ([]byte, error) {
	b = append(b, "0\r\n"...)
	from, lines := len(b), 0
	if len(s.x.r.Trailers) > 0 {
		for _, f := range s.x.r.Trailer() {
			if slices.ContainsFunc(s.x.r.Trailers, func(name string) bool { return strings.EqualFold(name, f.Name) }) {
				b = appendField(b, f.Name, f.Value)
				lines++
			}
		}
	}
	if !hasLines(b[from:], lines) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cause = fmt.Errorf("%w: its trailer", errBadRequest)
		return nil, s.cause
	}
	return append(b, "\r\n"...), nil
}

// next reads from the body, of which left bytes are to come, or -1. It returns
// io.EOF, perhaps with the last bytes, for one of unknown length only.
func (s *sender) next(p []byte, left int64) (int, error) {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return 0, errOver
	}
	s.reading = true
	s.mu.Unlock()
	n, err := s.x.body.Read(p)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = false
	switch {
	case left >= 0 && int64(n) == left:
		s.ended = true
		return n, nil
	case left < 0 && err == io.EOF:
		s.ended = true
		return n, err
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		s.cause = err
	}
	return n, err
}

// answered notes that the answer's head is there, or that none will come, and
// returns why the body could not be read, if that is what no answer is due to.
func (s *sender) answered(ok bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isOver = true
	if ok {
		return s.x.c.SetReadDeadline(time.Time{})
	}
	return s.cause
}

// stop ends the reading of the body. It reports whether none is under way.
func (s *sender) stop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	return !s.reading
}

// broken reports whether the body could not be read.
func (s *sender) broken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause != nil
}

// lastWrite is how long the end of a body may take to be sent when the whole
// answer to it is there: an upstream that does not read it is not waited for.
const lastWrite = 50 * time.Millisecond

// finish ends the sending when the exchange ends. It reports whether reuse is
// wanted and all of the body was sent. If it was not, whoever asks closes the
// connection, upon which the goroutine ends.
func (s *sender) finish(reuse bool) bool {
	s.mu.Lock()
	s.stopped = true
	reuse = reuse && s.ended
	s.mu.Unlock()
	if !reuse {
		return false
	}
	if err := s.x.c.SetWriteDeadline(time.Now().Add(lastWrite)); err != nil {
		return false
	}
	<-s.done
	return s.err == nil
}
