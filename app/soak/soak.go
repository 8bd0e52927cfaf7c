// Package soak runs the broker for a long time under everything that goes wrong,
// and counts what must never happen: real replicas of this very program on one
// store, devices whose tokens live for seconds, an auth server that fails in
// every way, replicas that are killed and stand still, a store that is killed
// and stands still, clients that hang up and sign out in the middle.
//
// The auth server (authority.go) is the judge. It knows every token that it has
// granted, to which replica, whether the answer went astray by a fault, and
// whether its own rules, which are those of RFC 9700, had to end a session. The
// upstream (device.go) compares each call with the moment at which its client
// sent it. So a figure other than zero is a fault of the broker, or of this
// package. docs/soak.md has how each is judged.
//
// Everything is on loopback and gone at the end. It shares no code with
// authapitest, on purpose: a second opinion.
package soak

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"cloakroom/infra/seal"
)

// Config is what a run is to be.
type Config struct {
	Duration time.Duration // without the start and the end
	Replicas int
	Devices  int
	Seed     uint64 // of what happens when; how things interleave is never the same twice
	SQLite   bool   // even if there is a redis-server
	// Serve is the command line that is cloakroom serve, without its flags.
	Serve []string
	// Progress gets a line now and then.
	Progress io.Writer
}

const (
	authTimeout = 2 * time.Second
	// lease is how long a replica holds a device, from which follows the
	// longest that one standing still or a store being away may go unnoticed.
	lease = authTimeout + 2*time.Second
	// reuseWindow is that of three families in four.
	reuseWindow = 30 * time.Second
	// longestStill is for how long a replica or the store stands still, well
	// below what is left of a lease that is renewed every third of it.
	longestStill = lease / 4
	settleWithin = 30 * time.Second
)

// run is a run.
type run struct {
	Config
	dir       string
	clock     *history
	count     *counts
	authority *authority
	doors     []*door      // of the auth server, one for each replica
	web       *http.Server // the upstream
	client    *http.Client
	store     *process // nil for SQLite
	replicas  []*member
	devices   []*device
}

// member is a replica.
type member struct {
	process
	number  int
	address string
}

// Run soaks the broker and reports what came of it. The error says that it could
// not be done, or was stopped; a report with findings is no error.
func Run(ctx context.Context, c Config) (report Report, err error) {
	dir, err := os.MkdirTemp("", "cloakroom-soak-")
	if err != nil {
		return Report{}, err
	}
	r := &run{Config: c, dir: dir, clock: &history{}, count: &counts{progress: c.Progress, start: time.Now()}}
	r.count.Seed, r.count.Replicas, r.count.Devices, r.count.Faults = c.Seed, c.Replicas, c.Devices, map[string]int{}
	defer func() {
		r.stop()
		if err != nil || !report.OK() {
			fmt.Fprintf(c.Progress, "the logs are kept in %s\n", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	if err := r.start(ctx); err != nil {
		return Report{}, err
	}

	r.count.start = time.Now()
	running, stop := context.WithTimeout(ctx, c.Duration)
	defer stop()
	var devices, others sync.WaitGroup
	for _, d := range r.devices {
		devices.Go(func() { d.drive(running) })
	}
	var broke error
	others.Go(func() {
		if broke = r.chaos(running); broke != nil {
			stop()
		}
	})
	others.Go(func() { r.tell(running) })
	others.Wait()
	devices.Wait()
	if err := errors.Join(broke, ctx.Err()); err != nil {
		return r.count.report(), err
	}
	report = r.count.report()
	r.settle(ctx)
	took := report.Duration
	report = r.count.report()
	report.Duration = took
	return report, ctx.Err()
}

// start starts everything that the devices need.
func (r *run) start(ctx context.Context) error {
	r.authority = newAuthority(r.clock, r.count)
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.web = &http.Server{Handler: http.HandlerFunc(r.upstream), ReadHeaderTimeout: startWithin}
	go func() { _ = r.web.Serve(api) }()
	key, err := seal.GenerateKey(crand.Reader, time.Now())
	if err != nil {
		return err
	}
	keyFile := filepath.Join(r.dir, "seal.key")
	if err := os.WriteFile(keyFile, []byte(key.Reveal()+"\n"), 0o600); err != nil {
		return err
	}
	store, err := r.startStore(ctx)
	if err != nil {
		return err
	}
	for i := range r.Replicas {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		door, err := openDoor(func(w http.ResponseWriter, req *http.Request) { r.authority.serve(w, req, i) })
		if err != nil {
			return err
		}
		r.doors = append(r.doors, door)
		m := &member{number: i, address: address}
		m.name, m.log, m.up = fmt.Sprintf("replica %d", i), filepath.Join(r.dir, fmt.Sprintf("replica-%d.log", i)), answersReady(address)
		m.args = append(append([]string{}, r.Serve...),
			"--listen="+address, "--store="+store, "--seal-key-file="+keyFile, "--route=/=http://"+api.Addr().String(),
			"--auth-url=http://"+door.address, "--auth-issuer=https://soak.test",
			"--auth-register-path=", "--auth-timeout="+authTimeout.String(), "--touch-interval=1s", "--log-level=warn",
		)
		r.replicas = append(r.replicas, m)
		if err := m.start(ctx); err != nil {
			return err
		}
	}
	r.client = &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 4 * r.Devices, DisableCompression: true},
		Timeout:   time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for i := range r.Devices {
		r.devices = append(r.devices, &device{
			r: r, number: i, rand: rand.New(rand.NewPCG(r.Seed, uint64(i)+1)), over: map[int]time.Time{}, last: time.Now(),
		})
	}
	return nil
}

// startStore returns the store's URL.
func (r *run) startStore(ctx context.Context) (string, error) {
	redis, err := exec.LookPath("redis-server")
	if err != nil || r.SQLite {
		r.count.Store = "SQLite"
		return "sqlite://" + filepath.Join(r.dir, "soak.db"), nil
	}
	r.count.Store = "Redis"
	address, err := freeAddress()
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(address)
	r.store = &process{
		name: "redis-server", log: filepath.Join(r.dir, "redis.log"), up: answersTCP(address),
		args: []string{redis, "--port", port, "--bind", "127.0.0.1", "--dir", r.dir, "--save", "", "--appendonly", "yes", "--appendfsync", "always"},
	}
	return "redis://" + address, r.store.start(ctx)
}

// stop ends everything that was started.
func (r *run) stop() {
	var all sync.WaitGroup
	for _, m := range r.replicas {
		all.Go(func() {
			m.signal(syscall.SIGCONT)
			m.stop()
		})
	}
	all.Wait()
	if r.store != nil {
		r.store.signal(syscall.SIGCONT)
		r.store.kill()
	}
	for _, d := range r.doors {
		d.shut()
	}
	if r.web != nil {
		_ = r.web.Close()
	}
	if r.client != nil {
		r.client.CloseIdleConnections()
	}
}

// settle lets all be well, and sees that every device works.
func (r *run) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	var all sync.WaitGroup
	for _, d := range r.devices {
		all.Go(func() {
			if err := d.settle(ctx); err != nil {
				r.count.note(&r.count.Wedged, "device %d: %v %v after the last fault", d.number, err, settleWithin)
			}
		})
	}
	all.Wait()
}

// tell tells now and then how it goes.
func (r *run) tell(ctx context.Context) {
	every := max(r.Duration/20, 5*time.Second)
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		c := r.count.report()
		found := c.Needless + c.Lost + c.Stale + c.Zombies + c.Mixed + c.Wedged + c.Unexpected
		fmt.Fprintf(r.Progress, "%4.0f%%  %d requests, %d refreshes, %d findings\n",
			100*c.Duration.Seconds()/r.Duration.Seconds(), c.Requests, c.Refreshes, found)
	}
}

// door is where the auth server listens. It can be shut, which refuses
// connections, and opened again.
type door struct {
	address string
	handler http.Handler

	mu     sync.Mutex
	server *http.Server
}

func openDoor(h http.HandlerFunc) (*door, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	d := &door{address: address, handler: h}
	return d, d.open()
}

func (d *door) open() error {
	l, err := net.Listen("tcp", d.address)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server = &http.Server{Handler: d.handler, ReadHeaderTimeout: startWithin}
	server := d.server
	go func() { _ = server.Serve(l) }()
	return nil
}

// shut cuts what is under way and refuses connections.
func (d *door) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	_ = d.server.Close()
}

// logs returns the lines of the replicas' logs that must not be there.
func (r *run) logs() (bad []string) {
	for _, m := range r.replicas {
		text, err := os.ReadFile(m.log)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "panic") || strings.HasPrefix(line, "fatal error") {
				bad = append(bad, m.name+": "+strings.TrimSpace(line))
			}
		}
	}
	return bad
}
