package domain

import (
	"errors"
	"time"
)

// What a store answers, beside success and its own failures. Any other error
// of a store means that it could not be asked.
var (
	// ErrNotFound: there is no such device.
	ErrNotFound = errors.New("no such device")
	// ErrExists: a device with that id is there already, or a key is spent.
	ErrExists = errors.New("exists already")
	// ErrConflict: the record has moved on since it was read.
	ErrConflict = errors.New("record has changed")
	// ErrLeaseHeld: another holds the lease.
	ErrLeaseHeld = errors.New("lease is held by another")
	// ErrSealed: the tokens of the record do not open, for want of a key or because
	// somebody has changed them.
	ErrSealed = errors.New("tokens do not open")
	// ErrLeaseLost: the lease is not the caller's any more.
	ErrLeaseLost = errors.New("lease is lost")
)

// What the use cases answer. Refused is not unreachable: only the first three
// mean that somebody has to sign in again.
var (
	// ErrNoTicket: the request carries no ticket.
	ErrNoTicket = errors.New("no ticket")
	// ErrBadTicket: the ticket opens no device: it is malformed, its device is
	// unknown or gone, or its secret is wrong. The browser may hold a newer one
	// by the time it hears of it.
	ErrBadTicket = errors.New("ticket opens no device")
	// ErrSignedOut: this request has found that the device is over, by time or
	// by a refusal of the auth server, and has ended it. The cookie can go.
	ErrSignedOut = errors.New("device is signed out")
	// ErrStore: the store could not be asked. Nothing is known, nothing may be cleared.
	ErrStore = errors.New("store unavailable")
	// ErrAuthUnavailable: the auth server could not be asked; it may pass.
	ErrAuthUnavailable = errors.New("auth server unavailable")
	// ErrAuthMisconfigured: the auth server refuses the broker itself, not the
	// person. It needs an operator.
	ErrAuthMisconfigured = errors.New("auth server refuses the broker")
	// ErrInvalidGrant: the auth server refuses the refresh token for good
	// (RFC 6749, section 5.2, invalid_grant).
	ErrInvalidGrant = errors.New("refresh token refused")
	// ErrNoRegistration: the auth server registers nobody.
	ErrNoRegistration = errors.New("no registration here")
	// ErrProofTooOld: this can be done by somebody alone who has just proved who
	// they are, and the device in hand may have been left lying about.
	ErrProofTooOld = errors.New("signed in too long ago for this")
	// ErrAnotherOwner: who was to prove once more who they are has signed in as
	// somebody else.
	ErrAnotherOwner = errors.New("signed in as somebody else")
	// ErrBadInput: what a person or script sent does not make sense.
	ErrBadInput = errors.New("bad input")
)

// Refused is an auth server's answer to credentials that it does not accept.
type Refused struct {
	Status int    // the HTTP status that it answered
	Detail string // its sentence, made for people; may be empty
	Retry  time.Duration
}

func (e *Refused) Error() string { return "auth server refused: " + e.Detail }

// Unavailable is a passing failure that says when to try again. It wraps the
// outcome that it is a case of.
type Unavailable struct {
	Err   error
	Retry time.Duration // 0 if unknown
	// Why is one of the words below, or of package usecase's, for a metric.
	Why string
	// Lost: the request was sent and its answer got lost or cannot be read, so
	// what was asked for may have been done.
	Lost bool
}

// Why an auth server could not be asked.
const (
	WhyTimeout      = "timeout"       // no whole answer in time, or 408
	WhyNetwork      = "network"       // no connection, or it broke
	WhyUpstream5xx  = "upstream_5xx"  // it answered 5xx
	WhyThrottled    = "throttled"     // it answered 429 or 425
	WhyBrokenAnswer = "broken_answer" // it answered success, but nothing that can be read
)

func (e *Unavailable) Error() string { return e.Err.Error() }

// Unwrap gives the outcome and its cause.
func (e *Unavailable) Unwrap() error { return e.Err }
