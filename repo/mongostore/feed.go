package mongostore

import (
	"context"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"cloakroom/domain"
	"cloakroom/repo"
)

// feed brings what happens to devices to all replicas. Each hears of its own
// changes by the same way as of the others', so that all hear them in one order.
// While the others are not heard, it says so by a Cut, and by a Gap when they are
// again.
type feed interface {
	// run brings the events of all replicas to the hub until ctx ends.
	run(ctx context.Context)
	// expect is called before each change, because word of it may be quicker
	// than the answer to it, and forget after it, whatever came of it.
	expect(*news)
	forget(...*news)
	// tell is called when changes are made, and returns when the hub has got
	// their events. Failing that, it gives the hub the events itself.
	tell(...*news)
}

// news is a change by this replica.
type news struct {
	event repo.Event
	id    bson.ObjectID // of the write, or of the event if the device has ended
	heard chan struct{} // closed when word of it has come back
}

func newsOf(kind repo.EventKind, id domain.DeviceID) *news {
	return &news{event: repo.Event{Kind: kind, DeviceID: id}, id: bson.NewObjectID(), heard: make(chan struct{})}
}

// The pauses between attempts to hear from the server again.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
)

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
