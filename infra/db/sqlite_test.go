package db

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func openSQLite(t *testing.T, path string) *SQLite {
	t.Helper()
	s, err := OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func pragma(t *testing.T, pool *sql.DB, name string) string {
	t.Helper()
	var value string
	if err := pool.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestOpenSQLiteSetsItsConnectionsUp(t *testing.T) {
	s := openSQLite(t, filepath.Join(t.TempDir(), "new.db"))
	for _, c := range []struct {
		pool       *sql.DB
		name, want string
	}{
		{s.Write, "journal_mode", "wal"},
		{s.Write, "synchronous", "2"}, // FULL
		{s.Write, "busy_timeout", "5000"},
		{s.Write, "journal_size_limit", "67108864"},
		{s.Read, "busy_timeout", "5000"},
		{s.Read, "query_only", "1"},
	} {
		if got := pragma(t, c.pool, c.name); got != c.want {
			t.Errorf("%s is %s, want %s", c.name, got, c.want)
		}
	}
	if n := s.Write.Stats().MaxOpenConnections; n != 1 {
		t.Errorf("%d connections may write, want 1", n)
	}
	if _, err := s.Read.ExecContext(t.Context(), "CREATE TABLE t (x) STRICT"); err == nil {
		t.Error("the pool for reading writes")
	}
}

func TestOpenSQLiteTakesTheWriteLockWhenATransactionBegins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.db")
	first, second := openSQLite(t, path), openSQLite(t, path)
	tx, err := first.Write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := second.Write.ExecContext(t.Context(), "PRAGMA busy_timeout = 1"); err != nil {
		t.Fatal(err)
	}
	if other, err := second.Write.BeginTx(t.Context(), nil); err == nil {
		_ = other.Rollback()
		t.Error("two transactions have begun")
	}
}

func TestOpenSQLiteKeepsOthersOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a ?#&%41'b", "deeper")
	path := filepath.Join(dir, "new ?mode=memory.db")
	s := openSQLite(t, path)
	if _, err := s.Write.ExecContext(t.Context(), "CREATE TABLE t (x INTEGER) STRICT"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		filepath.Dir(dir): 0o700, dir: 0o700,
		path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600,
	} {
		info, err := os.Stat(name)
		if err != nil {
			t.Error(err)
		} else if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", name, got, want)
		}
	}
}

func TestOpenSQLiteOpensWhatIsThere(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := OpenSQLite(t.Context(), "new.db")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write.ExecContext(t.Context(), "CREATE TABLE t (x INTEGER) STRICT"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openSQLite(t, "new.db")
	var n int
	if err := s.Read.QueryRowContext(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil {
		t.Error(err)
	}
}

func TestOpenSQLiteSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database ", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, want string }{
		{dir, dir + " is a directory; name a file in it, such as " + filepath.Join(dir, "cloakroom.db")},
		{text, text + " is not a SQLite database; move it away or name another file"},
		{filepath.Join(text, "new.db"), "a part of the path is a file and no directory"},
		{os.DevNull, os.DevNull + " is not a regular file"},
	} {
		s, err := OpenSQLite(t.Context(), c.path)
		if err == nil {
			_ = s.Close()
			t.Errorf("%s: no error", c.path)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %q, want %q", c.path, err, c.want)
		}
	}
	content, err := os.ReadFile(text)
	if err != nil || !strings.HasPrefix(string(content), "no database") {
		t.Error("the file that is no database was changed")
	}
}

func TestOpenSQLiteHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenSQLite(ctx, filepath.Join(t.TempDir(), "new.db")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
