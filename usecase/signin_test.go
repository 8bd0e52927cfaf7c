package usecase_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/usecase"
)

// TestR16_TicketIsNewAtEverySignIn: and the old one is dead, also one that
// somebody planted.
func TestR16_TicketIsNewAtEverySignIn(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	first, rec := w.signIn(b, email, "")
	if err := b.Rename(t.Context(), rec, rec.DeviceID, "  Work\tlaptop "); err != nil {
		t.Fatal(err)
	}
	second, again := w.signIn(b, email, first.Ticket)

	if first.Ticket == second.Ticket {
		t.Error("the ticket is the same after a second sign-in")
	}
	if again.DeviceID != rec.DeviceID || again.Name != "Work laptop" || !again.CreatedAt.Equal(rec.CreatedAt) {
		t.Error("the same browser and owner did not keep the device")
	}
	if _, err := b.Open(t.Context(), first); !errors.Is(err, domain.ErrBadTicket) {
		t.Errorf("Open with the old ticket = %v, want ErrBadTicket", err)
	}
	w.works(b, second)
	if list, err := b.Devices(t.Context(), again); err != nil || len(list) != 1 {
		t.Errorf("Devices = %d, %v, want the device once", len(list), err)
	}
	w.eventually("the old pair is revoked", func() bool {
		return slices.ContainsFunc(w.auth.Revocations(), func(r authapitest.Revocation) bool { return r.Refresh == rec.Tokens.Refresh.Reveal() })
	})
	if !w.auth.Valid(w.record(rec.DeviceID).Tokens.Access.Reveal()) {
		t.Error("revoking the old pair ended the new one")
	}
}

func TestPlantedTicketIsNotTakenOver(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	for name, planted := range map[string]string{
		"unknown device": "0b0c0d0e-0001-4203-8405-060708090a0b." + strings.Repeat("A", 43),
		"not a ticket":   "chosen-by-the-attacker",
	} {
		v, rec := w.signIn(b, email, planted)
		if strings.HasPrefix(planted, rec.DeviceID.String()) || v.Ticket == planted {
			t.Errorf("%s: the sign-in took over what was planted", name)
		}
		if _, err := b.Open(t.Context(), usecase.Visit{Ticket: planted}); !errors.Is(err, domain.ErrBadTicket) {
			t.Errorf("%s: the planted ticket opens something: %v", name, err)
		}
	}
	// The id of somebody's device with a wrong secret does not take it over.
	_, victim := w.signIn(b, email, "")
	_, rec := w.signIn(b, email, victim.DeviceID.String()+"."+strings.Repeat("A", 43))
	if rec.DeviceID == victim.DeviceID {
		t.Error("a wrong secret was enough to take a device over")
	}
}

func TestSignInOfSomebodyElseEndsTheBrowsersDevice(t *testing.T) {
	w := newWorld(t)
	w.auth.AddAccount("bob@example.com", password)
	b := w.broker()
	ada, adas := w.signIn(b, email, "")
	_, bobs := w.signIn(b, "bob@example.com", ada.Ticket)
	if bobs.DeviceID == adas.DeviceID {
		t.Error("a device passed from one owner to another")
	}
	if !w.gone(adas.DeviceID) {
		t.Error("the device of the owner before is still signed in")
	}
}

func TestSignInAgainDuringRefresh(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	v, rec := w.signIn(b, email, "")
	w.clock.advance(life)
	gate := authapitest.NewGate()
	w.auth.Next(authapitest.RefreshPath, gate.After)
	result := make(chan error, 1)
	go func() { _, err := b.AccessToken(t.Context(), v); result <- err }()
	<-gate.Arrived
	again, renewed := w.signIn(b, email, v.Ticket)
	gate.Open()
	if err := <-result; !errors.Is(err, domain.ErrBadTicket) {
		t.Errorf("the old ticket's request got %v, want ErrBadTicket", err)
	}
	if renewed.DeviceID != rec.DeviceID {
		t.Error("the device did not keep its id")
	}
	if got := w.works(b, again); !got.Tokens.Refresh.Equal(renewed.Tokens.Refresh) {
		t.Error("the late refresh overwrote the new sign-in")
	}
}

func TestRefusedCredentialsHandTheDetailThrough(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	_, _, err := b.SignIn(t.Context(), usecase.SignIn{Credentials: domain.Credentials{Email: email, Password: domain.NewSecret("wrong")}})
	var refused *domain.Refused
	if !errors.As(err, &refused) || refused.Status != 401 || refused.Detail == "" {
		t.Errorf("SignIn = %v, want a Refused with a detail", err)
	}
	err = b.Register(t.Context(), domain.Credentials{Email: email, Password: domain.NewSecret(password)})
	if !errors.As(err, &refused) || refused.Status != 409 {
		t.Errorf("Register of a taken address = %v, want a Refused with 409", err)
	}
}

func TestDevicesAreTheOwnersAlone(t *testing.T) {
	w := newWorld(t)
	w.auth.AddAccount("bob@example.com", password)
	b := w.broker()
	_, laptop := w.signIn(b, email, "")
	phone, phoneRec := w.signIn(b, email, "")
	bob, bobs := w.signIn(b, "bob@example.com", "")

	list, err := b.Devices(t.Context(), laptop)
	if err != nil || len(list) != 2 || list[0].DeviceID != laptop.DeviceID || list[1].DeviceID != phoneRec.DeviceID {
		t.Errorf("Devices = %v, %v, want the current one and the phone", list, err)
	}
	if err := b.SignOut(t.Context(), laptop, bobs.DeviceID); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("SignOut of somebody else's device = %v, want ErrNotFound", err)
	}
	if err := b.Rename(t.Context(), laptop, bobs.DeviceID, "mine"); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("Rename of somebody else's device = %v, want ErrNotFound", err)
	}
	if n, err := b.SignOutOthers(t.Context(), laptop); n != 1 || err != nil {
		t.Errorf("SignOutOthers = %d, %v, want 1", n, err)
	}
	if _, err := b.AccessToken(t.Context(), phone); !errors.Is(err, domain.ErrBadTicket) {
		t.Errorf("the phone's next call got %v, want ErrBadTicket", err)
	}
	if n, err := b.SignOutAll(t.Context(), laptop); n != 1 || err != nil {
		t.Errorf("SignOutAll = %d, %v, want 1", n, err)
	}
	w.works(b, bob)
}

func TestRenameRefusesWhatIsNoName(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	_, rec := w.signIn(b, email, "")
	for _, name := range []string{strings.Repeat("x", 61), "a\x00b", "a\u202eb", "\xff"} {
		if err := b.Rename(t.Context(), rec, rec.DeviceID, name); !errors.Is(err, domain.ErrBadInput) {
			t.Errorf("Rename to %q = %v, want ErrBadInput", name, err)
		}
	}
}

// TestR13_SignOutNeverWaitsForTheAuthServer: it is told behind, and again if it
// did not listen.
func TestR13_SignOutNeverWaitsForTheAuthServer(t *testing.T) {
	w := newWorld(t)
	b := w.broker()
	_, rec := w.signIn(b, email, "")
	gate := authapitest.NewGate()
	w.auth.Next(authapitest.RevokePath, gate.Before, authapitest.Answer(500, ""))
	if err := b.SignOut(t.Context(), rec, rec.DeviceID); err != nil {
		t.Fatal(err)
	}
	<-gate.Arrived
	gate.Open()
	w.eventually("the pair is revoked", func() bool { return len(w.auth.Revocations()) == 1 })
}

// TestNamesAreKeptInBounds: a provider lets people choose a name of any length.
func TestNamesAreKeptInBounds(t *testing.T) {
	w := newWorld(t)
	_, p := w.second("other", "https://other.test")
	b := w.brokerOf(p)
	for given, want := range map[string]string{
		"Ann": "Ann", strings.Repeat("é", 400): strings.Repeat("é", 128), "x" + strings.Repeat("é", 400): "x" + strings.Repeat("é", 127),
	} {
		v := w.verified(p)
		v.Identity.Name = given
		if _, rec := w.admit(b, elsewhere(p, "", v)); rec.PersonName != want {
			t.Errorf("a name of %d bytes is kept as %q", len(given), rec.PersonName)
		}
	}
}
