package usecase

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"cloakroom/domain"
)

const (
	// noticeTries and noticePause say how often the store is asked to end what a
	// provider has signed out. Most providers do not send a notice again.
	noticeTries = 5
	noticePause = 200 * time.Millisecond
	// noticeTakes is how often a notice is taken that comes again because it was
	// not carried out.
	noticeTakes = 3
)

// EndByProvider ends what a provider says is over (OpenID Connect Back-Channel
// Logout 1.0, section 2.7): its session, if the notice names one, together with
// the person's devices that might be of it; else every device of the person. It returns how many there were; none is no error. When
// it returns, no replica serves them any more.
//
// A notice that was carried out before, or that names nobody who is known here,
// is domain.ErrBadInput. One that the store did not take may come again.
func (b *Broker) EndByProvider(ctx context.Context, name string, n domain.LogoutNotice) (int, error) {
	p, ok := b.providers[name]
	switch {
	case !ok:
		return 0, fmt.Errorf("%w: the provider %q is not in the settings", domain.ErrAuthMisconfigured, name)
	case n.SID == "" && p.Issuer != n.Issuer:
		return 0, fmt.Errorf("%w: the provider's people are another's here, and the notice names no session", domain.ErrBadInput)
	}
	if err := b.takeNotice(ctx, n); err != nil {
		return 0, err
	}
	var ended int
	for try := 1; ; try++ {
		went, err := b.deleteNoticed(ctx, p.Issuer, n)
		b.pursue(ctx, nil, went...)
		for _, rec := range went {
			b.logEnd(ctx, rec, endAtProvider)
		}
		ended += len(went)
		if err == nil {
			b.closeNotice(ctx, n)
			return ended, nil
		}
		if try == noticeTries || sleep(ctx, noticePause<<(try-1)) != nil {
			b.Log.ErrorContext(ctx, "a provider has signed somebody out, and the store did not take it", "provider", name, "error", err)
			return ended, storeError("end by provider", err)
		}
	}
}

// takeNotice spends one of a notice's takes. It says nothing of whether the one
// of before succeeded, only of whether there is one left: closeNotice spends
// them all. That the same notice is carried out twice at the same time does no
// harm, but once it is done it must not end what people sign in later.
func (b *Broker) takeNotice(ctx context.Context, n domain.LogoutNotice) error {
	for take := range noticeTakes {
		if err := b.store.Spend(ctx, noticeKey(n, take), n.Until); !errors.Is(err, domain.ErrExists) {
			return storeError("spend a logout token", err)
		}
	}
	return fmt.Errorf("%w: the logout token came before", domain.ErrBadInput)
}

// closeNotice has every replica refuse a notice from now on.
func (b *Broker) closeNotice(ctx context.Context, n domain.LogoutNotice) {
	for take := range noticeTakes {
		if err := b.store.Spend(ctx, noticeKey(n, take), n.Until); err != nil && !errors.Is(err, domain.ErrExists) {
			b.Log.WarnContext(ctx, "a logout token was carried out and could be used again", "error", storeError("spend a logout token", err))
			return
		}
	}
}

func noticeKey(n domain.LogoutNotice, take int) string {
	sum := sha256.Sum256([]byte(n.Issuer + "\x00" + n.ID))
	return fmt.Sprintf("logout:%s:%d", base64.RawURLEncoding.EncodeToString(sum[:]), take)
}

func (b *Broker) deleteNoticed(ctx context.Context, issuer string, n domain.LogoutNotice) ([]domain.Record, error) {
	owner := domain.Owner{Issuer: n.Issuer, Subject: n.Subject}
	switch {
	case n.SID == "":
		return b.store.DeleteByOwner(ctx, owner, domain.DeviceID{})
	case issuer != n.Issuer:
		return b.store.DeleteBySID(ctx, issuer, ForeignSID(n.Issuer, n.SID))
	}
	went, err := b.store.DeleteBySID(ctx, issuer, n.SID)
	if err != nil || n.Subject == "" {
		return went, err
	}
	unnamed, err := b.deleteUnnamed(ctx, owner)
	return append(went, unnamed...), err
}

// deleteUnnamed deletes an owner's devices of which it is not known to what
// session of the provider they belong: there are providers that name sessions in
// logout tokens and not in ID tokens, and any of these may be the one.
func (b *Broker) deleteUnnamed(ctx context.Context, owner domain.Owner) (went []domain.Record, _ error) {
	all, err := b.store.ListByOwner(ctx, owner)
	if err != nil {
		return nil, err
	}
	for _, listed := range all {
		if listed.SID != "" {
			continue
		}
		rec, err := b.store.Delete(ctx, listed.DeviceID, anyVersion)
		switch {
		case err == nil:
			went = append(went, rec)
		case !errors.Is(err, domain.ErrNotFound):
			return went, err
		}
	}
	return went, nil
}

// ForeignSID is what a record keeps as its SID whose owner is of another issuer
// than the session, because the provider's word was exchanged: several providers
// may meet under one issuer, and none of them ends another's sessions.
func ForeignSID(issuer, sid string) string { return issuer + " " + sid }
