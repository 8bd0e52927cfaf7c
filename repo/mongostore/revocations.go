package mongostore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"cloakroom/domain"
	"cloakroom/repo"
)

// revocation is a revocation as it stands in the collection.
type revocation struct {
	ID           string    `bson:"_id,omitempty"` // empty in updates, whose filter has it
	Device       string    `bson:"device"`
	Provider     string    `bson:"provider"`
	Issuer       string    `bson:"issuer"`
	Subject      string    `bson:"subject"`
	SID          string    `bson:"oidc_sid"`
	Refresh      []byte    `bson:"refresh_token"`
	Access       []byte    `bson:"access_token"`
	AccessExpiry time.Time `bson:"access_expiry"`
	Unless       []byte    `bson:"unless"`
	Tries        int       `bson:"tries"`
	NotBefore    time.Time `bson:"not_before"`
	ExpiresAt    time.Time `bson:"expires_at"`
}

func encodeRevocation(r domain.Revocation) revocation {
	return revocation{
		Device: r.DeviceID.String(), Provider: r.Provider, Issuer: r.Owner.Issuer, Subject: r.Owner.Subject, SID: r.SID,
		Refresh: []byte(r.Refresh.Reveal()), Access: []byte(r.Access.Reveal()), AccessExpiry: r.AccessExpiry,
		Unless: r.Unless[:], Tries: r.Tries, NotBefore: r.NotBefore, ExpiresAt: r.ExpiresAt,
	}
}

func (d revocation) decode() (domain.Revocation, error) {
	device, err := domain.ParseDeviceID(d.Device)
	r := domain.Revocation{
		ID: d.ID, DeviceID: device, Provider: d.Provider, Owner: domain.Owner{Issuer: d.Issuer, Subject: d.Subject}, SID: d.SID,
		Refresh: domain.NewSecret(string(d.Refresh)), Access: domain.NewSecret(string(d.Access)), AccessExpiry: d.AccessExpiry,
		Tries: d.Tries, NotBefore: d.NotBefore, ExpiresAt: d.ExpiresAt,
	}
	if err != nil || len(d.Unless) != len(r.Unless) {
		return domain.Revocation{}, fmt.Errorf("revocation %q is damaged", d.ID)
	}
	copy(r.Unless[:], d.Unless)
	return r, nil
}

// QueueRevocations implements repo.Store. Written twice, a revocation still is
// one.
func (s *Store) QueueRevocations(ctx context.Context, list []domain.Revocation) error {
	if err := repo.CheckRevocations(list); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil || len(list) == 0 {
		return err
	}
	var writes []mongo.WriteModel
	for _, r := range list {
		writes = append(writes, mongo.NewUpdateOneModel().SetUpsert(true).
			SetFilter(bson.D{{Key: "_id", Value: r.ID}}).SetUpdate(bson.D{{Key: "$set", Value: encodeRevocation(r)}}))
	}
	_, err := s.queue.BulkWrite(ctx, writes)
	return failed(ctx, "queue revocations", err)
}

// ClaimRevocations implements repo.Store. It claims one by one those that are due
// and that nobody has claimed meanwhile.
func (s *Store) ClaimRevocations(ctx context.Context, now, until time.Time, limit int) ([]domain.Revocation, error) {
	if err := ctx.Err(); err != nil || limit < 1 {
		return nil, err
	}
	due := bson.D{{Key: "not_before", Value: bson.D{{Key: "$lte", Value: now}}}}
	cursor, err := s.queue.Find(ctx, due, options.Find().
		SetSort(bson.D{{Key: "not_before", Value: 1}}).SetLimit(int64(limit)).SetProjection(bson.D{{Key: "_id", Value: 1}}))
	if err != nil {
		return nil, failed(ctx, "claim revocations", err)
	}
	var found []revocation
	if err := cursor.All(ctx, &found); err != nil {
		return nil, failed(ctx, "claim revocations", err)
	}
	var claimed []domain.Revocation
	for _, f := range found {
		var d revocation
		err := s.queue.FindOneAndUpdate(ctx, append(bson.D{{Key: "_id", Value: f.ID}}, due...),
			bson.D{{Key: "$set", Value: bson.D{{Key: "not_before", Value: until}}}},
			options.FindOneAndUpdate().SetReturnDocument(options.After)).Decode(&d)
		if errors.Is(err, mongo.ErrNoDocuments) {
			continue
		}
		var r domain.Revocation
		if err == nil {
			r, err = d.decode()
		}
		if err != nil {
			return claimed, failed(ctx, "claim revocations", err)
		}
		claimed = append(claimed, r)
	}
	return claimed, nil
}

// FinishRevocation implements repo.Store.
func (s *Store) FinishRevocation(ctx context.Context, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := s.queue.DeleteOne(ctx, bson.D{{Key: "_id", Value: id}})
	return failed(ctx, "finish a revocation", err)
}

// PageRevocations implements repo.Store. It goes by id; the cursor is the last
// one.
func (s *Store) PageRevocations(ctx context.Context, cursor string, limit int) ([]domain.Revocation, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("a page of %d revocations: %w", limit, domain.ErrBadInput)
	}
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	found, err := s.queue.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$gt", Value: cursor}}}},
		options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}).SetLimit(int64(limit)))
	if err != nil {
		return nil, "", failed(ctx, "page revocations", err)
	}
	var documents []revocation
	if err := found.All(ctx, &documents); err != nil {
		return nil, "", failed(ctx, "page revocations", err)
	}
	var page []domain.Revocation
	for _, d := range documents {
		r, err := d.decode()
		if err != nil {
			return nil, "", failed(ctx, "page revocations", err)
		}
		page = append(page, r)
	}
	if len(page) < limit {
		return page, "", nil
	}
	return page, page[limit-1].ID, nil
}
