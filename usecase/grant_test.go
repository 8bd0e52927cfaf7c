package usecase_test

import (
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/usecase"
)

const anotherClient = "another client"

// sharing is a provider whose grants outlast a sign-in, under further names too,
// and how often it has been told to revoke a pair.
func (w *world) sharing(names ...string) (p usecase.Provider, b *usecase.Broker, told func() int) {
	w.Helper()
	auth, p := w.second("other", "https://other.test")
	p.Client = "us"
	list := []usecase.Provider{p}
	for _, name := range names {
		again := p
		again.Name = name
		if name == anotherClient {
			again.Client = name
		}
		list = append(list, again)
	}
	return p, w.brokerOf(list...), func() int { return len(auth.Requests(authapitest.RevokePath)) }
}

func (w *world) verifiedIn(p usecase.Provider, sid string) domain.Authentication {
	v := w.verified(p)
	v.SID = sid
	return v
}

// TestPairOfAGrantThatGoesOnIsNotRevoked: a provider takes the revocation of one
// pair for the end of all that are of its grant, and somebody may use another.
func TestPairOfAGrantThatGoesOnIsNotRevoked(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string // the provider's sessions
		revoked       bool
	}{
		"the same session": {"one", "one", false},
		"no sessions":      {"", "", false},
		"one is not told":  {"one", "", false},
		"another session":  {"one", "two", true},
	} {
		t.Run(name+", signed in again", func(t *testing.T) {
			w := newWorld(t)
			p, b, told := w.sharing()
			first, _ := w.admit(b, elsewhere(p, "", w.verifiedIn(p, c.before)))
			_, rec := w.admit(b, elsewhere(p, first.Ticket, w.verifiedIn(p, c.after)))
			w.settled(told, c.revoked)
			before := told()
			if err := b.SignOut(t.Context(), rec, rec.DeviceID); err != nil {
				t.Fatal(err)
			}
			w.eventually("the last of the grant is revoked", func() bool { return told() > before && len(w.queued()) == 0 })
		})
		t.Run(name+", two devices", func(t *testing.T) {
			w := newWorld(t)
			p, b, told := w.sharing()
			_, first := w.admit(b, elsewhere(p, "", w.verifiedIn(p, c.before)))
			_, second := w.admit(b, elsewhere(p, "", w.verifiedIn(p, c.after)))
			if err := b.SignOut(t.Context(), second, first.DeviceID); err != nil {
				t.Fatal(err)
			}
			w.settled(told, c.revoked)
			if w.gone(second.DeviceID) {
				t.Error("the device that stays is gone")
			}
		})
	}

	t.Run("the same session, by another button", func(t *testing.T) {
		w := newWorld(t)
		p, b, told := w.sharing("again")
		again := p // the same client, with another prompt or hint
		again.Name = "again"
		first, _ := w.admit(b, elsewhere(p, "", w.verifiedIn(p, "one")))
		w.admit(b, elsewhere(again, first.Ticket, w.verifiedIn(again, "one")))
		w.settled(told, false)
	})
	t.Run("the same person, at another client", func(t *testing.T) {
		w := newWorld(t)
		p, b, told := w.sharing(anotherClient)
		other := p
		other.Name = anotherClient
		_, first := w.admit(b, elsewhere(p, "", w.verified(p)))
		w.admit(b, elsewhere(other, "", w.verified(other)))
		if err := b.SignOut(t.Context(), first, first.DeviceID); err != nil {
			t.Fatal(err)
		}
		w.settled(told, true)
	})
	t.Run("all end", func(t *testing.T) {
		w := newWorld(t)
		p, b, told := w.sharing()
		w.admit(b, elsewhere(p, "", w.verified(p)))
		_, rec := w.admit(b, elsewhere(p, "", w.verified(p)))
		if _, err := b.SignOutAll(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		w.eventually("both are revoked", func() bool { return told() == 2 && len(w.queued()) == 0 })
	})
	t.Run("the other is over", func(t *testing.T) {
		w := newWorld(t)
		p, b, told := w.sharing()
		w.admit(b, elsewhere(p, "", w.verified(p)))
		w.clock.advance(b.Lifetimes.Idle + time.Second)
		_, rec := w.admit(b, elsewhere(p, "", w.verified(p)))
		if err := b.SignOut(t.Context(), rec, rec.DeviceID); err != nil {
			t.Fatal(err)
		}
		w.eventually("it is revoked", func() bool { return told() == 1 && len(w.queued()) == 0 })
	})
}

// settled waits until nothing is left to be revoked, and checks whether a pair was.
func (w *world) settled(told func() int, revoked bool) {
	w.Helper()
	w.clock.advance(time.Minute)
	w.eventually("nothing is left in the queue", func() bool { return len(w.queued()) == 0 })
	if n := told(); (n > 0) != revoked {
		w.Errorf("%d pairs are revoked, want one: %v", n, revoked)
	}
}
