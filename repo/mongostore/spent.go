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

// Spend implements repo.Store. A key is a document named by it. The upsert makes
// it, or takes over one whose time is over; if it is there and its time is not,
// the id is taken.
func (s *Store) Spend(ctx context.Context, key string, until time.Time) error {
	if err := repo.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	id, by := bson.E{Key: "_id", Value: []byte(key)}, bson.NewObjectID()
	_, err := s.spent.UpdateOne(ctx,
		bson.D{id, {Key: "until", Value: bson.D{{Key: "$lte", Value: s.now()}}}},
		bson.D{{Key: "$set", Value: bson.D{{Key: "until", Value: until}, {Key: "by", Value: by}}}},
		options.UpdateOne().SetUpsert(true))
	if exists := mongo.IsDuplicateKeyError(err); exists || lost(err) {
		// Sent once more because the first answer got lost, it may have found
		// what the first has written.
		if exists {
			err = domain.ErrExists
		}
		switch found := s.spent.FindOne(ctx, bson.D{id, {Key: "by", Value: by}}).Err(); {
		case found == nil:
			err = nil
		case exists && !errors.Is(found, mongo.ErrNoDocuments):
			err = found // so it is not known
		}
	}
	return failed(ctx, "spend", err)
}
