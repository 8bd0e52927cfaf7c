package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/testreport"
)

// asServer as the only argument makes the test's binary one of the servers.
const asServer = "be-a-server"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == asServer {
		if err := Serve(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// short is a benchmark that proves nothing and is over soon. Its files go to a
// folder of the test's.
func short(t *testing.T) (c Config, folder string) {
	folder = t.TempDir()
	t.Setenv("TMPDIR", folder)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Connections: 4, Rounds: 1, Duration: 50 * time.Millisecond, WarmUp: 10 * time.Millisecond,
		Self: []string{self, asServer}, Progress: t.Output(),
	}, folder
}

// leavesNothing fails the test if files are left in the folder. The processes
// have ended when Run returns: it has waited for each.
func leavesNothing(t *testing.T, folder string) {
	t.Helper()
	if left, err := filepath.Glob(filepath.Join(folder, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRunMeasuresEachServerInEachRound(t *testing.T) {
	c, folder := short(t)
	c.Rounds = 2
	c.Profiles = t.TempDir()
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Contenders) != len(c.contenders()) || len(r.Targets) != 2 || !strings.Contains(r.String(), "NOT MEASURED: "+onRedis) {
		t.Fatalf("%d contenders and %d targets\n%s", len(r.Contenders), len(r.Targets), r)
	}
	for _, s := range r.Contenders {
		if len(s.Turns) != c.Rounds || len(s.CPUAgainst) != len(c.contenders())-1 {
			t.Errorf("%s: %d turns, compared with %d", s.Name, len(s.Turns), len(s.CPUAgainst))
		}
		for _, turn := range append(s.Turns, s.Turn) {
			if turn.CPU <= 0 || turn.Throughput <= 0 || turn.P50 <= 0 || turn.P99 < turn.P50 {
				t.Errorf("%s: %+v", s.Name, turn)
			}
		}
		if info, err := os.Stat(filepath.Join(c.Profiles, s.Name+".pprof")); err != nil || info.Size() == 0 {
			t.Errorf("%s has no profile: %v", s.Name, err)
		}
	}
	leavesNothing(t, folder)
}

func TestRunMeasuresTheBrokerOnRedis(t *testing.T) {
	c, folder := short(t)
	var err error
	if c.Redis, err = exec.LookPath("redis-server"); err != nil {
		testreport.Missing(t, "redis", "no redis-server on the path")
	}
	testreport.Real(t, "redis", c.Redis)
	r, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if of := r.of(onRedis); of == nil || of.CPU <= 0 || len(r.Targets) != len(targets) || r.Missing != "" {
		t.Errorf("%s", r)
	}
	leavesNothing(t, folder)
}

func TestRunThatIsStoppedLeavesNothingBehind(t *testing.T) {
	c, folder := short(t)
	c.Duration = time.Hour
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	c.Progress = writer(func([]byte) { stop() }) // the first round begins
	if _, err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want %v", err, context.Canceled)
	}
	leavesNothing(t, folder)
}

func TestServerThatDoesNotComeUpFailsTheRun(t *testing.T) {
	c, folder := short(t)
	c.Profiles = filepath.Join(folder, "there is no such folder")
	if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), upstreamRole) {
		t.Errorf("Run = %v, want an error that names the server", err)
	}
	leavesNothing(t, folder)
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestWrongAnswersFailTheRun(t *testing.T) {
	for name, c := range map[string]struct{ answer, want string }{
		"status":  {"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\nbody", "502"},
		"short":   {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbod", "3 bytes"},
		"another": {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbory", "another body"},
		"chunks":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "no length"},
		"cut":     {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo", "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := dial(t.Context(), answering(t, c.answer), 2, []byte("GET\n"), []byte("body"))
			if err != nil {
				t.Fatal(err)
			}
			defer l.close()
			if _, err := l.run(t.Context(), time.Hour); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

// answering returns the address of a server that answers one line in the right
// way, the next one with answer, and then closes the connection.
func answering(t *testing.T, answer string) string {
	s, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	go func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				lines := bufio.NewScanner(c)
				for _, answer := range []string{"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody", answer} {
					if !lines.Scan() {
						return
					}
					fmt.Fprint(c, answer)
				}
			}()
		}
	}()
	return s.Addr().String()
}

func TestUpstreamAnswersAKilobyteOfJSON(t *testing.T) {
	if len(upstreamBody) != 1024 || !json.Valid(upstreamBody) {
		t.Errorf("%d bytes: %s", len(upstreamBody), upstreamBody)
	}
}

func TestQuantiles(t *testing.T) {
	var h, other histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for us := 1; us <= 1000; us++ {
		if us%2 == 0 {
			h.add(time.Duration(us) * time.Microsecond)
		} else {
			other.add(time.Duration(us) * time.Microsecond)
		}
	}
	h.merge(&other)
	for q, want := range map[float64]time.Duration{0.01: 10, 0.5: 500, 0.99: 990, 1: 1000} {
		want *= time.Microsecond
		if got := h.quantile(q); got > want || got < want*97/100 {
			t.Errorf("quantile(%v) = %v, want %v", q, got, want)
		}
	}
	for _, d := range []time.Duration{-1, 0, 1 << 62} {
		h.add(d) // has a place
	}
}

func TestRatiosAreTakenWithinEachRound(t *testing.T) {
	c := Config{Connections: 64, Rounds: 3, Duration: 3 * time.Second, Redis: "redis-server"}
	r := newReport(c)
	// A machine that is three times as slow in the last round. By the medians
	// of the columns the ratio would be 90/20.
	for round, factor := range []float64{1, 1, 3} {
		for _, name := range c.contenders() {
			cpu := map[string]float64{cloakroom: 30, fastHTTP: 20}[name]
			if cpu == 0 {
				cpu = 50
			}
			if name == cloakroom && round == 1 {
				cpu = 90
			}
			r.add(name, Turn{CPU: cpu * factor, Throughput: 10_000, P50: 1000, P99: 2000})
		}
	}
	r.conclude()
	if got, want := r.of(cloakroom).CPUAgainst[fastHTTP], (Ratio{Median: 1.5, Least: 1.5, Most: 4.5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	text := r.String()
	for _, want := range []string{
		"64 connections, 3 rounds of 3s",
		"cloakroom            90.0       10000    1.00    2.00      0.60",
		"CPU of cloakroom-redis against",
		"fasthttp      2.50  (2.50 to 2.50)  target 2.9: met",
		"fasthttp      1.50  (1.50 to 4.50)  target 2.2: met",
		"reverseproxy  0.60  (0.60 to 1.80)  target 0.65: met",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
