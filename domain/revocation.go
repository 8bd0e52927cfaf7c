package domain

import "time"

// Revocation is a pair of tokens that an auth server is still to be told to
// forget (RFC 7009). It waits in the store until that is done or the tokens are
// over.
type Revocation struct {
	ID       string // no other's; at most 64 bytes of UTF-8
	DeviceID DeviceID
	Provider string // as in the record
	Owner    Owner
	SID      string // as in the record

	Refresh      Secret
	Access       Secret
	AccessExpiry time.Time

	// Unless the device is signed in with this ticket: then its session is not
	// over, and neither is the pair. Zero if there is no doubt that it is over.
	Unless TicketHash

	Tries     int       // that have failed
	NotBefore time.Time // when it is to be tried next
	ExpiresAt time.Time // when the tokens are over; the store forgets it from then on
}
