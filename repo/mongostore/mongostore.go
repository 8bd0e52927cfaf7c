// Package mongostore keeps records in MongoDB, which infra/db opens: a
// standalone server, a replica set or a sharded cluster. It stands beside
// sqlitestore and redisstore; package sealstore in front of it has sealed the
// tokens, which are binary data here.
//
// A device is one document in the collection "devices", and each operation is
// one command on one document, atomic by itself. No transaction is needed, so a
// standalone server will do, and so will a cluster whose shards know nothing of
// each other. To shard, use the key {_id: 1}:
//
//	sh.shardCollection("cloakroom.devices", {_id: 1})
//
// Every operation on a device names its _id, which is random and thus spreads
// over the shards; lists by owner, email address and sid ask all of them.
//
// Events reach the other replicas by a change stream where there is one, that
// is on replica sets and sharded clusters. On a sharded cluster a shard without
// writes holds the stream up until its next no-op (periodicNoopIntervalSecs);
// set that to 1. A standalone server has no change streams; there, the
// collection "events" is read five times a second.
package mongostore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/events"
)

// Store implements repo.Store.
//
// All writes but those of Touch wait until a majority of the replica set has
// them in its journals, so that neither a power cut nor a failover brings a
// spent refresh token or a deleted device back. A touch that is lost is made
// good by the next request. All reads go to the primary.
type Store struct {
	client *mongo.Client
	now    func() time.Time
	hub    *events.Hub
	feed   feed
	ttl    bool // the server removes what is over

	devices   *mongo.Collection
	committed *mongo.Collection // the same, read as the majority has it
	touched   *mongo.Collection // the same, for writes that may get lost
	spent     *mongo.Collection // what Spend has marked
	queue     *mongo.Collection // of revocations

	stop  context.CancelFunc // of the feed
	loops sync.WaitGroup
}

var _ repo.Store = (*Store)(nil)

// closing bounds how long Close waits for calls that are under way.
const closing = 2 * time.Second

// Open returns the store in a database, after making what indexes are missing;
// several replicas may do so at once. The database's client belongs to the store
// from then on: Close disconnects it, and so does an Open that fails. Leases go
// by the server's clock, as now and a measurement each minute tell it. The log
// hears when now is off, and what the server cannot do.
func Open(ctx context.Context, database *mongo.Database, log *slog.Logger, now func() time.Time) (*Store, error) {
	clock := &clock{host: now}
	s := &Store{client: database.Client(), now: clock.now, hub: events.NewHub()}
	durable := options.Collection().
		SetReadPreference(readpref.Primary()).
		SetReadConcern(readconcern.Local()).
		SetWriteConcern(&writeconcern.WriteConcern{W: "majority", Journal: new(true)})
	s.devices = database.Collection("devices", durable)
	s.committed = s.devices // with a standalone server
	s.spent = database.Collection("spent", durable)
	s.queue = database.Collection("revocations", durable)
	s.touched = s.devices.Clone(options.Collection().SetWriteConcern(writeconcern.W1()))

	if err := s.open(ctx, database, durable, clock, log); err != nil {
		return nil, errors.Join(err, s.disconnect())
	}
	feeding, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.loops.Go(func() { s.feed.run(feeding) })
	s.loops.Go(func() { clock.follow(feeding, database) })
	return s, nil
}

func (s *Store) open(ctx context.Context, database *mongo.Database, durable *options.CollectionOptionsBuilder, clock *clock, log *slog.Logger) error {
	server, err := greet(ctx, database, clock.host)
	if err != nil {
		return explain(database, "greet the server", err)
	}
	clock.ahead.Store(int64(server.clockAhead))
	if ahead := server.clockAhead; ahead.Abs() > time.Second {
		log.WarnContext(ctx, "mongo: the clocks of this host and of the server differ; set them right", "ahead", ahead)
	}
	if err := checkSchema(ctx, database.Collection("schema", durable)); err != nil {
		return explain(database, "read the schema's version", err)
	}
	if s.ttl, err = makeIndexes(ctx, s.devices); err != nil {
		return explain(database, "create indexes", err)
	}
	if err = makeOtherIndexes(ctx, s.spent, s.queue); err != nil {
		return explain(database, "create indexes", err)
	}
	if !s.ttl {
		log.InfoContext(ctx, "mongo: the server has no TTL indexes; records that are over are swept by this process")
	}
	if server.replicated {
		s.committed = s.devices.Clone(options.Collection().SetReadConcern(readconcern.Majority()))
		followed, err := follow(ctx, s.devices, s.hub, log)
		if err == nil {
			s.feed = followed
			return nil
		}
		if !unsupported(err) {
			return explain(database, "open a change stream", err)
		}
	}
	log.InfoContext(ctx, "mongo: the server has no change streams; events of other processes are polled for")
	if s.feed, err = pollFor(ctx, database.Collection("events", durable), s.hub, log, s.now); err != nil {
		return explain(database, "read events", err)
	}
	return nil
}

// Subscribe implements repo.Store.
func (s *Store) Subscribe(ctx context.Context, f func(repo.Event)) error {
	return s.hub.Subscribe(ctx, f)
}

// Ping implements repo.Store: it asks the primary for a device.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.Get(ctx, domain.DeviceID{}); err != nil && !errors.Is(err, domain.ErrNotFound) {
		return err
	}
	return nil
}

// Close implements repo.Store. It disconnects the client as well.
func (s *Store) Close() error {
	s.hub.Close()
	s.stop()
	s.loops.Wait()
	return s.disconnect()
}

func (s *Store) disconnect() error {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	if err := s.client.Disconnect(ctx); err != nil {
		return fmt.Errorf("mongo: disconnect: %w", err)
	}
	return nil
}

// failed says what was being done when something went wrong. If the caller's
// context is over, that is the error.
func failed(ctx context.Context, doing string, err error) error {
	if err == nil || outcome(err) {
		return err
	}
	if over := ctx.Err(); over != nil {
		err = over
	}
	return fmt.Errorf("mongo: %s: %w", doing, err)
}

// outcome reports whether err is an answer and not a failure.
func outcome(err error) bool {
	for _, o := range []error{domain.ErrNotFound, domain.ErrExists, domain.ErrConflict, domain.ErrLeaseHeld, domain.ErrLeaseLost, domain.ErrBadInput} {
		if errors.Is(err, o) {
			return true
		}
	}
	return false
}

// lost reports whether a command may have been carried out although there is no
// answer to it.
func lost(err error) bool { return mongo.IsNetworkError(err) || mongo.IsTimeout(err) }

// unsent reports whether a command was given up before it was sent, because the
// connection of another one broke: the driver's others go with it. It does not
// always try again by itself then.
func unsent(err error) bool {
	var spoilt interface{ Retryable() bool }
	return errors.As(err, &spoilt) && spoilt.Retryable()
}

// byID finds a device.
func byID(id domain.DeviceID) bson.D { return bson.D{{Key: "_id", Value: id.String()}} }
