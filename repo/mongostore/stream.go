package mongostore

import (
	"context"
	"log/slog"
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

// stream is the feed where there are change streams. The server tells everybody
// of every change, in one order, so there is nothing to send.
type stream struct {
	devices *mongo.Collection
	hub     *events.Hub
	log     *slog.Logger
	changes *mongo.ChangeStream
	broken  atomic.Bool

	mu      sync.Mutex
	waiting map[*news]struct{}
}

const (
	// echoLimit is how long a change waits until this replica's stream has
	// shown it. A majority has it by then, so that takes as long as a round
	// trip; a sharded cluster with an idle shard takes longer and is not waited
	// for.
	echoLimit = 250 * time.Millisecond
	// The server answers a stream without news after streamAwait. One that
	// takes streamLimit has been cut off.
	streamAwait = time.Second
	streamLimit = 3 * time.Second
)

// follow returns a feed of the changes from now on.
func follow(ctx context.Context, devices *mongo.Collection, hub *events.Hub, log *slog.Logger) (*stream, error) {
	s := &stream{devices: devices, hub: hub, log: log, waiting: make(map[*news]struct{})}
	return s, s.open(ctx)
}

func (s *stream) open(ctx context.Context) error {
	var err error
	s.changes, err = s.devices.Watch(ctx, mongo.Pipeline{
		// Touches and leases are nobody's news: they leave write_id alone.
		{{Key: "$match", Value: bson.D{{Key: "$or", Value: bson.A{
			bson.D{{Key: "operationType", Value: "delete"}},
			bson.D{{Key: "updateDescription.updatedFields.write_id", Value: bson.D{{Key: "$exists", Value: true}}}},
		}}}}},
		// Not the tokens.
		{{Key: "$project", Value: bson.D{
			{Key: "operationType", Value: 1}, {Key: "documentKey", Value: 1},
			{Key: "updateDescription.updatedFields.write_id", Value: 1},
		}}},
	}, options.ChangeStream().SetMaxAwaitTime(streamAwait))
	return err
}

func (s *stream) run(ctx context.Context) {
	for {
		err := s.publish(ctx)
		s.close()
		if ctx.Err() != nil {
			return
		}
		s.broken.Store(true)
		s.hub.Publish(repo.Event{Kind: repo.Cut})
		s.log.WarnContext(ctx, "mongo: cut off from the events of other replicas; nothing is taken from the cache", "error", err)
		for pause := firstPause; ; pause = min(2*pause, lastPause) {
			if !sleep(ctx, pause) {
				return
			}
			if s.reopen(ctx) == nil {
				break
			}
		}
		s.broken.Store(false)
		s.hub.Publish(repo.Event{Kind: repo.Gap})
		s.log.InfoContext(ctx, "mongo: events of other replicas are heard again")
	}
}

func (s *stream) reopen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, streamLimit)
	defer cancel()
	return s.open(ctx)
}

func (s *stream) close() {
	ctx, cancel := context.WithTimeout(context.Background(), streamLimit)
	defer cancel()
	_ = s.changes.Close(ctx) // the server forgets it by itself, too
}

// publish hands on what the stream shows until it ends.
func (s *stream) publish(ctx context.Context) error {
	for s.next(ctx) {
		if s.changes.Current == nil {
			continue
		}
		var change struct {
			Operation string `bson:"operationType"`
			Document  struct {
				ID bson.RawValue `bson:"_id"`
			} `bson:"documentKey"`
			Update struct {
				Fields struct {
					WriteID bson.ObjectID `bson:"write_id"`
				} `bson:"updatedFields"`
			} `bson:"updateDescription"`
		}
		if err := s.changes.Decode(&change); err != nil {
			return err
		}
		text, _ := change.Document.ID.StringValueOK()
		id, err := domain.ParseDeviceID(text)
		if err != nil {
			continue // no device of ours
		}
		event := repo.Event{Kind: repo.Changed, DeviceID: id}
		if change.Operation == "delete" {
			event.Kind = repo.Ended
		}
		s.hub.Publish(event)
		s.heard(event, change.Update.Fields.WriteID)
	}
	return s.changes.Err()
}

// next waits for the next change. After a while without any it returns true
// and there is no current one.
func (s *stream) next(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, streamLimit)
	defer cancel()
	if s.changes.TryNext(ctx) {
		return true
	}
	s.changes.Current = nil
	return s.changes.Err() == nil && s.changes.ID() != 0
}

func (s *stream) expect(n *news) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[n] = struct{}{}
}

func (s *stream) forget(all ...*news) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range all {
		delete(s.waiting, n)
	}
}

// heard wakes those whose change it was. There are as many waiting as there are
// changes under way.
func (s *stream) heard(event repo.Event, write bson.ObjectID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.waiting {
		if n.event == event && (event.Kind == repo.Ended || n.id == write) {
			delete(s.waiting, n)
			close(n.heard)
		}
	}
}

func (s *stream) tell(all ...*news) {
	late := time.NewTimer(echoLimit)
	defer late.Stop()
	for _, n := range all {
		if !s.broken.Load() {
			select {
			case <-n.heard:
				continue
			case <-late.C:
				late.Reset(0) // for the others
			}
		}
		s.hub.Publish(n.event)
	}
}
