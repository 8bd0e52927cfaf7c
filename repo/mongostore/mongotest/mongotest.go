// Package mongotest finds tests a MongoDB to run against: a genuine one where
// there is one, else FerretDB or the double of package mongowire. It says through
// testreport which it was.
package mongotest

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"cloakroom/infra/testreport"
	"cloakroom/repo/mongostore/mongowire"
)

// Server returns the address of the best server that there is: the one that
// CLOAKROOM_TEST_MONGO_URI names, a mongod of our own, or the double.
func Server(t testing.TB) string {
	t.Helper()
	if uri := os.Getenv("CLOAKROOM_TEST_MONGO_URI"); uri != "" {
		testreport.Real(t, "mongo", "MongoDB "+version(t, uri)+" named by CLOAKROOM_TEST_MONGO_URI")
		return uri
	}
	if path, err := exec.LookPath("mongod"); err == nil {
		uri := mongod(t, path)
		testreport.Real(t, "mongo", "mongod "+version(t, uri)+" (replica set of one)")
		return uri
	}
	testreport.Substitute(t, "mongo", "mongowire double — no genuine MongoDB was tested")
	return Double(t, mongowire.Options{}).URI()
}

// Double starts a double that ends with the test.
func Double(t testing.TB, options mongowire.Options) *mongowire.Server {
	t.Helper()
	s, err := mongowire.Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// mongod starts a replica set of one member that ends with the test.
func mongod(t testing.TB, path string) string {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := port.Addr().String()
	_ = port.Close()
	_, number, _ := strings.Cut(address, ":")
	// Killed with the context, which ends before the directory is removed.
	child := exec.CommandContext(t.Context(), path, "--replSet", "test", "--bind_ip", "127.0.0.1", "--port", number,
		"--dbpath", t.TempDir(), "--nounixsocket", "--quiet")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	direct := Connect(t, "mongodb://"+address+"/?directConnection=true&serverSelectionTimeoutMS=60000")
	if err := direct.Database("admin").RunCommand(ctx, bson.D{{Key: "replSetInitiate", Value: bson.D{
		{Key: "_id", Value: "test"},
		{Key: "members", Value: bson.A{bson.D{{Key: "_id", Value: 0}, {Key: "host", Value: address}}}},
	}}}).Err(); err != nil {
		t.Fatal(err)
	}
	uri := "mongodb://" + address + "/?replicaSet=test"
	if err := Connect(t, uri+"&serverSelectionTimeoutMS=60000").Ping(ctx, nil); err != nil {
		t.Fatal(err)
	}
	return uri
}

// FerretDB starts the program that CLOAKROOM_TEST_FERRETDB names, which the
// module in the folder of that name builds.
func FerretDB(t *testing.T) string {
	t.Helper()
	path := os.Getenv("CLOAKROOM_TEST_FERRETDB")
	if path == "" {
		testreport.Missing(t, "ferretdb", "CLOAKROOM_TEST_FERRETDB does not name the program that repo/mongostore/ferretdb builds")
	}
	child := exec.Command(path)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	child.Stderr = os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // which ends it
		_, _ = io.Copy(io.Discard, out)
		if err := child.Wait(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s does not say its address: %v", path, err)
	}
	uri, version, _ := strings.Cut(strings.TrimSpace(line), " ")
	testreport.Real(t, "ferretdb", "FerretDB "+version+", one request at a time — somebody else's server, no MongoDB")
	return uri
}

// Connect returns a client that ends with the test.
func Connect(t testing.TB, uri string) *mongo.Client {
	t.Helper()
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	return client
}

func version(t testing.TB, uri string) string {
	t.Helper()
	var info struct {
		Version string `bson:"version"`
	}
	if err := Connect(t, uri).Database("admin").RunCommand(t.Context(), bson.D{{Key: "buildInfo", Value: 1}}).Decode(&info); err != nil {
		t.Fatal(err)
	}
	return info.Version
}

// NewDatabase returns the address of a database that is empty and goes with the
// test.
func NewDatabase(t testing.TB, uri string) string {
	t.Helper()
	name := fmt.Sprintf("cloakroom_test_%x", time.Now().UnixNano())
	client := Connect(t, uri)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := client.Database(name).Drop(ctx); err != nil {
			t.Errorf("drop %s: %v", name, err)
		}
	})
	base, query, _ := strings.Cut(uri, "?")
	scheme, rest, _ := strings.Cut(base, "://")
	hosts, path, _ := strings.Cut(rest, "/")
	if strings.Contains(hosts, "@") && !strings.Contains(query, "authSource=") {
		// The user is where it was before the address named this database.
		query += "&authSource=" + cmp.Or(path, "admin")
	}
	return scheme + "://" + hosts + "/" + name + "?" + query
}
