package mongostore_test

import (
	"log/slog"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"cloakroom/infra/db"
	"cloakroom/repo/mongostore"
)

// database opens a database as the broker does.
func database(t testing.TB, address string) *mongo.Database {
	t.Helper()
	database, err := db.OpenMongo(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	return database
}

// open opens a store.
func open(t testing.TB, address string) *mongostore.Store {
	t.Helper()
	s, err := mongostore.Open(t.Context(), database(t, address), slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
