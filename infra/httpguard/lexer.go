package httpguard

import "io"

// Limits of the grammar, in bytes.
const (
	maxMethod   = 16
	maxLength   = 15 // digits of Content-Length: below 2^53, exact in every language
	maxSize     = 8  // digits of a chunk size
	maxChunkExt = 256
	maxTrailers = 8 << 10
)

// lexer follows a client's byte stream through the grammar below and stops at
// the first byte that leaves it. The grammar is narrower than RFC 9112 where
// the RFC is lenient: whoever stands in front may read a lenient form
// differently, and that difference is what request smuggling is made of.
//
//	message  = [ CRLF ] method SP target SP version CRLF fields CRLF body
//	method   = 1*16 "A"-"Z", not "CONNECT"
//	target   = path [ "?" query ], or "*" with OPTIONS
//	version  = "HTTP/1.0" / "HTTP/1.1"
//	fields   = *( token ":" OWS value CRLF )
//	body     = nothing / Content-Length bytes / chunked
//	chunked  = *( size [ ";" ext ] CRLF data CRLF ) "0" [ ";" ext ] CRLF fields CRLF
//
//	Host              = 1*hostByte, exactly once
//	Content-Length    = 1*15 digit, at most once, never with Transfer-Encoding
//	Transfer-Encoding = "chunked", at most once, not in HTTP/1.0
//	Upgrade           = any value, never with a body
//
// The three framing fields admit spaces after the colon, and no other white
// space. None of the four may stand in a trailer section.
//
// A lexer reads nothing itself and is not safe for concurrent use.
type lexer struct {
	maxHead int
	state   state
	message
	ended   uint64   // messages read to their end
	refusal *Refusal // set for good once the stream has left the grammar
}

// message is what the lexer remembers of the message that it is in.
type message struct {
	emptyLine bool // the one CRLF that may stand before a request was read
	size      int  // bytes of the head so far, or of the trailer section
	n         int  // bytes of the element that state names so far

	method  [maxMethod]byte
	methodN int
	http10  bool
	query   bool // the target is past its "?"

	name  [len("transfer-encoding")]byte // lower case, cut off
	field field

	host, upgrade      bool
	hasLength, chunked bool
	left               int64 // bytes of the body or of the chunk that are to come
	trailers           bool  // the fields are those of a trailer section
}

// state is where in the grammar the next byte stands: "in" an element, or "at"
// the one byte that must or may come.
type state uint8

const (
	atStart   state = iota // nothing of the next message yet
	atStartLF              // inside the leading CRLF
	inMethod
	inTarget
	afterAsterisk
	inVersion
	atLineLF
	atField // a field line, or the CR of the line that ends the section
	inName
	inSpace // between the colon and the value
	inValue
	atFieldLF
	atSectionLF

	inBody // states below this one count towards the head's size

	inChunkSize
	inChunkExt
	atChunkLF
	inChunkData
	atDataCR
	atDataLF

	paused  // an Upgrade request has ended: what follows may not be HTTP
	refused // nothing is delivered any more
)

// field is what a field's name means for framing.
type field uint8

const (
	otherField field = iota
	hostField
	lengthField
	codingField
)

// feed takes the next bytes of the stream and returns how many of them may be
// delivered. Fewer than all without a refusal: an Upgrade request ended there,
// and the rest must be held until it is known who reads on. With a refusal:
// the messages before the broken one; of the broken one nothing.
func (l *lexer) feed(p []byte) (int, *Refusal) {
	if l.refusal != nil {
		return 0, l.refusal
	}
	boundary := 0 // where in p the message begins that is being read
	for i := 0; i < len(p); {
		if n := l.run(p[i:]); n > 0 {
			i += n
		} else if r := l.step(p[i]); r != nil {
			l.refuse(r)
		} else {
			i++
		}
		switch l.state {
		case refused:
			return boundary, l.refusal
		case paused:
			return i, nil
		case atStart:
			if !l.emptyLine {
				boundary = i
			}
		}
	}
	return len(p), nil
}

// run takes the bytes at the start of p that need no look one by one: those of
// a body, and of a field value that means nothing for framing.
func (l *lexer) run(p []byte) int {
	switch l.state {
	case inBody, inChunkData:
		n := int(min(l.left, int64(len(p))))
		l.left -= int64(n)
		if l.left == 0 {
			if l.state == inBody {
				l.finish(atStart)
			} else {
				l.enter(atDataCR)
			}
		}
		return n
	case inValue:
		if l.field != otherField {
			return 0
		}
		n := 0
		for n < len(p) && is(p[n], valueByte) {
			n++
		}
		l.size += n
		if l.size > l.limit() {
			l.refuse(l.tooLarge())
		}
		return n
	}
	return 0
}

func (l *lexer) enter(s state) *Refusal {
	l.state, l.n = s, 0
	return nil
}

func (l *lexer) expect(c, want byte, otherwise *Refusal, next state) *Refusal {
	if c != want {
		return otherwise
	}
	return l.enter(next)
}

// finish ends a message.
func (l *lexer) finish(next state) *Refusal {
	l.ended++
	l.message = message{}
	return l.enter(next)
}

func (l *lexer) refuse(r *Refusal) {
	l.refusal = r
	l.enter(refused)
}

// resume goes on after an Upgrade request as if it had been any other.
func (l *lexer) resume() {
	if l.state == paused {
		l.enter(atStart)
	}
}

func (l *lexer) limit() int {
	if l.trailers {
		return maxTrailers
	}
	return l.maxHead
}

func (l *lexer) tooLarge() *Refusal {
	if l.trailers {
		return errTrailerSize
	}
	return errHeadTooLarge
}

// between reports whether the stream stands between two messages: nothing of
// the next one has come but perhaps an empty line.
func (l *lexer) between() bool { return l.state <= atStartLF || l.state == paused }

// inSection reports whether the stream stands in a head or a trailer section.
func (l *lexer) inSection() bool { return !l.between() && l.state < inBody }

// eof gives the end of the stream its meaning: between messages it is io.EOF,
// anywhere else io.ErrUnexpectedEOF. fasthttp takes io.EOF at a chunk boundary
// for the end of the body, which would complete a cut upload.
func (l *lexer) eof() error {
	if l.between() {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}
