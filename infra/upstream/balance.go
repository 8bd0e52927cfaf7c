package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// MostAddresses is how many addresses a Balance can have.
const MostAddresses = 64

// firstPause and longestPause bound for how long an address is left alone that
// could not be connected to. The pause doubles with every try that fails.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
)

// Address is one of several places where the same service is.
type Address struct {
	Name   string   // for the log
	Target *url.URL // as in Request
	Engine Engine
}

// BalanceConfig is how a Balance finds out which addresses work. The zero value
// of every field stands for its default.
type BalanceConfig struct {
	// HealthPath is asked of every address. One that does not answer with a
	// status of 200 to 399 gets no requests until it does. Default: none is
	// asked, and an address is out only if it cannot be connected to.
	HealthPath     string
	HealthInterval time.Duration // default 5 s; the answer has to come as soon
	Now            func() time.Time
	Log            *slog.Logger
}

// Balance is the Engine over several addresses of a service. A request goes to
// the address that has the fewest under way.
//
// An address that cannot be connected to is left alone for a second, and for
// longer, half a minute at most, each time that one request which is sent there
// to try finds it so again. Whatever could not be sent to one address goes to
// another: nobody has seen it. A request that has left goes nowhere else.
type Balance struct {
	BalanceConfig
	addresses []*address
	next      atomic.Uint32
	stop      context.CancelFunc
	checks    sync.WaitGroup
}

type address struct {
	Address
	pending  atomic.Int64 // requests under way
	outUntil atomic.Int64 // Unix time in nanoseconds; 0 if it is in
	failures atomic.Int32 // in a row
	ill      atomic.Bool  // as its health was asked
}

var _ Engine = (*Balance)(nil)

// NewBalance returns a Balance over addresses, of which there are one to
// MostAddresses. They are taken to work until they show that they do not. Their
// engines are closed with it.
func NewBalance(c BalanceConfig, addresses ...Address) *Balance {
	setDefault(&c.HealthInterval, 5*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	b := &Balance{BalanceConfig: c}
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	for _, given := range addresses {
		a := &address{Address: given}
		b.addresses = append(b.addresses, a)
		if c.HealthPath != "" {
			b.checks.Go(func() { b.askHealth(ctx, a) })
		}
	}
	return b
}

// Close ends the asking for health and closes the addresses' engines.
func (b *Balance) Close() {
	b.stop()
	b.checks.Wait()
	for _, a := range b.addresses {
		if c, ok := a.Engine.(interface{ Close() }); ok {
			c.Close()
		}
	}
}

// Do implements Engine. It sets r's target.
func (b *Balance) Do(ctx context.Context, r *Request) (*Response, error) {
	var (
		tried  uint64
		unsent error
	)
	for {
		i := b.pick(tried)
		if i < 0 {
			return nil, unsent
		}
		tried |= 1 << i
		a := b.addresses[i]
		r.Target = a.Target
		a.pending.Add(1)
		known := a.outUntil.Load()
		resp, err := a.Engine.Do(ctx, r)
		if err == nil {
			b.reached(ctx, a)
			a.count(resp)
			return resp, nil
		}
		a.pending.Add(-1)
		if e, ok := errors.AsType[*Error](err); !ok || !e.Unsent {
			return nil, err
		}
		b.unreachable(ctx, a, known, err)
		unsent = err
		if r.Body == nil {
			continue
		}
		again, ok := io.Reader(nil), false
		if r.Rewind != nil {
			again, ok = r.Rewind()
		}
		if !ok {
			return nil, unsent
		}
		r.Body = again
	}
}

// pick chooses among the addresses that were not tried, -1 if there is none.
// When all are out, the one that is to come back first is tried, so that the
// service is there again as soon as it is.
func (b *Balance) pick(tried uint64) int {
	best, first := -1, -1
	start := int(b.next.Add(1) % uint32(len(b.addresses)))
	for k := range b.addresses {
		i := (start + k) % len(b.addresses)
		if tried&(1<<i) != 0 {
			continue
		}
		a := b.addresses[i]
		if until := a.outUntil.Load(); until != 0 {
			if now := b.Now().UnixNano(); now >= until && !a.ill.Load() && a.outUntil.CompareAndSwap(until, now+int64(a.pause())) {
				return i // to try, and this request alone
			}
		} else if !a.ill.Load() && (best < 0 || a.pending.Load() < b.addresses[best].pending.Load()) {
			best = i
		}
		if first < 0 || a.outUntil.Load() < b.addresses[first].outUntil.Load() {
			first = i
		}
	}
	if best < 0 && tried == 0 {
		return first
	}
	return best
}

func (a *address) pause() time.Duration {
	return min(firstPause<<min(a.failures.Load(), 10), longestPause)
}

// unreachable notes that an address could not be connected to by a request that
// found outUntil to be known when it began. Of those that were under way together
// one counts: the address was away once.
func (b *Balance) unreachable(ctx context.Context, a *address, known int64, err error) {
	if !a.outUntil.CompareAndSwap(known, b.Now().Add(a.pause()).UnixNano()) {
		return
	}
	a.failures.Add(1)
	if known == 0 {
		b.Log.WarnContext(ctx, "an upstream's address is out", "address", a.Name, "error", err)
	}
}

// reached notes that an address can be connected to.
func (b *Balance) reached(ctx context.Context, a *address) {
	if a.outUntil.Load() == 0 {
		return
	}
	a.failures.Store(0)
	if a.outUntil.Swap(0) != 0 {
		b.Log.InfoContext(ctx, "an upstream's address is back", "address", a.Name)
	}
}

// askHealth asks an address how it is until ctx ends.
func (b *Balance) askHealth(ctx context.Context, a *address) {
	tick := time.NewTicker(b.HealthInterval)
	defer tick.Stop()
	for {
		err := b.health(ctx, a)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			b.reached(ctx, a)
			if a.ill.Swap(false) {
				b.Log.InfoContext(ctx, "an upstream's address is well again", "address", a.Name)
			}
		case !a.ill.Swap(true):
			b.Log.WarnContext(ctx, "an upstream's address is ill", "address", a.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *Balance) health(ctx context.Context, a *address) error {
	ctx, cancel := context.WithTimeout(ctx, b.HealthInterval)
	defer cancel()
	resp, err := a.Engine.Do(ctx, &Request{Method: "GET", Target: a.Target, Path: b.HealthPath, Header: []Field{{"User-Agent", "cloakroom-health"}}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.Status >= 400 {
		return fmt.Errorf("status %d", resp.Status)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	return err
}

// count makes the request count as under way until its answer is closed.
func (a *address) count(r *Response) {
	if r.Tunnel == nil {
		r.Body = &counted{ReadCloser: r.Body, a: a}
		return
	}
	r.Tunnel = &countedTunnel{Tunnel: r.Tunnel, a: a}
	r.Body = r.Tunnel
}

type counted struct {
	io.ReadCloser
	a    *address
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.a.pending.Add(-1) })
	return c.ReadCloser.Close()
}

type countedTunnel struct {
	Tunnel
	a    *address
	once sync.Once
}

func (c *countedTunnel) Close() error {
	c.once.Do(func() { c.a.pending.Add(-1) })
	return c.Tunnel.Close()
}
