package routes

import (
	"bytes"
	"iter"

	"github.com/valyala/fasthttp"
)

// fieldsOf yields a request's header lines as they came, in their order and
// case; fasthttp's own list has an order and a case of its own. Only the request
// id may be another one: that is who the request is to us.
//
// The lines were found well formed before fasthttp saw them (package httpguard).
func fieldsOf(header *fasthttp.RequestHeader) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		id := header.Peek(headerRequestID)
		for rest := header.RawHeaders(); ; {
			var line []byte
			line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
			name, value, ok := bytes.Cut(line, []byte(":"))
			switch {
			case !ok: // the empty line at the end
				yield([]byte(headerRequestID), id)
				return
			case len(name) == len(headerRequestID) && bytes.EqualFold(name, []byte(headerRequestID)):
			case !yield(name, bytes.Trim(value, " \t")):
				return
			}
		}
	}
}
