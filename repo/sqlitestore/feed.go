package sqlitestore

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/events"
)

// pollInterval is how late another process's events may come. A poll is one
// statement that reads a counter in shared memory, a few microseconds.
const pollInterval = 50 * time.Millisecond

// feed reads the event table and publishes what is new: after each commit of
// this process at once, and after those of others when a poll shows that there
// were some. The table has one order for all, and each process follows it.
type feed struct {
	hub *events.Hub

	mu             sync.Mutex
	conn           *sql.Conn
	version, after *sql.Stmt
	seen           int64 // PRAGMA data_version at the last poll
	last           int64 // the newest event that was published
	cut            bool  // the last read failed
}

// newFeed returns a feed of what comes from now on.
func newFeed(ctx context.Context, db *sql.DB, hub *events.Hub) (*feed, error) {
	conn, err := db.Conn(ctx) // data_version is about other connections than the one that asks
	if err != nil {
		return nil, err
	}
	f := &feed{hub: hub, conn: conn}
	err = prepare(ctx, conn, f.queries())
	if err == nil {
		err = conn.QueryRowContext(ctx, "SELECT coalesce(max(seq), 0) FROM event").Scan(&f.last)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return f, nil
}

func (f *feed) queries() []query {
	return []query{
		{&f.version, "PRAGMA data_version"},
		{&f.after, "SELECT seq, device, ended FROM event WHERE seq > ? ORDER BY seq LIMIT 1000"},
	}
}

// loop polls until ctx ends.
func (f *feed) loop(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.poll()
		}
	}
}

// poll publishes if another connection has committed anything since the poll
// before.
func (f *feed) poll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var version int64
	err := f.version.QueryRow().Scan(&version)
	if err == nil && (version != f.seen || f.cut) {
		if err = f.publish(); err == nil {
			f.seen = version
		}
	}
	f.heard(err)
}

// committed publishes what a commit of this process has brought.
func (f *feed) committed() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard(f.publish())
}

// heard tells the subscribers when the table cannot be read any more, and when
// it can again and they have heard all that there was.
func (f *feed) heard(err error) {
	switch {
	case err != nil && !f.cut:
		f.hub.Publish(repo.Event{Kind: repo.Cut})
	case err == nil && f.cut:
		f.hub.Publish(repo.Event{Kind: repo.Gap})
	}
	f.cut = err != nil
}

// publish hands on all events after the last.
func (f *feed) publish() error {
	for {
		batch, err := f.read()
		if err != nil || len(batch) == 0 {
			return err
		}
		f.hub.Publish(batch...)
	}
}

// read returns the next events and moves last behind them. The table keeps a
// limited number; where the sequence shows that some are gone, a Gap stands for
// them.
func (f *feed) read() ([]repo.Event, error) {
	rows, err := f.after.Query(f.last)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var batch []repo.Event
	last := f.last
	for rows.Next() {
		var seq int64
		var id domain.DeviceID
		var ended bool
		if err := rows.Scan(&seq, fixed(id[:]), &ended); err != nil {
			return nil, err
		}
		if seq != last+1 {
			batch = append(batch, repo.Event{Kind: repo.Gap})
		}
		kind := repo.Changed
		if ended {
			kind = repo.Ended
		}
		batch = append(batch, repo.Event{Kind: kind, DeviceID: id})
		last = seq
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	f.last = last
	return batch, nil
}
