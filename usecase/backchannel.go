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
	// provider has signed out. The notice is spent by then, so it cannot come
	// again.
	noticeTries = 5
	noticePause = 200 * time.Millisecond
)

// EndByProvider ends what a provider says is over (OpenID Connect Back-Channel
// Logout 1.0, section 2.7): its session, if the notice names one, else every
// device of the person. It returns how many there were; none is no error. When
// it returns, no replica serves them any more.
//
// A notice that came before, or that names nobody who is known here, is
// domain.ErrBadInput.
func (b *Broker) EndByProvider(ctx context.Context, name string, n domain.LogoutNotice) (int, error) {
	p, ok := b.providers[name]
	switch {
	case !ok:
		return 0, fmt.Errorf("%w: the provider %q is not in the settings", domain.ErrAuthMisconfigured, name)
	case n.SID == "" && p.Issuer != n.Issuer:
		return 0, fmt.Errorf("%w: the provider's people are another's here, and the notice names no session", domain.ErrBadInput)
	}
	sum := sha256.Sum256([]byte(n.Issuer + "\x00" + n.ID))
	switch err := b.store.Spend(ctx, "logout:"+base64.RawURLEncoding.EncodeToString(sum[:]), n.Until); {
	case errors.Is(err, domain.ErrExists):
		return 0, fmt.Errorf("%w: the logout token came before", domain.ErrBadInput)
	case err != nil:
		return 0, storeError("spend a logout token", err)
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
			return ended, nil
		}
		if try == noticeTries || sleep(ctx, noticePause<<(try-1)) != nil {
			b.Log.ErrorContext(ctx, "a provider has signed somebody out, and the store did not take it", "provider", name, "error", err)
			return ended, storeError("end by provider", err)
		}
	}
}

func (b *Broker) deleteNoticed(ctx context.Context, issuer string, n domain.LogoutNotice) ([]domain.Record, error) {
	if n.SID != "" {
		return b.store.DeleteBySID(ctx, issuer, n.SID)
	}
	return b.store.DeleteByOwner(ctx, domain.Owner{Issuer: n.Issuer, Subject: n.Subject}, domain.DeviceID{})
}
