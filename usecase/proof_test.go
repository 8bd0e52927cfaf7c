package usecase_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/usecase"
)

// TestR37_OthersEndByFreshProofAlone holds the rule itself; its forms are held
// where the surface is.
func TestR37_OthersEndByFreshProofAlone(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	b.ProofAge = 10 * time.Minute
	_, other := w.signIn(b, email, "")
	visit, me := w.signIn(b, email, "")
	want := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	w.clock.advance(10*time.Minute + time.Second)
	want("one other", b.SignOut(t.Context(), me, other.DeviceID), domain.ErrProofTooOld)
	_, err := b.SignOutOthers(t.Context(), me)
	want("all others", err, domain.ErrProofTooOld)
	_, err = b.SignOutAll(t.Context(), me)
	want("all", err, domain.ErrProofTooOld)

	in := usecase.SignIn{
		Credentials: domain.Credentials{Email: email, Password: domain.NewSecret(password)},
		Ticket:      visit.Ticket, Owner: me.Owner, IP: "192.0.2.1",
	}
	_, proved, err := b.SignIn(t.Context(), in)
	if err != nil || proved.DeviceID != me.DeviceID {
		t.Fatalf("proving it: %v, device %v, was %v", err, proved.DeviceID, me.DeviceID)
	}
	want("one other, with proof", b.SignOut(t.Context(), proved, other.DeviceID), nil)
	w.clock.advance(time.Hour)
	want("oneself", b.SignOut(t.Context(), proved, proved.DeviceID), nil)
}

func TestProviderTellsWhenThePersonWasThere(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	b.ProofAge = 10 * time.Minute
	v := w.verified(p)
	v.AuthTime = w.clock.Now().Add(-time.Hour)
	_, rec := w.admit(b, elsewhere(p, "", v))
	if got := w.clock.Now().Sub(rec.LastProof()); got < time.Hour-time.Second || got > time.Hour+time.Minute {
		t.Errorf("the last proof was %v ago, want an hour", got)
	}
	if _, err := b.SignOutOthers(t.Context(), rec); !errors.Is(err, domain.ErrProofTooOld) {
		t.Errorf("SignOutOthers = %v, want ErrProofTooOld", err)
	}
	v = w.verified(p)
	v.AuthTime = w.clock.Now().Add(24 * time.Hour)
	if _, rec = w.admit(b, elsewhere(p, "", v)); rec.LastProof().After(w.clock.Now()) {
		t.Errorf("a clock that is ahead makes a proof of %v", rec.LastProof())
	}
}

// TestR41_NoticeThatFailsOnceIsDone lets the store fail when it is to end what a
// provider has ended: many providers do not send a notice again.
func TestR41_NoticeThatFailsOnceIsDone(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	_, rec := w.admit(b, elsewhere(p, "", w.verifiedIn(p, "session")))
	n := domain.LogoutNotice{Issuer: p.Issuer, SID: "session", ID: "once", Until: w.clock.Now().Add(time.Hour)}
	w.store.sidFailures.Store(2)
	if ended, err := b.EndByProvider(t.Context(), p.Name, n); err != nil || ended != 1 || !w.gone(rec.DeviceID) {
		t.Errorf("EndByProvider = %d, %v", ended, err)
	}
	if _, err := b.EndByProvider(t.Context(), p.Name, n); !errors.Is(err, domain.ErrBadInput) {
		t.Errorf("the same notice again: %v, want ErrBadInput", err)
	}
}

// TestR41_DeviceOfAnUnknownSessionEndsWithAny: a provider whose ID tokens name no
// session, and whose logout tokens do.
func TestR41_DeviceOfAnUnknownSessionEndsWithAny(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	unnamed := w.verifiedIn(p, "")
	_, unknown := w.admit(b, elsewhere(p, "", unnamed))
	_, another := w.admit(b, elsewhere(p, "", w.verifiedIn(p, "another")))
	n := domain.LogoutNotice{Issuer: p.Issuer, SID: "session", ID: "without a person", Until: w.clock.Now().Add(time.Hour)}
	if ended, err := b.EndByProvider(t.Context(), p.Name, n); err != nil || ended != 0 {
		t.Errorf("a notice that names nobody: %d, %v", ended, err)
	}
	n.Subject, n.ID = unnamed.Identity.Subject, "with one"
	if ended, err := b.EndByProvider(t.Context(), p.Name, n); err != nil || ended != 1 {
		t.Errorf("EndByProvider = %d, %v; want 1", ended, err)
	}
	if !w.gone(unknown.DeviceID) || w.gone(another.DeviceID) {
		t.Errorf("the device of an unknown session is gone: %v, of another one: %v", w.gone(unknown.DeviceID), w.gone(another.DeviceID))
	}
}

// TestR41_NoticeThatWasNotCarriedOutMayComeAgain has the store fail for longer
// than anybody tries. What was refused then has to work when the provider sends
// it again, and once only.
func TestR41_NoticeThatWasNotCarriedOutMayComeAgain(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	_, rec := w.admit(b, elsewhere(p, "", w.verifiedIn(p, "session")))
	n := domain.LogoutNotice{Issuer: p.Issuer, SID: "session", ID: "again", Until: w.clock.Now().Add(time.Hour)}

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // the provider's patience
	defer cancel()
	w.store.sidFailures.Store(1 << 10)
	if _, err := b.EndByProvider(ctx, p.Name, n); !errors.Is(err, domain.ErrStore) || w.gone(rec.DeviceID) {
		t.Fatalf("with the store failing: %v, want ErrStore", err)
	}
	w.store.sidFailures.Store(0)
	if ended, err := b.EndByProvider(t.Context(), p.Name, n); err != nil || ended != 1 || !w.gone(rec.DeviceID) {
		t.Errorf("sent again: %d, %v; want the device ended", ended, err)
	}
	if _, err := b.EndByProvider(t.Context(), p.Name, n); !errors.Is(err, domain.ErrBadInput) {
		t.Errorf("sent a third time: %v, want ErrBadInput", err)
	}
}
