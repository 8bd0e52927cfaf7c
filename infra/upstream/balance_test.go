package upstream

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// place is an address whose engine answers with its name, or fails as it is told.
type place struct {
	name  string
	fails atomic.Pointer[Error]
	seen  atomic.Int32
}

func (p *place) Do(_ context.Context, r *Request) (*Response, error) {
	p.seen.Add(1)
	if err := p.fails.Load(); err != nil {
		return nil, err
	}
	return &Response{Status: 200, Body: io.NopCloser(strings.NewReader(p.name + r.Target.Host + r.Path)), Length: -1}, nil
}

func places(names ...string) (list []*place, addresses []Address) {
	for _, name := range names {
		p := &place{name: name}
		list = append(list, p)
		addresses = append(addresses, Address{Name: name, Target: &url.URL{Scheme: "http", Host: name + ".test"}, Engine: p})
	}
	return list, addresses
}

func newBalance(t *testing.T, c BalanceConfig, addresses []Address) *Balance {
	c.Log = slog.New(slog.DiscardHandler)
	b := NewBalance(c, addresses...)
	t.Cleanup(b.Close)
	return b
}

func ask(t *testing.T, b *Balance) (*Response, string) {
	t.Helper()
	resp, err := b.Do(context.Background(), &Request{Method: "POST", Target: &url.URL{Scheme: "http", Host: "other.test"}, Path: "/"})
	if err != nil {
		return nil, err.Error()
	}
	body, _ := io.ReadAll(resp.Body)
	return resp, string(body)
}

var refused = &Error{Kind: Unreachable, Unsent: true, Err: errors.New("refused")}

func TestBalanceTakesTheAddressWithTheFewestUnderWay(t *testing.T) {
	_, addresses := places("a", "b", "c")
	b := newBalance(t, BalanceConfig{}, addresses)
	open := map[string]*Response{}
	for range 3 {
		resp, body := ask(t, b)
		open[body] = resp
	}
	if len(open) != 3 {
		t.Fatalf("three requests under way are at %v", open)
	}
	open["bb.test/"].Body.Close()
	open["bb.test/"].Body.Close() // counts once
	for _, want := range []bool{true, false} {
		if _, body := ask(t, b); (body == "bb.test/") != want {
			t.Errorf("b with the fewest: %v, asked %s", want, body)
		}
	}
}

func TestBalanceGoesRound(t *testing.T) {
	list, addresses := places("a", "b", "c")
	b := newBalance(t, BalanceConfig{}, addresses)
	for range 30 {
		resp, _ := ask(t, b)
		resp.Body.Close()
	}
	for _, p := range list {
		if p.seen.Load() != 10 {
			t.Errorf("%s has %d of 30 requests", p.name, p.seen.Load())
		}
	}
}

func TestBalanceSendsElsewhereOnlyWhatHasNotLeft(t *testing.T) {
	list, addresses := places("a", "b")
	b := newBalance(t, BalanceConfig{}, addresses)
	list[0].fails.Store(refused)
	for range 10 {
		resp, body := ask(t, b)
		if body != "bb.test/" {
			t.Fatalf("%s, want b's", body)
		}
		resp.Body.Close()
	}
	if n := list[0].seen.Load(); n != 1 {
		t.Errorf("the address that refuses was asked %d times", n)
	}
	for name, tt := range map[string]struct {
		again func() (io.Reader, bool)
		fails int32
	}{
		"a body that is gone":          {func() (io.Reader, bool) { return nil, false }, 1},
		"a body that was never held":   {nil, 1},
		"a body that can be had again": {func() (io.Reader, bool) { return strings.NewReader("body"), true }, 0},
	} {
		b := newBalance(t, BalanceConfig{}, addresses)
		var fails int32
		for range 2 { // one of them begins at a
			resp, err := b.Do(context.Background(), &Request{Method: "POST", Body: strings.NewReader("body"), Length: 4, Rewind: tt.again})
			if err != nil {
				fails++
				continue
			}
			resp.Body.Close()
		}
		if fails != tt.fails {
			t.Errorf("%s: %d of two requests fail, want %d", name, fails, tt.fails)
		}
	}
	list[1].fails.Store(&Error{Kind: Unreachable, Err: errors.New("broke")})
	before := list[0].seen.Load()
	if _, body := ask(t, b); body != "upstream_unreachable: broke" || list[0].seen.Load() != before {
		t.Errorf("a request that may have arrived: %s, and a was asked %d times more", body, list[0].seen.Load()-before)
	}
}

func TestBalanceLetsAnAddressComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list, addresses := places("a", "b")
		b := newBalance(t, BalanceConfig{}, addresses)
		list[0].fails.Store(refused)
		tried := func() int32 {
			before := list[0].seen.Load()
			for range 10 {
				resp, _ := ask(t, b)
				resp.Body.Close()
			}
			return list[0].seen.Load() - before
		}
		if n := tried(); n != 1 {
			t.Errorf("tried %d times at first", n)
		}
		for _, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
			time.Sleep(pause - time.Millisecond)
			if n := tried(); n != 0 {
				t.Errorf("tried %d times within %v", n, pause)
			}
			time.Sleep(time.Millisecond)
			if n := tried(); n != 1 {
				t.Errorf("tried %d times after %v, want once", n, pause)
			}
		}
		list[0].fails.Store(nil)
		time.Sleep(longestPause)
		if n := tried(); n < 4 {
			t.Errorf("an address that is back gets %d of 10", n)
		}
		list[0].fails.Store(refused)
		tried()
		time.Sleep(time.Second)
		if n := tried(); n != 1 {
			t.Errorf("the pause begins anew: tried %d times after a second", n)
		}
	})
}

// refusing refuses all that have gathered at once.
type refusing struct {
	place
	over <-chan struct{}
}

func (p *refusing) Do(context.Context, *Request) (*Response, error) {
	p.seen.Add(1)
	<-p.over
	return nil, refused
}

func TestBalanceCountsRefusalsAtOnceAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, addresses := places("a", "b")
		over := make(chan struct{})
		a := &refusing{over: over}
		addresses[0].Engine = a
		b := newBalance(t, BalanceConfig{}, addresses)
		b.addresses[1].pending.Store(100) // so that a is who gets them
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() { ask(t, b) })
		}
		synctest.Wait()
		close(over)
		wg.Wait()
		before := a.seen.Load()
		time.Sleep(firstPause)
		ask(t, b)
		if before != 64 || a.seen.Load() != before+1 {
			t.Errorf("%d requests were refused; a pause later the address was tried %d times, want once", before, a.seen.Load()-before)
		}
	})
}

func TestBalanceTriesWhenAllAreOut(t *testing.T) {
	list, addresses := places("a", "b")
	b := newBalance(t, BalanceConfig{}, addresses)
	for _, p := range list {
		p.fails.Store(refused)
	}
	if _, body := ask(t, b); body != "upstream_unreachable: refused" {
		t.Errorf("%s", body)
	}
	list[0].fails.Store(nil)
	list[1].fails.Store(nil)
	if _, body := ask(t, b); strings.HasPrefix(body, "upstream") {
		t.Errorf("%s", body)
	}
}

func TestBalanceAsksForHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ill := &Error{Kind: TimedOut}
		list, addresses := places("a", "b")
		list[0].fails.Store(ill)
		b := newBalance(t, BalanceConfig{HealthPath: "/well", HealthInterval: 3 * time.Second}, addresses)
		synctest.Wait()
		who := func() (names []string) {
			for range 6 {
				resp, body := ask(t, b)
				if name := body[:1]; !slices.Contains(names, name) {
					names = append(names, name)
				}
				resp.Body.Close()
			}
			slices.Sort(names)
			return names
		}
		if got := who(); !slices.Equal(got, []string{"b"}) {
			t.Errorf("with a ill, %v are asked", got)
		}
		list[0].fails.Store(nil)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := who(); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("with all well, %v are asked", got)
		}
		seen := list[1].seen.Load()
		b.Close()
		time.Sleep(time.Minute)
		if list[1].seen.Load() != seen {
			t.Error("health is asked after the end")
		}
	})
}

func TestBalanceUnderLoad(t *testing.T) {
	list, addresses := places("a", "b", "c")
	b := newBalance(t, BalanceConfig{}, addresses)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 500 {
				if i == 0 && n%50 == 0 {
					list[n/50%2].fails.Store(refused)
				}
				resp, body := ask(t, b)
				if resp == nil {
					t.Errorf("%s", body)
					return
				}
				resp.Body.Close()
			}
		})
	}
	wg.Wait()
	for _, a := range b.addresses {
		if n := a.pending.Load(); n != 0 {
			t.Errorf("%d requests of %s never end", n, a.Name)
		}
	}
}

func TestTransportSaysWhatHasNotLeft(t *testing.T) {
	tr := newTransport(t, Config{})
	_, err := tr.Do(context.Background(), &Request{Method: "GET", Target: parseURL(t, "http://127.0.0.1:1"), Path: "/"})
	if e, ok := errors.AsType[*Error](err); !ok || !e.Unsent || e.Kind != Unreachable {
		t.Errorf("a port that nobody listens on: %+v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if _, err := tr.Do(ctx, &Request{Method: "GET", Target: parseURL(t, "http://127.0.0.1:1"), Path: "/"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a context that is over: %v", err)
	}
}

func TestSilenceIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := io.Pipe()
		body := LimitSilence(from, time.Second, func() { from.CloseWithError(errors.New("cut")) })
		defer body.Close()
		go func() {
			for range 3 {
				time.Sleep(900 * time.Millisecond)
				_, _ = to.Write([]byte("x"))
			}
		}()
		buf := make([]byte, 8)
		for range 3 {
			if n, err := body.Read(buf); n != 1 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
			time.Sleep(5 * time.Second) // the reader's own slowness does not count
		}
		start := time.Now()
		_, err := body.Read(buf)
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != TimedOut || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
