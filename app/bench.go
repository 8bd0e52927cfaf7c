package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"cloakroom/app/bench"
)

type benchCommand struct {
	output
	Connections int           `default:"64" help:"Connections that are open at once to the server whose turn it is."`
	Rounds      int           `default:"5" help:"Turns of each server."`
	Duration    time.Duration `default:"3s" help:"Length of a turn."`
	WarmUp      time.Duration `name:"warm-up" default:"500ms" help:"Time before each turn that is not measured."`
	Profiles    string        `placeholder:"PATH" help:"Folder to write a CPU profile of each server to, for go tool pprof."`
	Server      bool          `hidden:"" help:"Be one of the servers that are compared."`
}

// Help tells more than fits the list of commands.
func (c *benchCommand) Help() string {
	return "Authenticated requests through the broker, and plain ones through proxies that do no session work, in front of " +
		"the same upstream, turn by turn: how much CPU time a request takes of each. If there is a redis-server on the path, the broker is " +
		"also measured with a read from Redis on every request. Everything runs on loopback and is gone " +
		"at the end. It wants an otherwise idle machine; look at the ratios, which another load disturbs least."
}

// Validate keeps a slip of the keyboard from becoming a long wait.
func (c *benchCommand) Validate() error {
	switch {
	case c.Connections < 1 || c.Connections > 1000:
		return errors.New("--connections: from 1 to 1000")
	case c.Rounds < 1 || c.Rounds > 1000:
		return errors.New("--rounds: from 1 to 1000")
	case c.Duration <= 0 || c.Duration > time.Hour:
		return errors.New("--duration: more than nothing, and an hour at most")
	case c.WarmUp < 0 || c.WarmUp > time.Hour:
		return errors.New("--warm-up: an hour at most")
	}
	return nil
}

func (c *benchCommand) Run(ctx context.Context, p process) error {
	if c.Server {
		return bench.Serve(ctx, os.Stdin, p.stdout)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	redis, err := exec.LookPath("redis-server")
	if err != nil {
		redis = ""
		fmt.Fprintln(p.stderr, "there is no redis-server on the path: a broker on Redis is NOT measured")
	}
	report, err := bench.Run(ctx, bench.Config{
		Connections: c.Connections, Rounds: c.Rounds, Duration: c.Duration, WarmUp: c.WarmUp, Profiles: c.Profiles, Redis: redis,
		Self: []string{self, "bench", "--server"}, Progress: p.stderr,
	})
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("stopped before the end")
	case err != nil:
		return fmt.Errorf("benchmark: %w", err)
	}
	return c.print(p, report.String(), report)
}
