// Package db opens the databases that the stores in package repo stand on:
// connections, their settings, and errors that say what to do. It knows no
// tables; queries are the stores' own.
package db

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// busyTimeout is how long one process waits for another's writing.
const busyTimeout = 5 * time.Second

// SQLite is an open SQLite file.
type SQLite struct {
	// Write has one connection: SQLite has one writer at a time, and those that
	// wait in Go wait in order. Its transactions take the write lock when they
	// begin, because one that reads first and writes later fails at once, busy
	// timeout or not, if another wrote in between. It syncs every commit.
	Write *sql.DB
	// Read has several connections that cannot write.
	Read *sql.DB
}

// OpenSQLite opens the SQLite file at path in WAL mode. It creates the file,
// readable for its owner alone, and the directories above it. Several processes
// on one host may have it open; a network share will not do.
//
// Its errors name the path and the remedy.
func OpenSQLite(ctx context.Context, path string) (*SQLite, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	if err := createFile(path); err != nil {
		return nil, err
	}
	busy := fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()) // comes first, whatever its place
	s := &SQLite{}
	if s.Write, err = connect(path, 1,
		"_txlock", "immediate",
		"_pragma", busy,
		"_pragma", "journal_mode(WAL)",
		"_pragma", "synchronous(FULL)",
		// After a burst, the log gives its space back.
		"_pragma", "journal_size_limit(67108864)",
	); err != nil {
		return nil, err
	}
	if s.Read, err = connect(path, max(4, runtime.GOMAXPROCS(0))+1,
		"mode", "ro",
		"_pragma", busy,
		"_pragma", "query_only(1)",
	); err != nil {
		_ = s.Close()
		return nil, err
	}
	if err := s.ready(ctx); err != nil {
		_ = s.Close()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("sqlite: open %s: %w", path, ctx.Err())
		}
		return nil, explain(path, err)
	}
	return s, nil
}

// Close closes both pools.
func (s *SQLite) Close() error {
	var errs []error
	for _, pool := range []*sql.DB{s.Read, s.Write} { // the last writer to go tidies up the log
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	return errors.Join(errs...)
}

// createFile makes an empty file that only its owner reads, if there is none.
// SQLite itself would let everybody read it; its side files take over the mode.
//
// A file that exists is not opened here: closing it would take away the locks
// that SQLite holds on it in this process (POSIX locks belong to the process).
func createFile(path string) error {
	switch info, err := os.Stat(path); {
	case err == nil && info.IsDir():
		return fmt.Errorf("sqlite: %s is a directory; name a file in it, such as %s", path, filepath.Join(path, "cloakroom.db"))
	case err == nil && !info.Mode().IsRegular():
		return fmt.Errorf("sqlite: %s is not a regular file; name another", path)
	case err == nil:
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return explain(path, err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil // another process was quicker
	}
	if err != nil {
		return explain(path, err)
	}
	return file.Close()
}

func connect(path string, connections int, params ...string) (*sql.DB, error) {
	query := url.Values{
		"_defensive": {"1"}, // nothing here needs what corrupts a file
		"_dqs":       {"0"}, // "text" is never a string
		"_error_rc":  {"1"}, // no stale message beside an error's own
	}
	for i := 0; i < len(params); i += 2 {
		query.Add(params[i], params[i+1])
	}
	dsn := url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: query.Encode()}
	pool, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	return pool, nil
}

// ready checks the file until the answer is another than "busy". When several
// processes open a new file, SQLite gives that answer at once, busy timeout or
// not, to those that come while one of them switches to WAL.
func (s *SQLite) ready(ctx context.Context) error {
	patience := time.NewTimer(busyTimeout)
	defer patience.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := s.check(ctx)
		if code(err) != lib.SQLITE_BUSY {
			return err
		}
		select {
		case <-again.C:
		case <-patience.C:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errNoWAL = errors.New("no write-ahead log")

// check connects both pools and sees that the file is a database in WAL mode.
func (s *SQLite) check(ctx context.Context) error {
	var mode string
	if err := s.Write.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return errNoWAL
	}
	var tables int
	return s.Read.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables)
}

// code returns SQLite's primary result code, or 0.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff // the rest is detail
	}
	return 0
}

// explain turns the failure to open path into a sentence that says what to do.
func explain(path string, cause error) error {
	code, dir := code(cause), filepath.Dir(path)
	switch {
	case errors.Is(cause, errNoWAL):
		return fmt.Errorf("sqlite: %s: the disk cannot hold SQLite's write-ahead log, as network shares cannot; put the file on a local disk", path)
	case code == lib.SQLITE_NOTADB:
		return fmt.Errorf("sqlite: %s is not a SQLite database; move it away or name another file: %w", path, cause)
	case code == lib.SQLITE_CORRUPT:
		return fmt.Errorf("sqlite: %s is damaged; restore it from a backup, or move it away to begin anew: %w", path, cause)
	case code == lib.SQLITE_BUSY:
		return fmt.Errorf("sqlite: %s is locked by another program; end that, or name another file: %w", path, cause)
	case code == lib.SQLITE_FULL, errors.Is(cause, syscall.ENOSPC):
		return fmt.Errorf("sqlite: %s: the disk is full; make room: %w", path, cause)
	case errors.Is(cause, syscall.ENOTDIR):
		return fmt.Errorf("sqlite: %s: a part of the path is a file and no directory; name another path: %w", path, cause)
	case code == lib.SQLITE_READONLY, code == lib.SQLITE_CANTOPEN, code == lib.SQLITE_PERM:
		// SQLite does not say whether it is the file, the directory, where it
		// needs to make its log, or the disk.
		probe, err := os.CreateTemp(dir, ".cloakroom-*")
		if err == nil {
			_ = probe.Close()
			_ = os.Remove(probe.Name())
			return fmt.Errorf("sqlite: %s cannot be written by this user; give the file and those beside it (-wal, -shm) to the user that runs cloakroom: %w", path, cause)
		}
		cause = err
	}
	switch {
	case errors.Is(cause, syscall.EROFS):
		return fmt.Errorf("sqlite: %s is on a read-only disk; name a file on one that can be written: %w", path, cause)
	case errors.Is(cause, fs.ErrPermission):
		return fmt.Errorf("sqlite: the directory %s cannot be written by this user; give it to the user that runs cloakroom, or name a file elsewhere: %w", dir, cause)
	}
	return fmt.Errorf("sqlite: open %s: %w", path, cause)
}
