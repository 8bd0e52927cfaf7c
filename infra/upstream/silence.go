package upstream

import (
	"io"
	"sync/atomic"
	"time"
)

// LimitSilence bounds how long a Read of an answer's body may wait, which is the
// silence between two parts of it. One that takes longer calls cut, which has to
// end the exchange and with it the Read.
func LimitSilence(body io.ReadCloser, limit time.Duration, cut func()) io.ReadCloser {
	b := &bounded{ReadCloser: body, limit: limit}
	b.timer = time.AfterFunc(limit, func() {
		b.over.Store(true)
		cut()
	})
	b.timer.Stop()
	return b
}

type bounded struct {
	io.ReadCloser
	limit time.Duration
	timer *time.Timer // runs during a Read alone: a client that is slow is not the upstream's silence
	over  atomic.Bool
}

func (b *bounded) Read(p []byte) (int, error) {
	b.timer.Reset(b.limit)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if b.over.Load() {
		return n, &Error{Kind: TimedOut}
	}
	return n, err
}

func (b *bounded) Close() error {
	b.timer.Stop()
	return b.ReadCloser.Close()
}
