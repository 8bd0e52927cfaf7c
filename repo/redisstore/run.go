package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// call is one script to be run on one key, and what comes of it.
type call struct {
	script *script
	key    string
	// with is another key, or "". In a Cluster it must be in the same slot.
	with string
	args []any
	// once: the answer would be another the second time and is needed, so the
	// call is not sent again if the connection breaks.
	once bool
	// durable: the effect has to reach as many replicas as Config says.
	durable bool

	cmd   *redis.Cmd
	reply reply
	err   error
}

// reply is what a script returned: a status and what belongs to it.
type reply []any

func (r reply) status() string { return r.text(0) }

func (r reply) text(i int) string {
	if i >= len(r) {
		return ""
	}
	s, _ := r[i].(string) // nil is a field that is missing
	return s
}

// fields returns the names and values that follow the status.
func (r reply) fields() map[string]string {
	values := make(map[string]string, len(r)/2)
	for i := 1; i+1 < len(r); i += 2 {
		values[r.text(i)] = r.text(i + 1)
	}
	return values
}

// once is a command that go-redis does not repeat.
type once struct{ *redis.Cmd }

// NoRetry tells go-redis so.
func (once) NoRetry() bool { return true }

// errUnreplicated: the write is done, but a crash of the master could lose it.
var errUnreplicated = errors.New("written, but not confirmed by as many replicas as demanded")

// resends bounds how often a call is sent that a server has not begun: because
// it does not know the script, having restarted or taken over, or because the
// key is another node's now.
const resends = 5

// run runs scripts, each atomic for itself, in as few round trips as it can. It
// returns the first error; each call has its own.
func (s *Store) run(ctx context.Context, calls ...*call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	pending := calls
	for attempt := range resends {
		s.send(ctx, pending, attempt > 0)
		var again []*call
		moved := false
		for _, c := range pending {
			_, isMoved := redis.IsMovedError(c.err)
			_, isAsk := redis.IsAskError(c.err)
			moved = moved || isMoved || isAsk
			if isMoved || isAsk || redis.HasErrorPrefix(c.err, "NOSCRIPT") {
				again = append(again, c)
			}
		}
		if pending = again; len(pending) == 0 {
			break
		}
		if moved && sleep(ctx, 10*time.Millisecond<<attempt) != nil {
			break
		}
	}
	for _, c := range calls {
		if c.err != nil {
			return c.err
		}
	}
	return nil
}

// send sends calls and takes the answers: scripts by their hash, or in full.
func (s *Store) send(ctx context.Context, calls []*call, full bool) {
	var usual []*call
	replicated := make(map[*redis.Client][]*call)
	for _, c := range calls {
		args := []any{"evalsha", c.script.hash, 1, c.key}
		if c.with != "" {
			args = []any{"evalsha", c.script.hash, 2, c.key, c.with}
		}
		if full {
			args[0], args[1] = "eval", c.script.text
		}
		c.cmd = redis.NewCmd(ctx, append(args, c.args...)...)
		if !c.durable || s.config.WaitReplicas == 0 {
			usual = append(usual, c)
			continue
		}
		node, err := s.master(ctx, c.key)
		if err != nil {
			c.cmd.SetErr(err)
		}
		replicated[node] = append(replicated[node], c)
	}
	if len(usual) == 1 {
		usual[0].process(ctx, s.client.Process)
	} else if len(usual) > 1 {
		pipe := s.client.Pipeline()
		for _, c := range usual {
			c.process(ctx, pipe.Process)
		}
		_, _ = pipe.Exec(ctx) // each command has its own error
	}
	for _, c := range calls {
		c.reply, c.err = c.cmd.Slice()
	}
	var nodes sync.WaitGroup
	for node, some := range replicated {
		if node != nil {
			nodes.Go(func() { s.sendAndWait(ctx, node, some) })
		}
	}
	nodes.Wait()
}

// sendAndWait sends calls to one node and waits for its replicas. WAIT counts
// what its own connection has written, so all go through one.
func (s *Store) sendAndWait(ctx context.Context, node *redis.Client, calls []*call) {
	pipe := node.Pipeline()
	for _, c := range calls {
		c.process(ctx, pipe.Process)
	}
	confirmed := pipe.Do(ctx, "wait", s.config.WaitReplicas, s.config.WaitTimeout.Milliseconds())
	_, err := pipe.Exec(ctx)
	for _, c := range calls {
		c.reply, c.err = c.cmd.Slice()
		// What was not done needs no replica.
		if replicas, err := confirmed.Int(); c.err == nil && c.reply.status() == "ok" && replicas < s.config.WaitReplicas {
			c.err = errors.Join(errUnreplicated, err)
		}
	}
	if cluster, ok := s.client.(*redis.ClusterClient); ok && err != nil {
		cluster.ReloadState(ctx) // it has not seen the error, which may mean that the node is master no more
	}
}

func (c *call) process(ctx context.Context, process func(context.Context, redis.Cmder) error) {
	if c.once {
		_ = process(ctx, once{c.cmd})
	} else {
		_ = process(ctx, c.cmd)
	}
}

// master returns the client of the node that has the key.
func (s *Store) master(ctx context.Context, key string) (*redis.Client, error) {
	switch c := s.client.(type) {
	case *redis.ClusterClient:
		return c.MasterForKey(ctx, key)
	case *redis.Client:
		return c, nil
	}
	return nil, fmt.Errorf("a %T cannot wait for replicas", s.client)
}

// sleep waits for d, or returns ctx's error if it ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
