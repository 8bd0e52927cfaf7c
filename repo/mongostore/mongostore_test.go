package mongostore_test

import (
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"

	"cloakroom/repo"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/mongostore/mongowire"
	"cloakroom/repo/storetest"
)

func TestStore(t *testing.T) { suite(t, mongotest.Server(t)) }

// TestStoreWithoutChangeStreamsAndTTL is about what servers lack that are no
// replica set, or speak MongoDB's protocol and are none.
func TestStoreWithoutChangeStreamsAndTTL(t *testing.T) {
	suite(t, mongotest.Double(t, mongowire.Options{Standalone: true, NoTTL: true}).URI())
}

func TestStoreOnFerretDB(t *testing.T) { suite(t, mongotest.FerretDB(t)) }

// suite runs the suite of all stores on a server.
func suite(t *testing.T, uri string) {
	addresses := make(map[repo.Store]string)
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) repo.Store {
			address := mongotest.NewDatabase(t, uri)
			s := open(t, address)
			addresses[s] = address
			return s
		},
		Peer:          func(t *testing.T, s repo.Store) repo.Store { return open(t, addresses[s]) },
		SweptByServer: expires(t, uri),
	})
}

// expires reports whether a server took the TTL index.
func expires(t *testing.T, uri string) bool {
	t.Helper()
	address := mongotest.NewDatabase(t, uri)
	if err := open(t, address).Close(); err != nil {
		t.Fatal(err)
	}
	cursor, err := database(t, address).Collection("devices").Indexes().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var indexes []bson.M
	if err := cursor.All(t.Context(), &indexes); err != nil {
		t.Fatal(err)
	}
	for _, x := range indexes {
		if _, found := x["expireAfterSeconds"]; found {
			return true
		}
	}
	return false
}
