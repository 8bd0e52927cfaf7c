package domain

import (
	"time"
)

// Owner is whose device it is. Two auth servers that know the same email
// address are two owners; an email is an attribute, never an identity.
type Owner struct {
	Issuer  string // who vouches: the auth server's name, from the settings
	Subject string // the person's stable name there
}

// IsZero reports whether there is no owner.
func (o Owner) IsZero() bool { return o == Owner{} }

// Tokens is what a refresh replaces, as one unit.
type Tokens struct {
	TokenType     string // as the auth server wrote it, "bearer" as a rule
	Scope         string // of Access, as granted: names with spaces between; empty if the auth server did not say
	Access        Secret
	AccessIssued  time.Time // when the broker received it
	AccessExpiry  time.Time
	Refresh       Secret    // empty if the auth server gave none
	RefreshExpiry time.Time // zero if and only if Refresh is empty
	ID            Secret    // an OpenID provider's ID token, else empty
	// DPoPKey is the key that the tokens are bound to (RFC 9449) if TokenType says
	// so, or empty. It is the device's: a refresh keeps it. It stands here because it is of use with
	// these tokens alone, and is sealed like them.
	DPoPKey Secret
}

// Lease is the right of one replica to refresh one device. It lives inside the
// record. The zero Lease is free.
type Lease struct {
	Owner string
	Until time.Time
}

// HeldAt reports whether somebody holds the lease.
func (l Lease) HeldAt(now time.Time) bool { return l.Owner != "" && now.Before(l.Until) }

// Record is everything kept for a device. It travels whole from the store to
// the handlers; its Secrets print as "[redacted]".
//
// All times are UTC and cut to the millisecond, which every store keeps.
type Record struct {
	DeviceID   DeviceID
	TicketHash TicketHash

	Owner         Owner
	Email         string // lower case; an index key only if EmailVerified
	EmailVerified bool
	PersonName    string // for people to read, as of the sign-in; may be empty
	Roles         []string
	Provider      string // the name of the sign-in method in the settings
	SID           string // the OpenID provider's name for its session, or empty

	Tokens Tokens

	Name       string // given by the person, or empty
	UserAgent  string // of the browser at its last sign-in, as it was sent
	Persistent bool   // "remember me": the cookie outlives the browser's run
	CreatedAt  time.Time
	CreatedIP  string
	LastSeenAt time.Time
	LastSeenIP string
	AuthTime   time.Time // the last sign-in; the absolute lifetime counts from here
	ProvedAt   time.Time // when the person last proved who they are, where the OpenID provider says that it was another time; else zero
	ACR        string    // how well, in the OpenID provider's words (acr), or empty
	AMR        []string  // by what means (amr, RFC 8176), or none
	ExpiresAt  time.Time // EndsAt when it was written; the store may forget the record from then on

	Version int64 // 1 when created, one more whenever tokens or ticket are replaced
	Lease   Lease
}

// LastProof returns when the person last proved who they are. A provider may
// sign in again somebody who did that there days ago.
func (r Record) LastProof() time.Time {
	if r.ProvedAt.IsZero() {
		return r.AuthTime
	}
	return r.ProvedAt
}

// Seen is a sign of life of a device.
type Seen struct {
	At        time.Time
	IP        string
	ExpiresAt time.Time // the record's end as it follows from At
}

// Now cuts a clock's reading to what the stores keep.
func Now(clock func() time.Time) time.Time { return clock().UTC().Truncate(time.Millisecond) }
