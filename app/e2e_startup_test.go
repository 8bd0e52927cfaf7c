package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.mongodb.org/mongo-driver/v2/bson"

	"cloakroom/infra/db"
	"cloakroom/infra/testreport"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/mongostore/mongowire"
	"cloakroom/repo/redisstore/redistest"
)

const wrongPassword = "hunter2-is-wrong"

// TestStartSaysWhatIsWrongWithTheStore starts the broker on stores that it cannot
// use. Each time it ends at once, with a status that is not 0 and a sentence
// that says what to do.
func TestStartSaysWhatIsWrongWithTheStore(t *testing.T) {
	t.Parallel()
	s := surround(t)
	refused := func(t *testing.T, store string, want ...string) {
		t.Helper()
		said := start(t, s.serveOn(store)...).failed()
		checkRefusal(t, said, want...)
	}
	// A port at which nobody listens any more.
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	_ = closed.Close()

	t.Run("sqlite", func(t *testing.T) {
		dir := t.TempDir()
		text := filepath.Join(dir, "notes.txt")
		if err := os.WriteFile(text, []byte(strings.Repeat("Dear diary, ", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, "sqlite://"+text, text, "is not a SQLite database")
		refused(t, "sqlite://"+dir, dir, "is a directory")

		newer := filepath.Join(dir, "newer.db")
		p := start(t, s.serveOn("sqlite://"+newer)...)
		p.stderr.find(t, `"broker listens" address=(\S+)`)
		p.stop(syscall.SIGTERM)
		file, err := db.OpenSQLite(t.Context(), newer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)"); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		refused(t, "sqlite://"+newer, "written by a newer cloakroom", "run that version")
	})
	t.Run("read-only disk", func(t *testing.T) {
		readOnlyDisk(t, s)
	})
	t.Run("redis", func(t *testing.T) {
		refused(t, "redis://"+nobody, nobody, "cannot be reached")
		refused(t, "redis://"+strings.TrimPrefix(s.upstream.URL, "http://"), "does not speak Redis; correct the address")
		node := redistest.Standalone(t, "--requirepass", "correct",
			"--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction").Nodes[0].Addr
		refused(t, "redis://"+node, "wants a password")
		refused(t, "redis://:"+wrongPassword+"@"+node, "does not accept the user name and password")

		address := "redis://:correct@" + node + "/3"
		p := start(t, s.serveOn(address)...)
		p.stderr.find(t, `"broker listens" address=(\S+)`)
		p.stop(syscall.SIGTERM)
		how, err := redis.ParseURL(address)
		if err != nil {
			t.Fatal(err)
		}
		client := redis.NewClient(how)
		defer client.Close()
		if err := client.Incr(t.Context(), "cloakroom:layout").Err(); err != nil {
			t.Fatal(err)
		}
		refused(t, address, "written by a newer version of cloakroom", "run that version")
	})
	t.Run("mongodb", func(t *testing.T) {
		const hasty = "serverSelectionTimeoutMS=500"
		refused(t, "mongodb://"+nobody+"/?"+hasty, "no server answers at "+nobody)
		locked := mongotest.Double(t, mongowire.Options{})
		locked.Inject(mongowire.Fault{Command: "saslStart", Refuse: &mongowire.Error{Code: 18, Name: "AuthenticationFailed", Message: "Authentication failed."}, Times: 1000})
		refused(t, "mongodb://app:"+wrongPassword+"@"+strings.TrimPrefix(locked.URI(), "mongodb://")+"/?"+hasty, "does not accept user and password")

		address := mongotest.NewDatabase(t, mongotest.Server(t))
		p := start(t, s.serveOn(address)...)
		p.stderr.find(t, `"broker listens" address=(\S+)`)
		p.stop(syscall.SIGTERM)
		database, err := db.OpenMongo(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = database.Client().Disconnect(context.Background()) }()
		if _, err := database.Collection("schema").UpdateByID(t.Context(), "devices", bson.D{{Key: "$inc", Value: bson.D{{Key: "version", Value: 1}}}}); err != nil {
			t.Fatal(err)
		}
		refused(t, address, "written by a newer version of cloakroom", "run that version")
	})
}

// serveOn is the command line of a broker with another store.
func (s *surroundings) serveOn(store string) []string {
	flags := slices.DeleteFunc(s.flags(), func(flag string) bool { return strings.HasPrefix(flag, "--store=") })
	return slices.Concat([]string{"serve"}, flags, []string{"--store=" + store})
}

// checkRefusal checks what a broker said that would not start.
func checkRefusal(t *testing.T, said string, want ...string) {
	t.Helper()
	if n := strings.Count(said, "\n"); n != 1 || !strings.HasPrefix(said, "cloakroom: store: ") {
		t.Errorf("it says %d lines, want one sentence about the store:\n%s", n, said)
	}
	for _, w := range want {
		if !strings.Contains(said, w) {
			t.Errorf("it does not say %q: %s", w, said)
		}
	}
	if strings.Contains(said, wrongPassword) {
		t.Errorf("it says the password: %s", said)
	}
}

// readOnlyDisk mounts one where only the broker sees it.
func readOnlyDisk(t *testing.T, s *surroundings) {
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", "true").CombinedOutput(); err != nil {
		testreport.Missing(t, "read-only-disk", "a mount of its own is not granted here: "+string(out))
	}
	testreport.Real(t, "read-only-disk", "tmpfs mounted with ro")
	disk := t.TempDir()
	serve := exec.CommandContext(t.Context(), "unshare", slices.Concat(
		[]string{"--user", "--map-root-user", "--mount", "sh", "-c", `mount -t tmpfs -o ro none "$1" && shift && exec "$@"`, "sh", disk, path},
		s.serveOn("sqlite://"+disk+"/cloakroom.db"))...)
	serve.Dir, serve.Env = t.TempDir(), withoutSettings()
	var said strings.Builder
	serve.Stderr = &said
	if err := serve.Run(); err == nil || serve.ProcessState.ExitCode() != exitFailed {
		t.Errorf("it ends with %v, want status %d", err, exitFailed)
	}
	checkRefusal(t, said.String(), disk, "is on a read-only disk; name a file on one that can be written")
}
