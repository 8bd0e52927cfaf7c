package sqlitestore

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"cloakroom/repo"
)

// heard subscribes and returns a function that waits for what comes next,
// after the first Gap.
func heard(t *testing.T, s *Store) (next func() repo.Event) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	all := make(chan repo.Event, 100)
	done.Go(func() { _ = s.Subscribe(ctx, func(e repo.Event) { all <- e }) })
	t.Cleanup(func() { cancel(); done.Wait() })
	next = func() repo.Event {
		t.Helper()
		select {
		case e := <-all:
			return e
		case <-time.After(20 * time.Second):
			t.Fatal("no event")
			return repo.Event{}
		}
	}
	if e := next(); e.Kind != repo.Gap {
		t.Fatalf("the first event is %v", e)
	}
	return next
}

func TestEventsOfThisProcessDoNotWaitForAPoll(t *testing.T) {
	s, _ := openNew(t)
	s.stop() // no polls
	next := heard(t, s)
	r := numbered(1)
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(t.Context(), r.DeviceID, repo.AnyVersion); err != nil {
		t.Fatal(err)
	}
	if got, want := next(), (repo.Event{Kind: repo.Ended, DeviceID: r.DeviceID}); got != want {
		t.Errorf("heard %v, want %v", got, want)
	}
}

func TestEventsThatWereTrimmedUnreadShowAsAGap(t *testing.T) {
	s, path := openNew(t)
	next := heard(t, s)
	far, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	s.feed.mu.Lock() // as if this process had been stopped
	unlock := sync.OnceFunc(s.feed.mu.Unlock)
	defer unlock()
	for n := range 4 {
		r := numbered(n)
		if err := far.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := far.Rename(t.Context(), r.DeviceID, "name"); err != nil {
			t.Fatal(err)
		}
	}
	_, err = write(t.Context(), far.writer, false, func(ctx context.Context) (struct{}, error) {
		_, err := far.writer.conn.ExecContext(ctx, "DELETE FROM event WHERE seq <= 2")
		return struct{}{}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	unlock()

	var got []repo.Event
	for range 3 {
		got = append(got, next())
	}
	want := []repo.Event{
		{Kind: repo.Gap},
		{Kind: repo.Changed, DeviceID: numbered(2).DeviceID},
		{Kind: repo.Changed, DeviceID: numbered(3).DeviceID},
	}
	if !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
}

func TestSubscribersLearnThatEventsCannotBeRead(t *testing.T) {
	s, path := openNew(t)
	next := heard(t, s)
	f := s.feed
	f.mu.Lock()
	_ = f.after.Close() // as if the disk gave errors
	f.mu.Unlock()
	r := numbered(1)
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	alter(t, path, "DELETE FROM device")
	if got, want := next(), (repo.Event{Kind: repo.Cut}); got != want {
		t.Errorf("heard %v, want %v", got, want)
	}
	f.mu.Lock()
	err := prepare(t.Context(), f.conn, f.queries())
	f.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []repo.Event{{Kind: repo.Ended, DeviceID: r.DeviceID}, {Kind: repo.Gap}} {
		if got := next(); got != want {
			t.Errorf("heard %v, want %v", got, want)
		}
	}
}

func TestTheEventTableIsBounded(t *testing.T) {
	s, _ := openNew(t)
	count, err := write(t.Context(), s.writer, false, func(ctx context.Context) (n int, err error) {
		const many = `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25000)
			INSERT INTO event (device, ended) SELECT zeroblob(16), 1 FROM n`
		if _, err := s.writer.conn.ExecContext(ctx, many); err != nil {
			return 0, err
		}
		return n, s.writer.conn.QueryRowContext(ctx, "SELECT count(*) FROM event").Scan(&n)
	})
	if err != nil || count < 10_000 || count > 10_100 {
		t.Errorf("%d events are kept (%v)", count, err)
	}
}

func TestWhatAnotherProgramDeletesIsTold(t *testing.T) {
	s, path := openNew(t)
	next := heard(t, s)
	r := numbered(1)
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	alter(t, path, "DELETE FROM device")
	if got, want := next(), (repo.Event{Kind: repo.Ended, DeviceID: r.DeviceID}); got != want {
		t.Errorf("heard %v, want %v", got, want)
	}
}
