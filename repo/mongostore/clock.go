package mongostore

import (
	"context"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
)

// measureEvery is how often the clock is set by the server's.
const measureEvery = time.Minute

// clock is this host's clock, set right by the server's: replicas whose own
// clocks differ have to agree on when a lease is over. It is off by what one
// question to the server takes, and by what the two drift apart in a minute.
type clock struct {
	host  func() time.Time
	ahead atomic.Int64 // of the server, in nanoseconds
}

func (c *clock) now() time.Time { return c.host().Add(-time.Duration(c.ahead.Load())) }

// follow measures from time to time, until ctx ends: a host's clock may be set
// while the process runs. Where the server does not answer it goes by what was
// measured last.
func (c *clock) follow(ctx context.Context, database *mongo.Database) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if server, err := greet(ctx, database, c.host); err == nil {
			c.ahead.Store(int64(server.clockAhead))
		}
	}
}
