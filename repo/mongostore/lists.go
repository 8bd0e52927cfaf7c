package mongostore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"golang.org/x/sync/errgroup"

	"cloakroom/domain"
	"cloakroom/repo"
)

// The keys that devices are found by, or nil for those that are none.
func ofOwner(o domain.Owner) bson.D {
	if o.IsZero() {
		return nil
	}
	return bson.D{{Key: "issuer", Value: o.Issuer}, {Key: "subject", Value: o.Subject}}
}

func ofEmail(email string) bson.D {
	if email == "" {
		return nil
	}
	return bson.D{{Key: "email", Value: email}, {Key: "email_verified", Value: true}}
}

func ofSID(issuer, sid string) bson.D {
	if sid == "" {
		return nil
	}
	return bson.D{{Key: "issuer", Value: issuer}, {Key: "oidc_sid", Value: sid}}
}

// ListByOwner implements repo.Store.
func (s *Store) ListByOwner(ctx context.Context, o domain.Owner) ([]domain.Record, error) {
	return s.list(ctx, "list by owner", ofOwner(o))
}

// ListByEmail implements repo.Store.
func (s *Store) ListByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	return s.list(ctx, "list by email", ofEmail(email))
}

func (s *Store) list(ctx context.Context, doing string, keys bson.D) ([]domain.Record, error) {
	if err := ctx.Err(); err != nil || keys == nil {
		return nil, err
	}
	list, err := s.find(ctx, keys, options.Find())
	if err != nil {
		return nil, failed(ctx, doing, err)
	}
	slices.SortFunc(list, func(a, b domain.Record) int {
		if c := b.LastSeenAt.Compare(a.LastSeenAt); c != 0 {
			return c
		}
		return bytes.Compare(a.DeviceID[:], b.DeviceID[:])
	})
	return list, nil
}

// find returns devices in the form of the lists.
func (s *Store) find(ctx context.Context, filter bson.D, how *options.FindOptionsBuilder) ([]domain.Record, error) {
	cursor, err := s.devices.Find(ctx, filter, how.SetProjection(unlisted))
	if err != nil {
		return nil, err
	}
	var found []document
	if err := cursor.All(ctx, &found); err != nil {
		return nil, err
	}
	return records(found)
}

// DeleteByOwner implements repo.Store.
func (s *Store) DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	return s.deleteAll(ctx, "delete by owner", ofOwner(o), except)
}

// DeleteByEmail implements repo.Store.
func (s *Store) DeleteByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	return s.deleteAll(ctx, "delete by email", ofEmail(email), domain.DeviceID{})
}

// DeleteBySID implements repo.Store.
func (s *Store) DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error) {
	return s.deleteAll(ctx, "delete by sid", ofSID(issuer, sid), domain.DeviceID{})
}

// looks bounds how often a deletion looks for what is left.
const looks = 3

// deletions is how many deletions of one call are under way at once: each takes
// as long as a majority of the members needs to confirm it.
const deletions = 16

// deleteAll deletes the devices with certain keys one by one, each only if it
// still has the keys, so that it returns exactly what went. It looks again until
// there are none, because a server reads an index piece by piece, and one that
// is not the best for the keys might show a device at neither its old nor its
// new place. If one cannot be deleted it returns those that went all the same,
// beside the error.
func (s *Store) deleteAll(ctx context.Context, doing string, keys bson.D, except domain.DeviceID) ([]domain.Record, error) {
	if err := ctx.Err(); err != nil || keys == nil {
		return nil, err
	}
	left := keys
	if !except.IsZero() {
		left = append(bson.D{{Key: "_id", Value: bson.D{{Key: "$ne", Value: except.String()}}}}, keys...)
	}
	var gone []domain.Record
	for range looks {
		ids, err := s.ids(ctx, left, 0)
		if err != nil || len(ids) == 0 {
			return gone, failed(ctx, doing, err)
		}
		some, err := s.deleteEach(ctx, ids, keys)
		if gone = append(gone, some...); err != nil {
			return gone, failed(ctx, doing, err)
		}
	}
	return gone, nil
}

// deleteEach deletes those of some devices that have certain keys, and returns
// them. After an error it begins no more.
func (s *Store) deleteEach(ctx context.Context, ids []domain.DeviceID, keys bson.D) (gone []domain.Record, _ error) {
	var mu sync.Mutex
	var told []*news
	var broken bool
	var deleting errgroup.Group
	deleting.SetLimit(deletions)
	for _, id := range ids {
		deleting.Go(func() error {
			mu.Lock()
			over := broken
			mu.Unlock()
			if over {
				return nil
			}
			n := newsOf(repo.Ended, id)
			s.feed.expect(n)
			r, err := s.remove(ctx, n, slices.Concat(byID(id), keys))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				gone, told = append(gone, r), append(told, n)
				return nil
			}
			s.feed.forget(n)
			if errors.Is(err, domain.ErrNotFound) { // which is another's deletion, and fine
				return nil
			}
			broken = true
			return err
		})
	}
	err := deleting.Wait()
	s.feed.tell(told...) // once for all: word of a change takes its time
	s.feed.forget(told...)
	return gone, err
}

// ids returns the devices that a filter finds, up to limit if that is not 0.
func (s *Store) ids(ctx context.Context, filter bson.D, limit int) ([]domain.DeviceID, error) {
	cursor, err := s.devices.Find(ctx, filter, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, err
	}
	var found []struct {
		ID string `bson:"_id"`
	}
	if err := cursor.All(ctx, &found); err != nil {
		return nil, err
	}
	var ids []domain.DeviceID
	for _, f := range found {
		id, err := domain.ParseDeviceID(f.ID)
		if err != nil {
			return nil, fmt.Errorf("document %q: %w", f.ID, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// Page implements repo.Store. It goes by device id; the cursor is the last one.
func (s *Store) Page(ctx context.Context, cursor string, limit int) ([]domain.Record, string, error) {
	filter := bson.D{}
	if cursor != "" {
		if _, err := domain.ParseDeviceID(cursor); err != nil {
			return nil, "", fmt.Errorf("cursor %q: %w", cursor, domain.ErrBadInput)
		}
		filter = bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: cursor}}}}
	}
	if limit < 1 {
		return nil, "", fmt.Errorf("a page of %d records: %w", limit, domain.ErrBadInput)
	}
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	page, err := s.find(ctx, filter, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)).SetBatchSize(int32(min(limit, math.MaxInt32))))
	if err != nil || len(page) < limit {
		return page, "", failed(ctx, "page", err)
	}
	return page, page[limit-1].DeviceID.String(), nil
}

// Sweep implements repo.Store. It has something to do only where the server has
// no TTL indexes.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (int, error) {
	if err := ctx.Err(); err != nil || s.ttl || limit < 1 {
		return 0, err
	}
	over := bson.D{{Key: "expires_at", Value: bson.D{{Key: "$lte", Value: now}}}}
	var expected, told []*news
	defer func() {
		s.feed.tell(told...)
		s.feed.forget(expected...)
	}()

	ids, err := s.ids(ctx, over, limit)
	for _, id := range ids {
		n := newsOf(repo.Ended, id)
		s.feed.expect(n)
		expected = append(expected, n)
		var result *mongo.DeleteResult
		if result, err = s.devices.DeleteOne(ctx, append(byID(id), over...)); err != nil {
			break
		}
		if result.DeletedCount > 0 {
			told = append(told, n)
		}
	}
	swept := len(told)
	if err == nil {
		err = forget(ctx, s.spent, "until", now, limit, &swept)
	}
	if err == nil {
		err = forget(ctx, s.queue, "expires_at", now, limit, &swept)
	}
	return swept, failed(ctx, "sweep", err)
}

// forget removes documents whose time is over, until as many are removed as the
// limit says.
func forget(ctx context.Context, collection *mongo.Collection, field string, now time.Time, limit int, removed *int) error {
	if *removed >= limit {
		return nil
	}
	over := bson.D{{Key: field, Value: bson.D{{Key: "$lte", Value: now}}}}
	cursor, err := collection.Find(ctx, over, options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit-*removed)))
	if err != nil {
		return err
	}
	var found []struct {
		ID any `bson:"_id"`
	}
	if err := cursor.All(ctx, &found); err != nil {
		return err
	}
	for _, f := range found {
		result, err := collection.DeleteOne(ctx, append(bson.D{{Key: "_id", Value: f.ID}}, over...))
		if err != nil {
			return err
		}
		*removed += int(result.DeletedCount)
	}
	return nil
}
