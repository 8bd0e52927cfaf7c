package upstream

import (
	"iter"
	"strings"
)

// decodings is how often a path is percent-decoded while looking for what it
// may hide. One decoding is the upstream's own and one is the careless second
// one of a framework behind it; the others are for chains of proxies. A path
// that has still more to decode is refused.
const decodings = 4

// plainTarget reports whether a request target is a path with perhaps a query,
// of visible ASCII and without a fragment. It is what a browser can send; an
// absolute form, an authority or an asterisk is not.
func plainTarget(target string) bool {
	if target == "" || target[0] != '/' {
		return false
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return true
}

// safePath reports whether everybody who could read the path finds the same
// segments in it. It refuses
//
//   - empty segments: "//host" is another authority to some, "/" to others;
//   - backslashes, which some read as slashes, and slashes that are encoded once;
//   - segments "." and "..", with or without ";parameters" or spaces behind
//     them, encoded any number of times, in UTF-8 longer than it may be as well;
//   - encoded control characters, NUL first among them;
//   - percent signs that encode nothing, where decoders disagree.
//
// A slash that is encoded twice is data to everybody who decodes once, and
// passes unless a dot segment comes of it.
func safePath(path string) bool {
	if strings.Contains(path, "//") || strings.IndexByte(path, '\\') >= 0 {
		return false
	}
	if strings.IndexByte(path, '%') < 0 {
		return !strings.Contains(path, "/.") || !hasDotSegment(path)
	}
	if hasDotSegment(path) {
		return false
	}
	var stack [256]byte
	decoded := append(stack[:0], path...)
	for round := range decodings + 1 {
		n, changed := 0, false
		for i := 0; i < len(decoded); n++ {
			c, size := decoded[i], 1
			if c == '%' {
				d, ok := unescape(decoded[i:])
				switch {
				case ok && round == decodings:
					return false
				case ok:
					c, size, changed = d, 3, true
				case round == 0:
					return false
				}
			}
			if c < ' ' || c == 0x7f || c == '\\' || c == '/' && size > 1 && round == 0 {
				return false
			}
			decoded[n] = c
			i += size
		}
		decoded = decoded[:n]
		if !changed {
			return true
		}
		if hidesASCII(decoded) || hasDotSegment(decoded) {
			return false
		}
	}
	return true
}

// hasDotSegment reports whether a segment of path is "." or "..", if one looks
// no further than its parameters and takes off spaces, as some file systems do.
func hasDotSegment[T ~string | ~[]byte](path T) bool {
	for i := 0; i < len(path); {
		if path[i] == '/' {
			i++
			continue
		}
		dots := i
		for dots < len(path) && path[dots] == '.' {
			dots++
		}
		end := dots
		for end < len(path) && path[end] == ' ' {
			end++
		}
		if n := dots - i; (n == 1 || n == 2) && (end == len(path) || path[end] == '/' || path[end] == ';') {
			return true
		}
		for i = end; i < len(path) && path[i] != '/'; i++ {
		}
	}
	return false
}

// readings yields what an upstream could take a safe path for beside what it
// says: without the parameters of its segments, which servlets drop before they
// look for what the path names, and decoded once or more. One that belongs to
// another route than the path itself must not pass: /admin;x would reach what the
// route of /admin guards by the one of everything else.
func readings(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for range decodings + 1 {
			if !yield(withoutParameters(path)) {
				return
			}
			decoded := decode(path)
			if decoded == path {
				return
			}
			path = decoded
		}
	}
}

// withoutParameters takes from every segment of path what follows a semicolon,
// and leaves out the segments that are empty then.
func withoutParameters(path string) string {
	var b strings.Builder
	for segment := range strings.SplitSeq(path, "/") {
		if name, _, _ := strings.Cut(segment, ";"); name != "" {
			b.WriteByte('/')
			b.WriteString(name)
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// decode percent-decodes path once; what encodes nothing stays.
func decode(path string) string {
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		if c == '%' {
			if d, ok := unescape(path[i:]); ok {
				c, i = d, i+2
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// hidesASCII reports whether path holds a dot, a slash or a backslash in the
// form of more than one byte, which is no UTF-8 (RFC 3629, section 3) but was
// read as such. Refusing every sequence of that length would refuse names in
// older character sets.
func hidesASCII(path []byte) bool {
	for i, c := range path {
		var tail []byte
		switch c {
		case 0xc0, 0xc1:
			tail = path[i+1:]
			if len(tail) >= 1 && tail[0]&0xc0 == 0x80 && separator(c<<6|tail[0]&0x3f) {
				return true
			}
		case 0xe0:
			tail = path[i+1:]
			if len(tail) >= 2 && tail[0]|1 == 0x81 && tail[1]&0xc0 == 0x80 && separator(tail[0]<<6|tail[1]&0x3f) {
				return true
			}
		case 0xf0:
			tail = path[i+1:]
			if len(tail) >= 3 && tail[0] == 0x80 && tail[1]|1 == 0x81 && tail[2]&0xc0 == 0x80 && separator(tail[1]<<6|tail[2]&0x3f) {
				return true
			}
		}
	}
	return false
}

func separator(c byte) bool { return c == '.' || c == '/' || c == '\\' }

// unescape decodes the percent-encoded byte that s begins with.
func unescape[T ~string | ~[]byte](s T) (c byte, ok bool) {
	if len(s) < 3 {
		return 0, false
	}
	high, low := hexDigit(s[1]), hexDigit(s[2])
	return high<<4 | low&0xf, high < 16 && low < 16
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}
