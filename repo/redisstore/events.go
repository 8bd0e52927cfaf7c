package redisstore

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/events"
)

// Events are plain PUBLISH on one channel, in the script that makes the change.
// A Cluster carries them to all nodes. Redis keeps no message for who is not
// connected; a subscription that is interrupted says so by a Cut and, when it is
// over, a Gap.

const (
	// beatInterval is how often a subscription sends a message to itself, by the
	// way that events take; it is Store.beatInterval but in tests.
	beatInterval = time.Second
	// lostBeats is how many of its messages in a row a subscription misses until
	// it takes its connection for dead. The network may not tell, and a master
	// that was cut off and replaced goes on answering.
	lostBeats = 3

	// firstPause and lastPause bound the time between two tries to connect.
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

const (
	endedWord   = "ended "
	changedWord = "changed "
	beatWord    = "beat "
)

func (s *Store) channel() string { return s.config.Prefix + "events" }

// event returns what a script needs to publish an event: channel and message.
func (s *Store) event(kind repo.EventKind, id domain.DeviceID) []any {
	word := changedWord
	if kind == repo.Ended {
		word = endedWord
	}
	return []any{s.channel(), word + id.String()}
}

// parseEvent reads a message.
func parseEvent(message string) (repo.Event, bool) {
	kind := repo.Ended
	text, ended := strings.CutPrefix(message, endedWord)
	if !ended {
		var changed bool
		if text, changed = strings.CutPrefix(message, changedWord); !changed {
			return repo.Event{}, false
		}
		kind = repo.Changed
	}
	id, err := domain.ParseDeviceID(text)
	return repo.Event{Kind: kind, DeviceID: id}, err == nil
}

// Subscribe implements repo.Store. Each call has a connection of its own, and a
// bounded queue in front of f: if f is slow, it misses events and gets a Gap.
func (s *Store) Subscribe(ctx context.Context, f func(repo.Event)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	following, stop := context.WithCancel(ctx)
	hub := events.NewHub()
	connected := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		err := s.follow(following, hub, connected)
		hub.Close()
		stop()
		ended <- err
	}()
	unclose := context.AfterFunc(s.closing, stop)
	defer unclose()

	// The hub's first event is the Gap. What came before it is covered by it.
	err := events.ErrClosed
	select {
	case <-connected:
		err = hub.Subscribe(ctx, f)
	case <-following.Done():
	}
	stop()
	refused := <-ended
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case refused != nil && s.closing.Err() == nil:
		return failed(ctx, "subscribe", refused)
	}
	return err
}

// follow hands what comes over the channel to the hub until ctx ends, over one
// connection after the other. It closes connected with the first that stands,
// publishes a Cut when one breaks and a Gap when the next stands. Its error means
// that trying again is no use.
func (s *Store) follow(ctx context.Context, hub *events.Hub, connected chan struct{}) error {
	pause := firstPause
	for first, heard := true, false; ; {
		err := s.listen(ctx, hub, func() {
			pause, heard = firstPause, true
			if first {
				close(connected)
				first = false
			} else {
				hub.Publish(repo.Event{Kind: repo.Gap})
			}
		})
		if redis.IsPermissionError(err) {
			return err
		}
		if heard {
			heard = false
			hub.Publish(repo.Event{Kind: repo.Cut})
		}
		if sleep(ctx, pause) != nil {
			return nil
		}
		pause = min(2*pause, lastPause)
	}
}

// listen subscribes over one connection, calls begun when that stands, and goes
// on until it breaks.
func (s *Store) listen(ctx context.Context, hub *events.Hub, begun func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sub := s.client.Subscribe(ctx, s.channel())
	// Reading does not end with the context, but with the connection.
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer stop()
	defer sub.Close()

	own := beatWord + mark()
	var missed atomic.Int32
	for standing := false; ; {
		message, err := sub.Receive(ctx)
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *redis.Subscription:
			// Once: go-redis may have connected anew before it told of an error.
			begun()
			if !standing {
				standing = true
				go s.beat(ctx, own, &missed, cancel)
			}
		case *redis.Message:
			if m.Payload == own {
				missed.Store(0)
			} else if e, ok := parseEvent(m.Payload); ok {
				hub.Publish(e)
			}
		}
	}
}

// beat publishes a subscription's own message until ctx ends, and calls lost
// when too many of them were sent and not heard.
func (s *Store) beat(ctx context.Context, own string, missed *atomic.Int32, lost func()) {
	tick := time.NewTicker(s.beatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if missed.Load() >= lostBeats {
			lost()
			return
		}
		// The key has another slot every time, so that in a Cluster each node
		// gets its turn to be heard.
		c := &call{script: publishScript, key: s.config.Prefix + beatWord + mark(), args: []any{s.channel(), own}}
		limited, cancel := context.WithTimeout(ctx, s.beatInterval)
		if s.run(limited, c) == nil {
			missed.Add(1)
		}
		cancel()
	}
}
