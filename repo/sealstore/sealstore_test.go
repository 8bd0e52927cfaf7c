package sealstore_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/db"
	"cloakroom/infra/seal"
	"cloakroom/repo"
	"cloakroom/repo/memstore"
	"cloakroom/repo/sealstore"
	"cloakroom/repo/sqlitestore"
	"cloakroom/repo/storetest"
)

var _ sealstore.Sealer = (*seal.Keyring)(nil)

// keyring returns one with a key of its own.
func keyring(t *testing.T) *seal.Keyring {
	t.Helper()
	text, err := seal.GenerateKey(rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := seal.ParseKey(text.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func openSQLite(t *testing.T, path string) repo.Store {
	t.Helper()
	file, err := db.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlitestore.Open(t.Context(), file.Write, file.Read, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStoreOverMemory(t *testing.T) {
	keys := keyring(t)
	storetest.Run(t, storetest.Harness{
		Open: func(*testing.T) repo.Store { return sealstore.New(memstore.New(time.Now), keys, slog.Default()) },
	})
}

func TestStoreOverSQLite(t *testing.T) {
	keys := keyring(t)
	paths := make(map[repo.Store]string)
	open := func(t *testing.T, path string) repo.Store {
		s := sealstore.New(openSQLite(t, path), keys, slog.Default())
		paths[s] = path
		return s
	}
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) repo.Store { return open(t, filepath.Join(t.TempDir(), "cloakroom.db")) },
		Peer: func(t *testing.T, s repo.Store) repo.Store { return open(t, paths[s]) },
	})
}

func device(n byte) domain.Record {
	word := strings.Repeat(string('a'+n), 20)
	end := time.UnixMilli(2_000_000_000_000).UTC()
	return domain.Record{
		DeviceID:  domain.DeviceID{n},
		Owner:     domain.Owner{Issuer: "the issuer", Subject: "the subject"},
		Email:     "person@example.org",
		SID:       "the session",
		UserAgent: "the user agent " + word, EmailVerified: true,
		ExpiresAt: end,
		Tokens: domain.Tokens{
			Access: domain.NewSecret("access " + word), Refresh: domain.NewSecret("refresh " + word), ID: domain.NewSecret("id " + word),
			DPoPKey:       domain.NewSecret("key " + word),
			RefreshExpiry: end,
		},
	}
}

func secrets(r domain.Record) []domain.Secret {
	return []domain.Secret{r.Tokens.Access, r.Tokens.Refresh, r.Tokens.ID, r.Tokens.DPoPKey}
}

// fixture is a sealed store in memory, with two devices in it.
type fixture struct {
	*testing.T
	inner  *memstore.Store
	s      *sealstore.Store
	log    *bytes.Buffer
	one    domain.Record
	two    domain.Record
	sealed domain.Record // one, as it is stored
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, inner: memstore.New(time.Now), log: new(bytes.Buffer), one: device(1), two: device(2)}
	f.s = f.with(keyring(t))
	for _, r := range []domain.Record{f.one, f.two} {
		if err := f.s.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	f.sealed = f.stored(f.one.DeviceID)
	return f
}

// with returns the same records behind other keys.
func (f *fixture) with(keys sealstore.Sealer) *sealstore.Store {
	return sealstore.New(f.inner, keys, slog.New(slog.NewTextHandler(f.log, nil)))
}

func (f *fixture) stored(id domain.DeviceID) domain.Record {
	f.Helper()
	r, err := f.inner.Get(f.Context(), id)
	if err != nil {
		f.Fatal(err)
	}
	return r
}

// tamper puts other sealed tokens in the place of those of device one.
func (f *fixture) tamper(change func(*domain.Tokens)) {
	f.Helper()
	t := f.sealed.Tokens
	change(&t)
	version := f.stored(f.one.DeviceID).Version
	if err := f.inner.ReplaceTokens(f.Context(), f.one.DeviceID, "", version, t, f.one.ExpiresAt); err != nil {
		f.Fatal(err)
	}
}

// silent checks that a text shows no token.
func (f *fixture) silent(what, text string) {
	f.Helper()
	for n := range byte(5) {
		for _, token := range secrets(device(n)) {
			if strings.Contains(text, token.Reveal()) {
				f.Errorf("%s shows a token: %s", what, text)
			}
		}
	}
}

func TestEverySecretIsSealed(t *testing.T) {
	f := setUp(t)
	check := func(what string, want domain.Record) {
		t.Helper()
		sealed, plain := reflect.ValueOf(f.stored(f.one.DeviceID).Tokens), reflect.ValueOf(want.Tokens)
		for i := range sealed.NumField() {
			name := sealed.Type().Field(i).Name
			s, isSecret := sealed.Field(i).Interface().(domain.Secret)
			if !isSecret {
				if sealed.Field(i).Interface() != plain.Field(i).Interface() {
					t.Errorf("%s: %s is changed", what, name)
				}
				continue
			}
			if p := plain.Field(i).Interface().(domain.Secret); s.Empty() || p.Empty() || strings.Contains(s.Reveal(), p.Reveal()) {
				t.Errorf("%s: %s is not sealed", what, name)
			}
		}
	}
	check("Create", f.one)
	next := device(3)
	if err := f.s.ReplaceTokens(t.Context(), f.one.DeviceID, "", 1, next.Tokens, next.ExpiresAt); err != nil {
		t.Fatal(err)
	}
	check("ReplaceTokens", next)
	next = device(4)
	next.DeviceID = f.one.DeviceID
	if err := f.s.Overwrite(t.Context(), next, 2); err != nil {
		t.Fatal(err)
	}
	check("Overwrite", next)
}

func TestAnEmptyTokenStaysEmpty(t *testing.T) {
	f := setUp(t)
	if err := f.s.ReplaceTokens(t.Context(), f.one.DeviceID, "", 1, domain.Tokens{Access: f.one.Tokens.Access}, f.one.ExpiresAt); err != nil {
		t.Fatal(err)
	}
	if in := f.stored(f.one.DeviceID).Tokens; in.Access.Empty() || !in.Refresh.Empty() || !in.ID.Empty() {
		t.Error("what was empty is sealed")
	}
}

func TestATokenInAnotherPlaceIsAnErrorThatNamesItAndNothingElse(t *testing.T) {
	f := setUp(t)
	other := f.stored(f.two.DeviceID).Tokens
	for _, c := range []struct {
		name, field string
		change      func(*domain.Tokens)
	}{
		{"fields swapped", "access_token", func(t *domain.Tokens) { t.Access, t.Refresh = t.Refresh, t.Access }},
		{"access of another device", "access_token", func(t *domain.Tokens) { t.Access = other.Access }},
		{"refresh of another device", "refresh_token", func(t *domain.Tokens) { t.Refresh = other.Refresh }},
		{"ID of another device", "id_token", func(t *domain.Tokens) { t.ID = other.ID }},
		{"never sealed", "access_token", func(t *domain.Tokens) { t.Access = f.one.Tokens.Access }},
		{"cut", "refresh_token", func(t *domain.Tokens) { t.Refresh = domain.NewSecret(t.Refresh.Reveal()[:10]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.T = t
			f.tamper(c.change)
			r, err := f.s.Get(t.Context(), f.one.DeviceID)
			if err == nil {
				t.Fatal("Get gives it")
			}
			if !errors.Is(err, domain.ErrSealed) || r.UserAgent != f.one.UserAgent {
				t.Errorf("Get returns the record of %q, error %v", r.UserAgent, err)
			}
			for _, token := range secrets(r) {
				if !token.Empty() {
					t.Error("Get returns a token with its error")
				}
			}
			for _, want := range []string{f.one.DeviceID.String(), c.field} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not name %s: %v", want, err)
				}
			}
			f.silent("the error", err.Error())
			for _, outcome := range []error{domain.ErrNotFound, domain.ErrConflict, domain.ErrLeaseHeld} {
				if errors.Is(err, outcome) {
					t.Errorf("the error is the outcome %v", outcome)
				}
			}
		})
	}
}

func TestALeaseOnTokensThatDoNotOpenIsGivenBack(t *testing.T) {
	f := setUp(t)
	keyless := f.with(keyring(t))
	if r, err := keyless.TakeLease(t.Context(), f.one.DeviceID, "me", time.Hour); err == nil || !reflect.ValueOf(r).IsZero() {
		t.Errorf("TakeLease without the key: error %v", err)
	}
	if _, err := f.s.TakeLease(t.Context(), f.one.DeviceID, "you", time.Hour); err != nil {
		t.Errorf("TakeLease with the key: %v", err)
	}
	// A lease of somebody else's is left alone.
	if _, err := keyless.TakeLease(t.Context(), f.one.DeviceID, "me", time.Hour); err == nil || errors.Is(err, domain.ErrLeaseHeld) {
		t.Errorf("TakeLease without the key: error %v", err)
	}
	if lease := f.stored(f.one.DeviceID).Lease; lease.Owner != "you" {
		t.Errorf("the lease is %v", lease)
	}
}

// A pair that is to be revoked must not be had by putting it somewhere else, nor
// stand in the way of the others if its key is lost.
func TestRevocationsAreSealedEachInItsPlace(t *testing.T) {
	f := setUp(t)
	queued := func(id string, r domain.Record) domain.Revocation {
		return domain.Revocation{ID: id, DeviceID: r.DeviceID, Refresh: r.Tokens.Refresh, Access: r.Tokens.Access, NotBefore: time.UnixMilli(1000), ExpiresAt: r.ExpiresAt}
	}
	given := []domain.Revocation{queued("1", f.one), queued("2", f.one), queued("3", f.two)}
	if err := f.s.QueueRevocations(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	if !given[0].Refresh.Equal(f.one.Tokens.Refresh) {
		t.Error("QueueRevocations changes what it is given")
	}
	sealed, _, err := f.inner.PageRevocations(t.Context(), "", 10)
	if err != nil || len(sealed) != 3 {
		t.Fatalf("there are %d revocations, error %v", len(sealed), err)
	}
	f.silent("a revocation", sealed[0].Refresh.Reveal()+sealed[0].Access.Reveal())
	f.tamper(func(t *domain.Tokens) { t.Refresh = sealed[0].Refresh })
	if _, err := f.s.Get(t.Context(), f.one.DeviceID); !errors.Is(err, domain.ErrSealed) {
		t.Errorf("a token that is to be revoked opens in a record: error %v", err)
	}

	sealed[0].Refresh = sealed[1].Refresh // of another revocation of the same device
	sealed[2].Access = f.sealed.Tokens.Access
	if err := f.inner.QueueRevocations(t.Context(), sealed); err != nil {
		t.Fatal(err)
	}
	until := time.UnixMilli(2000)
	got, err := f.s.ClaimRevocations(t.Context(), until, until, 10)
	if err != nil || len(got) != 1 || got[0].ID != "2" || !got[0].Refresh.Equal(f.one.Tokens.Refresh) {
		t.Errorf("ClaimRevocations returns %d, error %v; want only that of before", len(got), err)
	}
	if page, _, err := f.s.PageRevocations(t.Context(), "", 10); err != nil || len(page) != 1 {
		t.Errorf("PageRevocations returns %d, error %v; want 1", len(page), err)
	}
	if got, err := f.inner.ClaimRevocations(t.Context(), until.Add(59*time.Minute), until, 10); err != nil || len(got) != 1 {
		t.Errorf("%d are due within the hour, error %v; want 1", len(got), err)
	}
	f.silent("the log", f.log.String())
}

func TestDeletionsNeedNoKey(t *testing.T) {
	for name, remove := range map[string]func(*fixture, *sealstore.Store) ([]domain.Record, error){
		"Delete": func(f *fixture, s *sealstore.Store) ([]domain.Record, error) {
			r, err := s.Delete(f.Context(), f.one.DeviceID, 1)
			return []domain.Record{r}, err
		},
		"DeleteByOwner": func(f *fixture, s *sealstore.Store) ([]domain.Record, error) {
			return s.DeleteByOwner(f.Context(), f.one.Owner, f.two.DeviceID)
		},
		"DeleteByEmail": func(f *fixture, s *sealstore.Store) ([]domain.Record, error) {
			return s.DeleteByEmail(f.Context(), f.one.Email)
		},
		"DeleteBySID": func(f *fixture, s *sealstore.Store) ([]domain.Record, error) {
			return s.DeleteBySID(f.Context(), f.one.Owner.Issuer, f.one.SID)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := setUp(t)
			gone, err := remove(f, f.with(keyring(t)))
			if err != nil {
				t.Fatalf("error %v", err)
			}
			found := false
			for _, r := range gone {
				for _, token := range secrets(r) {
					if !token.Empty() {
						t.Error("it returns something in the place of a token")
					}
				}
				found = found || r.DeviceID == f.one.DeviceID && r.UserAgent == f.one.UserAgent
			}
			if !found {
				t.Error("it does not return what went")
			}
			if _, err := f.inner.Get(t.Context(), f.one.DeviceID); !errors.Is(err, domain.ErrNotFound) {
				t.Errorf("Get: error %v, want %v", err, domain.ErrNotFound)
			}
			for _, want := range []string{"level=WARN", f.one.DeviceID.String(), "refresh_token"} {
				if !strings.Contains(f.log.String(), want) {
					t.Errorf("the log does not say %s: %s", want, f.log)
				}
			}
			f.silent("the log", f.log.String())
		})
	}
}

func TestADeletionReturnsTheTokensThatOpen(t *testing.T) {
	f := setUp(t)
	f.tamper(func(t *domain.Tokens) { t.Access = domain.NewSecret("spoilt") })
	gone, err := f.s.Delete(t.Context(), f.one.DeviceID, repo.AnyVersion)
	if err != nil {
		t.Fatal(err)
	}
	if !gone.Tokens.Access.Empty() || !gone.Tokens.Refresh.Equal(f.one.Tokens.Refresh) || !gone.Tokens.ID.Equal(f.one.Tokens.ID) {
		t.Error("it returns other tokens than those that open")
	}
}

func TestWhatDoesNotSealIsNotStored(t *testing.T) {
	f := setUp(t)
	keys := keyring(t)
	keys.Random = bytes.NewReader(nil)
	broken := f.with(keys)
	fresh := device(3)
	for name, err := range map[string]error{
		"Create":        broken.Create(t.Context(), fresh),
		"Overwrite":     broken.Overwrite(t.Context(), f.one, 1),
		"ReplaceTokens": broken.ReplaceTokens(t.Context(), f.one.DeviceID, "", 1, fresh.Tokens, fresh.ExpiresAt),
	} {
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: error %v, want %v", name, err, io.EOF)
		} else {
			f.silent(name+"'s error", err.Error())
		}
	}
	if _, err := f.inner.Get(t.Context(), fresh.DeviceID); !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("Get: error %v, want %v", err, domain.ErrNotFound)
	}
	if got := f.stored(f.one.DeviceID); got.Version != 1 {
		t.Error("the record is changed")
	}
}

func TestNoTokenStandsInTheFilesOfSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloakroom.db")
	s := sealstore.New(openSQLite(t, path), keyring(t), slog.Default())
	ctx := t.Context()
	all := []domain.Record{device(1), device(2), device(3), device(4)}
	for _, r := range all[:3] {
		if err := s.Create(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ReplaceTokens(ctx, all[0].DeviceID, "", 1, all[3].Tokens, all[3].ExpiresAt); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(ctx, all[1].DeviceID, repo.AnyVersion); err != nil {
		t.Fatal(err)
	}
	search := func() {
		t.Helper()
		names, err := filepath.Glob(path + "*")
		if err != nil {
			t.Fatal(err)
		}
		var content []byte
		for _, name := range names {
			part, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			content = append(content, part...)
		}
		if !bytes.Contains(content, []byte(all[0].UserAgent)) {
			t.Errorf("%v do not even show a user agent", names)
		}
		for _, r := range all {
			for _, token := range secrets(r) {
				if bytes.Contains(content, []byte(token.Reveal())) {
					t.Errorf("%v show a token of device %v", names, r.DeviceID)
				}
			}
		}
	}
	search() // in the log
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	search() // and in the table
}
