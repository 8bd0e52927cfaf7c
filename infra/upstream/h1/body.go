package h1

import (
	"bytes"
	"io"

	"cloakroom/infra/upstream"
)

// body is what is left to read of an answer's body (RFC 9112, section 6.3).
type body struct {
	framing  framing
	state    chunkState
	left     int64 // of the body if it is fixed, of the chunk if it is chunked
	length   int64 // for Response
	ended    bool  // all of it has come
	reusable bool  // the connection is of use after it
	trailer  []upstream.Field
}

type framing uint8

const (
	noBody framing = iota
	fixed
	chunked
	untilClose
)

// bodyOf says which body follows a head.
func bodyOf(h *head, method string) body {
	b := body{length: h.length, reusable: h.reusable()}
	switch {
	case h.status == 204:
		b.length, b.ended = 0, true
		// One that announces a body regardless may send it.
		b.reusable = b.reusable && !h.chunked && h.length <= 0
	case method == "HEAD":
		b.ended = true
		// One that answers as if to a GET sends the body, and perhaps only when
		// the next request is there to take it for its answer.
		b.reusable = b.reusable && !h.chunked && h.length == 0
	case h.status == 304:
		b.ended = true
		b.reusable = b.reusable && !h.chunked && h.length <= 0 // as with 204
	case h.chunked:
		b.framing = chunked
	case h.length < 0:
		b.framing, b.reusable = untilClose, false
	default:
		b.framing, b.left, b.ended = fixed, h.length, h.length == 0
	}
	return b
}

// within reports whether all of the body is known to have come.
func (b *body) within(in *reader) bool {
	return b.ended || b.framing == fixed && b.left <= int64(in.buffered())
}

// read returns io.EOF only if all of the body has come, and no bytes with it.
func (b *body) read(in *reader, p []byte) (n int, err error) {
	if b.ended {
		return 0, io.EOF
	}
	switch b.framing {
	case chunked:
		return b.readChunks(in, p)
	case untilClose:
		n, err = in.read(p)
		b.ended = err == io.EOF
	default:
		n, err = b.readSome(in, p)
		b.ended = b.left == 0
	}
	return n, err
}

// readSome reads from what is left of the body or the chunk.
func (b *body) readSome(in *reader, p []byte) (int, error) {
	n, err := in.read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// read reads once, from the buffer if there is something in it, and past it if
// p is as large.
func (in *reader) read(p []byte) (int, error) {
	if in.buffered() == 0 {
		if len(p) >= len(in.buf) {
			return in.receive(p)
		}
		n, err := in.receive(in.buf)
		if in.r, in.w = 0, n; n == 0 {
			return 0, err
		}
	}
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	return n, nil
}

// chunkState is what comes next when no byte of a chunk is left.
type chunkState uint8

const (
	firstSize chunkState = iota // the size of a chunk
	nextSize                    // the end of a chunk, and the size of another
	trailers
)

// readChunks reads as many chunks as there are and fit, and waits only if it
// has nothing yet: an event is not held back until the next one comes.
func (b *body) readChunks(in *reader, p []byte) (n int, err error) {
	for n < len(p) {
		switch {
		case b.left > 0:
			if n > 0 && in.buffered() == 0 {
				return n, nil
			}
			m, err := b.readSome(in, p[n:])
			if n += m; err != nil {
				return n, err
			}
		case b.state == trailers:
			if n > 0 {
				return n, nil
			}
			return 0, b.readTrailers(in)
		default:
			if n > 0 && bytes.Count(in.buf[in.r:in.w], []byte{'\n'}) < 2 {
				return n, nil
			}
			if err := b.nextChunk(in); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// maxChunkLine bounds a chunk's size with its extensions, which are ignored.
const maxChunkLine = 300

// nextChunk reads the line before a chunk, and the end of the chunk before it.
func (b *body) nextChunk(in *reader) error {
	if b.state == nextSize {
		if _, err := in.line(len("\r\n")); err != nil {
			return err
		}
	}
	line, err := in.line(maxChunkLine)
	if err != nil {
		return err
	}
	size, ok := parseChunkLine(line[:len(line)-len("\r\n")])
	if !ok {
		return malformed("a chunk's size")
	}
	if b.left, b.state = size, nextSize; size == 0 {
		b.state = trailers
	}
	return nil
}

// parseChunkLine reads hexadecimal digits, and behind them nothing but spaces and
// extensions.
func parseChunkLine(line []byte) (size int64, ok bool) {
	digits, extensions, _ := bytes.Cut(line, []byte{';'})
	digits = bytes.TrimRight(digits, " \t") // RFC 9112, section 7.1.1
	if len(digits) == 0 || len(digits) > 15 || !plain(string(extensions)) {
		return 0, false
	}
	for _, c := range digits {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = (c | 0x20) - 'a' + 10
		default:
			return 0, false
		}
		size = size<<4 | int64(c)
	}
	return size, true
}

// readTrailers reads the end of a chunked body, and returns io.EOF.
func (b *body) readTrailers(in *reader) error {
	text, err := in.section(maxTrailer, nil)
	if err != nil {
		return err
	}
	if b.trailer, err = appendFields(nil, text); err != nil {
		return err
	}
	b.ended = true
	return io.EOF
}
