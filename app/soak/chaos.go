package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"
)

// chaos lets one fault after the other strike, with pauses between them in which
// all is well, until ctx ends; then it mends what is broken. An error says that
// something that was killed cannot be started again.
func (r *run) chaos(ctx context.Context) error {
	dice := rand.New(rand.NewPCG(r.Seed, 0))
	for {
		wait := 200*time.Millisecond + time.Duration(dice.IntN(1500))*time.Millisecond
		if !pause(ctx, wait) {
			r.watch()
			return nil
		}
		if err := r.strike(ctx, dice); err != nil {
			return err
		}
		r.watch()
	}
}

// watch looks for what has ended by itself.
func (r *run) watch() {
	for _, m := range r.replicas {
		if m.crashed() {
			r.count.note(&r.count.Unexpected, "%s has ended by itself", m.name)
		}
	}
	for _, line := range r.logs() {
		r.count.note(&r.count.Unexpected, "%s", line)
	}
}

func (r *run) strike(ctx context.Context, dice *rand.Rand) error {
	m := r.replicas[dice.IntN(len(r.replicas))]
	still := 100*time.Millisecond + time.Duration(dice.Int64N(int64(longestStill-100*time.Millisecond)))
	away := 200*time.Millisecond + time.Duration(dice.IntN(3000))*time.Millisecond
	switch kind := dice.IntN(10); {
	case kind < 4:
		how, kill := failures[dice.IntN(len(failures))], dice.IntN(3) == 0
		if kind == 0 {
			how, kill = lags, true
		}
		r.count.fault(string(how))
		r.authority.fail(how)
		defer r.authority.fail(works)
		if !kill {
			pause(ctx, away)
			return nil
		}
		// In the middle of it a replica is killed.
		pause(ctx, away/2)
		return r.killReplica(ctx, m, away/2)
	case kind < 5:
		r.count.fault("auth server refuses connections")
		for _, d := range r.doors {
			d.shut()
		}
		pause(ctx, away)
		for _, d := range r.doors {
			if err := d.open(); err != nil {
				return err
			}
		}
		return nil
	case kind < 7:
		return r.killReplica(ctx, m, away)
	case kind < 8:
		r.count.fault("replica stands still")
		end := r.clock.begin(m.number)
		m.signal(syscall.SIGSTOP)
		pause(ctx, still)
		m.signal(syscall.SIGCONT)
		end()
		return nil
	case r.store == nil:
		return nil
	case kind < 9:
		r.count.fault("store stands still")
		r.store.signal(syscall.SIGSTOP)
		pause(ctx, still)
		r.store.signal(syscall.SIGCONT)
		return nil
	default:
		r.count.fault("store is killed")
		r.store.kill()
		pause(ctx, still/2)
		return r.store.start(context.WithoutCancel(ctx))
	}
}

// killReplica kills a replica and starts it again after a while.
func (r *run) killReplica(ctx context.Context, m *member, away time.Duration) error {
	r.count.fault("replica is killed")
	end := r.clock.begin(m.number)
	m.kill()
	pause(ctx, away)
	defer end()
	if err := m.start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("after kill -9: %w", err)
	}
	return nil
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
