package sqlitestore

import (
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/db"
	"cloakroom/repo"
	"cloakroom/repo/events"
)

func openAt(t *testing.T, path string) (*Store, error) {
	t.Helper()
	file, err := db.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return Open(t.Context(), file.Write, file.Read, time.Now)
}

func openNew(t *testing.T) (s *Store, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "cloakroom.db")
	s, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s, path
}

func numbered(n int) domain.Record {
	r := domain.Record{ExpiresAt: time.UnixMilli(2_000_000_000_000).UTC()}
	binary.BigEndian.PutUint64(r.DeviceID[:], uint64(n+1))
	return r
}

// stalled returns a store whose writer is at a change that ends with release.
func stalled(t *testing.T, s *Store) (release func()) {
	t.Helper()
	begun, hold := make(chan struct{}), make(chan struct{})
	go func() {
		_, _ = write(t.Context(), s.writer, false, func(context.Context) (struct{}, error) {
			close(begun)
			<-hold
			return struct{}{}, nil
		})
	}()
	<-begun
	return func() { close(hold) }
}

// queued waits until n changes stand in the queue.
func queued(t *testing.T, s *Store, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(s.writer.queue) < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d changes are queued, want %d", len(s.writer.queue), n)
		}
	}
}

func TestCommitsWaitForTheDiskWhereItMatters(t *testing.T) {
	s, _ := openNew(t)
	ctx := t.Context()
	r := numbered(1)
	id, owner := r.DeviceID, domain.Owner{Issuer: "i", Subject: "s"}
	for _, c := range []struct {
		name string
		call func() error
		want bool
	}{
		{"Create", func() error { return s.Create(ctx, r) }, true},
		{"Touch", func() error { return s.Touch(ctx, id, domain.Seen{At: time.Now()}) }, false},
		{"Overwrite", func() error { return s.Overwrite(ctx, r, 1) }, true},
		{"TakeLease", func() error { _, err := s.TakeLease(ctx, id, "me", time.Hour); return err }, false},
		{"Rename", func() error { return s.Rename(ctx, id, "name") }, true},
		{"RenewLease", func() error { return s.RenewLease(ctx, id, "me", time.Hour) }, false},
		{"ReplaceTokens", func() error { return s.ReplaceTokens(ctx, id, "", 2, r.Tokens, r.ExpiresAt) }, true},
		{"ReleaseLease", func() error { return s.ReleaseLease(ctx, id, "me") }, false},
		{"DeleteByOwner", func() error { _, err := s.DeleteByOwner(ctx, owner, id); return err }, true},
		{"Sweep", func() error { _, err := s.Sweep(ctx, time.UnixMilli(0), 10); return err }, false},
		{"DeleteByEmail", func() error { _, err := s.DeleteByEmail(ctx, "email"); return err }, true},
		{"Ping", func() error { return s.Ping(ctx) }, false},
		{"DeleteBySID", func() error { _, err := s.DeleteBySID(ctx, "i", "sid"); return err }, true},
		{"Touch again", func() error { return s.Touch(ctx, id, domain.Seen{At: time.Now()}) }, false},
		{"Delete", func() error { _, err := s.Delete(ctx, id, repo.AnyVersion); return err }, true},
	} {
		if err := c.call(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if s.writer.synced != c.want {
			t.Errorf("%s: waits for the disk = %v, want %v", c.name, s.writer.synced, c.want)
		}
	}

	// And SQLite really is told so.
	for _, durable := range []bool{true, false, false, true, true} {
		level, err := write(ctx, s.writer, durable, func(ctx context.Context) (level int, err error) {
			return level, s.writer.conn.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&level)
		})
		if want := map[bool]int{true: 2, false: 1}[durable]; err != nil || level != want {
			t.Errorf("durable %v: PRAGMA synchronous is %d, want %d (%v)", durable, level, want, err)
		}
	}
}

func TestAChangeThatFailsFailsAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloakroom.db")
	s, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	s.writer.close() // from here on the test is the loop
	s.writer.quit = make(chan struct{})
	s.writer.done = make(chan struct{})
	go func() { <-s.writer.quit; close(s.writer.done) }()
	defer s.Close()

	broken := errors.New("broken")
	var batch []*change
	for n := range 5 {
		args := values(numbered(n))
		batch = append(batch, &change{ctx: t.Context(), answer: make(chan error, 1), run: func() error {
			if _, err := exec(context.Background(), s.create, args...); err != nil {
				return err
			}
			if n == 2 {
				return broken
			}
			return nil
		}})
	}
	s.writer.serve(batch)
	for n, c := range batch {
		var want, wantGet error
		if n == 2 {
			want, wantGet = broken, domain.ErrNotFound
		}
		if err := <-c.answer; !errors.Is(err, want) {
			t.Errorf("change %d: error %v, want %v", n, err, want)
		}
		if _, err := s.Get(t.Context(), numbered(n).DeviceID); !errors.Is(err, wantGet) {
			t.Errorf("Get %d: error %v, want %v", n, err, wantGet)
		}
	}
}

func TestWhoHasLeftTheQueueHasChangedNothing(t *testing.T) {
	s, _ := openNew(t)
	release := stalled(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- s.Create(ctx, numbered(1)) }()
	stayed := make(chan error, 1)
	go func() { stayed <- s.Create(t.Context(), numbered(2)) }()
	queued(t, s, 2)
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("Create that was left: %v", err)
	}
	release()
	if err := <-stayed; err != nil {
		t.Errorf("Create beside it: %v", err)
	}
	if _, err := s.Get(t.Context(), numbered(1).DeviceID); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("Get: error %v, want %v", err, domain.ErrNotFound)
	}
}

func TestAFullQueueHoldsCallersNoLongerThanTheirContext(t *testing.T) {
	s, _ := openNew(t)
	release := stalled(t, s)
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	const callers = batchSize + 10
	ends := make(chan error, callers)
	for n := range callers {
		go func() { ends <- s.Create(ctx, numbered(n)) }()
	}
	queued(t, s, batchSize)
	cancel()
	for range callers {
		if err := <-ends; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	}
}

func TestCloseLetsNobodyWait(t *testing.T) {
	s, err := openAt(t, filepath.Join(t.TempDir(), "cloakroom.db"))
	if err != nil {
		t.Fatal(err)
	}
	release := stalled(t, s)
	const callers = 20
	ends := make(chan error, callers)
	for n := range callers {
		go func() { ends <- s.Create(context.Background(), numbered(n)) }()
	}
	queued(t, s, callers)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	<-s.writer.quit
	release()
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	for range callers {
		if err := <-ends; err != nil && !errors.Is(err, events.ErrClosed) {
			t.Errorf("a change under way: %v", err)
		}
	}
}

func TestPingNoticesThatNothingCanBeWritten(t *testing.T) {
	s, path := openNew(t)
	other, err := db.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Write.BeginTx(t.Context(), nil) // which takes the write lock
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Ping(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want %v", err, context.DeadlineExceeded)
	}
}

func TestNoStatementReadsTheWholeTable(t *testing.T) {
	s, _ := openNew(t)
	indexes := map[string]string{
		byOwner: "device_owner", byEmail: "device_email", bySID: "device_sid", "FROM device WHERE expires_at <= ?": "device_expires",
		"FROM revocation WHERE expires_at <= ?": "revocation_expires", "FROM spent WHERE until <= ?": "spent_until",
		"FROM revocation WHERE not_before <= ?": "revocation_not_before",
	}
	for _, q := range append(s.readQueries(), s.writeQueries()...) {
		rows, err := s.pool.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+q.text, make([]any, 40)...)
		if err != nil {
			t.Errorf("%s: %v", q.text, err)
			continue
		}
		var plan []string
		for rows.Next() {
			var id, parent, unused int
			var step string
			if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
				t.Fatal(err)
			}
			plan = append(plan, step)
		}
		if err := rows.Err(); err != nil {
			t.Error(err)
		}
		steps := strings.Join(plan, "; ")
		if strings.Contains(strings.ReplaceAll(steps, "SCAN CONSTANT ROW", ""), "SCAN ") {
			t.Errorf("%s: %s", q.text, steps)
		}
		for condition, index := range indexes {
			if strings.Contains(q.text, condition) && !strings.Contains(steps, index) {
				t.Errorf("%s: %s, without %s", q.text, steps, index)
			}
		}
	}
}
