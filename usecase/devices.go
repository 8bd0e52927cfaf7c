package usecase

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"cloakroom/domain"
)

// longestName is how long a device's name may be, in characters.
const longestName = 60

// Devices returns the devices that the owner of me is signed in on, me first
// and then the last seen first. Those that are over are left out.
func (b *Broker) Devices(ctx context.Context, me domain.Record) ([]domain.Record, error) {
	all, err := b.store.ListByOwner(ctx, me.Owner)
	if err != nil {
		return nil, storeError("list devices", err)
	}
	now := b.now()
	all = slices.DeleteFunc(all, func(r domain.Record) bool { return b.Lifetimes.Ended(r, now) != domain.NotEnded })
	slices.SortStableFunc(all, func(x, y domain.Record) int {
		switch {
		case x.DeviceID == me.DeviceID:
			return -1
		case y.DeviceID == me.DeviceID:
			return 1
		}
		return y.LastSeenAt.Compare(x.LastSeenAt)
	})
	return all, nil
}

// Rename names one of the owner's devices; an empty name gives back the one
// that is made from the browser. domain.ErrBadInput says what a name may be;
// a device of somebody else is domain.ErrNotFound, like one that is not there.
func (b *Broker) Rename(ctx context.Context, me domain.Record, id domain.DeviceID, name string) error {
	name = strings.Join(strings.Fields(name), " ")
	if !utf8.ValidString(name) || utf8.RuneCountInString(name) > longestName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: a name is at most %d printable characters", domain.ErrBadInput, longestName)
	}
	if _, err := b.own(ctx, me, id); err != nil {
		return err
	}
	return storeError("rename the device", b.store.Rename(ctx, id, name))
}

// SignOut ends one of the owner's devices, the current one among them. When it
// returns, no replica serves the device any more; telling the auth server
// happens behind. A device of somebody else is domain.ErrNotFound. Ending another
// than me may be domain.ErrProofTooOld.
func (b *Broker) SignOut(ctx context.Context, me domain.Record, id domain.DeviceID) error {
	rec, err := b.own(ctx, me, id)
	if err != nil {
		return err
	}
	if id != me.DeviceID {
		if err := b.proved(me); err != nil {
			return err
		}
	}
	announced := b.announce(ctx, rec)
	went, err := b.store.Delete(ctx, rec.DeviceID, anyVersion)
	if err != nil {
		b.pursue(ctx, announced)
		return storeError("sign out", err)
	}
	b.pursue(ctx, announced, went)
	b.logEnded(ctx, me, went)
	return nil
}

// SignOutOthers ends all of the owner's devices but the current one and
// returns how many there were. It may be domain.ErrProofTooOld.
func (b *Broker) SignOutOthers(ctx context.Context, me domain.Record) (int, error) {
	return b.signOutOwner(ctx, me, me.DeviceID)
}

// SignOutAll ends all of the owner's devices and returns how many there were. It
// may be domain.ErrProofTooOld.
func (b *Broker) SignOutAll(ctx context.Context, me domain.Record) (int, error) {
	return b.signOutOwner(ctx, me, domain.DeviceID{})
}

func (b *Broker) signOutOwner(ctx context.Context, me domain.Record, except domain.DeviceID) (int, error) {
	if err := b.proved(me); err != nil {
		return 0, err
	}
	all, err := b.devicesOf(ctx, me.Owner, except)
	if err != nil {
		return 0, storeError("sign out", err)
	}
	announced := b.announce(ctx, all...)
	went, err := b.store.DeleteByOwner(ctx, me.Owner, except)
	b.pursue(ctx, announced, went...)
	b.logEnded(ctx, me, went...)
	return len(went), storeError("sign out", err)
}

// proved returns domain.ErrProofTooOld if me's person proved too long ago who
// they are: whoever finds a device unlocked must not be able to lock its owner
// out of all others (OWASP ASVS 5.0, 7.5.2).
func (b *Broker) proved(me domain.Record) error {
	if b.ProofAge > 0 && b.now().Sub(me.LastProof()) > b.ProofAge {
		return domain.ErrProofTooOld
	}
	return nil
}

// readers is how many records are read at once.
const readers = 8

// devicesOf returns the records of an owner's devices, but one, with what tokens
// they have. Lists have none.
func (b *Broker) devicesOf(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	list, err := b.store.ListByOwner(ctx, o)
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(r domain.Record) bool { return r.DeviceID == except })
	errs := make([]error, len(list))
	var reading sync.WaitGroup
	for i := range min(readers, len(list)) {
		reading.Go(func() {
			for n := i; n < len(list); n += readers {
				rec, err := b.read(ctx, list[n].DeviceID)
				if err == nil {
					list[n] = rec
				} else if !errors.Is(err, domain.ErrNotFound) {
					errs[n] = err
				}
			}
		})
	}
	reading.Wait()
	return list, errors.Join(errs...)
}

// logEnded logs what a person signed out.
func (b *Broker) logEnded(ctx context.Context, me domain.Record, went ...domain.Record) {
	for _, rec := range went {
		if rec.DeviceID == me.DeviceID {
			b.logEnd(ctx, rec, endSignedOut)
		} else {
			b.logEnd(ctx, rec, endSignedOutElsewhere, "from", me.DeviceID)
		}
	}
}

// own returns a device if it is of me's owner. An id never passes from one
// owner to another, so the answer stays true.
func (b *Broker) own(ctx context.Context, me domain.Record, id domain.DeviceID) (domain.Record, error) {
	rec, err := b.read(ctx, id)
	switch {
	case errors.Is(err, domain.ErrNotFound), err == nil && rec.Owner != me.Owner:
		return domain.Record{}, domain.ErrNotFound
	case err != nil:
		return domain.Record{}, storeError("read the device", err)
	}
	return rec, nil
}
