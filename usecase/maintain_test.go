package usecase_test

import (
	"crypto/rand"
	"errors"
	"log/slog"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/seal"
	"cloakroom/repo/memstore"
	"cloakroom/repo/sealstore"
	"cloakroom/usecase"
)

func newKey(t *testing.T, id string) seal.Key {
	t.Helper()
	text, err := seal.GenerateKey(rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.ParseKey(id + ":" + text.Reveal()[len(text.Reveal())-43:])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func keyring(t *testing.T, keys ...seal.Key) *seal.Keyring {
	t.Helper()
	ring, err := seal.NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestResealWhileTokensAreRefreshed(t *testing.T) {
	w := newWorld(t)
	inner := memstore.New(w.clock.Now)
	before, after := newKey(t, "old"), newKey(t, "new")
	sealed := func(keys ...seal.Key) *sealstore.Store {
		return sealstore.New(inner, keyring(t, keys...), slog.New(slog.DiscardHandler))
	}
	b := w.deadBroker(sealed(before))
	visits := map[domain.DeviceID]usecase.Visit{}
	for range 20 {
		v, rec := w.signIn(b, email, "")
		visits[rec.DeviceID] = v
	}
	// One more has been signed out, and nobody has told the auth server so far.
	_, ended := w.signIn(b, email, "")
	if err := b.SignOut(t.Context(), ended, ended.DeviceID); err != nil {
		t.Fatal(err)
	}
	// Brokers have both keys by now, and refresh while the keys rotate.
	w.store.Store = sealed(after, before)
	b = w.deadBroker(w.store)
	w.clock.advance(life)
	gate := authapitest.NewGate()
	w.auth.Always(authapitest.RefreshPath, gate.After)
	results := make(chan error, len(visits))
	for _, v := range visits {
		go func() { _, err := b.AccessToken(t.Context(), v); results <- err }()
	}
	<-gate.Arrived
	done := make(chan error, 1)
	go func() {
		out, err := usecase.Reseal(t.Context(), w.store)
		if err == nil && (out.Done != len(visits) || out.Failed != 0) {
			t.Errorf("Reseal = %+v, want all %d done", out, len(visits))
		}
		done <- err
	}()
	gate.Open()
	for range visits {
		if err := <-results; err != nil {
			t.Errorf("AccessToken during the rotation: %v", err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// The old key is gone, and everybody is still signed in.
	w.store.Store = sealed(after)
	b = w.broker()
	for _, v := range visits {
		w.works(b, v)
	}
	w.revoked(ended) // due since the tokens have run out; a later time would end the claim on it
}

func TestResealCountsWhatItCannotOpen(t *testing.T) {
	w := newWorld(t)
	inner := memstore.New(w.clock.Now)
	w.signIn(w.deadBroker(sealstore.New(inner, keyring(t, newKey(t, "lost")), slog.New(slog.DiscardHandler))), email, "")
	out, err := usecase.Reseal(t.Context(), sealstore.New(inner, keyring(t, newKey(t, "new")), slog.New(slog.DiscardHandler)))
	if err != nil || out.Done != 0 || out.Failed != 1 || len(out.Problems) != 1 {
		t.Errorf("Reseal = %+v, %v, want one failure that is told", out, err)
	}
}

func TestMigrateTwiceFollowsTheSource(t *testing.T) {
	w := newWorld(t)
	b := w.deadBroker(w.store)
	v1, _ := w.signIn(b, email, "")
	v2, second := w.signIn(b, email, "")
	target := memstore.New(w.clock.Now)

	if _, err := usecase.Migrate(t.Context(), memstore.New(w.clock.Now), w.store, true); !errors.Is(err, usecase.ErrNothingToCopy) {
		t.Errorf("Migrate from an empty store = %v, want ErrNothingToCopy", err)
	}
	got, err := usecase.Migrate(t.Context(), w.store, target, false)
	if err != nil || got != (usecase.Migrated{Copied: 2}) {
		t.Fatalf("Migrate = %+v, %v, want 2 copied", got, err)
	}
	if _, err := usecase.Migrate(t.Context(), w.store, target, false); !errors.Is(err, usecase.ErrNotEmpty) {
		t.Errorf("a second Migrate = %v, want ErrNotEmpty", err)
	}
	// Life goes on at the source: a refresh, a sign-out, a sign-in.
	w.clock.advance(life)
	w.works(b, v1)
	if err := b.SignOut(t.Context(), second, second.DeviceID); err != nil {
		t.Fatal(err)
	}
	v3, _ := w.signIn(b, email, "")
	got, err = usecase.Migrate(t.Context(), w.store, target, true)
	if err != nil || got != (usecase.Migrated{Copied: 1, Updated: 1, Removed: 1}) {
		t.Errorf("Migrate again = %+v, %v, want one of each", got, err)
	}
	got, err = usecase.Migrate(t.Context(), w.store, target, true)
	if err != nil || got != (usecase.Migrated{Same: 2}) {
		t.Errorf("Migrate a third time = %+v, %v, want nothing to do", got, err)
	}
	w.store.Store = target
	b = w.broker()
	w.works(b, v1)
	w.works(b, v3)
	if _, err := b.AccessToken(t.Context(), v2); !errors.Is(err, domain.ErrBadTicket) {
		t.Errorf("the device that was signed out before the switch got %v", err)
	}
	w.clock.advance(time.Minute)
	w.revoked(second)
}
