// Package sqlitestore keeps records in a SQLite file, which infra/db opens. It
// is the store of a broker on one host; several processes may share the file
// and hear of each other's events within a fifth of a second.
//
// Tokens come sealed by package sealstore and are blobs here. All else stands
// readable in the columns of one table, migrations/ has it.
package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/events"
)

// Store implements repo.Store.
//
// What ReplaceTokens, Create, Overwrite, Rename, Spend, QueueRevocations and the
// deletions have done survives a power cut: their commits wait for the disk. Touches, leases and
// what was swept survive a crash of the process; lost to a power cut, they are
// made good by the next request.
type Store struct {
	now  func() time.Time
	pool *sql.DB // for reading
	own  *sql.DB // of the writer
	hub  *events.Hub

	writer *writer
	feed   *feed
	stop   context.CancelFunc // of the feed's loop
	loops  sync.WaitGroup

	// On the pool.
	get, listByOwner, listByEmail, page *sql.Stmt
	anyDue, pageRevocations             *sql.Stmt
	// On the writer's connection; its goroutine alone uses them.
	find, create, overwrite, replaceTokens, touch, rename     *sql.Stmt
	remove, removeByOwner, removeByEmail, removeBySID, expire *sql.Stmt
	spend, expireSpent                                        *sql.Stmt
	queueRevocation, claimRevocations                         *sql.Stmt
	finishRevocation, expireRevocations                       *sql.Stmt
	takeLease, renewLease, releaseLease                       *sql.Stmt
}

var _ repo.Store = (*Store)(nil)

// Open returns the store in a database, after bringing its schema up to date.
// write is a pool of one connection whose transactions begin immediate, read a
// pool whose connections need not write. Both belong to the store from then on:
// Close closes them, and so does an Open that fails. Leases go by now, which
// must be the clock of all processes that share the file.
func Open(ctx context.Context, write, read *sql.DB, now func() time.Time) (*Store, error) {
	s := &Store{now: now, pool: read, own: write, hub: events.NewHub()}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.closePools())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	if err := migrate(ctx, s.own); err != nil {
		return err
	}
	var err error
	if s.feed, err = newFeed(ctx, s.pool, s.hub); err != nil {
		return fmt.Errorf("sqlite: events: %w", err)
	}
	if s.writer, err = newWriter(ctx, s.own, s.feed.committed); err != nil {
		return fmt.Errorf("sqlite: writer: %w", err)
	}
	if err := errors.Join(prepare(ctx, s.pool, s.readQueries()), prepare(ctx, s.writer.conn, s.writeQueries())); err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	polling, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.loops.Go(s.writer.loop)
	s.loops.Go(func() { s.feed.loop(polling) })
	return nil
}

// The keys that devices are found by. The conditions of the partial indexes are
// spelled out, or the indexes would not be used; empty keys match nothing.
const (
	byOwner = " WHERE issuer = ?1 AND subject = ?2 AND (issuer <> '' OR subject <> '')"
	byEmail = " WHERE email = ?1 AND email_verified AND email <> ''"
	bySID   = " WHERE issuer = ?1 AND sid = ?2 AND sid <> ''"
)

// readQueries are those on the pool.
func (s *Store) readQueries() []query {
	const newest = " ORDER BY last_seen_at DESC, id"
	return []query{
		{&s.get, "SELECT " + columns + " FROM device WHERE id = ?"},
		{&s.listByOwner, "SELECT " + listColumns + " FROM device" + byOwner + newest},
		{&s.listByEmail, "SELECT " + listColumns + " FROM device" + byEmail + newest},
		{&s.page, "SELECT " + listColumns + " FROM device WHERE id > ? ORDER BY id LIMIT ?"},
		{&s.anyDue, "SELECT EXISTS (SELECT 1 FROM revocation WHERE not_before <= ?)"},
		{&s.pageRevocations, "SELECT " + revocationColumns + " FROM revocation WHERE id > ? ORDER BY id LIMIT ?"},
	}
}

// writeQueries are those on the writer's connection.
func (s *Store) writeQueries() []query {
	return []query{
		{&s.find, "SELECT " + columns + " FROM device WHERE id = ?"},
		{&s.create, "INSERT INTO device (" + columns + ") VALUES (" + placeholders + ") ON CONFLICT (id) DO NOTHING"},
		{&s.overwrite, "UPDATE device SET (" + columns + ") = (" + placeholders + ") WHERE id = ? AND version = ?"},
		{&s.replaceTokens, `UPDATE device SET token_type = ?1, access_token = ?2, access_issued = ?3, access_expiry = ?4,
			refresh_token = ?5, refresh_expiry = ?6, id_token = ?7, scope = ?13, dpop_key = ?14,
			expires_at = ?8, version = version + 1,
			lease_until = iif(lease_owner = ?9, ?10, lease_until), lease_owner = iif(lease_owner = ?9, '', lease_owner)
			WHERE id = ?11 AND version = ?12`},
		{&s.touch, `UPDATE device SET last_seen_ip = iif(last_seen_at < ?1, ?2, last_seen_ip),
			last_seen_at = max(last_seen_at, ?1), expires_at = max(expires_at, ?3)
			WHERE id = ?4 AND (last_seen_at < ?1 OR expires_at < ?3)`},
		{&s.rename, "UPDATE device SET name = ? WHERE id = ?"},
		{&s.remove, "DELETE FROM device WHERE id = ?1 AND ?2 IN (version, ?3) RETURNING " + columns},
		{&s.removeByOwner, "DELETE FROM device" + byOwner + " AND id <> ?3 RETURNING " + columns},
		{&s.removeByEmail, "DELETE FROM device" + byEmail + " RETURNING " + columns},
		{&s.removeBySID, "DELETE FROM device" + bySID + " RETURNING " + columns},
		{&s.expire, "DELETE FROM device WHERE id IN (SELECT id FROM device WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"},
		{&s.spend, "INSERT INTO spent (key, until) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET until = ?2 WHERE until <= ?3"},
		{&s.expireSpent, "DELETE FROM spent WHERE key IN (SELECT key FROM spent WHERE until <= ? ORDER BY until LIMIT ?)"},
		{&s.queueRevocation, "INSERT OR REPLACE INTO revocation (" + revocationColumns + ") VALUES (" + revocationPlaceholders + ")"},
		{&s.claimRevocations, `UPDATE revocation SET not_before = ?1 WHERE id IN
			(SELECT id FROM revocation WHERE not_before <= ?2 ORDER BY not_before LIMIT ?3) RETURNING ` + revocationColumns},
		{&s.finishRevocation, "DELETE FROM revocation WHERE id = ?"},
		{&s.expireRevocations, "DELETE FROM revocation WHERE id IN (SELECT id FROM revocation WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)"},
		{&s.takeLease, `UPDATE device SET lease_owner = ?1, lease_until = ?2
			WHERE id = ?3 AND (lease_owner IN ('', ?1) OR lease_until <= ?4) RETURNING ` + columns},
		{&s.renewLease, "UPDATE device SET lease_until = ?1 WHERE id = ?2 AND lease_owner = ?3 AND lease_until > ?4"},
		{&s.releaseLease, "UPDATE device SET lease_owner = '', lease_until = ? WHERE id = ? AND lease_owner = ?"},
	}
}

// Subscribe implements repo.Store.
func (s *Store) Subscribe(ctx context.Context, f func(repo.Event)) error {
	return s.hub.Subscribe(ctx, f)
}

// Ping implements repo.Store: it reads, and takes the write lock once.
func (s *Store) Ping(ctx context.Context) error {
	if _, err := s.Get(ctx, domain.DeviceID{}); err != nil && !errors.Is(err, domain.ErrNotFound) {
		return err
	}
	_, err := write(ctx, s.writer, false, func(context.Context) (struct{}, error) { return struct{}{}, nil })
	return failed(ctx, "ping", err)
}

// Close implements repo.Store. It closes the pools as well.
func (s *Store) Close() error {
	s.hub.Close()
	s.stop()
	s.writer.close()
	s.loops.Wait()
	return s.closePools()
}

func (s *Store) closePools() error {
	var errs []error
	if s.feed != nil {
		errs = append(errs, finish(s.feed.queries()), s.feed.conn.Close())
	}
	if s.writer != nil {
		errs = append(errs, finish(s.writeQueries()), finish(s.writer.queries()), s.writer.conn.Close())
	}
	// The pool for reading first: the last to close has to write the log back.
	errs = append(errs, s.pool.Close(), s.own.Close())
	return errors.Join(errs...)
}

// failed says what was being done when SQLite gave an error. If the caller's
// context is over, that is the error; SQLite only says "interrupted".
func failed(ctx context.Context, doing string, err error) error {
	if err == nil || outcome(err) {
		return err
	}
	if over := ctx.Err(); over != nil {
		err = over
	}
	return fmt.Errorf("sqlite: %s: %w", doing, err)
}

// free is the lease that nobody holds.
var free domain.Lease
