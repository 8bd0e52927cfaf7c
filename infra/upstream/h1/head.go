package h1

import (
	"bytes"
	"io"
	"strings"
	"sync"

	"cloakroom/infra/upstream"
)

const (
	readBuffer = 8 << 10  // bytes; longer heads get a buffer of their own
	maxHead    = 64 << 10 // bytes, interim answers included
	maxFields  = 1000     // of a head or a trailer section
	maxTrailer = 8 << 10  // bytes
)

// reader reads an answer, head and body, through a buffer. It takes no more
// from src than it is asked for when the buffer is empty, and nothing of what
// it returns refers to the buffer.
type reader struct {
	src  io.Reader
	buf  []byte
	r, w int // buf[r:w] is what has come and is not read

	received int64 // from src
}

var readBuffers = sync.Pool{New: func() any { return new([readBuffer]byte) }}

func newReader(src io.Reader) reader {
	return reader{src: src, buf: readBuffers.Get().(*[readBuffer]byte)[:]}
}

// free gives the buffer back. The reader is of no use afterwards.
func (in *reader) free() {
	if len(in.buf) == readBuffer {
		readBuffers.Put((*[readBuffer]byte)(in.buf))
	}
	in.buf, in.r, in.w = nil, 0, 0
}

func (in *reader) buffered() int { return in.w - in.r }

// receive reads from src once, past the buffer, which is empty.
func (in *reader) receive(p []byte) (int, error) {
	n, err := in.src.Read(p)
	in.received += int64(n)
	if n > 0 {
		return n, nil // an error that lasts comes again
	}
	return 0, err
}

// fill reads more into the buffer, which holds max bytes at most. It makes place
// at its front and then grows it. io.EOF is unexpected here.
func (in *reader) fill(max int) error {
	if in.r > 0 {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	if in.w == len(in.buf) {
		if in.w >= max {
			return malformed("too long")
		}
		grown := make([]byte, max)
		copy(grown, in.buf)
		w := in.w
		in.free()
		in.buf, in.w = grown, w
	}
	n, err := in.receive(in.buf[in.w:])
	in.w += n
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// line returns the next line with its CRLF, within max bytes. It is good until
// the next call.
func (in *reader) line(max int) ([]byte, error) {
	for seen := 0; ; {
		if i := bytes.IndexByte(in.buf[in.r+seen:in.w], '\n'); i >= 0 {
			line := in.buf[in.r : in.r+seen+i+1]
			if len(line) > max {
				return nil, malformed("too long")
			}
			if len(line) < 2 || line[len(line)-2] != '\r' {
				return nil, malformed("a line ends without CR")
			}
			in.r += len(line)
			return line, nil
		}
		if seen = in.buffered(); seen >= max {
			return nil, malformed("too long")
		}
		if err := in.fill(max); err != nil {
			return nil, err
		}
	}
}

// section reads lines up to and including an empty one, max bytes at most, and
// returns a copy of them without that one. Its first line is looked at as soon
// as it is there: who does not speak HTTP may never send an empty one.
func (in *reader) section(max int, first func([]byte) bool) (string, error) {
	for begin, at := 0, 0; ; { // relative to in.r
		i := bytes.IndexByte(in.buf[in.r+at:in.w], '\n')
		if i < 0 {
			at = in.buffered()
			if at >= max {
				return "", malformed("its head is too long")
			}
			if err := in.fill(max); err != nil {
				return "", err
			}
			continue
		}
		end := at + i
		line := in.buf[in.r+begin : in.r+end]
		if len(line) == 0 || line[len(line)-1] != '\r' {
			return "", malformed("a line ends without CR")
		}
		if begin == 0 && first != nil && !first(line) {
			return "", malformed("no HTTP")
		}
		at = end + 1
		if at > max {
			return "", malformed("its head is too long")
		}
		if len(line) == 1 {
			text := string(in.buf[in.r : in.r+begin])
			in.r += at
			return text, nil
		}
		begin = at
	}
}

// head is an answer's head and what follows from it (RFC 9112, section 6).
type head struct {
	status   int
	http10   bool
	fields   []upstream.Field
	trailers []string // names that are announced
	length   int64    // as stated, -1 if it is not
	chunked  bool
	close    bool // the upstream will, or said something of it that is not clear
	keep     bool // the upstream says that it keeps the connection
}

// head reads the head of the final answer, or the one with which the upstream
// switches protocols, whether it was asked to or not. Other interim ones are
// dropped.
func (in *reader) head(h *head) error {
	for left := maxHead; ; {
		text, err := in.section(left, isStatusLine)
		if err != nil {
			return err
		}
		if err := h.parse(text); err != nil {
			return err
		}
		switch {
		case h.status >= 200:
			return nil
		case h.chunked || h.length > 0 || h.length == 0 && h.status != 101:
			return malformed("an interim answer with a body")
		case h.status == 101:
			return nil
		}
		left -= len(text) + len("\r\n")
	}
}

// isStatusLine looks at no more than what tells HTTP from other protocols.
func isStatusLine(line []byte) bool { return bytes.HasPrefix(line, []byte("HTTP/1.")) }

// parse reads a head. Its fields are parts of text.
func (h *head) parse(text string) error {
	*h = head{length: -1, fields: h.fields[:0]}
	line, rest, _ := strings.Cut(text, "\r\n")
	if err := h.parseStatus(line); err != nil {
		return err
	}
	var err error
	if h.fields, err = appendFields(h.fields, rest); err != nil {
		return err
	}
	for _, f := range h.fields {
		if err := h.note(f); err != nil {
			return err
		}
	}
	switch {
	case h.chunked && h.length >= 0:
		return malformed("Transfer-Encoding and Content-Length")
	case h.chunked && h.http10:
		return malformed("Transfer-Encoding in HTTP/1.0")
	}
	return nil
}

// parseStatus reads a status line (RFC 9112, section 4). The space before an
// empty reason may be missing: many leave it away.
func (h *head) parseStatus(line string) error {
	const form = "HTTP/1.1 200"
	if len(line) < len(form) || !strings.HasPrefix(line, "HTTP/1.") || line[7] != '0' && line[7] != '1' || line[8] != ' ' ||
		len(line) > len(form) && line[len(form)] != ' ' || !plain(line) {
		return malformed("its status line")
	}
	h.http10 = line[7] == '0'
	for _, c := range []byte(line[9:12]) {
		if c < '0' || c > '9' {
			return malformed("its status")
		}
		h.status = 10*h.status + int(c-'0')
	}
	if h.status < 100 {
		return malformed("its status")
	}
	return nil
}

// note takes from a field what it says about the message as such.
func (h *head) note(f upstream.Field) error {
	switch len(f.Name) {
	case len("Content-Length"):
		if !strings.EqualFold(f.Name, "Content-Length") {
			break
		}
		n, ok := parseLength(f.Value)
		if !ok || h.length >= 0 {
			return malformed("its Content-Length")
		}
		h.length = n
	case len("Transfer-Encoding"):
		if !strings.EqualFold(f.Name, "Transfer-Encoding") {
			break
		}
		if h.chunked || !strings.EqualFold(f.Value, "chunked") {
			return malformed("its Transfer-Encoding")
		}
		h.chunked = true
	case len("Connection"):
		if strings.EqualFold(f.Name, "Connection") {
			for token := range tokens(f.Value) {
				h.close = h.close || strings.EqualFold(token, "close")
				h.keep = h.keep || strings.EqualFold(token, "keep-alive")
			}
		}
	case len("Trailer"):
		if strings.EqualFold(f.Name, "Trailer") {
			for token := range tokens(f.Value) {
				h.trailers = append(h.trailers, token)
			}
		}
	}
	return nil
}

// reusable reports whether the connection outlives the answer.
func (h *head) reusable() bool { return !h.close && (h.keep || !h.http10) }

func tokens(list string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for token := range strings.SplitSeq(list, ",") {
			if token = strings.Trim(token, " \t"); token != "" && !yield(token) {
				return
			}
		}
	}
}

// parseLength reads digits and nothing else: neither a sign nor a list of equal
// numbers.
func parseLength(s string) (n int64, ok bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	return n, 0 < len(s) && len(s) <= 18
}

// appendFields reads field lines, each with its CRLF. A line that begins with a
// space, which was once a way to go on with the one before (RFC 9112, section
// 5.2), has no name and is refused with all others that have none.
func appendFields(list []upstream.Field, text string) ([]upstream.Field, error) {
	for text != "" {
		line, rest, _ := strings.Cut(text, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) || !plain(value) || len(list) >= maxFields {
			return nil, malformed("its header")
		}
		list = append(list, upstream.Field{Name: name, Value: strings.Trim(value, " \t")})
		text = rest
	}
	return list, nil
}

func isToken(s string) bool {
	for i := range len(s) {
		if byteKind[s[i]]&inToken == 0 {
			return false
		}
	}
	return s != ""
}

// plain reports whether s holds no control character but HTAB.
func plain(s string) bool {
	for i := range len(s) {
		if byteKind[s[i]]&control != 0 {
			return false
		}
	}
	return true
}

const (
	inToken = 1 << iota // RFC 9110, section 5.6.2
	control
)

var byteKind = func() (t [256]byte) {
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] |= inToken
	}
	for c := range byte(' ') {
		if c != '\t' {
			t[c] |= control
		}
	}
	t[0x7f] |= control
	return t
}()
