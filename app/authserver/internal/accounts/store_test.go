package accounts

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rules = Rules{Lifetime: 30 * 24 * time.Hour, IdleTimeout: 7 * 24 * time.Hour, ReuseWindow: 10 * time.Second}
)

func newStore(t *testing.T, rules Rules) *Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "auth.db"), rules)
}

func openStore(t *testing.T, path string, rules Rules) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, rules)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newAccount(t *testing.T, s *Store, email string) Account {
	t.Helper()
	a := Account{ID: uuid.NewString(), Email: email, Role: RoleUser, CreatedAt: start}
	if err := s.Create(t.Context(), a, "hash"); err != nil {
		t.Fatal(err)
	}
	return a
}

// exec changes the database behind the store's back, as an operator does.
func exec(t *testing.T, s *Store, query string, args ...any) {
	t.Helper()
	if _, err := s.write.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, s *Store, query string, args ...any) int {
	t.Helper()
	var n int
	if err := s.read.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestFilesAreTheOwnersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "auth.db")
	s := openStore(t, path, rules)
	newAccount(t, s, "alice@example.com")
	for name, want := range map[string]os.FileMode{
		filepath.Dir(path): 0o700, path: 0o600, path + "-wal": 0o600, path + "-shm": 0o600,
	} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %o, want %o", filepath.Base(name), got, want)
		}
	}
}

func TestReadableFileIsRestricted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openStore(t, path, rules)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode = %o, want 600", got)
	}
}

func TestPathMayHoldWhatURIsGiveAMeaning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "50% & more?mode=memory#1.db")
	s := openStore(t, path, rules)
	newAccount(t, s, "alice@example.com")
	if info, err := os.Stat(path); err != nil || info.Size() == 0 && fileSize(path+"-wal") == 0 {
		t.Errorf("the database was not written to %q: %v", path, err)
	}
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func TestWritesSurviveAPowerCut(t *testing.T) {
	s := newStore(t, rules)
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := s.write.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s = %s, want %s", pragma, got, want)
		}
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.db")
	s := openStore(t, path, rules)
	exec(t, s, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)`)
	s.Close()
	if _, err := Open(t.Context(), path, rules); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Errorf("Open = %v, want a refusal that names version 99", err)
	}
}

func TestSigningKeyIsMadeOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.db")
	first, second := openStore(t, path, rules), openStore(t, path, rules)
	keys := make([][]byte, 20)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			s := first
			if i%2 == 1 {
				s = second
			}
			keys[i], _ = s.SigningKey(t.Context(), start, func() ([]byte, error) { return []byte{byte(i + 1)}, nil })
		})
	}
	wg.Wait()
	for _, key := range keys {
		if len(key) != 1 || !bytes.Equal(key, keys[0]) {
			t.Fatalf("keys = %v, want one for all", keys)
		}
	}
}

func TestPingFailsOnAClosedStore(t *testing.T) {
	s := newStore(t, rules)
	if err := s.Ping(t.Context()); err != nil {
		t.Errorf("Ping = %v, want nil", err)
	}
	s.Close()
	if err := s.Ping(t.Context()); err == nil {
		t.Error("Ping of a closed store = nil")
	}
}

func TestCreateRefusesTakenNamesInAnyCase(t *testing.T) {
	s := newStore(t, rules)
	create := func(email, username string) error {
		return s.Create(t.Context(), Account{ID: uuid.NewString(), Email: email, Username: username, Role: RoleUser, CreatedAt: start}, "hash")
	}
	if err := create("Alice@Example.com", "Alice"); err != nil {
		t.Fatal(err)
	}
	if err := create("alice@example.COM", ""); !errors.Is(err, ErrEmailTaken) {
		t.Errorf("same address in another case: %v, want ErrEmailTaken", err)
	}
	if err := create("other@example.com", "aLICE"); !errors.Is(err, ErrUsernameTaken) {
		t.Errorf("same user name in another case: %v, want ErrUsernameTaken", err)
	}
	for _, email := range []string{"b@example.com", "c@example.com"} {
		if err := create(email, ""); err != nil {
			t.Errorf("no user name, %s: %v, want nil", email, err)
		}
	}
}

func TestByLoginFindsEmailAndUsername(t *testing.T) {
	s := newStore(t, rules)
	want := Account{ID: uuid.NewString(), Email: "Alice@Example.com", Username: "Wonder", Name: "Alice L.", Role: RoleUser, CreatedAt: start}
	if err := s.Create(t.Context(), want, "the hash"); err != nil {
		t.Fatal(err)
	}
	for _, login := range []string{"alice@example.com", "ALICE@EXAMPLE.COM", "wonder"} {
		if got, hash, err := s.ByLogin(t.Context(), login); err != nil || got != want || hash != "the hash" {
			t.Errorf("ByLogin(%q) = %+v, %q, %v, want %+v", login, got, hash, err, want)
		}
	}
	for _, login := range []string{"", "alice", "wonder@", "bob@example.com"} {
		if _, _, err := s.ByLogin(t.Context(), login); !errors.Is(err, ErrNotFound) {
			t.Errorf("ByLogin(%q) = %v, want ErrNotFound", login, err)
		}
	}
	if got, err := s.ByID(t.Context(), want.ID); err != nil || got != want {
		t.Errorf("ByID = %+v, %v, want %+v", got, err, want)
	}
}

func TestReplaceHashLosesToANewPassword(t *testing.T) {
	s := newStore(t, rules)
	a := newAccount(t, s, "alice@example.com")
	if err := s.ReplaceHash(t.Context(), a.ID, "hash", "stronger"); err != nil {
		t.Fatal(err)
	}
	if err := s.ReplaceHash(t.Context(), a.ID, "hash", "late"); err != nil {
		t.Fatal(err)
	}
	if _, hash, _ := s.ByLogin(t.Context(), a.Email); hash != "stronger" {
		t.Errorf("hash = %q, want the one that was stored first", hash)
	}
}

func TestValidate(t *testing.T) {
	valid := Account{Email: "alice@example.com"}
	for _, c := range []struct {
		name string
		set  func(*Account)
		want error
	}{
		{"an address", func(*Account) {}, nil},
		{"plus and dots", func(a *Account) { a.Email = "a.b+c@sub.example.com" }, nil},
		{"one host", func(a *Account) { a.Email = "demo@localhost" }, nil},
		{"no address", func(a *Account) { a.Email = "alice" }, ErrEmailInvalid},
		{"empty", func(a *Account) { a.Email = "" }, ErrEmailInvalid},
		{"display name", func(a *Account) { a.Email = "Alice <alice@example.com>" }, ErrEmailInvalid},
		{"angle brackets", func(a *Account) { a.Email = "<alice@example.com>" }, ErrEmailInvalid},
		{"comment", func(a *Account) { a.Email = "alice@example.com (home)" }, ErrEmailInvalid},
		{"quoted local part", func(a *Account) { a.Email = `"alice@evil"@example.com` }, ErrEmailInvalid},
		{"two of them", func(a *Account) { a.Email = "alice@example.com, bob@example.com" }, ErrEmailInvalid},
		{"line break", func(a *Account) { a.Email = "alice@example.com\r\n" }, ErrEmailInvalid},
		{"too long", func(a *Account) { a.Email = strings.Repeat("a", 250) + "@x.org" }, ErrEmailInvalid},
		{"user name", func(a *Account) { a.Username = "al.ice_1-x" }, nil},
		{"user name like an address", func(a *Account) { a.Username = "bob@example.com" }, ErrUsernameInvalid},
		{"short user name", func(a *Account) { a.Username = "al" }, ErrUsernameInvalid},
		{"name", func(a *Account) { a.Name = "Ålice Łukasz 愛" }, nil},
		{"name with a line break", func(a *Account) { a.Name = "a\nb" }, ErrNameInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := valid
			c.set(&a)
			if got := a.Validate(); !errors.Is(got, c.want) {
				t.Errorf("Validate = %v, want %v", got, c.want)
			}
		})
	}
}

func TestCancelledCallsChangeNothing(t *testing.T) {
	s := newStore(t, rules)
	a := newAccount(t, s, "alice@example.com")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Start(ctx, a, start); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v, want context.Canceled", err)
	}
	if n := count(t, s, `SELECT count(*) FROM family`); n != 0 {
		t.Errorf("%d families were begun, want 0", n)
	}
}
