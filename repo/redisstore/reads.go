package redisstore

import (
	"context"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// reads sends what is to be read at the same moment in one go. Under load most
// of a read's cost is the system calls around it and the wait for a connection,
// which many then share; a read that comes alone goes out at once.
//
// It is for one server. In a Cluster a master that is away would hold up what
// is read from the others together with it.
type reads struct {
	client *redis.Client

	mu      sync.Mutex
	waiting []*read
	running int // goroutines that send
}

// mostSending bounds how many batches are under way: while one is answered,
// another one goes out.
const mostSending = 2

type read struct {
	ctx    context.Context
	key    string
	done   chan struct{} // closed when the rest is there
	values []string
	err    error
}

// valuesOf reads some fields of a hash, "" for one that is missing. That costs less
// than HGETALL, in whose answer each field's name has to be read as well.
func valuesOf(ctx context.Context, key string, names []any) *redis.StringSliceCmd {
	return redis.NewStringSliceCmd(ctx, slices.Concat([]any{"hmget", key}, names)...)
}

// values returns what a hash holds of all fields. It was read after the call
// began, and before it returned, unless ctx has ended.
func (r *reads) values(ctx context.Context, key string) ([]string, error) {
	one := &read{ctx: ctx, key: key, done: make(chan struct{})}
	r.mu.Lock()
	r.waiting = append(r.waiting, one)
	send := r.running < mostSending
	if send {
		r.running++
	}
	r.mu.Unlock()
	if send {
		go r.send()
	}
	select {
	case <-one.done:
		return one.values, one.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// send runs as long as there is something to send.
func (r *reads) send() {
	for {
		r.mu.Lock()
		batch := r.waiting
		r.waiting = nil
		if len(batch) == 0 {
			r.running--
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		r.sendBatch(batch)
	}
}

// sendBatch asks the server for what is still waited for. It does not end with
// anybody's context, because it is for all of them; the client's own timeouts
// bound it.
func (r *reads) sendBatch(batch []*read) {
	ctx := context.Background()
	pipe := r.client.Pipeline()
	answers := make([]*redis.StringSliceCmd, len(batch))
	for i, one := range batch {
		if one.ctx.Err() == nil {
			answers[i] = valuesOf(ctx, one.key, fieldNames)
			_ = pipe.Process(ctx, answers[i])
		}
	}
	_, _ = pipe.Exec(ctx) // each answer has its own error
	for i, one := range batch {
		if answers[i] != nil {
			one.values, one.err = answers[i].Result()
		} else {
			one.err = one.ctx.Err()
		}
		close(one.done)
	}
}
