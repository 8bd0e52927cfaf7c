package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"time"
)

// startRedis runs a Redis server of the benchmark's own on loopback, which keeps
// nothing on disk. It is a process of its own, so its CPU time does not count
// for the broker that asks it.
func startRedis(ctx context.Context, command, folder string) (url string, stop func(), err error) {
	address, err := freeAddress()
	if err != nil {
		return "", nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, command, "--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", folder)
	if err := cmd.Start(); err != nil {
		cancel()
		return "", nil, err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	stop = func() { cancel(); <-ended }
	if err := reachable(ctx, address, ended); err != nil {
		stop()
		return "", nil, fmt.Errorf("%s: %w", command, err)
	}
	return "redis://" + address, stop, nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// reachable waits until somebody listens.
func reachable(ctx context.Context, address string, ended <-chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address); err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case <-ended:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
