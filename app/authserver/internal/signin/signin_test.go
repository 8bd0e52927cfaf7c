package signin

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"cloakroom/app/authserver/internal/accounts"
	"cloakroom/app/authserver/internal/passwords"
	"cloakroom/app/authserver/internal/throttle"
	"cloakroom/app/authserver/internal/tokens"
)

const (
	alice    = "alice@example.com"
	password = "k3#xQ9zw correct"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	home  = netip.MustParseAddr("192.0.2.1")
	cheap = passwords.Params{MemoryKiB: 8, Passes: 1, Lanes: 1}
)

// watched counts what is asked of a Hasher, and fails with err if that is set.
type watched struct {
	*passwords.Hasher
	hashed, verified int
	err              error
}

func (w *watched) Hash(ctx context.Context, password string) (string, error) {
	w.hashed++
	if w.err != nil {
		return "", w.err
	}
	return w.Hasher.Hash(ctx, password)
}

func (w *watched) Verify(ctx context.Context, hash, password string) (bool, error) {
	w.verified++
	if w.err != nil {
		return false, w.err
	}
	return w.Hasher.Verify(ctx, hash, password)
}

// newService has one account, alice, and few attempts.
func newService(t *testing.T) (*Service, *watched) {
	t.Helper()
	store, err := accounts.Open(t.Context(), filepath.Join(t.TempDir(), "auth.db"), accounts.Rules{Lifetime: time.Hour, ReuseWindow: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	key, err := tokens.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return start }
	signer, err := tokens.NewSigner(key, "https://auth.example.com", "api", time.Minute, now)
	if err != nil {
		t.Fatal(err)
	}
	hasher := &watched{Hasher: passwords.NewHasher(cheap, 2, 10)}
	s := &Service{
		Accounts: store, Hasher: hasher, Signer: signer, Log: slog.New(slog.DiscardHandler), Now: now,
		LoginsPerAccount:        throttle.New(3, time.Minute),
		LoginsPerAddress:        throttle.New(5, time.Minute),
		RegistrationsPerAddress: throttle.New(2, time.Minute),
	}
	if err := s.Ensure(t.Context(), alice, password); err != nil {
		t.Fatal(err)
	}
	hasher.hashed = 0
	return s, hasher
}

func TestR45_UnknownAccountsCostTheSameWork(t *testing.T) {
	for _, login := range []string{alice, "nobody@example.com", "nobody"} {
		s, hasher := newService(t)
		if _, err := s.Login(t.Context(), login, "a wrong password", home); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: Login = %v, want ErrRefused", login, err)
		}
		if hasher.verified != 1 || hasher.hashed != 0 {
			t.Errorf("%s: %d verifications and %d hashes, want 1 and 0", login, hasher.verified, hasher.hashed)
		}
	}
}

func TestR45_TakenAddressesCostTheSameWork(t *testing.T) {
	for _, email := range []string{alice, "new@example.com"} {
		s, hasher := newService(t)
		s.Register(t.Context(), Registration{Email: email, Password: password}, home)
		if hasher.hashed != 1 {
			t.Errorf("%s: %d hashes, want 1", email, hasher.hashed)
		}
	}
}

// guess fails to log in n times, and not for being throttled.
func guess(t *testing.T, s *Service, login string, from netip.Addr, n int) {
	t.Helper()
	for i := range n {
		if _, err := s.Login(t.Context(), login, "a wrong password", from); !errors.Is(err, ErrRefused) {
			t.Fatalf("guess %d at %s: %v, want ErrRefused", i+1, login, err)
		}
	}
}

func wantThrottled(t *testing.T, err error, wait time.Duration) {
	t.Helper()
	if throttled, ok := errors.AsType[*Throttled](err); !ok || throttled.Wait != wait {
		t.Errorf("error = %v, want throttled for %v", err, wait)
	}
}

func TestR45_GuessingIsThrottledPerAccount(t *testing.T) {
	s, hasher := newService(t)
	other := netip.MustParseAddr("198.51.100.7")
	guess(t, s, alice, home, 2)
	guess(t, s, "ALICE@example.com", other, 1)
	_, err := s.Login(t.Context(), alice, password, netip.MustParseAddr("203.0.113.9"))
	wantThrottled(t, err, 20*time.Second)
	if hasher.verified != 3 {
		t.Errorf("%d verifications, want 3: a throttled login must not cost a hash", hasher.verified)
	}
	guess(t, s, "bob@example.com", other, 1)
}

func TestR45_UnknownAccountsAreThrottledAlike(t *testing.T) {
	s, _ := newService(t)
	guess(t, s, "nobody@example.com", home, 3)
	_, err := s.Login(t.Context(), "Nobody@example.com", password, home)
	wantThrottled(t, err, 20*time.Second)
}

func TestR45_BothNamesOfAnAccountShareItsAttempts(t *testing.T) {
	s, _ := newService(t)
	if _, err := s.Register(t.Context(), Registration{Email: "carol@example.com", Username: "carol", Password: password}, home); err != nil {
		t.Fatal(err)
	}
	guess(t, s, "carol", home, 2)
	guess(t, s, "carol@example.com", home, 1)
	_, err := s.Login(t.Context(), "carol", password, home)
	wantThrottled(t, err, 20*time.Second)
}

func TestR45_GuessingIsThrottledPerAddress(t *testing.T) {
	s, _ := newService(t)
	for _, login := range []string{"a@x.org", "b@x.org", "c@x.org", "d@x.org", "e@x.org"} {
		guess(t, s, login, home, 1)
	}
	_, err := s.Login(t.Context(), alice, password, home)
	wantThrottled(t, err, 12*time.Second)
	if _, err := s.Login(t.Context(), alice, password, netip.MustParseAddr("198.51.100.7")); err != nil {
		t.Errorf("from another address: %v, want nil", err)
	}
}

func TestR45_OneNetworkOfIPv6IsOneAddress(t *testing.T) {
	s, _ := newService(t)
	for _, c := range []struct{ login, from string }{
		{"a@x.org", "2001:db8::1"}, {"b@x.org", "2001:db8::2"}, {"c@x.org", "2001:db8::3:4"}, {"d@x.org", "2001:db8::5"}, {"e@x.org", "2001:db8::6"},
	} {
		guess(t, s, c.login, netip.MustParseAddr(c.from), 1)
	}
	_, err := s.Login(t.Context(), alice, password, netip.MustParseAddr("2001:db8::ffff"))
	wantThrottled(t, err, 12*time.Second)
	guess(t, s, "f@x.org", netip.MustParseAddr("2001:db8:0:1::1"), 1)
}

func TestGoodLoginsAreNotThrottled(t *testing.T) {
	s, _ := newService(t)
	for i := range 20 {
		if _, err := s.Login(t.Context(), alice, password, home); err != nil {
			t.Fatalf("login %d: %v", i+1, err)
		}
	}
}

func TestBusyHasherCostsNoAttempt(t *testing.T) {
	s, hasher := newService(t)
	hasher.err = passwords.ErrBusy
	for range 10 {
		if _, err := s.Login(t.Context(), alice, password, home); !errors.Is(err, passwords.ErrBusy) {
			t.Fatalf("Login = %v, want ErrBusy", err)
		}
		if _, err := s.Register(t.Context(), Registration{Email: "new@example.com", Password: password}, home); !errors.Is(err, passwords.ErrBusy) {
			t.Fatalf("Register = %v, want ErrBusy", err)
		}
	}
	hasher.err = nil
	if _, err := s.Login(t.Context(), alice, password, home); err != nil {
		t.Errorf("after the rush Login = %v, want nil", err)
	}
}

func TestRegistrationsAreThrottledPerAddress(t *testing.T) {
	s, _ := newService(t)
	register := func(email string) error {
		_, err := s.Register(t.Context(), Registration{Email: email, Password: password}, home)
		return err
	}
	if err := register("no address"); !errors.Is(err, accounts.ErrEmailInvalid) {
		t.Errorf("a typing error: %v, want ErrEmailInvalid and no attempt spent", err)
	}
	if err := register("b@x.org"); err != nil {
		t.Fatal(err)
	}
	if err := register(alice); !errors.Is(err, accounts.ErrEmailTaken) {
		t.Fatal(err)
	}
	wantThrottled(t, register("c@x.org"), 30*time.Second)
}

func TestOutdatedHashIsRenewedAtLogin(t *testing.T) {
	s, _ := newService(t)
	_, before, err := s.Accounts.ByLogin(t.Context(), alice)
	if err != nil {
		t.Fatal(err)
	}
	stronger := passwords.NewHasher(passwords.Params{MemoryKiB: 16, Passes: 2, Lanes: 1}, 1, 1)
	s.Hasher = stronger
	for range 2 {
		if _, err := s.Login(t.Context(), alice, password, home); err != nil {
			t.Fatal(err)
		}
	}
	if _, after, _ := s.Accounts.ByLogin(t.Context(), alice); after == before || stronger.Outdated(after) {
		t.Error("the hash was not made again under the stronger parameters")
	}
}

func TestEnsureChangesNothingThatIsThere(t *testing.T) {
	s, _ := newService(t)
	if err := s.Ensure(t.Context(), "Alice@Example.com", "another password"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Login(t.Context(), alice, password, home); err != nil {
		t.Errorf("Login with the first password = %v, want nil", err)
	}
	if err := s.Ensure(t.Context(), "new@example.com", "short"); !errors.Is(err, passwords.ErrTooShort) {
		t.Errorf("Ensure with a bad password = %v, want ErrTooShort", err)
	}
}
