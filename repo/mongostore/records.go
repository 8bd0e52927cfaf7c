package mongostore

import (
	"context"
	"errors"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"cloakroom/domain"
	"cloakroom/repo"
)

// Create implements repo.Store.
func (s *Store) Create(ctx context.Context, r domain.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d := document{ID: r.DeviceID.String(), SignIn: encodeSignIn(r), Version: 1, Lease: free(), WriteID: bson.NewObjectID()}
	_, err := s.devices.InsertOne(ctx, d)
	if exists := mongo.IsDuplicateKeyError(err); exists || lost(err) {
		cause, where := err, s.committed
		if exists {
			cause, where = domain.ErrExists, s.devices
		}
		if err = s.settle(ctx, where, r.DeviceID, d.WriteID, cause); errors.Is(err, domain.ErrNotFound) {
			err = cause
		}
	}
	return failed(ctx, "create", err)
}

// Get implements repo.Store.
func (s *Store) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	if err := ctx.Err(); err != nil {
		return domain.Record{}, err
	}
	r, err := one(s.devices.FindOne(ctx, byID(id)))
	return r, failed(ctx, "get", err)
}

// one decodes the document that a command has found.
func one(result *mongo.SingleResult) (domain.Record, error) {
	var d document
	if err := result.Decode(&d); err != nil {
		if errors.Is(err, mongo.ErrNoDocuments) {
			err = domain.ErrNotFound
		}
		return domain.Record{}, err
	}
	return d.record()
}

// Overwrite implements repo.Store.
func (s *Store) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	n := newsOf(repo.Changed, r.DeviceID)
	return s.change(ctx, "overwrite", n, bson.E{Key: "version", Value: from}, bson.D{
		{Key: "$set", Value: struct {
			SignIn  signIn        `bson:",inline"`
			Lease   lease         `bson:",inline"`
			WriteID bson.ObjectID `bson:"write_id"`
		}{encodeSignIn(r), free(), n.id}},
		{Key: "$inc", Value: bson.D{{Key: "version", Value: int64(1)}}},
	})
}

// ReplaceTokens implements repo.Store.
func (s *Store) ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error {
	n := newsOf(repo.Changed, id)
	return s.change(ctx, "replace tokens", n, bson.E{Key: "version", Value: from}, bson.D{
		{Key: "$set", Value: struct {
			Tokens    tokens        `bson:",inline"`
			ExpiresAt time.Time     `bson:"expires_at"`
			WriteID   bson.ObjectID `bson:"write_id"`
		}{encodeTokens(t), expiresAt, n.id}},
		{Key: "$inc", Value: bson.D{{Key: "version", Value: int64(1)}}},
		{Key: "$pull", Value: bson.D{{Key: "lease_owner", Value: leaseOwner}}},
	})
}

// Rename implements repo.Store.
func (s *Store) Rename(ctx context.Context, id domain.DeviceID, name string) error {
	n := newsOf(repo.Changed, id)
	return s.change(ctx, "rename", n, bson.E{}, bson.D{
		{Key: "$set", Value: bson.D{{Key: "name", Value: name}, {Key: "write_id", Value: n.id}}},
	})
}

// change updates a device, if the condition holds, and tells all replicas. The
// update sets write_id to that of the news.
func (s *Store) change(ctx context.Context, doing string, n *news, condition bson.E, update bson.D) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.feed.expect(n)
	defer s.feed.forget(n)
	filter, otherwise := byID(n.event.DeviceID), domain.ErrNotFound
	if condition.Key != "" {
		filter, otherwise = append(filter, condition), domain.ErrConflict
	}
	result, err := s.devices.UpdateOne(ctx, filter, update)
	switch {
	case lost(err):
		err = s.settle(ctx, s.committed, n.event.DeviceID, n.id, err)
	case err == nil && result.MatchedCount == 0:
		err = s.settle(ctx, s.devices, n.event.DeviceID, n.id, otherwise)
	}
	if err == nil {
		s.feed.tell(n)
	}
	return failed(ctx, doing, err)
}

// settle tells what has become of a write that did nothing, or whose answer got
// lost. The driver sends a write again if it gets no answer, and then it may
// find that the version has moved on or the id is taken, by the first. A record
// that bears the write's id is its work: success. If there is no record, the
// answer is domain.ErrNotFound, and else what the caller makes of it.
func (s *Store) settle(ctx context.Context, devices *mongo.Collection, id domain.DeviceID, write bson.ObjectID, otherwise error) error {
	var there struct {
		WriteID bson.ObjectID `bson:"write_id"`
	}
	err := devices.FindOne(ctx, byID(id), options.FindOne().SetProjection(bson.D{{Key: "write_id", Value: 1}})).Decode(&there)
	switch {
	case err == nil && there.WriteID == write:
		return nil
	case errors.Is(err, mongo.ErrNoDocuments):
		return domain.ErrNotFound
	case err != nil && outcome(otherwise):
		return err // so it is not known
	}
	return otherwise
}

// Touch implements repo.Store. What moves LastSeenAt takes the address with it;
// if that does not move, the end may move alone.
func (s *Store) Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	end := bson.E{Key: "$max", Value: bson.D{{Key: "expires_at", Value: seen.ExpiresAt}}}
	result, err := s.touched.UpdateOne(ctx,
		append(byID(id), bson.E{Key: "last_seen_at", Value: bson.D{{Key: "$lt", Value: seen.At}}}),
		bson.D{end, {Key: "$set", Value: bson.D{{Key: "last_seen_at", Value: seen.At}, {Key: "last_seen_ip", Value: seen.IP}}}})
	if err == nil && result.MatchedCount == 0 {
		_, err = s.touched.UpdateOne(ctx, byID(id), bson.D{end})
	}
	return failed(ctx, "touch", err)
}

// TakeLease implements repo.Store.
func (s *Store) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	// One that was held and is not a moment later is taken after all, but not
	// for ever, as many may pass it from hand to hand.
	const attempts = 5
	if err := ctx.Err(); err != nil {
		return domain.Record{}, err
	}
	for range attempts - 1 {
		r, err := s.tryLease(ctx, id, owner, ttl)
		if !errors.Is(err, domain.ErrLeaseHeld) || r.Lease.HeldAt(s.now()) && r.Lease.Owner != owner {
			return r, failed(ctx, "take lease", err)
		}
	}
	r, err := s.tryLease(ctx, id, owner, ttl)
	return r, failed(ctx, "take lease", err)
}

func (s *Store) tryLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	now := s.now()
	r, err := one(s.devices.FindOneAndUpdate(ctx,
		append(byID(id), bson.E{Key: "$or", Value: bson.A{
			bson.D{{Key: "lease_owner", Value: bson.D{{Key: "$in", Value: bson.A{bson.A{}, owner}}}}},
			bson.D{{Key: "lease_until", Value: bson.D{{Key: "$lte", Value: now}}}},
		}}),
		bson.D{{Key: "$set", Value: lease{Owner: []string{owner}, Until: now.Add(ttl)}}},
		options.FindOneAndUpdate().SetReturnDocument(options.After)))
	if !errors.Is(err, domain.ErrNotFound) {
		return r, err
	}
	if r, err = one(s.devices.FindOne(ctx, byID(id))); err == nil {
		err = domain.ErrLeaseHeld
	}
	return r, err
}

// RenewLease implements repo.Store.
func (s *Store) RenewLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := s.now()
	result, err := s.devices.UpdateOne(ctx,
		append(byID(id), bson.E{Key: "lease_owner", Value: owner}, bson.E{Key: "lease_until", Value: bson.D{{Key: "$gt", Value: now}}}),
		bson.D{{Key: "$set", Value: bson.D{{Key: "lease_until", Value: now.Add(ttl)}}}})
	if err == nil && result.MatchedCount == 0 {
		err = s.settle(ctx, s.devices, id, bson.NilObjectID, domain.ErrLeaseLost)
	}
	return failed(ctx, "renew lease", err)
}

// ReleaseLease implements repo.Store.
func (s *Store) ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := s.devices.UpdateOne(ctx, byID(id), bson.D{{Key: "$pull", Value: bson.D{{Key: "lease_owner", Value: owner}}}})
	return failed(ctx, "release lease", err)
}

// Delete implements repo.Store.
func (s *Store) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	if err := ctx.Err(); err != nil {
		return domain.Record{}, err
	}
	n := newsOf(repo.Ended, id)
	s.feed.expect(n)
	defer s.feed.forget(n)
	filter := byID(id)
	if from != repo.AnyVersion {
		filter = append(filter, bson.E{Key: "version", Value: from})
	}
	r, err := s.remove(ctx, n, filter)
	switch {
	case err == nil:
		s.feed.tell(n)
	case errors.Is(err, domain.ErrNotFound) && from != repo.AnyVersion:
		err = s.settle(ctx, s.devices, id, bson.NilObjectID, domain.ErrConflict)
	}
	return r, failed(ctx, "delete", err)
}

// resends bounds how often a deletion is begun anew that was not sent. Where several
// are under way, what happens to one would keep the others from being made.
const resends = 2

// remove deletes one device and returns it. If the answer got lost and it is
// gone, that is told; but what it was in the end nobody knows any more, and that
// is an error.
func (s *Store) remove(ctx context.Context, n *news, filter bson.D) (domain.Record, error) {
	r, err := one(s.devices.FindOneAndDelete(ctx, filter))
	for range resends {
		if !unsent(err) {
			break
		}
		r, err = one(s.devices.FindOneAndDelete(ctx, filter))
	}
	if lost(err) && errors.Is(s.settle(ctx, s.committed, n.event.DeviceID, bson.NilObjectID, err), domain.ErrNotFound) {
		s.feed.tell(n)
	}
	return r, err
}
