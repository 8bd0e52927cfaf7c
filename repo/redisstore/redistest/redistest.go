// Package redistest starts Redis for tests: alone, as a Cluster, or under
// Sentinels, each as children of the test process on free ports of loopback,
// gone when the test ends. Where no redis-server is installed, miniredis stands
// in for a server alone. What a test has met it tells through testreport, under
// the names redis, redis-cluster and redis-sentinel.
package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"cloakroom/infra/testreport"
)

// urlVariable names a server that is running already and that Any prefers.
// Tests keep to key prefixes of their own there and remove what they wrote.
const urlVariable = "CLOAKROOM_TEST_REDIS_URL"

// Server is a deployment of Redis, of one node or of several.
type Server struct {
	// URL is its address in the form that db.OpenRedis takes.
	URL string
	// Nodes are the servers that keep data, in the order of their start. There
	// are none if the server is not a child of this process.
	Nodes []*Node
	// Sentinels watch over them, if there are any.
	Sentinels []*Node
}

// Any returns the server that the environment names; else a redis-server of
// its own; else miniredis, whose expiries go by the real clock like a server's.
func Any(t testing.TB) *Server {
	t.Helper()
	if url := os.Getenv(urlVariable); url != "" {
		testreport.Real(t, "redis", "the server of "+urlVariable)
		return &Server{URL: url}
	}
	if _, err := binary(); err == nil {
		return Standalone(t)
	}
	testreport.Substitute(t, "redis", "miniredis")
	m := miniredis.RunT(t)
	age(t, m)
	return &Server{URL: "redis://" + m.Addr()}
}

// age lets time pass in miniredis until the test ends. It can do so by itself,
// but looks at every key in every command then.
func age(t testing.TB, m *miniredis.Miniredis) {
	const step = 50 * time.Millisecond
	tick := time.NewTicker(step)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-tick.C:
				m.FastForward(step)
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() {
		tick.Stop()
		close(stop)
		<-stopped
	})
}

// Standalone starts one redis-server, with further arguments for its command
// line if the test needs some.
func Standalone(t testing.TB, args ...string) *Server {
	t.Helper()
	need(t, "redis", "standalone")
	n := start(t, append([]string{"--save", "", "--appendonly", "no"}, args...)...)
	return &Server{URL: "redis://" + n.Addr, Nodes: []*Node{n}}
}

// need reports that a real redis-server is met, or ends the test.
func need(t testing.TB, name, how string) {
	t.Helper()
	version, err := binary()
	if err != nil {
		testreport.Missing(t, name, err.Error())
	}
	testreport.Real(t, name, fmt.Sprintf("redis-server %s (%s)", version, how))
}

// binary returns the version of the redis-server that is on the path.
var binary = sync.OnceValues(func() (version string, err error) {
	out, err := exec.Command("redis-server", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("no redis-server: %w", err)
	}
	for _, field := range strings.Fields(string(out)) {
		if v, ok := strings.CutPrefix(field, "v="); ok {
			return v, nil
		}
	}
	return "", fmt.Errorf("redis-server does not say its version: %q", out)
})
