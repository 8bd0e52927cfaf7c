package mongostore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/events"
)

// poll is the feed where there are no change streams. Each change leaves an
// event in a collection, and every replica reads that again and again. A caller
// that ends its context in the middle of a change may leave no event; that is
// what the short life of what is cached is for.
type poll struct {
	events *mongo.Collection
	hub    *events.Hub
	log    *slog.Logger
	now    func() time.Time

	asked atomic.Int64 // counts those who want to know what is new

	mu     sync.Mutex // held while reading; guards the rest
	broken bool       // the last reading or writing failed
	served int64      // the last of those who asked before the last reading began
	newest time.Time  // the latest event's time, by the server's clock
	came   time.Time  // when that event was seen first, by ours
	seen   map[bson.ObjectID]time.Time
	unsent []*news
	tidied time.Time
}

const (
	pollInterval = 200 * time.Millisecond
	// overlap is how far readings go back. An event shows up when it is written
	// and carries the server's time of a moment before; one that was held up
	// between the two is found if it was not for longer.
	overlap = 5 * time.Second
	// retention is how long events are kept. Nobody reads them after overlap.
	retention = 5 * time.Minute
	// pollLimit bounds how long one reading or writing may take.
	pollLimit = 2 * time.Second
	// pollSize bounds what one reading brings. If there are more, those are the
	// newest, with a Gap for the others.
	pollSize = 5000
	// unsentSize bounds what waits for a server that does not answer. The oldest
	// are given up first.
	unsentSize = 1024
)

// eventDocument is an event in the collection.
type eventDocument struct {
	ID     bson.ObjectID `bson:"_id"`
	At     time.Time     `bson:"at"` // by the server's clock, so that there is one
	Device string        `bson:"device"`
	Ended  bool          `bson:"ended"`
}

func (e eventDocument) kind() repo.EventKind {
	if e.Ended {
		return repo.Ended
	}
	return repo.Changed
}

// pollFor returns a feed of the events from now on.
func pollFor(ctx context.Context, collection *mongo.Collection, hub *events.Hub, log *slog.Logger, now func() time.Time) (*poll, error) {
	if err := makeIndex(ctx, collection, bson.D{{Key: "at", Value: 1}}, options.Index().SetName("at")); err != nil {
		return nil, err
	}
	p := &poll{events: collection, hub: hub, log: log, now: now, seen: make(map[bson.ObjectID]time.Time)}
	_, _, err := p.fresh(ctx)
	return p, err
}

func (p *poll) expect(*news)    {}
func (p *poll) forget(...*news) {}

func (p *poll) run(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.catchUp(ctx)
		}
	}
}

// tell leaves the events in the collection and reads them with all others. What
// cannot be left now is left later.
func (p *poll) tell(all ...*news) {
	if len(all) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), pollLimit)
	defer cancel()
	if err := p.send(ctx, all); err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.unsent = append(p.unsent, all...)
		p.unsent = p.unsent[max(len(p.unsent)-unsentSize, 0):]
		p.fail(ctx, err)
		p.publish(all)
		return
	}
	if !p.catchUp(ctx) {
		p.publish(all)
	}
}

func (p *poll) publish(all []*news) {
	for _, n := range all {
		p.hub.Publish(n.event)
	}
}

// send writes events. The server adds the time to an update, though not to an
// insert; written twice, an event still is one.
func (p *poll) send(ctx context.Context, all []*news) error {
	var writes []mongo.WriteModel
	for _, n := range all {
		writes = append(writes, mongo.NewUpdateOneModel().SetUpsert(true).
			SetFilter(bson.D{{Key: "_id", Value: n.id}}).
			SetUpdate(bson.D{
				{Key: "$set", Value: bson.D{{Key: "device", Value: n.event.DeviceID.String()}, {Key: "ended", Value: n.event.Kind == repo.Ended}}},
				{Key: "$currentDate", Value: bson.D{{Key: "at", Value: true}}},
			}))
	}
	_, err := p.events.BulkWrite(ctx, writes)
	return err
}

// catchUp returns when the hub has got all events that were in the collection
// when it was called. Of many callers one reads for all that wait meanwhile. It
// reports whether they could be read.
func (p *poll) catchUp(ctx context.Context) bool {
	number := p.asked.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.served >= number {
		return true
	}
	serving := p.asked.Load()
	ctx, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	if err := p.read(ctx); err != nil {
		p.fail(ctx, err)
		return false
	}
	p.served = serving
	return true
}

// fail notes that events cannot be heard.
func (p *poll) fail(ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.Canceled) || p.broken {
		return
	}
	p.broken = true
	p.hub.Publish(repo.Event{Kind: repo.Cut})
	p.log.WarnContext(ctx, "mongo: cut off from the events of other processes; nothing is taken from the cache", "error", err)
}

// read publishes what is new.
func (p *poll) read(ctx context.Context) error {
	if len(p.unsent) > 0 {
		if err := p.send(ctx, p.unsent); err != nil {
			return err
		}
		p.unsent = nil
	}
	fresh, missed, err := p.fresh(ctx)
	if err != nil {
		return err
	}
	if p.broken {
		p.broken, missed = false, true
		p.log.InfoContext(ctx, "mongo: events of other processes are heard again")
	}
	if missed {
		p.hub.Publish(repo.Event{Kind: repo.Gap})
	}
	p.hub.Publish(fresh...)
	return p.tidy(ctx)
}

// fresh returns the events that were not seen before, in order, and whether
// there were more than it can read. Of two in one millisecond an end comes last,
// because a device has no changes after it.
func (p *poll) fresh(ctx context.Context) (fresh []repo.Event, missed bool, err error) {
	// The window ends at the server's now, and closes up to the newest event as
	// time goes by without any.
	from := p.newest.Add(-max(0, overlap-p.now().Sub(p.came)))
	cursor, err := p.events.Find(ctx, bson.D{{Key: "at", Value: bson.D{{Key: "$gte", Value: from}}}},
		options.Find().SetSort(bson.D{{Key: "at", Value: -1}}).SetLimit(pollSize))
	if err != nil {
		return nil, false, err
	}
	var found []eventDocument
	if err := cursor.All(ctx, &found); err != nil {
		return nil, false, err
	}
	if len(found) == pollSize {
		_, known := p.seen[found[pollSize-1].ID]
		missed = !known
	}
	slices.SortFunc(found, func(a, b eventDocument) int {
		return cmp.Or(a.At.Compare(b.At), -cmp.Compare(a.kind(), b.kind()), bytes.Compare(a.ID[:], b.ID[:]))
	})
	for _, e := range found {
		if _, known := p.seen[e.ID]; known {
			continue
		}
		if id, err := domain.ParseDeviceID(e.Device); err == nil {
			fresh = append(fresh, repo.Event{Kind: e.kind(), DeviceID: id})
		}
		p.seen[e.ID] = e.At
		if e.At.After(p.newest) {
			p.newest, p.came = e.At, p.now()
		}
	}
	for id, at := range p.seen {
		if at.Before(p.newest.Add(-overlap)) {
			delete(p.seen, id)
		}
	}
	return fresh, missed, nil
}

// tidy removes old events once a minute.
func (p *poll) tidy(ctx context.Context) error {
	if p.newest.Sub(p.tidied) < time.Minute {
		return nil
	}
	_, err := p.events.DeleteMany(ctx, bson.D{{Key: "at", Value: bson.D{{Key: "$lt", Value: p.newest.Add(-retention)}}}})
	if err == nil {
		p.tidied = p.newest
	}
	return err
}
