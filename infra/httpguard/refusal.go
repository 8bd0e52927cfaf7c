package httpguard

import "net/http"

// Refusal is why the guard has stopped delivering a connection's bytes. There
// is one value per reason; it says nothing of what the client sent, so it may
// be logged.
type Refusal struct {
	// Status is the answer that the client is owed: 400 for a malformed or
	// ambiguous message, 431 for a head over the limit, 408 for a message that
	// does not come in time, 503 for a connection over the limit.
	Status int
	// Reason is a phrase from a fixed list.
	Reason string
}

func (r *Refusal) Error() string { return "request refused: " + r.Reason }

func malformed(reason string) *Refusal {
	return &Refusal{Status: http.StatusBadRequest, Reason: reason}
}

var (
	errTooSlow      = &Refusal{Status: http.StatusRequestTimeout, Reason: "message not received in time"}
	errHeadTooLarge = &Refusal{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "head over the limit"}
	errTooManyConns = &Refusal{Status: http.StatusServiceUnavailable, Reason: "connections over the limit"}

	errEmptyLines = malformed("more than one empty line before the request")
	errMethod     = malformed("method is not 1 to 16 capital letters")
	errConnect    = malformed("method CONNECT")
	errTarget     = malformed("target is not in origin form")
	errTargetByte = malformed("byte not allowed in a target")
	errVersion    = malformed("version is not HTTP/1.0 or HTTP/1.1")
	errLineEnd    = malformed("line does not end in CRLF")
	errName       = malformed("field name is not a token")
	errFold       = malformed("folded field line")
	errValue      = malformed("control character in a field value")

	errHostMissing = malformed("no host")
	errHostTwice   = malformed("more than one host")
	errHost        = malformed("malformed host")

	errLengthTwice = malformed("more than one content length")
	errLength      = malformed("content length is not 1 to 15 digits")
	errCodingTwice = malformed("more than one transfer coding")
	errCoding      = malformed("transfer coding is not chunked")
	errCoding10    = malformed("transfer coding in HTTP/1.0")
	errBothFrames  = malformed("content length and transfer coding")
	errUpgradeBody = malformed("upgrade with a body")

	errChunkSize    = malformed("chunk size is not 1 to 8 hexadecimal digits")
	errChunkExt     = malformed("chunk extension is not up to 256 visible bytes")
	errChunkEnd     = malformed("chunk does not end in CRLF")
	errTrailerField = malformed("framing field in a trailer section")
	errTrailerSize  = malformed("trailer section over 8 KiB")
)
