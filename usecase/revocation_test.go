package usecase_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/repo"
	"cloakroom/repo/sealstore"
	"cloakroom/usecase"
)

// queueing is a store in which something comes between.
type queueing struct {
	repo.Store
	noQueue      atomic.Bool // QueueRevocations fails
	noDelete     atomic.Bool // deletions fail and do nothing
	loseDeletion atomic.Bool // deletions work, and their answers are lost
	noGet        atomic.Bool
	loseWrite    atomic.Bool // Overwrite works, its answer is lost, and Get fails from then on
	beforeDelete func()
}

func (q *queueing) QueueRevocations(ctx context.Context, r []domain.Revocation) error {
	if q.noQueue.Load() {
		return errDown
	}
	return q.Store.QueueRevocations(ctx, r)
}

func (q *queueing) Get(ctx context.Context, id domain.DeviceID) (domain.Record, error) {
	if q.noGet.Load() {
		return domain.Record{}, errDown
	}
	return q.Store.Get(ctx, id)
}

func (q *queueing) Overwrite(ctx context.Context, r domain.Record, from int64) error {
	err := q.Store.Overwrite(ctx, r, from)
	if q.loseWrite.Load() {
		q.noGet.Store(true)
		return errDown
	}
	return err
}

func (q *queueing) Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error) {
	if q.beforeDelete != nil {
		q.beforeDelete()
	}
	if q.noDelete.Load() {
		return domain.Record{}, errDown
	}
	went, err := q.Store.Delete(ctx, id, from)
	if q.loseDeletion.Load() {
		return domain.Record{}, errDown
	}
	return went, err
}

func (q *queueing) DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	if q.noDelete.Load() {
		return nil, errDown
	}
	went, err := q.Store.DeleteByOwner(ctx, o, except)
	if q.loseDeletion.Load() {
		return nil, errDown
	}
	return went, err
}

// queued returns what the store still has to be revoked.
func (w *world) queued() []domain.Revocation {
	w.Helper()
	all, _, err := w.store.PageRevocations(context.Background(), "", 1000)
	if err != nil {
		w.Fatal(err)
	}
	return all
}

// revoked waits until exactly the pairs of the devices have been revoked, each
// once, and nothing is left in the queue.
func (w *world) revoked(devices ...domain.Record) {
	w.Helper()
	w.eventually("the queue is empty", func() bool { return len(w.queued()) == 0 })
	var got, want []string
	for _, r := range w.auth.Revocations() {
		got = append(got, r.Refresh)
	}
	for _, r := range devices {
		want = append(want, r.Tokens.Refresh.Reveal())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.Errorf("%d pairs are revoked, and they are not the %d wanted", len(got), len(want))
	}
}

// TestR13_RevocationOutlivesItsProcess: the replica that took the sign-out is no
// more when it comes to telling the auth server.
func TestR13_RevocationOutlivesItsProcess(t *testing.T) {
	w := newWorld(t)
	dead := w.deadBroker(w.store)
	_, phone := w.signIn(dead, email, "")
	laptopVisit, laptop := w.signIn(dead, email, "")
	if err := dead.SignOut(t.Context(), laptop, phone.DeviceID); err != nil {
		t.Fatal(err)
	}
	if n := len(w.queued()); n != 1 {
		t.Fatalf("%d revocations are in the store when the sign-out is answered, want 1", n)
	}
	b := w.broker()
	w.clock.advance(time.Minute)
	w.revoked(phone)
	w.works(b, laptopVisit)
}

// TestR13_RevocationIsTriedUntilItGetsThrough, and by then it is in the store.
func TestR13_RevocationIsTriedUntilItGetsThrough(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	_, rec := w.signIn(b, email, "")
	w.auth.Always(authapitest.RevokePath, authapitest.Answer(http.StatusServiceUnavailable, ""))
	if err := b.SignOut(t.Context(), rec, rec.DeviceID); err != nil {
		t.Fatal(err)
	}
	for tries := 1; tries <= 12; tries++ { // no end of tries but that of the tokens
		w.eventually("it has failed once more", func() bool {
			all := w.queued()
			return len(all) == 1 && all[0].Tries == tries
		})
		pause := w.queued()[0].NotBefore.Sub(w.clock.Now())
		if pause > 5*time.Minute {
			t.Fatalf("after %d tries the pause is %v", tries, pause)
		}
		w.clock.advance(max(0, pause) + time.Second)
	}
	w.auth.Always(authapitest.RevokePath, nil)
	w.clock.advance(5 * time.Minute)
	w.revoked(rec)
}

func TestRevocationEndsWithItsTokens(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	_, rec := w.signIn(b, email, "")
	w.auth.Always(authapitest.RevokePath, authapitest.Answer(http.StatusServiceUnavailable, ""))
	if err := b.SignOut(t.Context(), rec, rec.DeviceID); err != nil {
		t.Fatal(err)
	}
	w.eventually("it has failed", func() bool { all := w.queued(); return len(all) == 1 && all[0].Tries == 1 })
	calls := len(w.auth.Requests(authapitest.RevokePath))
	w.clock.advance(rec.Tokens.RefreshExpiry.Sub(w.clock.Now()))
	w.eventually("the queue is empty", func() bool { return len(w.queued()) == 0 })
	if n := len(w.auth.Requests(authapitest.RevokePath)); n != calls {
		t.Errorf("the auth server was told %d times of tokens that are over", n-calls)
	}
}

// TestR13_SignOutsWhoseAnswersAreLostRevoke: nobody has the pairs any more but the
// queue.
func TestR13_SignOutsWhoseAnswersAreLostRevoke(t *testing.T) {
	for name, signOut := range map[string]func(context.Context, *usecase.Broker, domain.Record) error{
		"all": func(ctx context.Context, b *usecase.Broker, me domain.Record) error {
			_, err := b.SignOutAll(ctx, me)
			return err
		},
		"others": func(ctx context.Context, b *usecase.Broker, me domain.Record) error {
			_, err := b.SignOutOthers(ctx, me)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			store := &queueing{Store: w.store}
			b := w.brokerWith(store, 5*time.Second, w.clock.Now)
			w.auth.AddAccount("bob@example.com", password)
			bobVisit, _ := w.signIn(b, "bob@example.com", "")
			var ended []domain.Record
			for range 3 {
				_, rec := w.signIn(b, email, "")
				ended = append(ended, rec)
			}
			meVisit, me := w.signIn(b, email, "")
			store.loseDeletion.Store(true)
			if err := signOut(t.Context(), b, me); !errors.Is(err, domain.ErrStore) {
				t.Errorf("error %v, want %v", err, domain.ErrStore)
			}
			if name == "all" {
				ended = append(ended, me)
			}
			w.revoked(ended...)
			w.works(b, bobVisit)
			if name == "others" {
				w.works(b, meVisit)
			}
		})
	}
}

// TestSignOutThatDidNotHappenRevokesNothing: the person was told so, and goes on.
func TestSignOutThatDidNotHappenRevokesNothing(t *testing.T) {
	w := newWorld(t)
	store := &queueing{Store: w.store}
	b := w.brokerWith(store, 5*time.Second, w.clock.Now)
	v, rec := w.signIn(b, email, "")
	store.noDelete.Store(true)
	if err := b.SignOut(t.Context(), rec, rec.DeviceID); !errors.Is(err, domain.ErrStore) {
		t.Errorf("SignOut = %v, want ErrStore", err)
	}
	if _, err := b.SignOutAll(t.Context(), rec); !errors.Is(err, domain.ErrStore) {
		t.Errorf("SignOutAll = %v, want ErrStore", err)
	}
	// A refresh in between makes the pair another, and the session is the same.
	w.clock.advance(life)
	w.works(b, v)
	w.clock.advance(time.Minute)
	w.revoked()
	w.works(b, v)
}

func TestPairThatWasRefreshedUnderASignOutIsRevoked(t *testing.T) {
	w := newWorld(t)
	store := &queueing{Store: w.store}
	b, elsewhere := w.brokerWith(store, 5*time.Second, w.clock.Now), w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	store.beforeDelete = func() { rec = w.works(elsewhere, v) }
	if err := b.SignOut(t.Context(), rec, rec.DeviceID); err != nil {
		t.Fatal(err)
	}
	w.revoked(rec)
}

// TestRevocationsThatTheStoreDoesNotTakeAreTriedFromMemory, until one of the two
// does.
func TestRevocationsThatTheStoreDoesNotTakeAreTriedFromMemory(t *testing.T) {
	w := newWorld(t)
	store := &queueing{Store: w.store}
	b := w.brokerWith(store, 5*time.Second, w.clock.Now)
	_, rec := w.signIn(b, email, "")
	w.auth.Always(authapitest.RevokePath, authapitest.Answer(http.StatusServiceUnavailable, ""))
	store.noQueue.Store(true)
	if err := b.SignOut(t.Context(), rec, rec.DeviceID); err != nil {
		t.Fatal(err)
	}
	for tries := 1; tries <= 3; tries++ {
		w.eventually("it has failed once more", func() bool {
			return len(w.auth.Requests(authapitest.RevokePath)) >= tries && b.RevocationsPending() == 1
		})
		w.clock.advance(5 * time.Minute)
	}
	if len(w.queued()) != 0 {
		t.Error("it is in the store, which fails")
	}
	w.auth.Always(authapitest.RevokePath, nil)
	w.clock.advance(5 * time.Minute)
	w.eventually("it got through", func() bool { return len(w.auth.Revocations()) == 1 })
	w.revoked(rec)
	w.eventually("nothing is left in memory", func() bool { return b.RevocationsPending() == 0 })
}

// TestRevocationsWaitForTheirTurnInPeace: while all that may be under way are,
// nobody looks again and again whether one more is due.
func TestRevocationsWaitForTheirTurnInPeace(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	const devices, atOnce = 20, 8
	var all []domain.Record
	for range devices {
		_, rec := w.signIn(b, email, "")
		all = append(all, rec)
	}
	gate := authapitest.NewGate()
	w.auth.Always(authapitest.RevokePath, gate.Before)
	if _, err := b.SignOutAll(t.Context(), all[0]); err != nil {
		t.Fatal(err)
	}
	w.eventually("all that may be are under way", func() bool { return len(w.auth.Requests(authapitest.RevokePath)) == atOnce })
	if pause := b.RevocationPause(); pause < time.Second {
		t.Errorf("with %d waiting, one looks again in %v", devices-atOnce, pause)
	}
	gate.Open()
	w.revoked(all...)
}

func TestSignInWhoseEveryAnswerIsLostRevokesThePairBefore(t *testing.T) {
	w := newWorld(t)
	store := &queueing{Store: w.store}
	b := w.brokerWith(store, 5*time.Second, w.clock.Now)
	before, rec := w.signIn(b, email, "")
	store.loseWrite.Store(true)
	_, _, err := b.SignIn(t.Context(), usecase.SignIn{
		Credentials: domain.Credentials{Email: email, Password: domain.NewSecret(password)}, Ticket: before.Ticket,
	})
	if !errors.Is(err, domain.ErrStore) {
		t.Fatalf("SignIn = %v, want ErrStore", err)
	}
	store.noGet.Store(false)
	w.clock.advance(time.Minute)
	w.eventually("the pair before is revoked", func() bool { return !w.auth.Valid(rec.Tokens.Access.Reveal()) })
}

// TestLostKey: whose tokens nobody can open any more can sign out, and in again.
func TestLostKey(t *testing.T) {
	w := newWorld(t)
	inner := w.store.Store
	sealed := func(id string) *sealstore.Store {
		return sealstore.New(inner, keyring(t, newKey(t, id)), slog.New(slog.DiscardHandler))
	}
	b := w.deadBroker(sealed("lost"))
	ada, adas := w.signIn(b, email, "")
	leaving, left := w.signIn(b, email, "")
	other, _ := w.signIn(b, email, "")

	w.store.Store = sealed("new")
	b = w.broker()
	if _, err := b.AccessToken(t.Context(), ada); !errors.Is(err, domain.ErrStore) {
		t.Errorf("AccessToken = %v, want ErrStore: the key may come back", err)
	}
	if _, err := b.Open(t.Context(), usecase.Visit{Ticket: ada.Ticket[:len(ada.Ticket)-43] + leaving.Ticket[len(ada.Ticket)-43:]}); !errors.Is(err, domain.ErrBadTicket) {
		t.Errorf("Open with a wrong ticket = %v, want ErrBadTicket", err)
	}
	s, err := b.Open(t.Context(), leaving)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	if err := b.SignOut(t.Context(), s.Record, s.Record.DeviceID); err != nil {
		t.Errorf("SignOut = %v", err)
	}
	if !w.gone(left.DeviceID) {
		t.Error("the device is still there")
	}
	again, rec := w.signIn(b, email, ada.Ticket)
	if rec.DeviceID != adas.DeviceID {
		t.Error("the browser did not keep its device")
	}
	w.works(b, again)
	if n, err := b.SignOutOthers(t.Context(), rec); n != 1 || err != nil {
		t.Errorf("SignOutOthers = %d, %v, want 1", n, err)
	}
	if _, err := b.Open(t.Context(), other); !errors.Is(err, domain.ErrBadTicket) {
		t.Errorf("Open of the other = %v, want ErrBadTicket", err)
	}
	w.works(b, again)
}
