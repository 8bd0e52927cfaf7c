package db_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"cloakroom/infra/db"
	"cloakroom/repo/mongostore/mongowire"
)

func mongoDouble(t *testing.T, options mongowire.Options) *mongowire.Server {
	t.Helper()
	s, err := mongowire.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func TestOpenMongoNamesTheDatabase(t *testing.T) {
	uri := mongoDouble(t, mongowire.Options{}).URI()
	for path, want := range map[string]string{
		"": "cloakroom", "/": "cloakroom", "/?w=majority": "cloakroom", "/devices": "devices", "/devices?retryWrites=false": "devices", "/a%2Db": "a-b",
	} {
		database, err := db.OpenMongo(t.Context(), uri+path)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if database.Name() != want {
			t.Errorf("%s names the database %s, want %s", path, database.Name(), want)
		}
		if err := database.Client().Disconnect(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenMongoBoundsEveryCall: no deadline of the caller's is needed.
func TestOpenMongoBoundsEveryCall(t *testing.T) {
	server := mongoDouble(t, mongowire.Options{})
	database, err := db.OpenMongo(t.Context(), server.URI()+"/?timeoutMS=1000")
	if err != nil {
		t.Fatal(err)
	}
	defer database.Client().Disconnect(context.Background())
	server.Inject(mongowire.Fault{Command: "find", Delay: time.Hour, Times: 100})
	if err := database.Collection("things").FindOne(context.Background(), bson.D{}).Err(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
}

const mongoPassword = "Pa55-w0rd"

func TestOpenMongoSaysWhatToDo(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	_ = closed.Close()
	locked := mongoDouble(t, mongowire.Options{})
	locked.Inject(mongowire.Fault{Command: "saslStart", Refuse: &mongowire.Error{Code: 18, Name: "AuthenticationFailed", Message: "Authentication failed."}, Times: 1000})
	old := mongoDouble(t, mongowire.Options{WireVersion: 6})
	plain := mongoDouble(t, mongowire.Options{})
	secure := httptest.NewUnstartedServer(nil)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	host := func(s *mongowire.Server) string { return strings.TrimPrefix(s.URI(), "mongodb://") }
	const user = "mongodb://user:" + mongoPassword + "@"
	const hasty = "serverSelectionTimeoutMS=500"

	for _, c := range []struct{ address, want string }{
		{"redis://" + nobody, "begins neither with mongodb:// nor with mongodb+srv://"},
		{user + nobody + "/?" + hasty, "no server answers at " + nobody + "; start it, or correct the address"},
		{user + host(locked) + "/?" + hasty, "does not accept user and password"},
		{user + host(old) + "/?" + hasty, "is too old; MongoDB 4.4 or newer is needed"},
		{"mongodb://" + host(plain) + "/?replicaSet=another&" + hasty, "no primary is to be found at"},
		{"mongodb://" + secure.Listener.Addr().String() + "/?tls=true&" + hasty, "no secure connection to"},
		{"mongodb://" + host(plain) + "/?tls=true&" + hasty, "no server that speaks TLS answers at"},
		{user + host(plain) + "/?w=-3", "the address is not one of MongoDB's; correct it: "},
		{user + host(plain) + "/?connect=" + mongoPassword[:2], "the address is not one of MongoDB's; correct it: "},
		{user + "/devices", "the address is not one of MongoDB's"},
		{"mongodb+srv://user:" + mongoPassword + "@no-such-name.invalid/", "not found in the DNS"},
		{user + host(plain) + "/a/b", "is no name of a database"},
		{"mongodb://user:" + mongoPassword + "%zz@" + host(plain) + "/", "in user and password"},
		{"mongodb://user:" + mongoPassword + ":x@" + host(plain) + "/", "in user and password"},
		{"mongodb://user:" + mongoPassword + "@x@" + host(plain) + "/", "in user and password"},
		{"mongodb://user:x@" + mongoPassword + "@" + host(plain) + "/", "in user and password"},
		{"mongodb://user:x/" + mongoPassword + "@" + host(plain) + "/", "is no name of a database"},
		{"mongodb://user:x/" + mongoPassword + "@" + host(plain), "is no name of a database"},
		{"mongodb://user:x#" + mongoPassword + "%@" + host(plain), "in user and password"},
		{"mongodb://" + host(plain) + "/?tlsCertificateKeyFilePassword=" + mongoPassword + "%zz", "the address is not one of MongoDB's"},
		{user + host(plain) + "/?authMechanism=" + mongoPassword, "in user and password"},
	} {
		database, err := db.OpenMongo(t.Context(), c.address)
		switch {
		case err == nil:
			t.Errorf("%s: no error", c.address)
			_ = database.Client().Disconnect(t.Context())
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: error %q, want %q", c.address, err, c.want)
		case strings.Contains(err.Error(), mongoPassword):
			t.Errorf("%s: the error has the password: %q", c.address, err)
		}
	}
}

func TestOpenMongoHonoursItsContext(t *testing.T) {
	server := mongoDouble(t, mongowire.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.OpenMongo(ctx, server.URI()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
