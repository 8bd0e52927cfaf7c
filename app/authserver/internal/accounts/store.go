// Package accounts keeps the auth server's accounts, its families of refresh
// tokens and its signing key, in one SQLite file.
//
// It decides what has to be decided inside a transaction, above all whether a
// refresh token may be exchanged. Passwords are hashed, and access tokens
// signed, by its neighbours passwords and tokens; package signin joins them.
// What is time is told by the caller.
package accounts

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Rules are how long refresh tokens live.
type Rules struct {
	Lifetime    time.Duration // a family ends this long after its login, however often it is refreshed
	IdleTimeout time.Duration // a token that is not used for this long expires; 0 for never before its family
	ReuseWindow time.Duration // how long a used token still gives its successor; 0 for not at all
}

// Store is safe for concurrent use. An acknowledged write survives a power cut.
type Store struct {
	rules Rules
	// SQLite has one writer at a time. One connection makes the others wait in
	// line, where their contexts are heard, and not inside the database.
	write *sql.DB
	read  *sql.DB
}

// Open opens the file, makes it if it is not there, and brings its schema up to
// date. The file can be read by its owner alone: it holds the signing key. A
// file that a newer version has migrated is refused. Of two processes that make
// the same file at the same moment one may fail, and succeed when it is started
// again; later they may share it.
func Open(ctx context.Context, path string, rules Rules) (*Store, error) {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	if err := restrict(absolute); err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	// synchronous(FULL): a rotation that a power cut takes back would leave the
	// client with a token that nobody knows, and the stored one spent.
	write, err := sql.Open("sqlite", dsn(absolute, url.Values{
		"_txlock": {"immediate"},
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"},
	}))
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	if err := migrate(ctx, write); err != nil {
		write.Close()
		return nil, fmt.Errorf("migrate the database %s: %w", path, err)
	}
	read, err := sql.Open("sqlite", dsn(absolute, url.Values{
		"mode":    {"ro"},
		"_pragma": {"busy_timeout(5000)", "query_only(1)"},
	}))
	if err != nil {
		write.Close()
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return &Store{rules: rules, write: write, read: read}, nil
}

// Close waits for queries that run.
func (s *Store) Close() error {
	return errors.Join(s.read.Close(), s.write.Close())
}

// Ping tells whether the database can be read and a write could begin.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.read.PingContext(ctx); err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	return s.transact(ctx, func(*sql.Tx) error { return nil })
}

// SigningKey returns the stored signing key. Where there is none yet it stores
// and returns what make gives; of several processes that start at once, one
// key wins and all get it.
func (s *Store) SigningKey(ctx context.Context, now time.Time, make func() ([]byte, error)) (pkcs8 []byte, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT pkcs8 FROM signing_key`).Scan(&pkcs8)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if pkcs8, err = make(); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO signing_key (id, pkcs8, created_at) VALUES (1, ?, ?)`, pkcs8, now.UnixMilli())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return pkcs8, nil
}

// transact runs do in a transaction that holds the database's only write lock
// from its first statement on, and commits if do returns nil.
func (s *Store) transact(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// restrict makes the file and its directory before SQLite would make the file
// readable for everybody. The log and index files that SQLite puts beside it
// take their mode from it. A directory that is already there may have other
// uses, and keeps its mode.
func restrict(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	for _, name := range []string{path, path + "-wal", path + "-shm"} {
		if err := os.Chmod(name, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// dsn goes through net/url because a path may hold what a URI gives a meaning.
func dsn(path string, query url.Values) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(path), RawQuery: query.Encode()}).String()
}

func migrate(ctx context.Context, db *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, dir, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	current, known, err := provider.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > known {
		return fmt.Errorf("its schema is version %d, this program knows %d at most: run the newer program", current, known)
	}
	_, err = provider.Up(ctx)
	return err
}
