package routes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"cloakroom/infra/upstream"
)

const (
	// smallUpload is how long a body of known length may be to be received
	// whole before the upstream is asked, in bytes. fasthttp has read as much
	// of it anyway.
	smallUpload = 8 << 10
	// heldUpload is how much of a body is kept as it passes, in bytes, so that
	// it can be sent again. It is more than the 64 KiB that an HTTP/2 upstream
	// lets come before it has looked at a request (RFC 9113, section 6.9.2), and
	// a frame that waits behind them: those that it will not look at any more,
	// because it closes the connection, can all go to another.
	heldUpload = 96 << 10
	// longestUpload is how long a larger body may take to come, however steadily.
	longestUpload = time.Hour
)

var (
	errUploadOver    = errors.New("the request is over")
	errUploadNotHeld = errors.New("the body is not held any more")
)

// upload is a request's body on its way from the client. An engine reads it in
// a goroutine of its own, possibly after the handler has returned, while the
// client's connection belongs to fasthttp again as soon as the answer is
// written. So every read runs under a lock, and detach sees to it that none
// follows.
//
// A nil upload is a request without a body.
type upload struct {
	ended    atomic.Bool // all of it has come
	detached atomic.Bool // nobody wants more of it

	wait     time.Duration // of the upstream's for more, see limitWait
	stalled  *time.Timer   // runs between two reads; nil: there is no limit
	answered atomic.Bool   // the upstream has begun its answer

	forget func() bool // stops watching the exchange's context
	waking sync.Mutex
	woken  bool // by interrupt

	mu       sync.Mutex
	src      io.Reader // the client; nil when there is nothing more to be had from it
	length   int64     // -1 if not known
	most     int64     // bytes that may come; 0: any number
	read     int64     // how much has come
	held     []byte    // all of that, while holding
	holding  bool
	err      error // what ended it, io.EOF if that was its end
	trailers func() []upstream.Field
	trailer  []upstream.Field
}

// receive gives out the request's body, if it has one, until more of it has come
// than most bytes, if that is not 0. When ctx ends, so does a read that waits for
// the client. The error is that of a small body that did not come whole.
func receive(ctx context.Context, fctx *fasthttp.RequestCtx, out *upstream.Request, most int64) (*upload, error) {
	src, length := fctx.RequestBodyStream(), int64(fctx.Request.Header.ContentLength())
	if src == nil || length == 0 || length < -1 {
		return nil, nil
	}
	u := &upload{src: src, length: length, most: most, holding: true}
	client := fctx.Conn()
	u.forget = context.AfterFunc(ctx, func() { u.interrupt(client) })
	out.Length, out.Rewind = length, u.rewind
	if length < 0 {
		u.announce(&fctx.Request.Header, out)
	}
	if 0 < length && length <= heldUpload {
		u.held = make([]byte, 0, length)
	}
	if length < 0 || length > smallUpload {
		_ = fctx.SetReadDeadline(time.Now().Add(longestUpload))
		out.Body = &reading{upload: u}
		return u, nil
	}
	all := &reading{upload: u}
	for buf := u.held[:length]; !u.ended.Load(); {
		n, err := all.Read(buf)
		if err != nil && err != io.EOF {
			return u, err
		}
		buf = buf[n:]
	}
	out.Body, _ = u.rewind()
	return u, nil
}

// limitWait bounds for how long the upstream may take no more of the body while
// it has not begun to answer: cut is called then, and has to end the exchange.
// There is no limit if it is 0.
func (u *upload) limitWait(limit time.Duration, cut func()) {
	if u == nil || limit == 0 || u.ended.Load() {
		return
	}
	u.wait = limit
	u.stalled = time.AfterFunc(limit, func() {
		if !u.answered.Load() {
			cut()
		}
	})
	u.stalled.Stop()
}

// taking notes that the upstream wants more of the body: if nothing comes, that is
// not its doing.
func (u *upload) taking() {
	if u.stalled != nil {
		u.stalled.Stop()
	}
}

// taken notes that the upstream has got some of the body. The limit begins with
// that. When there is no more, it stands behind the engine's own, which begins
// later, when all of the body is sent.
func (u *upload) taken(all bool) {
	switch {
	case u.stalled == nil || u.answered.Load() || u.detached.Load():
	case all:
		u.stalled.Reset(2 * u.wait)
	default:
		u.stalled.Reset(u.wait)
	}
}

// answer notes that the upstream has begun its answer. It may take its time for
// the rest of the body now.
func (u *upload) answer() {
	if u != nil && u.stalled != nil {
		u.answered.Store(true)
		u.stalled.Stop()
	}
}

// announce lets the trailer fields through that the client has announced and
// that may pass. What the header says is said: some upstreams put the two
// together, and the header's may be ours.
func (u *upload) announce(header *fasthttp.RequestHeader, out *upstream.Request) {
	for each := range header.Trailers() {
		name := string(each)
		said := slices.ContainsFunc(out.Header, func(f upstream.Field) bool { return strings.EqualFold(f.Name, name) })
		if !said && upstream.PassesTrailer(name) {
			out.Trailers = append(out.Trailers, name)
		}
	}
	if out.Trailers == nil {
		return
	}
	u.trailers = func() []upstream.Field { return trailerFields(header.TrailerHeader()) }
	out.Trailer = func() []upstream.Field {
		u.mu.Lock()
		defer u.mu.Unlock()
		return u.trailer
	}
}

// trailerFields reads a trailer section as fasthttp writes it.
func trailerFields(section []byte) []upstream.Field {
	var fields []upstream.Field
	for line := range strings.SplitSeq(string(section), "\r\n") {
		if name, value, ok := strings.Cut(line, ": "); ok && upstream.PassesTrailer(name) {
			fields = append(fields, upstream.Field{Name: name, Value: value})
		}
	}
	return fields
}

// rewind returns the body from its beginning once more, as long as all that has
// come of it is held, or nothing has.
func (u *upload) rewind() (io.Reader, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case !u.holding && u.read > 0:
		return nil, false
	case u.ended.Load() && len(u.held) <= smallUpload:
		return bytes.NewReader(u.held), true // an engine sends it together with the head
	}
	return &reading{upload: u}, true
}

// sendAgain makes out ready to be sent a second time, if the whole body has come
// and is held.
func (u *upload) sendAgain(out *upstream.Request) (ok bool) {
	if u == nil {
		return true
	}
	if !u.ended.Load() {
		return false
	}
	u.answered.Store(false) // it is for the upstream once more to take the body
	out.Body, ok = u.rewind()
	return ok
}

// unread reports whether the client has more to send.
func (u *upload) unread() bool { return u != nil && !u.ended.Load() }

// failure is what went wrong with the body, or nil. It may be asked after detach
// only: a read that is under way would block it.
func (u *upload) failure() error {
	if u == nil || u.err == nil || u.err == io.EOF || errors.Is(u.err, errUploadOver) {
		return nil
	}
	return u.err
}

// interrupt ends a read that waits for the client, or the next one. There are
// engines that give a request up only when they have its body back: net/http
// does not return before.
func (u *upload) interrupt(client net.Conn) {
	u.waking.Lock()
	defer u.waking.Unlock()
	if !u.detached.Load() {
		u.woken = true
		_ = client.SetReadDeadline(time.Unix(1, 0))
	}
}

// detach ends the reading. A read that waits for the client is woken up; the
// connection is good for nothing but an answer then.
func (u *upload) detach(client net.Conn) {
	if u == nil {
		return
	}
	if u.forget != nil {
		u.forget()
	}
	u.waking.Lock()
	defer u.waking.Unlock()
	u.detached.Store(true)
	u.taking()
	if !u.mu.TryLock() {
		u.woken = true
		_ = client.SetReadDeadline(time.Unix(1, 0))
		u.mu.Lock()
	}
	defer u.mu.Unlock()
	if u.woken {
		_ = client.SetReadDeadline(time.Time{})
	}
	u.src = nil
	if u.err == nil {
		u.err = errUploadOver
	}
}

// more reads from the client. The lock is held.
func (u *upload) more(p []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	n, err := u.src.Read(p)
	u.read += int64(n)
	if u.most > 0 && u.read > u.most {
		// Its length was not known, or it would have been refused. The upstream
		// must not take what has come for all.
		u.src, u.err = nil, fmt.Errorf("read the request's body: %w", errTooLarge)
		return 0, u.err
	}
	if u.holding {
		if u.read > heldUpload {
			u.held, u.holding = nil, false
		} else {
			u.held = append(u.held, p[:n]...)
		}
	}
	if err == io.EOF {
		// fasthttp takes the end of the connection for the end of the body.
		if u.length >= 0 && u.read < u.length {
			err = io.ErrUnexpectedEOF
		} else {
			u.ended.Store(true)
			if u.trailers != nil {
				u.trailer = u.trailers()
			}
		}
	}
	if err != nil {
		u.src, u.err = nil, err
		switch {
		case err == io.EOF:
		case u.detached.Load(): // and so detach has broken it off
			u.err = errUploadOver
		default:
			u.err = fmt.Errorf("read the request's body: %w", err)
		}
	}
	return n, u.err
}

// reading is one pass over an upload. An engine that tries a second time begins
// another one while the first may not be quite over.
type reading struct {
	*upload
	at int64
}

func (r *reading) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taking()
	n, err := r.next(p)
	if err == nil || err == io.EOF {
		r.taken(err == io.EOF || r.at == r.length)
	}
	return n, err
}

func (r *reading) next(p []byte) (int, error) {
	if r.at == r.read {
		n, err := r.more(p)
		r.at += int64(n)
		return n, err
	}
	if !r.holding {
		return 0, errUploadNotHeld
	}
	n := copy(p, r.held[r.at:])
	r.at += int64(n)
	return n, nil
}
