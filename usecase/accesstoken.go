package usecase

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloakroom/domain"
)

// Visit is how a request shows itself: the cookie's text and where it comes
// from.
type Visit struct {
	Ticket string // "" if the request has none
	IP     string
}

// Session is a device whose ticket was shown.
type Session struct {
	Record domain.Record
}

// touchIdleFraction keeps the note of a visit well ahead of the idle timeout.
const touchIdleFraction = 10

// rejectedPause bounds how soon after a refresh the upstream's word against an
// access token leads to another refresh. An upstream that rejects every token
// would otherwise turn each request into a call of the auth server.
const (
	rejectedPause    = 30 * time.Second
	rejectedFraction = 2 // of the token's life, if that is shorter
)

// Open returns the session that a visit belongs to, whatever the state of its
// access token. If its tokens do not open, it comes without them: that is enough
// to see one's devices and to sign out.
//
//	domain.ErrNoTicket, domain.ErrBadTicket, domain.ErrSignedOut   sign in
//	domain.ErrStore                                                try later
func (b *Broker) Open(ctx context.Context, v Visit) (Session, error) {
	rec, _, err := b.open(ctx, v.Ticket)
	if err != nil && !errors.Is(err, domain.ErrSealed) {
		return Session{}, err
	}
	return b.touch(ctx, rec, v), nil
}

// AccessToken returns the session of a visit with an access token that works
// now. One that has expired is refreshed first; one that ends soon is used and
// refreshed behind the request; while the auth server is away, an old one is
// used as long as it lives.
//
// The errors are those of Open and, if there is no token to be had,
// domain.ErrAuthUnavailable or domain.ErrAuthMisconfigured.
func (b *Broker) AccessToken(ctx context.Context, v Visit) (Session, error) {
	rec, err := b.withAccessToken(ctx, v)
	if errors.Is(err, errOlderFlight) {
		rec, err = b.withAccessToken(ctx, v)
	}
	if err != nil {
		return Session{}, err
	}
	return b.touch(ctx, rec, v), nil
}

// errOlderFlight: the refresh that was waited for had begun before the sign-in
// that this ticket is of, or the person has signed in again since. The record,
// read again, tells which.
var errOlderFlight = fmt.Errorf("%w: the refresh was of another sign-in", domain.ErrBadTicket)

func (b *Broker) withAccessToken(ctx context.Context, v Visit) (domain.Record, error) {
	rec, ticket, err := b.open(ctx, v.Ticket)
	if err != nil {
		return domain.Record{}, err
	}
	now := b.now()
	switch {
	case !rec.Refreshable(now): // open has made sure that it lives
	case !b.Lifetimes.AccessUsable(rec.Tokens, now):
		return b.refreshed(ctx, rec, ticket)
	case b.Lifetimes.AccessEndsSoon(rec.Tokens, now):
		b.refreshBehind(ctx, rec)
	}
	return rec, nil
}

// End returns when a device ends if nothing more is heard of it, as the store
// has it at this moment. One that is gone, or that time has ended, which is then
// removed, is domain.ErrSignedOut. That the store cannot be asked is
// domain.ErrStore.
func (b *Broker) End(ctx context.Context, id domain.DeviceID) (time.Time, error) {
	if cache, ok := b.store.(forgetful); ok {
		cache.Forget(id)
	}
	rec, err := b.store.Get(ctx, id)
	switch {
	case errors.Is(err, domain.ErrNotFound):
		return time.Time{}, domain.ErrSignedOut
	case err != nil:
		return time.Time{}, storeError("read the record", err)
	}
	if why := b.Lifetimes.Ended(rec, b.now()); why != domain.NotEnded {
		b.endRecord(ctx, rec, string(why))
		return time.Time{}, domain.ErrSignedOut
	}
	return b.Lifetimes.EndsAt(rec), nil
}

// Rejected returns the session again after the upstream answered 401 to its
// access token, with another token than the rejected one. ok is false if there
// is no sense in asking for one: then the upstream's answer is the answer. The
// errors are those of AccessToken.
func (b *Broker) Rejected(ctx context.Context, v Visit, rejected domain.Secret) (s Session, ok bool, err error) {
	s, ok, err = b.rejected(ctx, v, rejected)
	if errors.Is(err, errOlderFlight) {
		s, ok, err = b.rejected(ctx, v, rejected)
	}
	return s, ok, err
}

func (b *Broker) rejected(ctx context.Context, v Visit, rejected domain.Secret) (s Session, ok bool, err error) {
	rec, ticket, err := b.open(ctx, v.Ticket)
	if err != nil {
		return Session{}, false, err
	}
	now := b.now()
	if !rec.Tokens.Access.Equal(rejected) && b.Lifetimes.AccessUsable(rec.Tokens, now) {
		return Session{Record: rec}, true, nil
	}
	life, age := rec.Tokens.AccessExpiry.Sub(rec.Tokens.AccessIssued), now.Sub(rec.Tokens.AccessIssued)
	// Far below zero is a clock that was set back, or another replica's that is
	// ahead, and the token may be of any age.
	if age.Abs() < min(rejectedPause, life/rejectedFraction) || !rec.Refreshable(now) {
		return Session{}, false, nil
	}
	rec, err = b.refresh(ctx, rec, rejected)
	switch {
	case err != nil:
		// While the auth server is away the upstream's 401 must not reach
		// anybody: it would read as "signed out", and nobody is.
		return Session{}, false, err
	case !rec.TicketHash.Opens(ticket):
		return Session{}, false, errOlderFlight
	}
	return Session{Record: rec}, !rec.Tokens.Access.Equal(rejected), nil
}

// refreshed returns rec with a new access token, or as it is if a new one
// cannot be had right now and the old one still lives.
func (b *Broker) refreshed(ctx context.Context, rec domain.Record, ticket domain.Ticket) (domain.Record, error) {
	next, err := b.refresh(ctx, rec, rec.Tokens.Access)
	switch {
	case err == nil:
		if !next.TicketHash.Opens(ticket) {
			return domain.Record{}, errOlderFlight
		}
		return next, nil
	case errors.Is(err, domain.ErrSignedOut), errors.Is(err, domain.ErrBadTicket):
		return domain.Record{}, err
	case b.Lifetimes.AccessAlive(rec.Tokens, b.now()):
		return rec, nil
	}
	return domain.Record{}, err
}

// read returns a record, without its tokens if those do not open.
func (b *Broker) read(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	rec, err := b.store.Get(ctx, id)
	if errors.Is(err, domain.ErrSealed) {
		err = nil
	}
	return rec, err
}

// open finds the device of a ticket. If the device is that, but its tokens do not
// open, it comes beside a domain.ErrStore that is a domain.ErrSealed too.
func (b *Broker) open(ctx context.Context, text string) (domain.Record, domain.Ticket, error) {
	if text == "" {
		return domain.Record{}, domain.Ticket{}, domain.ErrNoTicket
	}
	ticket, err := domain.ParseTicket(text)
	if err != nil {
		return domain.Record{}, domain.Ticket{}, fmt.Errorf("%w: %w", domain.ErrBadTicket, err)
	}
	rec, err := b.store.Get(ctx, ticket.DeviceID)
	sealed := errors.Is(err, domain.ErrSealed)
	if cache, ok := b.store.(forgetful); ok && (err == nil || sealed) && !rec.TicketHash.Opens(ticket) {
		// The record may be of before a sign-in at another replica.
		cache.Forget(ticket.DeviceID)
		rec, err = b.store.Get(ctx, ticket.DeviceID)
		sealed = errors.Is(err, domain.ErrSealed)
	}
	switch {
	case errors.Is(err, domain.ErrNotFound):
		return domain.Record{}, ticket, fmt.Errorf("%w: %w", domain.ErrBadTicket, err)
	case err != nil && !sealed:
		return domain.Record{}, ticket, storeError("read the record", err)
	case !rec.TicketHash.Opens(ticket):
		b.Log.WarnContext(ctx, "a ticket of this device has the wrong secret", "device", ticket.DeviceID)
		return domain.Record{}, ticket, fmt.Errorf("%w: wrong secret", domain.ErrBadTicket)
	}
	if why := b.Lifetimes.Ended(rec, b.now()); why != domain.NotEnded {
		b.endRecord(ctx, rec, string(why))
		return domain.Record{}, ticket, domain.ErrSignedOut
	}
	return rec, ticket, storeError("read the record", err)
}

// touch notes the visit in the store if the last note is old enough. A note
// that fails harms nobody: the next visit makes it.
func (b *Broker) touch(ctx context.Context, rec domain.Record, v Visit) Session {
	now := b.now()
	if now.Sub(rec.LastSeenAt) < min(b.TouchInterval, b.Lifetimes.Idle/touchIdleFraction) {
		return Session{Record: rec}
	}
	rec.LastSeenAt, rec.LastSeenIP = now, v.IP
	rec.ExpiresAt = b.Lifetimes.EndsAt(rec)
	if err := b.store.Touch(ctx, rec.DeviceID, domain.Seen{At: now, IP: v.IP, ExpiresAt: rec.ExpiresAt}); err != nil {
		b.Log.WarnContext(ctx, "noting that a device was seen", "device", rec.DeviceID, "error", err)
	}
	return Session{Record: rec}
}

// endRecord removes a record that time has ended, as it was read: a sign-in or
// a refresh that came in between keeps it alive.
func (b *Broker) endRecord(ctx context.Context, rec domain.Record, why string) {
	announced := b.announce(ctx, rec)
	_, err := b.store.Delete(ctx, rec.DeviceID, rec.Version)
	b.pursue(ctx, announced)
	switch {
	case err == nil:
		b.logEnd(ctx, rec, why)
	case !errors.Is(err, domain.ErrNotFound) && !errors.Is(err, domain.ErrConflict):
		b.Log.WarnContext(ctx, "removing a record that is over", "device", rec.DeviceID, "error", err)
	}
}

// logEnd tells that a device is signed out, and by what: a word that is a
// metric's label as well. More about it may stand in attrs.
func (b *Broker) logEnd(ctx context.Context, rec domain.Record, why string, attrs ...any) {
	b.Metrics.SessionEnded(why)
	b.Log.With(attrs...).InfoContext(ctx, "device ended", "device", rec.DeviceID, "issuer", rec.Owner.Issuer, "subject", rec.Owner.Subject, "reason", why)
}
