package redistest

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// patience bounds every wait for servers.
const patience = 20 * time.Second

// Node is one redis-server process. A test may kill and restart it, and freeze
// and thaw it; whatever it leaves, the end of the test kills it.
type Node struct {
	Addr   string // host:port
	Socket string // path of its unix socket
	Dir    string // where it keeps its files

	args   []string
	client *redis.Client
	ended  chan struct{} // closed when the process has ended
	cmd    *exec.Cmd
}

// start starts a redis-server on a free port and waits until it answers.
func start(t testing.TB, args ...string) *Node {
	t.Helper()
	// Not t.TempDir: the path of a unix socket has to be short.
	dir, err := os.MkdirTemp("", "redistest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	n := &Node{Addr: FreeAddr(t), Socket: filepath.Join(dir, "socket"), Dir: dir}
	_, port, _ := net.SplitHostPort(n.Addr)
	n.args = append([]string{
		"--port", port, "--bind", "127.0.0.1", "--unixsocket", n.Socket,
		"--dir", dir, "--logfile", filepath.Join(dir, "log"), "--daemonize", "no",
	}, args...)
	n.run(t)
	return n
}

// startSentinel starts a Sentinel with the given configuration, which it
// rewrites as it learns.
func startSentinel(t testing.TB, config string) *Node {
	t.Helper()
	dir := t.TempDir()
	n := &Node{Addr: FreeAddr(t), Dir: dir}
	_, port, _ := net.SplitHostPort(n.Addr)
	path := filepath.Join(dir, "sentinel.conf")
	config = "port " + port + "\nbind 127.0.0.1\ndir " + dir + "\nlogfile " + filepath.Join(dir, "log") + "\n" + config
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	n.args = []string{path, "--sentinel"}
	n.run(t)
	return n
}

func (n *Node) run(t testing.TB) {
	t.Helper()
	n.client = redis.NewClient(&redis.Options{Addr: n.Addr, MaxRetries: -1, Protocol: 2, DisableIdentity: true})
	t.Cleanup(func() {
		n.Kill()
		_ = n.client.Close()
	})
	n.Start(t)
}

// Start starts the process again, on the same port with the same files, and
// waits until it answers.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	n.cmd = exec.Command("redis-server", n.args...)
	n.cmd.SysProcAttr = attributes()
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	n.ended = ended
	go func() {
		_ = n.cmd.Wait()
		close(ended)
	}()
	eventually(t, n.Addr+" answers", func(ctx context.Context) bool {
		select {
		case <-ended:
			log, _ := os.ReadFile(filepath.Join(n.Dir, "log"))
			t.Fatalf("redis-server %s has ended:\n%s", strings.Join(n.args, " "), log)
		default:
		}
		err := n.client.Ping(ctx).Err()
		// One that wants a password answers as well.
		return err == nil || redis.IsAuthError(err)
	})
}

// Kill ends the process at once, as a crash would, and waits for its end.
func (n *Node) Kill() {
	if n.ended != nil {
		_ = n.cmd.Process.Kill()
		<-n.ended
	}
}

// Freeze stops the process from running without closing anything; Thaw lets it
// go on.
func (n *Node) Freeze(t testing.TB) { n.signal(t, syscall.SIGSTOP) }

// Thaw ends a Freeze.
func (n *Node) Thaw(t testing.TB) { n.signal(t, syscall.SIGCONT) }

func (n *Node) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// FreeAddr returns an address of loopback on which nobody listens just now. Its
// port is not one of those that systems give to outgoing connections, so that
// none takes it before a server does, or while the server is away.
func FreeAddr(t testing.TB) string {
	t.Helper()
	const first, ephemeral = 10_000, 32_768
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(ephemeral-first)))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no port is free")
	return ""
}

// eventually waits until condition holds.
func eventually(t testing.TB, what string, condition func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// must ends the test if one of the errors is not nil.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
