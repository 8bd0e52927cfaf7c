package usecase_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/usecase"
)

// second adds another auth server to the world, which people sign in at
// elsewhere, and returns it with the provider that it is.
func (w *world) second(name, issuer string) (*authapitest.Server, usecase.Provider) {
	w.Helper()
	auth := authapitest.New(w.T)
	auth.Set(func(o *authapitest.Options) { o.Now, o.AccessLife = w.clock.Now, life })
	auth.AddAccount(email, password)
	return auth, usecase.Provider{Name: name, Issuer: issuer, Tokens: w.client(auth, 5*time.Second)}
}

// elsewhere is a sign-in whose identity was verified by somebody else.
func elsewhere(p usecase.Provider, ticket string, v domain.Authentication) usecase.SignIn {
	return usecase.SignIn{
		Provider: p.Name, Ticket: ticket, IP: "192.0.2.1", UserAgent: "test",
		Verify: func(context.Context) (domain.Authentication, error) { return v, nil },
	}
}

// verified signs in at an auth server, as a provider's client does.
func (w *world) verified(p usecase.Provider) domain.Authentication {
	w.Helper()
	identity, grant, err := p.Tokens.(*authapi.Client).SignIn(w.Context(), domain.Credentials{Email: email, Password: domain.NewSecret(password)})
	if err != nil {
		w.Fatal(err)
	}
	identity.Subject, identity.EmailVerified = "the-same-subject", true
	return domain.Authentication{Issuer: p.Issuer, Identity: identity, Grant: grant}
}

func (w *world) admit(b *usecase.Broker, in usecase.SignIn) (usecase.Visit, domain.Record) {
	w.Helper()
	ticket, rec, err := b.SignIn(w.Context(), in)
	if err != nil {
		w.Fatal(err)
	}
	return usecase.Visit{Ticket: ticket.Reveal(), IP: in.IP}, rec
}

func TestProvidersFareApart(t *testing.T) {
	w := newWorld(t)
	other, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	here, _ := w.signIn(b, email, "")
	there, _ := w.admit(b, elsewhere(p, "", w.verified(p)))

	other.Close()
	w.clock.advance(life + time.Minute)
	for range 8 { // more than the breaker bears
		if _, err := b.AccessToken(t.Context(), there); !errors.Is(err, domain.ErrAuthUnavailable) {
			t.Fatalf("with its provider down the device gets %v, want ErrAuthUnavailable", err)
		}
	}
	w.works(b, here)
	if calls := len(w.auth.Requests(authapitest.RefreshPath)); calls != 1 {
		t.Errorf("the provider that is up was asked %d times, want once", calls)
	}
	if err := b.Health(t.Context()).Auth; err == nil || !strings.Contains(err.Error(), "other: ") || strings.Contains(err.Error(), "password: ") {
		t.Errorf("health tells of %v, want the provider that is down alone", err)
	}
}

func TestProviderThatIsNotConfiguredSignsNobodyOut(t *testing.T) {
	w := newWorld(t)
	other, p := w.second("other", "https://other.test")
	visit, rec := w.admit(w.brokerOf(p), elsewhere(p, "", w.verified(p)))
	taken := p
	taken.Issuer = "https://taken.test"

	w.clock.advance(life + time.Minute)
	for name, b := range map[string]*usecase.Broker{"gone": w.broker(), "of another issuer": w.brokerOf(taken)} {
		if _, err := b.AccessToken(t.Context(), visit); !errors.Is(err, domain.ErrAuthMisconfigured) {
			t.Errorf("with the provider %s the device gets %v, want ErrAuthMisconfigured", name, err)
		}
	}
	if calls := len(other.Requests(authapitest.RefreshPath)) + w.refreshCalls(); calls != 0 {
		t.Errorf("its refresh token was shown %d times", calls)
	}
	if got := w.record(rec.DeviceID); got.Lease.Owner != "" {
		t.Errorf("the lease is still held by %s", got.Lease.Owner)
	}
	if _, err := w.brokerOf(p).AccessToken(t.Context(), visit); err != nil {
		t.Errorf("with the provider back the device gets %v", err)
	}
}

// TestR6_TwoProvidersWithOneEmailStayTwoOwners signs in one address at two
// providers.
func TestR6_TwoProvidersWithOneEmailStayTwoOwners(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	_, q := w.second("third", "https://third.test")
	b := w.brokerOf(p, q)
	_, victim := w.admit(b, elsewhere(p, "", w.verified(p)))
	_, other := w.admit(b, elsewhere(q, "", w.verified(q)))
	if victim.Email != other.Email || !other.EmailVerified {
		t.Fatalf("the addresses are %q and %q, want the same, verified", victim.Email, other.Email)
	}
	list, err := b.Devices(t.Context(), other)
	if err != nil || len(list) != 1 || list[0].DeviceID != other.DeviceID {
		t.Errorf("the second provider's person sees %v, %v; want their own device alone", list, err)
	}
	if err := b.SignOut(t.Context(), other, victim.DeviceID); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("ending the other's device = %v, want ErrNotFound", err)
	}
}

// TestR16_EverySignInElsewhereBringsANewTicket also holds that the device keeps
// its id with its owner, and ends with another.
func TestR16_EverySignInElsewhereBringsANewTicket(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	first, rec := w.admit(b, elsewhere(p, "", w.verified(p)))
	again, same := w.admit(b, elsewhere(p, first.Ticket, w.verified(p)))
	if same.DeviceID != rec.DeviceID || again.Ticket == first.Ticket {
		t.Errorf("signing in again: device %v, was %v; the ticket is new: %v", same.DeviceID, rec.DeviceID, again.Ticket != first.Ticket)
	}
	if _, err := b.Open(t.Context(), first); !errors.Is(err, domain.ErrBadTicket) {
		t.Errorf("the ticket of before opens: %v", err)
	}
	stranger := w.verified(p)
	stranger.Identity.Subject = "somebody-else"
	_, next := w.admit(b, elsewhere(p, again.Ticket, stranger))
	if next.DeviceID == rec.DeviceID || !w.gone(rec.DeviceID) {
		t.Error("somebody else's sign-in left the device of before")
	}
}

func TestSignInAsSomebodyElseChangesNothingWhereTheOwnerIsGiven(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	visit, rec := w.admit(b, elsewhere(p, "", w.verified(p)))
	stranger := w.verified(p)
	stranger.Identity.Subject = "somebody-else"
	in := elsewhere(p, visit.Ticket, stranger)
	in.Owner = rec.Owner
	if _, _, err := b.SignIn(t.Context(), in); !errors.Is(err, domain.ErrAnotherOwner) {
		t.Errorf("SignIn = %v, want ErrAnotherOwner", err)
	}
	if _, err := b.Open(t.Context(), visit); err != nil {
		t.Errorf("the ticket opens no more: %v", err)
	}
}

func TestGrantWithoutRefreshTokenEndsWithItsAccessToken(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	v := w.verified(p)
	v.Grant.Refresh, v.Grant.RefreshLife = domain.Secret{}, 0
	visit, rec := w.admit(b, elsewhere(p, "", v))
	w.clock.advance(life - time.Second)
	if _, err := b.AccessToken(t.Context(), visit); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	w.clock.advance(2 * time.Second)
	if _, err := b.AccessToken(t.Context(), visit); !errors.Is(err, domain.ErrSignedOut) || !w.gone(rec.DeviceID) {
		t.Errorf("after the access token's end: %v, want ErrSignedOut and no record", err)
	}
}
