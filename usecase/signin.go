package usecase

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cloakroom/domain"
)

// SignIn is one try to sign in from a browser: by a password, or by what a
// provider vouches for.
type SignIn struct {
	Credentials domain.Credentials

	// Provider and Verify are those of a sign-in that happens elsewhere. Verify
	// is called once, when it is known that the store can be asked, and its
	// error is SignIn's.
	Provider string
	Verify   func(ctx context.Context) (domain.Authentication, error)
	// Once, if it is not empty, names what the sign-in rests on, which works
	// once before Until, at whatever replica. The second time is a
	// *domain.SignInFailure.
	Once  string
	Until time.Time

	// Owner, if it is not zero, is who has to come out of it: this is somebody
	// who proves once more to be there. Anybody else is domain.ErrAnotherOwner,
	// and nothing changes.
	Owner domain.Owner

	IP        string // the browser's address
	Remember  bool   // the cookie is to outlive the browser's run
	Ticket    string // what the browser brought along, or ""
	UserAgent string
}

// overwriteAttempts bounds how often a sign-in looks again at a record that
// changed under it.
const overwriteAttempts = 5

// storeSignInWithin bounds how long a sign-in that the auth server granted is
// offered to the store, whether or not the browser still waits.
const storeSignInWithin = 5 * time.Second

// What is kept of a browser's description of itself and of a person's name, in bytes.
const (
	longestUserAgent  = 512
	longestPersonName = 256
)

// Register makes an account at the auth server that takes passwords. It signs
// nobody in. A *domain.Refused says what the auth server did not like.
func (b *Broker) Register(ctx context.Context, c domain.Credentials) error {
	if b.passwords == nil {
		return domain.ErrNoRegistration
	}
	err := b.passwords.Passwords.Register(ctx, c)
	b.logAttempt(ctx, "registered", "registration", c, err)
	return err
}

// SignIn gets tokens for whoever signs in and makes, or renews, the device of
// the browser. The ticket is new every time, and whatever ticket the browser
// brought opens nothing afterwards: if it was this owner's, the device keeps
// its id under the new ticket; if it was somebody else's, that device ends,
// because its browser is theirs no more.
//
// A *domain.Refused says what the auth server did not like. The other errors
// are domain.ErrAuthUnavailable, domain.ErrAuthMisconfigured, domain.ErrStore,
// domain.ErrAnotherOwner and those of Verify.
func (b *Broker) SignIn(ctx context.Context, in SignIn) (domain.Ticket, domain.Record, error) {
	ticket, rec, err := b.signIn(ctx, in)
	b.Metrics.SignedIn(b.method(in), signInResult(err))
	return ticket, rec, err
}

func (b *Broker) signIn(ctx context.Context, in SignIn) (domain.Ticket, domain.Record, error) {
	// The store first: if it is away, nobody need make tokens that nobody
	// could keep.
	previous, _, err := b.open(ctx, in.Ticket)
	if errors.Is(err, domain.ErrStore) && !errors.Is(err, domain.ErrSealed) {
		return domain.Ticket{}, domain.Record{}, err
	}
	asked := b.now() // lives count from here; see Broker.call
	p, verified, err := b.verify(ctx, in)
	if err != nil {
		return domain.Ticket{}, domain.Record{}, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeSignInWithin)
	defer cancel()

	now := b.now()
	identity := verified.Identity
	rec := domain.Record{
		Owner:         domain.Owner{Issuer: verified.Issuer, Subject: identity.Subject},
		Email:         identity.Email,
		EmailVerified: identity.EmailVerified,
		PersonName:    start(identity.Name, longestPersonName),
		Roles:         identity.Roles,
		Provider:      p.Name,
		SID:           verified.SID,
		ACR:           verified.ACR,
		AMR:           verified.AMR,
		Tokens:        b.Lifetimes.Tokens(verified.Grant, asked),
		UserAgent:     start(in.UserAgent, longestUserAgent),
		Persistent:    in.Remember,
		CreatedAt:     now,
		CreatedIP:     in.IP,
		LastSeenAt:    now,
		LastSeenIP:    in.IP,
		AuthTime:      now,
		Version:       1,
	}
	rec.Tokens.DPoPKey = verified.DPoPKey
	if proved := verified.AuthTime.UTC().Truncate(time.Millisecond); !verified.AuthTime.IsZero() && proved.Before(now) {
		rec.ProvedAt = proved // a provider whose clock is ahead gains nobody anything
	}
	if !in.Owner.IsZero() && in.Owner != rec.Owner {
		b.revoke(ctx, rec, rec.Tokens)
		return domain.Ticket{}, domain.Record{}, domain.ErrAnotherOwner
	}
	rec.ExpiresAt = b.Lifetimes.EndsAt(rec)
	ticket, rec, err := b.admit(ctx, previous, rec)
	if err != nil {
		b.revoke(ctx, rec, rec.Tokens)
		return domain.Ticket{}, domain.Record{}, err
	}
	b.Log.InfoContext(ctx, "signed in", "device", rec.DeviceID, "provider", rec.Provider, "issuer", rec.Owner.Issuer, "subject", rec.Owner.Subject, "address", rec.CreatedIP)
	return ticket, rec, nil
}

// start returns the first bytes of a text, without half a character at the end.
func start(text string, most int) string {
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

// verify finds out who signs in and gets their tokens.
func (b *Broker) verify(ctx context.Context, in SignIn) (*provider, domain.Authentication, error) {
	p := b.passwords
	if in.Verify != nil {
		p = b.providers[in.Provider]
	}
	if p == nil {
		return nil, domain.Authentication{}, fmt.Errorf("sign in: %w: there is no such provider", domain.ErrAuthMisconfigured)
	}
	if in.Once != "" {
		switch err := b.store.Spend(ctx, in.Once, in.Until); {
		case errors.Is(err, domain.ErrExists):
			return nil, domain.Authentication{}, &domain.SignInFailure{Reason: domain.SignInTooLate, Err: fmt.Errorf("%w: it was used before", domain.ErrBadInput)}
		case err != nil:
			return nil, domain.Authentication{}, storeError("spend a sign-in", err)
		}
	}
	if in.Verify != nil {
		v, err := in.Verify(ctx)
		if err != nil {
			return nil, domain.Authentication{}, fmt.Errorf("sign in with %s: %w", p.Name, err)
		}
		return p, v, nil
	}
	identity, grant, err := p.Passwords.SignIn(ctx, in.Credentials)
	if err != nil {
		b.logAttempt(ctx, "", "sign-in", in.Credentials, err)
		return nil, domain.Authentication{}, fmt.Errorf("sign in: %w", err)
	}
	return p, domain.Authentication{Issuer: p.Issuer, Identity: identity, Grant: grant}, nil
}

// admit stores the record of a sign-in, under the id of the browser's previous
// device if that is the same owner's.
func (b *Broker) admit(ctx context.Context, previous, rec domain.Record) (domain.Ticket, domain.Record, error) {
	for range overwriteAttempts {
		if previous.DeviceID.IsZero() || previous.Owner != rec.Owner {
			break
		}
		announced := b.announce(ctx, previous)
		ticket, again, err := b.readmit(ctx, previous, rec)
		b.pursue(ctx, announced)
		if err == nil {
			return ticket, again, nil
		}
		cur, getErr := b.read(ctx, previous.DeviceID)
		switch {
		case getErr == nil && cur.TicketHash == again.TicketHash:
			// It was written, and only the answer got lost.
			return ticket, again, nil
		case errors.Is(getErr, domain.ErrNotFound) && !errors.Is(err, domain.ErrNotFound) && !errors.Is(err, domain.ErrConflict):
			// Written perhaps, and signed out since: whoever did that may be
			// revoking the very pair that we hold.
			return domain.Ticket{}, rec, storeError("renew the device", err)
		case errors.Is(getErr, domain.ErrNotFound):
			previous = domain.Record{}
		case getErr == nil && errors.Is(err, domain.ErrConflict):
			previous = cur
		default:
			return domain.Ticket{}, rec, storeError("renew the device", errors.Join(err, getErr))
		}
	}

	id, err := domain.NewDeviceID(b.Random)
	if err != nil {
		return domain.Ticket{}, rec, err
	}
	rec.DeviceID = id
	ticket, err := domain.NewTicket(id, b.Random)
	if err != nil {
		return domain.Ticket{}, rec, err
	}
	rec.TicketHash = ticket.Hash()
	if err := b.store.Create(ctx, rec); err != nil && !b.created(ctx, rec) {
		return domain.Ticket{}, rec, storeError("create the device", err)
	}
	if !previous.DeviceID.IsZero() {
		b.endReplaced(ctx, previous)
	}
	return ticket, rec, nil
}

// created reports whether a record whose Create failed is there all the same.
func (b *Broker) created(ctx context.Context, rec domain.Record) bool {
	cur, err := b.read(ctx, rec.DeviceID)
	return err == nil && cur.TicketHash == rec.TicketHash
}

// endReplaced ends the device of another owner in whose browser somebody has
// signed in.
func (b *Broker) endReplaced(ctx context.Context, previous domain.Record) {
	announced := b.announce(ctx, previous)
	went, err := b.store.Delete(ctx, previous.DeviceID, anyVersion)
	switch {
	case err == nil:
		b.pursue(ctx, announced, went)
		b.logEnd(ctx, went, endReplaced)
	case errors.Is(err, domain.ErrNotFound):
		b.pursue(ctx, announced)
	default:
		for i := range announced {
			announced[i].Unless = domain.TicketHash{} // it is not this browser's any more, whether it went or not
		}
		b.enqueueSurely(ctx, announced)
		b.pursue(ctx, announced)
		b.Log.WarnContext(ctx, "ending the device that this sign-in replaces", "device", previous.DeviceID, "error", err)
	}
}

// readmit overwrites the previous record of the same owner and device.
func (b *Broker) readmit(ctx context.Context, previous, rec domain.Record) (domain.Ticket, domain.Record, error) {
	ticket, err := domain.NewTicket(previous.DeviceID, b.Random)
	if err != nil {
		return domain.Ticket{}, rec, err
	}
	rec.DeviceID, rec.TicketHash = previous.DeviceID, ticket.Hash()
	rec.Name, rec.CreatedAt, rec.CreatedIP = previous.Name, previous.CreatedAt, previous.CreatedIP
	rec.Version = previous.Version + 1
	return ticket, rec, b.store.Overwrite(ctx, rec, previous.Version)
}

// logAttempt tells how a sign-in or registration went. The address that was
// typed is told only if the auth server knows it: people type passwords into
// the wrong field.
func (b *Broker) logAttempt(ctx context.Context, done, what string, c domain.Credentials, err error) {
	var refused *domain.Refused
	switch {
	case err == nil:
		b.Log.InfoContext(ctx, done, "email", c.Email, "address", c.IP)
	case errors.As(err, &refused):
		b.Log.InfoContext(ctx, what+" refused", "status", refused.Status, "address", c.IP)
	case errors.Is(err, domain.ErrAuthMisconfigured):
		b.Log.ErrorContext(ctx, what+": the auth server refuses the broker: check its address and fields in the settings", "error", err)
	default:
		b.Log.WarnContext(ctx, what+" did not get through", "error", err)
	}
}
