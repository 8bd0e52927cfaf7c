// Package repo is the contract between Cloakroom and the places that can keep
// its records. Below it, memstore keeps them in memory, sqlitestore in a file,
// redisstore and mongostore on servers; sealstore stands in front of any of them
// and seals the tokens on their way in, cachestore in front of that and spares
// the way; storetest is the suite that every store passes whole.
//
// A store keeps and compares. It knows no use case, no HTTP and no key, and it
// does not judge time: an expired record is returned like any other, because
// callers go by their own clock and policy.
package repo

import (
	"context"
	"fmt"
	"time"

	"cloakroom/domain"
)

// AnyVersion makes Delete unconditional.
const AnyVersion int64 = 0

// Grace is how long a store that forgets by itself keeps a record beyond its
// ExpiresAt, at the least, so that whoever finds it over can still tell why and
// revoke its tokens.
const Grace = time.Minute

// LongestKey is how long a key of Spend may be, in bytes.
const LongestKey = 256

// MostRevocations is how many one call of QueueRevocations takes.
const MostRevocations = 128

// CheckRevocations is how every QueueRevocations begins.
func CheckRevocations(r []domain.Revocation) error {
	if len(r) > MostRevocations {
		return fmt.Errorf("%d revocations: %w", len(r), domain.ErrBadInput)
	}
	return nil
}

// CheckKey is how every Spend begins.
func CheckKey(key string) error {
	if len(key) == 0 || len(key) > LongestKey {
		return fmt.Errorf("a key of %d bytes: %w", len(key), domain.ErrBadInput)
	}
	return nil
}

// EventKind says what happened to a device.
type EventKind uint8

const (
	// Ended: the device is gone. Forget it and close what it has open.
	Ended EventKind = iota + 1
	// Changed: its record is another than before. Forget what is cached of it.
	Changed
	// Gap: events may have been missed, and from here on all are heard. Forget
	// everything that is cached.
	Gap
	// Cut: events are not heard any more until the next Gap. Trust nothing
	// that is cached.
	Cut
)

// Event is what a store tells all replicas about a device.
type Event struct {
	Kind     EventKind
	DeviceID domain.DeviceID // zero with Gap
}

// Store keeps one record per device. It is safe for concurrent use, and each
// method is one atomic step, seen whole by all replicas as soon as it returns.
//
// Every method honours its context; if that is over before the call, nothing
// changes and the error is the context's. An error that is none of the outcomes
// named here means that the store could not be asked or that its answer was
// lost: a write may then have happened or not.
//
// Only Create makes a record, so no late write can bring back a device that was
// deleted. Times come back in UTC, cut to the millisecond. An owner that is
// zero, an email address and a sid that are empty are no keys: nothing is found
// or deleted by them.
type Store interface {
	// Create stores a new device with version 1 and a free lease, whatever r
	// says of the two. If the id is taken, nothing changes and the answer is
	// domain.ErrExists.
	Create(ctx context.Context, r domain.Record) error

	// Get returns the record, expired or not, or domain.ErrNotFound. If tokens of it
	// cannot be opened, domain.ErrSealed comes with the record without them.
	Get(ctx context.Context, id domain.DeviceID) (domain.Record, error)

	// Overwrite replaces the whole record of r.DeviceID by r for a new sign-in
	// on the same device, if its version still is from. The version becomes
	// from+1 and the lease is free, whoever held it. Otherwise nothing changes:
	// domain.ErrNotFound, or domain.ErrConflict if the version has moved on.
	Overwrite(ctx context.Context, r domain.Record, from int64) error

	// ReplaceTokens stores the tokens that a refresh brought and the end of the
	// record that follows from them, if the version still is from. The version
	// becomes from+1, and if leaseOwner holds the lease it is given back in the
	// same step. The version alone decides: who holds a rotated pair holds the
	// only one that works, even if the lease ran out meanwhile. Otherwise
	// nothing changes: domain.ErrNotFound, or domain.ErrConflict.
	//
	// An answer without error means that the tokens survive a power cut, as far
	// as the store can promise it.
	ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error

	// Touch notes that the device was seen. It moves LastSeenAt and ExpiresAt
	// forward, never back, sets LastSeenIP if it moved LastSeenAt, and touches
	// neither tokens nor version. A device that is gone is no error.
	Touch(ctx context.Context, id domain.DeviceID, seen domain.Seen) error

	// Rename gives the device a name, or takes it away with "". It leaves the
	// version alone. domain.ErrNotFound.
	Rename(ctx context.Context, id domain.DeviceID, name string) error

	// ListByOwner and ListByEmail return all devices of an owner, or of a
	// verified email address, expired or not, the last seen first. Their
	// Secrets are empty, with all else of Tokens in its place: what has a
	// RefreshExpiry has a refresh token. None is an empty list and no error.
	ListByOwner(ctx context.Context, o domain.Owner) ([]domain.Record, error)
	ListByEmail(ctx context.Context, email string) ([]domain.Record, error)

	// Delete removes the device, if its version is from or from is AnyVersion,
	// and returns what went, so that its tokens can be revoked. Nobody stays
	// signed in for want of a key: here and in the next three, a token that
	// cannot be opened comes back empty, and that is no error.
	// domain.ErrNotFound; domain.ErrConflict if the version has moved on.
	Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error)

	// DeleteByOwner removes all devices of an owner except one (the zero id
	// spares none), DeleteByEmail all of a verified email address, and
	// DeleteBySID those of an OpenID provider's session. Each returns exactly
	// what went. None that was there when the call began survives it; one that
	// is created meanwhile may.
	DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error)
	DeleteByEmail(ctx context.Context, email string) ([]domain.Record, error)
	DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error)

	// TakeLease gives the lease of the device to owner for ttl, if it is free,
	// over, or owner's already, and returns the record as it is in that moment.
	// If another holds it, the answer is domain.ErrLeaseHeld with the record,
	// whose Lease tells for how long. Leases go by the store's clock. The owner
	// is never "". domain.ErrNotFound.
	TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error)
	// RenewLease makes a lease that owner still holds last for ttl from now.
	// domain.ErrNotFound; domain.ErrLeaseLost if it is over or another's.
	RenewLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) error
	// ReleaseLease gives the lease back. If it is not owner's, nothing happens
	// and that is no error.
	ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error

	// Page returns up to limit records, in the form of the lists, and a cursor
	// for the next call; the first cursor and the last are "". A page may be
	// empty and yet not the last. A record that is there from the first call to
	// the last is seen exactly once. A limit below 1, or a cursor that no Page
	// returned, is domain.ErrBadInput.
	Page(ctx context.Context, cursor string, limit int) (records []domain.Record, next string, err error)

	// Spend marks a key as used until then, once for all replicas: while it is
	// marked, nothing changes and the answer is domain.ErrExists. That goes by the
	// store's clock; a key whose time is over is as if it had never been spent,
	// and forgotten by itself. It has 1 to LongestKey bytes, which may be any; one
	// that has not is domain.ErrBadInput.
	Spend(ctx context.Context, key string, until time.Time) error

	// QueueRevocations keeps each of the revocations under its ID, in place of
	// what is kept under it. More than MostRevocations in one call are
	// domain.ErrBadInput. After another error some may be kept and some not.
	// Without an error they are as durable as what ReplaceTokens has written.
	QueueRevocations(ctx context.Context, r []domain.Revocation) error

	// ClaimRevocations returns up to limit revocations whose NotBefore is not
	// after now, those that wait longest first, and makes until their NotBefore.
	// Whoever got them thus has them alone until then, by the callers' clocks. They
	// come with that NotBefore. Beside an error come those that were claimed before.
	ClaimRevocations(ctx context.Context, now, until time.Time, limit int) ([]domain.Revocation, error)

	// FinishRevocation removes a revocation. One that is not there is no error.
	FinishRevocation(ctx context.Context, id string) error

	// PageRevocations goes through all revocations as Page does through records,
	// but may show one twice, more than limit at once, and what has moved
	// meanwhile.
	PageRevocations(ctx context.Context, cursor string, limit int) (r []domain.Revocation, next string, err error)

	// Sweep removes up to limit records whose ExpiresAt is not after now, then
	// keys and revocations that are over by then, and returns how many. It is housekeeping; a store whose server does it (see
	// Grace) does nothing and returns 0.
	Sweep(ctx context.Context, now time.Time, limit int) (int, error)

	// Subscribe calls f with every event from now on, of this replica and of
	// the others, one at a time and in order for any one device, until ctx
	// ends. An event may come twice. It begins with a Gap, and repeats it when
	// it may have missed something, as when f is too slow for the events. When
	// it notices that it is cut off from the other replicas it says so by a Cut.
	// It returns ctx's error, or another if the store is closed under it.
	Subscribe(ctx context.Context, f func(Event)) error

	// Ping reports whether the store can be reached and used.
	Ping(ctx context.Context) error

	// Close gives everything back. No method may be called after it; a call
	// that is under way ends soon, with an error if it was not done.
	Close() error
}
