package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"cloakroom/app/soak"
)

type soakCommand struct {
	output
	Duration time.Duration `default:"10m" help:"How long it goes on."`
	Replicas int           `default:"3" help:"Replicas of the broker."`
	Devices  int           `default:"60" help:"Devices that use them."`
	Seed     uint64        `placeholder:"N" help:"Of what happens when, to have it again; how it interleaves is never the same. By default another each time."`
	SQLite   bool          `name:"sqlite" help:"Keep devices in SQLite even if there is a redis-server."`
}

// Help tells more than fits the list of commands.
func (c *soakCommand) Help() string {
	return "Replicas of this program, each a process, on one Redis if a redis-server is installed, else on SQLite; devices whose tokens live " +
		"for three seconds; and an auth server, a store, replicas and clients that fail at random. It reports the requests and refreshes that " +
		"there were, and what must not be: refreshes too many, sessions lost, calls with a token that was over. The exit status is not 0 if " +
		"there is any. Everything runs on loopback and is gone at the end; docs/soak.md tells how each is judged."
}

// Validate keeps a slip of the keyboard from becoming a long wait.
func (c *soakCommand) Validate() error {
	switch {
	case c.Duration < time.Second || c.Duration > 24*time.Hour:
		return errors.New("--duration: from a second to a day")
	case c.Replicas < 1 || c.Replicas > 16:
		return errors.New("--replicas: from 1 to 16")
	case c.Devices < 1 || c.Devices > 5000:
		return errors.New("--devices: from 1 to 5000")
	}
	return nil
}

func (c *soakCommand) Run(ctx context.Context, p process) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if c.Seed == 0 {
		c.Seed = rand.Uint64N(1_000_000) + 1
	}
	report, err := soak.Run(ctx, soak.Config{
		Duration: c.Duration, Replicas: c.Replicas, Devices: c.Devices, Seed: c.Seed, SQLite: c.SQLite,
		Serve: []string{self, "serve"}, Progress: p.stderr,
	})
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("stopped before the end")
	case err != nil:
		return fmt.Errorf("soak: %w", err)
	}
	if err := c.print(p, report.String(), report); err != nil {
		return err
	}
	if !report.OK() {
		return errors.New("the soak has found something")
	}
	return nil
}
