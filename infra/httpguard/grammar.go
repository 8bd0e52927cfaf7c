package httpguard

// step takes one byte.
func (l *lexer) step(c byte) *Refusal {
	if l.state < inBody {
		if l.size++; l.size > l.limit() {
			return l.tooLarge()
		}
	}
	switch l.state {
	case atStart:
		if c == '\r' {
			if l.emptyLine {
				return errEmptyLines
			}
			return l.enter(atStartLF)
		}
		l.enter(inMethod)
		fallthrough
	case inMethod:
		if c == ' ' && l.n > 0 {
			l.methodN = l.n
			if string(l.method[:l.n]) == "CONNECT" {
				return errConnect
			}
			return l.enter(inTarget)
		}
		if c < 'A' || c > 'Z' || l.n == maxMethod {
			return errMethod
		}
		l.method[l.n] = c
		l.n++
	case atStartLF:
		l.emptyLine = true
		return l.expect(c, '\n', errLineEnd, atStart)

	case inTarget:
		switch {
		case l.n == 0 && c == '*' && string(l.method[:l.methodN]) == "OPTIONS":
			return l.enter(afterAsterisk)
		case l.n == 0 && c != '/':
			return errTarget
		case c == ' ':
			return l.enter(inVersion)
		case c == '?':
			l.query = true
		case !is(c, pathByte) && !(l.query && is(c, queryByte)):
			return errTargetByte
		}
		l.n++
	case afterAsterisk:
		return l.expect(c, ' ', errTarget, inVersion)

	case inVersion:
		const version = "HTTP/1."
		switch {
		case l.n < len(version) && c == version[l.n]:
		case l.n == len(version) && (c == '0' || c == '1'):
			l.http10 = c == '0'
		case l.n == len(version)+1 && c == '\r':
			return l.enter(atLineLF)
		case l.n == len(version)+1 && c == '\n':
			return errLineEnd
		default:
			return errVersion
		}
		l.n++
	case atLineLF:
		return l.expect(c, '\n', errLineEnd, atField)

	case atField:
		switch c {
		case '\r':
			return l.enter(atSectionLF)
		case '\n':
			return errLineEnd
		case ' ', '\t':
			return errFold
		}
		l.enter(inName)
		fallthrough
	case inName:
		if c == ':' && l.n > 0 {
			return l.endName()
		}
		if !is(c, tokenByte) {
			return errName
		}
		if l.n < len(l.name) {
			l.name[l.n] = lower(c)
		}
		l.n++
	case inSpace:
		if c == ' ' || c == '\t' && l.field == otherField {
			return nil
		}
		l.enter(inValue)
		fallthrough
	case inValue:
		if c == '\r' {
			return l.endValue()
		}
		return l.valueByte(c)
	case atFieldLF:
		return l.expect(c, '\n', errLineEnd, atField)
	case atSectionLF:
		if c != '\n' {
			return errLineEnd
		}
		if l.trailers {
			return l.finish(atStart)
		}
		return l.endHead()

	case inChunkSize:
		d, hex := hexDigit(c)
		switch {
		case hex && l.n < maxSize:
			l.left = l.left<<4 | d
			l.n++
		case c == ';' && l.n > 0:
			return l.enter(inChunkExt)
		case c == '\r' && l.n > 0:
			return l.enter(atChunkLF)
		default:
			return errChunkSize
		}
	case inChunkExt:
		if c == '\r' {
			return l.enter(atChunkLF)
		}
		if c <= 0x20 || c >= 0x7f || l.n == maxChunkExt {
			return errChunkExt
		}
		l.n++
	case atChunkLF:
		next := inChunkData
		if l.left == 0 { // the last chunk
			next = atField
			l.trailers, l.size = true, 0
		}
		return l.expect(c, '\n', errLineEnd, next)
	case atDataCR:
		return l.expect(c, '\r', errChunkEnd, atDataLF)
	case atDataLF:
		return l.expect(c, '\n', errChunkEnd, inChunkSize)
	}
	return nil
}

// endName decides at the colon what the field means, and whether it may come
// at all.
func (l *lexer) endName() *Refusal {
	l.field = otherField
	if l.n <= len(l.name) {
		switch string(l.name[:l.n]) {
		case "host":
			if l.host {
				return errHostTwice
			}
			l.host, l.field = true, hostField
		case "content-length":
			switch {
			case l.trailers:
				return errTrailerField
			case l.hasLength:
				return errLengthTwice
			case l.chunked:
				return errBothFrames
			}
			l.hasLength, l.field = true, lengthField
		case "transfer-encoding":
			switch {
			case l.trailers:
				return errTrailerField
			case l.chunked:
				return errCodingTwice
			case l.hasLength:
				return errBothFrames
			case l.http10:
				return errCoding10
			}
			l.chunked, l.field = true, codingField
		case "upgrade":
			if l.trailers {
				return errTrailerField
			}
			l.upgrade = true
		}
	}
	return l.enter(inSpace)
}

// valueByte takes one byte of a field value.
func (l *lexer) valueByte(c byte) *Refusal {
	const chunked = "chunked"
	switch l.field {
	case hostField:
		if !is(c, hostByte) {
			return errHost
		}
	case lengthField:
		if c < '0' || c > '9' || l.n == maxLength {
			return errLength
		}
		l.left = l.left*10 + int64(c-'0')
	case codingField:
		if l.n == len(chunked) || lower(c) != chunked[l.n] {
			return errCoding
		}
	default:
		if c == '\n' {
			return errLineEnd
		}
		if !is(c, valueByte) {
			return errValue
		}
	}
	l.n++
	return nil
}

// endValue decides at the CR whether a framing field's value is whole.
func (l *lexer) endValue() *Refusal {
	switch {
	case l.field == hostField && l.n == 0:
		return errHost
	case l.field == lengthField && l.n == 0:
		return errLength
	case l.field == codingField && l.n < len("chunked"):
		return errCoding
	}
	return l.enter(atFieldLF)
}

// endHead decides what follows the head.
func (l *lexer) endHead() *Refusal {
	switch {
	case !l.host:
		return errHostMissing
	case l.upgrade && (l.chunked || l.left > 0):
		return errUpgradeBody
	case l.chunked:
		return l.enter(inChunkSize)
	case l.left > 0:
		return l.enter(inBody)
	case l.upgrade:
		return l.finish(paused)
	}
	return l.finish(atStart)
}

// Classes of bytes.
const (
	tokenByte = 1 << iota
	valueByte // field value: no control character but HTAB
	pathByte
	queryByte
	hostByte
)

// classes gives every byte's classes. Browsers send | in a path and | { } ^ \
// and ` in a query as they are, so the target's classes admit these there.
var classes = func() (t [256]uint8) {
	const alnum = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for _, c := range []byte(alnum + "!#$%&'*+-.^_`|~") {
		t[c] |= tokenByte
	}
	for _, c := range []byte(alnum + ".-_:[]") {
		t[c] |= hostByte
	}
	for c := range t {
		if c == '\t' || c >= 0x20 && c != 0x7f {
			t[c] |= valueByte
		}
		if c > 0x20 && c < 0x7f {
			t[c] |= pathByte | queryByte
		}
	}
	for _, c := range []byte("\"<>\\^{}#`") {
		t[c] &^= pathByte
	}
	for _, c := range []byte("\"<>#") {
		t[c] &^= queryByte
	}
	return t
}()

func is(c byte, class uint8) bool { return classes[c]&class != 0 }

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func hexDigit(c byte) (int64, bool) {
	switch c = lower(c); {
	case c >= '0' && c <= '9':
		return int64(c - '0'), true
	case c >= 'a' && c <= 'f':
		return int64(c-'a') + 10, true
	}
	return 0, false
}
