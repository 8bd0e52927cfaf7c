// Package redisstore keeps records in Redis: in one server, behind Sentinels,
// or in a Cluster. A record is a hash named by its device id, with a field for
// each thing that is known; scripts.go has the steps that change it, index.go
// how it is found by owner and email, reads.go how it is read, events.go how replicas hear of changes.
//
// # Keys
//
//	cloakroom:device:<device id>   hash: the record; record.go has its fields
//	cloakroom:owner:<hash>         sorted sets of the devices of an owner,
//	cloakroom:email:<hash>           of a verified email address,
//	cloakroom:sid:<hash>             of a session at an OpenID provider,
//	cloakroom:page:<000…fff>         and of all, by the first digits of the id
//	cloakroom:spent:<hash>         a key that Spend has marked
//	cloakroom:{revocations}:<id>   hash: a revocation
//	cloakroom:{revocations}        sorted set of them all, by when they are to be tried
//	cloakroom:ping                 written by Ping
//	cloakroom:layout               the number of this layout
//	cloakroom:events               a channel, not a key
//
// The server removes records an hour after they end, and index keys with their
// last entry.
//
// # What a crash can lose
//
// Redis answers before a write is on disk or on a replica, unless it is told
// otherwise. A refreshed token that is lost signs its device out. On disk it is
// with appendonly yes and appendfsync always; Config.WaitReplicas has it on
// replicas before the answer.
//
// A Cluster should have WaitReplicas set. A record and its index entries lie on
// different masters there, and one that crashes before its replica knows of an
// entry leaves a device that works, but that the list of its owner, and so the
// sign-out from everywhere, does not find.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"cloakroom/domain"
	"cloakroom/repo"
)

// Config is how a Store behaves. The zero Config is good for a single server.
type Config struct {
	// Prefix begins every key and the channel; "" is "cloakroom:". Stores with
	// different prefixes share a server without seeing each other.
	Prefix string
	// WaitReplicas is how many replicas of a master have to have a sign-in, a
	// refreshed token or a sign-out before it counts as done. If they do not
	// answer within WaitTimeout, or 500 ms, the call fails although the master
	// has written. While a slot of a Cluster moves to another node, writes to
	// the devices in it may fail.
	WaitReplicas int
	WaitTimeout  time.Duration
}

const (
	defaultPrefix      = "cloakroom:"
	defaultWaitTimeout = 500 * time.Millisecond
)

// Store implements repo.Store.
type Store struct {
	client       redis.UniversalClient
	together     *reads // nil in a Cluster
	config       Config
	beatInterval time.Duration

	closing context.Context // over once Close was called
	close   context.CancelFunc
}

var _ repo.Store = (*Store)(nil)

// New returns a store on client, which it closes when it is closed.
func New(client redis.UniversalClient, c Config) *Store {
	if c.Prefix == "" {
		c.Prefix = defaultPrefix
	}
	if c.WaitTimeout <= 0 {
		c.WaitTimeout = defaultWaitTimeout
	}
	s := &Store{client: client, config: c, beatInterval: beatInterval}
	s.closing, s.close = context.WithCancel(context.Background())
	if one, ok := client.(*redis.Client); ok {
		s.together = &reads{client: one}
	}
	return s
}

// Create implements repo.Store.
func (s *Store) Create(ctx context.Context, r domain.Record) error {
	r.Version, r.Lease = 1, domain.Lease{}
	_, _, err := s.signIn(ctx, r, func(tag, ends, until string) *call {
		return &call{script: createScript, args: append([]any{tag, ends, until}, pairs(r)...)}
	})
	return failed(ctx, "create", err)
}

// Overwrite implements repo.Store.
func (s *Store) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	r.Version, r.Lease = from+1, domain.Lease{}
	rep, tag, err := s.signIn(ctx, r, func(tag, ends, until string) *call {
		args := append([]any{tag, ends, until, from}, s.event(repo.Changed, r.DeviceID)...)
		return &call{script: overwriteScript, args: append(args, pairs(r)...)}
	})
	if err != nil {
		return failed(ctx, "overwrite", err)
	}
	if oldTag, old := indexedRecord(r.DeviceID, rep); oldTag != "" && oldTag != tag {
		s.unindex(ctx, s.entriesOf(old, oldTag))
	}
	return nil
}

// signIn writes a whole record: its entries first, then what write says.
func (s *Store) signIn(ctx context.Context, r domain.Record, write func(tag, ends, until string) *call) (rep reply, tag string, err error) {
	tag = mark()
	ends := millis(r.ExpiresAt)
	for range reindexes {
		until, err := s.index(ctx, r, tag, ends, "new")
		if err != nil {
			return nil, "", err
		}
		c := write(tag, ends, until)
		c.key, c.durable = s.deviceKey(r.DeviceID), true
		if err := s.run(ctx, c); err != nil {
			return nil, "", err // perhaps it is written, so the entries stay
		}
		switch status := c.reply.status(); status {
		case "ok", "again":
			return c.reply, tag, nil
		case "index": // the time since is longer than the entries hold
		default:
			s.unindex(ctx, s.entriesOf(r, tag))
			return nil, "", outcome(status)
		}
	}
	return nil, "", errUnindexed
}

// Get implements repo.Store.
func (s *Store) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	if err := ctx.Err(); err != nil {
		return domain.Record{}, failed(ctx, "get", err)
	}
	values, err := s.values(ctx, s.deviceKey(id))
	if err != nil {
		return domain.Record{}, failed(ctx, "get", err)
	}
	r, err := parse(id, fields, values)
	return r, failed(ctx, "get", err)
}

// values returns what a hash holds of all fields.
func (s *Store) values(ctx context.Context, key string) ([]string, error) {
	if s.together != nil {
		return s.together.values(ctx, key)
	}
	read := valuesOf(ctx, key, fieldNames)
	_ = s.client.Process(ctx, read)
	return read.Result()
}

// ReplaceTokens implements repo.Store.
func (s *Store) ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error {
	ends, write := millis(expiresAt), mark()
	rep, err := s.extend(ctx, id, ends, func(tag, until string) *call {
		args := append([]any{write, from, leaseOwner, ends, tag, until}, s.event(repo.Changed, id)...)
		return &call{script: replaceScript, key: s.deviceKey(id), args: append(args, tokenPairs(t)...), durable: true}
	})
	if err == nil {
		err = outcome(rep.status())
	}
	return failed(ctx, "replace tokens", err)
}

// Touch implements repo.Store.
func (s *Store) Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error {
	ends := millis(seen.ExpiresAt)
	_, err := s.extend(ctx, id, ends, func(tag, until string) *call {
		return &call{script: touchScript, key: s.deviceKey(id), args: []any{millis(seen.At), seen.IP, ends, tag, until}}
	})
	return failed(ctx, "touch", err)
}

// Rename implements repo.Store.
func (s *Store) Rename(ctx context.Context, id domain.DeviceID, name string) error {
	c := &call{script: renameScript, key: s.deviceKey(id), args: append([]any{name}, s.event(repo.Changed, id)...)}
	return failed(ctx, "rename", s.done(ctx, c))
}

// Delete implements repo.Store.
func (s *Store) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	c := s.deletion(id, from)
	if err := s.done(ctx, c); err != nil {
		return domain.Record{}, failed(ctx, "delete", err)
	}
	r, entries, err := s.deleted(id, c.reply)
	s.unindex(ctx, entries)
	return r, failed(ctx, "delete", err)
}

// deletion deletes a device at a version, if its fields have the values that
// they must have.
func (s *Store) deletion(id domain.DeviceID, from int64, fields ...any) *call {
	args := append([]any{from}, s.event(repo.Ended, id)...)
	return &call{script: deleteScript, key: s.deviceKey(id), args: append(args, fields...), once: true, durable: true}
}

// deleted reads the record that a deletion returned. Its entries can go.
func (s *Store) deleted(id domain.DeviceID, rep reply) (r domain.Record, entries []redis.Cmder, err error) {
	hash := rep.fields()
	r, err = parseAll(id, hash)
	return r, s.entriesOf(r, hash["entry"]), err
}

// TakeLease implements repo.Store.
func (s *Store) TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error) {
	c := &call{script: takeLeaseScript, key: s.deviceKey(id), args: []any{owner, ttl.Milliseconds()}}
	held := s.done(ctx, c)
	if held != nil && !errors.Is(held, domain.ErrLeaseHeld) {
		return domain.Record{}, failed(ctx, "take the lease", held)
	}
	r, err := parseAll(id, c.reply.fields())
	if err != nil {
		return domain.Record{}, failed(ctx, "take the lease", err)
	}
	return r, held
}

// RenewLease implements repo.Store.
func (s *Store) RenewLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) error {
	c := &call{script: renewLeaseScript, key: s.deviceKey(id), args: []any{owner, ttl.Milliseconds()}}
	return failed(ctx, "renew the lease", s.done(ctx, c))
}

// ReleaseLease implements repo.Store.
func (s *Store) ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error {
	c := &call{script: releaseLeaseScript, key: s.deviceKey(id), args: []any{owner}}
	return failed(ctx, "release the lease", s.done(ctx, c))
}

// Spend implements repo.Store.
func (s *Store) Spend(ctx context.Context, key string, until time.Time) error {
	if err := repo.CheckKey(key); err != nil {
		return err
	}
	c := &call{script: spendScript, key: s.indexKey("spent:", key), args: []any{mark(), millis(until)}, durable: true}
	return failed(ctx, "spend", s.done(ctx, c))
}

// Sweep implements repo.Store. The server removes what is over.
func (s *Store) Sweep(ctx context.Context, _ time.Time, _ int) (int, error) { return 0, ctx.Err() }

// Ping implements repo.Store. It does what a sign-out does, write and publish,
// because a server that does not let it, for want of memory, disk, a master or
// rights, is of no use.
func (s *Store) Ping(ctx context.Context) error {
	c := &call{script: pingScript, key: s.config.Prefix + "ping", args: []any{s.channel(), "ping"}}
	return failed(ctx, "ping", s.done(ctx, c))
}

// Close implements repo.Store. It closes the client as well.
func (s *Store) Close() error {
	s.close()
	return s.client.Close()
}

// done runs one script and returns what its status means.
func (s *Store) done(ctx context.Context, c *call) error {
	if err := s.run(ctx, c); err != nil {
		return err
	}
	return outcome(c.reply.status())
}

// outcome is the contract's word for a script's status.
func outcome(status string) error {
	switch status {
	case "ok":
		return nil
	case "missing":
		return domain.ErrNotFound
	case "exists":
		return domain.ErrExists
	case "conflict":
		return domain.ErrConflict
	case "held":
		return domain.ErrLeaseHeld
	case "lost":
		return domain.ErrLeaseLost
	}
	return fmt.Errorf("a script returned %q", status)
}

// failed says what was being done when Redis gave an error. Outcomes stay as
// they are. If the caller's context is over, that is the error.
func failed(ctx context.Context, doing string, err error) error {
	for _, o := range []error{nil, domain.ErrNotFound, domain.ErrExists, domain.ErrConflict, domain.ErrLeaseHeld, domain.ErrLeaseLost, domain.ErrBadInput} {
		if errors.Is(err, o) {
			return err
		}
	}
	if over := ctx.Err(); over != nil {
		err = over
	}
	return fmt.Errorf("redis: %s: %w", doing, err)
}
