// Package bench measures what a request through the broker costs, side by side
// with proxies that do no session work, in front of the same upstream and in
// one run: machines differ, and the same one differs from minute to minute, but
// what is measured turn by turn can be compared.
//
// Every server is a process of its own (process.go, servers.go), so that its
// CPU time can be told from that of the load (load.go) and of the upstream.
// All of it talks over loopback. What comes out is a Report (report.go).
//
// The broker is the one of package app/broker, with the defaults of its
// settings; this package knows nothing of its inside.
package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Config is how a benchmark is run. Every field but Profiles and Redis is needed.
type Config struct {
	Connections int           // open at once to the server whose turn it is
	Rounds      int           // turns of each server
	Duration    time.Duration // of the measured part of a turn
	WarmUp      time.Duration // of the part before it
	Profiles    string        // folder that gets a CPU profile of each server, "" for none
	Redis       string        // the command of a Redis server; without one, no broker on Redis is measured

	// Self is a command line that runs Serve in another process, with its
	// standard input and output.
	Self []string
	// Progress is told of each round as it begins, and gets what the servers
	// have to complain about, from several goroutines at once.
	Progress io.Writer
}

// tokenLength is the size of the access token in bytes: that of a JWT with a
// handful of claims and an RSA signature.
const tokenLength = 900

// Run runs the benchmark. It fails if any answer is not the upstream's, and
// with ctx's error if that ends first. When it returns, all that it started has
// ended.
func Run(ctx context.Context, c Config) (_ Report, err error) {
	if err := ctx.Err(); err != nil {
		return Report{}, err
	}
	defer func() {
		if ctx.Err() != nil {
			err = context.Cause(ctx) // all else follows from it
		}
	}()
	token := newToken()
	auth, err := serveAuth(token)
	if err != nil {
		return Report{}, err
	}
	defer auth.close()

	servers := make(map[string]*process)
	defer func() {
		for _, p := range servers {
			p.stdin.Close() // to all, before waiting for any
		}
		for _, p := range servers {
			err = errors.Join(err, p.stop())
		}
	}()
	contenders := c.contenders()
	o := order{Token: token, Auth: auth.url, Redis: c.Redis, Profiles: c.Profiles}
	for _, role := range append([]string{upstreamRole}, contenders...) {
		o.Role = role
		p, err := c.start(ctx, o)
		if err != nil {
			return Report{}, fmt.Errorf("%s: %w", role, err)
		}
		servers[role] = p
		if role == upstreamRole {
			o.Upstream = p.address
		}
	}
	// Each broker has a store of its own. The others pass on what they get.
	cookies := make(map[string]string)
	for _, name := range contenders {
		at := cloakroom
		if slices.Contains(brokers, name) {
			at = name
		}
		if cookies[at] == "" {
			if cookies[at], err = signIn(ctx, servers[at].address); err != nil {
				return Report{}, fmt.Errorf("sign in at %s: %w", at, err)
			}
		}
		cookies[name] = cookies[at]
	}

	report := newReport(c)
	for round := range c.Rounds {
		fmt.Fprintf(c.Progress, "round %d of %d\n", round+1, c.Rounds)
		for i := range contenders {
			// Another one begins each time, so that none always follows the same.
			name := contenders[(round+i)%len(contenders)]
			turn, err := c.turn(ctx, servers[name], cookies[name])
			if err != nil {
				return Report{}, fmt.Errorf("%s: %w", name, err)
			}
			report.add(name, turn)
		}
	}
	report.conclude()
	return report, nil
}

// turn puts load on one server and measures it.
func (c Config) turn(ctx context.Context, p *process, cookie string) (Turn, error) {
	l, err := dial(ctx, p.address, c.Connections, request(p.address, cookie), upstreamBody)
	if err != nil {
		return Turn{}, err
	}
	defer l.close()
	if _, err := l.run(ctx, c.WarmUp); err != nil {
		return Turn{}, err
	}
	// Nothing is under way at either reading, so every request that is counted
	// has all of its cost between them.
	before, err := p.cpu(ctx)
	if err != nil {
		return Turn{}, err
	}
	got, err := l.run(ctx, c.Duration)
	if err != nil {
		return Turn{}, err
	}
	after, err := p.cpu(ctx)
	if err != nil {
		return Turn{}, err
	}
	if got.answered == 0 {
		return Turn{}, errors.New("the turn is too short: no request was answered")
	}
	return newTurn(got, after-before), nil
}

func newToken() string {
	b := make([]byte, tokenLength)
	_, _ = rand.Read(b) // it never fails
	return base64.RawURLEncoding.EncodeToString(b)[:tokenLength]
}
