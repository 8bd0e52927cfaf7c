package tunnel_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cloakroom/infra/tunnel"
)

// end is one side of a connection in memory.
type end struct {
	*io.PipeReader
	*io.PipeWriter
}

func (e *end) CloseWrite() error { return e.PipeWriter.Close() }

func (e *end) Close() error {
	_ = e.PipeReader.CloseWithError(io.ErrClosedPipe)
	return e.PipeWriter.CloseWithError(io.ErrClosedPipe)
}

// reset breaks the connection for the other side.
func (e *end) reset() {
	_ = e.PipeReader.CloseWithError(errReset)
	_ = e.PipeWriter.CloseWithError(errReset)
}

var errReset = errors.New("reset")

func pair() (*end, *end) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return &end{r1, w2}, &end{r2, w1}
}

// joined is a tunnel between a client and an upstream.
type joined struct {
	client, upstream *end // the outer sides
	a, b             *end // the inner ones
	cut              context.CancelCauseFunc
	ended            chan error
}

func join(t *testing.T) *joined {
	j := &joined{ended: make(chan error, 1)}
	j.client, j.a = pair()
	j.upstream, j.b = pair()
	ctx, cancel := context.WithCancelCause(t.Context())
	j.cut = cancel
	go func() { j.ended <- tunnel.Join(ctx, j.a, j.b, tunnel.Config{}) }()
	return j
}

// over waits for the end and checks that it comes after the time given.
func (j *joined) over(t *testing.T, after time.Duration) error {
	t.Helper()
	begun := time.Now()
	err := <-j.ended
	if took := time.Since(begun); took != after {
		t.Errorf("it took %v, want %v", took, after)
	}
	for name, e := range map[string]*end{"client": j.client, "upstream": j.upstream} {
		if _, err := e.Write([]byte("x")); err == nil {
			t.Errorf("the %s's connection is still there", name)
		}
	}
	return err
}

func TestBytesPassBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t)
		for _, way := range [][2]*end{{j.client, j.upstream}, {j.upstream, j.client}} {
			go io.WriteString(way[0], "hello")
			b := make([]byte, 5)
			if _, err := io.ReadFull(way[1], b); err != nil || string(b) != "hello" {
				t.Errorf("%q, %v", b, err)
			}
			time.Sleep(1000 * time.Hour) // silence is no reason to end
		}
		_ = j.client.CloseWrite()
		_ = j.upstream.CloseWrite()
		if err := j.over(t, 0); err != nil {
			t.Error(err)
		}
	})
}

func TestHalfOpenGoesOnWhileItSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t)
		_ = j.client.CloseWrite()
		if _, err := j.upstream.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("the upstream has seen %v", err)
		}
		var hearing sync.WaitGroup
		hearing.Go(func() { io.Copy(io.Discard, j.client) })
		for range 10 {
			time.Sleep(29 * time.Second)
			if _, err := j.upstream.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		var broken *tunnel.Broken
		if err := j.over(t, 30*time.Second); !errors.As(err, &broken) || broken.End != j.b {
			t.Errorf("%v", err)
		}
		hearing.Wait()
	})
}

func TestEndThatTakesNothingIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := join(t)
		_, _ = j.client.Write([]byte("hello"))
		var broken *tunnel.Broken
		if err := j.over(t, 30*time.Second); !errors.As(err, &broken) || broken.End != j.b {
			t.Errorf("%v", err)
		}
	})
}

func TestEndThatBreaksClosesTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 2 {
			j := join(t)
			j.upstream.reset()
			var broken *tunnel.Broken
			if err := j.over(t, 0); !errors.As(err, &broken) || broken.End != j.b || !errors.Is(err, errReset) {
				t.Errorf("%v", err)
			}
			j = join(t)
			j.client.reset()
			if err := j.over(t, 0); !errors.As(err, &broken) || broken.End != j.a {
				t.Errorf("%v", err)
			}
		}
	})
}

func TestCutSaysGoodbye(t *testing.T) {
	why := errors.New("why")
	synctest.Test(t, func(t *testing.T) {
		j := join(t)
		j.cut(why)
		for _, e := range []*end{j.client, j.upstream} {
			if _, err := e.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%v, want a good end", err)
			}
			_ = e.CloseWrite()
		}
		if err := j.over(t, 0); err != why {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // to who does not answer it
		j := join(t)
		go io.WriteString(j.client, "nobody takes this")
		synctest.Wait()
		j.cut(why)
		if err := j.over(t, 500*time.Millisecond); err != why {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // and carries nothing any more
		j := join(t)
		j.cut(why)
		synctest.Wait()
		if _, err := j.client.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(j.upstream); len(b) > 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		j.over(t, 500*time.Millisecond)
	})
}
