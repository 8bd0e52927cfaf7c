package mongostore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"cloakroom/repo"
)

// The codes of MongoDB's errors that are acted upon.
const (
	codeUnauthorized         = 13
	codeCommandNotFound      = 59
	codeIndexOptionsConflict = 85
	codeIndexKeyConflict     = 86
	codeCommandNotSupported  = 115
	codeNotImplemented       = 238
	codeNoReplicaSet         = 40573
)

// greeting is what a server says of itself.
type greeting struct {
	replicated bool          // it is a member of a replica set, or routes to shards that are
	clockAhead time.Duration // how far this host's clock is ahead of its
}

func greet(ctx context.Context, database *mongo.Database, now func() time.Time) (greeting, error) {
	var hello struct {
		SetName   string    `bson:"setName"`
		Message   string    `bson:"msg"`
		LocalTime time.Time `bson:"localTime"`
	}
	before := now()
	if err := database.RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello); err != nil {
		return greeting{}, err
	}
	after := now()
	g := greeting{replicated: hello.SetName != "" || hello.Message == "isdbgrid"}
	switch { // the server looked at its clock somewhere between
	case hello.LocalTime.IsZero():
	case hello.LocalTime.After(after):
		g.clockAhead = after.Sub(hello.LocalTime)
	case hello.LocalTime.Before(before):
		g.clockAhead = before.Sub(hello.LocalTime)
	}
	return g, nil
}

// schema is the number of the layout that this package reads and writes. It
// goes up with a change that an older version of it could not live with.
const schema = 1

// checkSchema refuses a database whose layout is of a newer version, and says in
// a new one which it is.
func checkSchema(ctx context.Context, versions *mongo.Collection) error {
	var found struct {
		Version int `bson:"version"`
	}
	if _, err := versions.UpdateOne(ctx, bson.D{{Key: "_id", Value: "devices"}},
		bson.D{{Key: "$setOnInsert", Value: bson.D{{Key: "version", Value: schema}}}},
		options.UpdateOne().SetUpsert(true)); err != nil && !mongo.IsDuplicateKeyError(err) { // another replica was quicker
		return err
	}
	if err := versions.FindOne(ctx, bson.D{{Key: "_id", Value: "devices"}}).Decode(&found); err != nil {
		return err
	}
	if found.Version > schema {
		return fmt.Errorf("the devices were written by a newer version of cloakroom (layout %d, this one knows %d); run that version, or name another database", found.Version, schema)
	}
	return nil
}

// makeIndexes makes the indexes that are missing, beside that of _id, and
// reports whether the server expires documents by one. An index holds no field
// that Touch moves: a list that is being read would miss a device that moved.
func makeIndexes(ctx context.Context, devices *mongo.Collection) (ttl bool, err error) {
	// One command for each: FerretDB v1 falls over several of which some exist.
	for _, x := range []struct {
		name string
		keys bson.D
	}{
		{"owner", bson.D{{Key: "issuer", Value: 1}, {Key: "subject", Value: 1}}},
		{"email", bson.D{{Key: "email", Value: 1}, {Key: "email_verified", Value: 1}}},
		{"sid", bson.D{{Key: "issuer", Value: 1}, {Key: "oidc_sid", Value: 1}}},
	} {
		if err := makeIndex(ctx, devices, x.keys, options.Index().SetName(x.name)); err != nil {
			return false, err
		}
	}
	return makeExpiry(ctx, devices, "expires_at", repo.Grace)
}

// makeOtherIndexes makes the indexes of the collections beside the devices.
func makeOtherIndexes(ctx context.Context, spent, queue *mongo.Collection) error {
	if _, err := makeExpiry(ctx, spent, "until", 0); err != nil {
		return err
	}
	if _, err := makeExpiry(ctx, queue, "expires_at", 0); err != nil {
		return err
	}
	return makeIndex(ctx, queue, bson.D{{Key: "not_before", Value: 1}}, options.Index().SetName("due"))
}

// makeExpiry makes the index by which the server expires documents a while after
// the time in a field, and reports whether it does. If it does not, Sweep goes by
// the index.
func makeExpiry(ctx context.Context, collection *mongo.Collection, field string, after time.Duration) (ttl bool, err error) {
	expiry := bson.D{{Key: field, Value: 1}}
	err = makeIndex(ctx, collection, expiry, options.Index().SetName("expiry").SetExpireAfterSeconds(int32(after/time.Second)))
	if hasCode(err, codeNotImplemented) {
		return false, makeIndex(ctx, collection, expiry, options.Index().SetName("expiry"))
	}
	return err == nil, err
}

func makeIndex(ctx context.Context, collection *mongo.Collection, keys bson.D, how *options.IndexOptionsBuilder) error {
	_, err := collection.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: keys, Options: how})
	return err
}

// unsupported reports whether a server answers that it has no change streams.
func unsupported(err error) bool {
	return hasCode(err, codeNoReplicaSet, codeNotImplemented, codeCommandNotSupported, codeCommandNotFound)
}

func hasCode(err error, codes ...int) bool {
	var server mongo.ServerError
	if !errors.As(err, &server) {
		return false
	}
	for _, c := range codes {
		if server.HasErrorCode(c) {
			return true
		}
	}
	return false
}

// explain turns the failure of a first step into a sentence that says what to do.
func explain(database *mongo.Database, doing string, err error) error {
	switch {
	case hasCode(err, codeUnauthorized):
		return fmt.Errorf("mongo: may not %s in the database %s; give the user the role readWrite there, and name user and password in the address: %w", doing, database.Name(), err)
	case hasCode(err, codeIndexOptionsConflict, codeIndexKeyConflict):
		return fmt.Errorf("mongo: the collection devices of the database %s has another index in the place of one that is needed; drop that, and start again to have the right one made: %w", database.Name(), err)
	}
	return fmt.Errorf("mongo: %s in the database %s: %w", doing, database.Name(), err)
}
