package accounts

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// login makes an account and begins a family for it.
func login(t *testing.T, s *Store) Grant {
	t.Helper()
	grant, err := s.Start(t.Context(), newAccount(t, s, "alice@example.com"), start)
	if err != nil {
		t.Fatal(err)
	}
	return grant
}

func rotate(t *testing.T, s *Store, token string, now time.Time) Grant {
	t.Helper()
	grant, err := s.Rotate(t.Context(), token, now)
	if err != nil {
		t.Fatal(err)
	}
	return grant
}

func wantRefusal(t *testing.T, s *Store, token string, now time.Time, reason string) {
	t.Helper()
	_, err := s.Rotate(t.Context(), token, now)
	if refusal, ok := errors.AsType[*Refusal](err); !ok || refusal.Reason != reason {
		t.Errorf("Rotate = %v, want a refusal: %s", err, reason)
	}
}

func TestR43_EachTokenGivesTheNext(t *testing.T) {
	s := newStore(t, rules)
	grant := login(t, s)
	seen := []string{grant.Token}
	for i := range 5 {
		next := rotate(t, s, grant.Token, start.Add(time.Duration(i)*time.Hour))
		if slices.Contains(seen, next.Token) || next.Replayed || next.Account != grant.Account || len(next.Token) != 43 {
			t.Fatalf("rotation %d gave %+v, want a new token of 32 bytes for the same account", i, next)
		}
		seen = append(seen, next.Token)
		grant = next
	}
}

func TestR43_UnknownTokensAreRefused(t *testing.T) {
	s := newStore(t, rules)
	token := login(t, s).Token
	for _, unknown := range []string{"", "abc", newToken(), token + "=", token[:42]} {
		wantRefusal(t, s, unknown, start, Unknown)
	}
}

func TestR43_ReuseInsideTheWindowGivesTheSameSuccessor(t *testing.T) {
	s := newStore(t, rules)
	first := login(t, s)
	want := rotate(t, s, first.Token, start)
	for _, after := range []time.Duration{0, time.Second, rules.ReuseWindow} {
		got := rotate(t, s, first.Token, start.Add(after))
		if got.Token != want.Token || !got.Replayed || !got.ExpiresAt.Equal(want.ExpiresAt) || got.Account != want.Account {
			t.Errorf("after %v: %+v, want the successor again", after, got)
		}
	}
	if n := count(t, s, `SELECT count(*) FROM refresh_token`); n != 2 {
		t.Errorf("the family has %d tokens, want 2", n)
	}
	rotate(t, s, want.Token, start.Add(rules.ReuseWindow))
}

func TestR43_ReuseOutsideTheWindowEndsTheFamily(t *testing.T) {
	s := newStore(t, rules)
	first := login(t, s)
	second := rotate(t, s, first.Token, start)
	late := start.Add(rules.ReuseWindow + time.Millisecond)
	wantRefusal(t, s, first.Token, late, Reused)
	wantRefusal(t, s, second.Token, late, Revoked)
	wantRefusal(t, s, first.Token, late, Revoked)
}

func TestR43_ReuseAfterTheSuccessorWasUsedEndsTheFamily(t *testing.T) {
	s := newStore(t, rules)
	first := login(t, s)
	second := rotate(t, s, first.Token, start)
	third := rotate(t, s, second.Token, start)
	wantRefusal(t, s, first.Token, start, Reused)
	wantRefusal(t, s, third.Token, start, Revoked)
}

func TestR43_ReuseEndsItsOwnFamilyAlone(t *testing.T) {
	s := newStore(t, rules)
	first := login(t, s)
	other, err := s.Start(t.Context(), first.Account, start)
	if err != nil {
		t.Fatal(err)
	}
	rotate(t, s, first.Token, start)
	wantRefusal(t, s, first.Token, start.Add(time.Hour), Reused)
	rotate(t, s, other.Token, start.Add(time.Hour))
}

func TestR43_NoWindowMeansNoReuse(t *testing.T) {
	s := newStore(t, Rules{Lifetime: time.Hour})
	first := login(t, s)
	rotate(t, s, first.Token, start)
	wantRefusal(t, s, first.Token, start, Reused)
}

func TestR43_ClockSetBackDoesNotReopenTheWindow(t *testing.T) {
	s := newStore(t, rules)
	first := login(t, s)
	rotate(t, s, first.Token, start.Add(time.Hour))
	wantRefusal(t, s, first.Token, start, Reused)
}

// reopen closes the database and opens it again, as a restart does.
func reopen(t *testing.T, s *Store, path string) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return openStore(t, path, rules)
}

func TestR43_RestartForgetsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.db")
	s := openStore(t, path, rules)
	first := login(t, s)
	second := rotate(t, s, first.Token, start)

	s = reopen(t, s, path)
	if got := rotate(t, s, first.Token, start.Add(time.Second)); got.Token != second.Token {
		t.Error("inside the window, a restart changed the successor")
	}
	s = reopen(t, s, path)
	wantRefusal(t, s, first.Token, start.Add(time.Minute), Reused)
	s = reopen(t, s, path)
	wantRefusal(t, s, second.Token, start.Add(time.Minute), Revoked)
}

func TestR43_RaceHasOneWinner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.db")
	stores := []*Store{openStore(t, path, rules), openStore(t, path, rules)}
	first := login(t, stores[0])

	var wg sync.WaitGroup
	begin := make(chan struct{})
	grants, errs := make([]Grant, 100), make([]error, 100)
	for i := range grants {
		wg.Go(func() {
			<-begin
			grants[i], errs[i] = stores[i%2].Rotate(t.Context(), first.Token, start)
		})
	}
	close(begin)
	wg.Wait()

	won := 0
	for i, grant := range grants {
		if errs[i] != nil {
			t.Fatalf("caller %d: %v", i, errs[i])
		}
		if grant.Token != grants[0].Token {
			t.Fatalf("callers %d and 0 got different successors", i)
		}
		if !grant.Replayed {
			won++
		}
	}
	if won != 1 {
		t.Errorf("%d callers advanced the family, want 1", won)
	}
	if n := count(t, stores[0], `SELECT count(*) FROM refresh_token`); n != 2 {
		t.Errorf("the family has %d tokens, want 2", n)
	}
}

func TestR43_RaceWithoutAWindowHasOneWinner(t *testing.T) {
	s := newStore(t, Rules{Lifetime: time.Hour})
	first := login(t, s)
	var wg sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		wg.Go(func() { _, errs[i] = s.Rotate(t.Context(), first.Token, start) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if _, ok := errors.AsType[*Refusal](err); !ok {
			t.Errorf("Rotate = %v, want a refusal", err)
		}
	}
	if won != 1 {
		t.Errorf("%d callers advanced the family, want 1", won)
	}
	if n := count(t, s, `SELECT count(*) FROM refresh_token`); n != 2 {
		t.Errorf("the family has %d tokens, want 2", n)
	}
}

func TestR43_FamilyEndsAtItsAbsoluteExpiry(t *testing.T) {
	s := newStore(t, rules)
	grant := login(t, s)
	for day := 5; day < 30; day += 5 {
		grant = rotate(t, s, grant.Token, start.Add(time.Duration(day)*24*time.Hour))
	}
	end := start.Add(rules.Lifetime)
	if !grant.ExpiresAt.Equal(end) {
		t.Errorf("on day 25 the token expires at %v, want the family's end %v", grant.ExpiresAt, end)
	}
	wantRefusal(t, s, grant.Token, end, Expired)
	rotate(t, s, grant.Token, end.Add(-time.Millisecond))
}

func TestR43_UnusedTokenExpires(t *testing.T) {
	s := newStore(t, rules)
	grant := login(t, s)
	if want := start.Add(rules.IdleTimeout); !grant.ExpiresAt.Equal(want) {
		t.Errorf("the token expires at %v, want %v", grant.ExpiresAt, want)
	}
	wantRefusal(t, s, grant.Token, start.Add(rules.IdleTimeout), Expired)
	rotate(t, s, grant.Token, start.Add(rules.IdleTimeout-time.Millisecond))
}

func TestR33_DisabledAccountIsRefused(t *testing.T) {
	s := newStore(t, rules)
	grant := login(t, s)
	exec(t, s, `UPDATE account SET disabled_at = ?`, start.UnixMilli())
	wantRefusal(t, s, grant.Token, start, Disabled)
}

func TestRevokeEndsTheFamilyByAnyOfItsTokens(t *testing.T) {
	s := newStore(t, rules)
	first := login(t, s)
	second := rotate(t, s, first.Token, start)
	if id, err := s.Revoke(t.Context(), first.Token, start); err != nil || id != first.Account.ID {
		t.Errorf("Revoke = %q, %v, want %q", id, err, first.Account.ID)
	}
	wantRefusal(t, s, second.Token, start, Revoked)
	wantRefusal(t, s, first.Token, start, Revoked)
	for _, token := range []string{second.Token, newToken(), ""} {
		if id, err := s.Revoke(t.Context(), token, start); err != nil || id != "" {
			t.Errorf("with nothing to end Revoke = %q, %v, want neither", id, err)
		}
	}
}

func TestSweepDeletesWhatIsOver(t *testing.T) {
	s := newStore(t, rules)
	idle := login(t, s)
	var live Grant
	for range 3 {
		var err error
		if live, err = s.Start(t.Context(), idle.Account, start); err != nil {
			t.Fatal(err)
		}
	}
	live = rotate(t, s, live.Token, start.Add(time.Hour))

	now := start.Add(rules.IdleTimeout)
	for _, want := range []int64{2, 1, 0} {
		if deleted, err := s.Sweep(t.Context(), now, 2); err != nil || deleted != want {
			t.Errorf("Sweep = %d, %v, want %d", deleted, err, want)
		}
	}
	if n := count(t, s, `SELECT count(*) FROM refresh_token`); n != 2 {
		t.Errorf("%d tokens are left, want the 2 of the family that lives", n)
	}
	rotate(t, s, live.Token, now)
}

func TestSweepKeepsRevokedFamiliesUntilTheirEnd(t *testing.T) {
	s := newStore(t, rules)
	grant := login(t, s)
	if _, err := s.Revoke(t.Context(), grant.Token, start); err != nil {
		t.Fatal(err)
	}
	if deleted, err := s.Sweep(t.Context(), start.Add(time.Hour), 10); err != nil || deleted != 0 {
		t.Errorf("Sweep = %d, %v, want 0", deleted, err)
	}
	wantRefusal(t, s, grant.Token, start.Add(time.Hour), Revoked)
}

func TestSealedSuccessorsAreErased(t *testing.T) {
	const sealed = `SELECT count(*) FROM refresh_token WHERE sealed_successor IS NOT NULL`
	t.Run("when the window is over", func(t *testing.T) {
		s := newStore(t, rules)
		rotate(t, s, login(t, s).Token, start)
		for _, c := range []struct {
			after time.Duration
			want  int
		}{{rules.ReuseWindow, 1}, {rules.ReuseWindow + time.Millisecond, 0}} {
			if _, err := s.Sweep(t.Context(), start.Add(c.after), 10); err != nil {
				t.Fatal(err)
			}
			if n := count(t, s, sealed); n != c.want {
				t.Errorf("%v after the use %d are sealed, want %d", c.after, n, c.want)
			}
		}
	})
	t.Run("when the successor is used", func(t *testing.T) {
		s := newStore(t, rules)
		second := rotate(t, s, login(t, s).Token, start)
		rotate(t, s, second.Token, start)
		if n := count(t, s, sealed); n != 1 {
			t.Errorf("%d are sealed, want the newest alone", n)
		}
	})
}

func TestFamilyKeepsABoundedNumberOfTokens(t *testing.T) {
	s := newStore(t, rules)
	first := login(t, s)
	exec(t, s, `UPDATE refresh_token SET generation = ?`, keptGenerations)
	second := rotate(t, s, first.Token, start)
	if n := count(t, s, `SELECT count(*) FROM refresh_token`); n != 2 {
		t.Fatalf("%d tokens are kept, want 2", n)
	}
	exec(t, s, `UPDATE refresh_token SET generation = 2 WHERE hash = ?`, hash(first.Token))
	rotate(t, s, second.Token, start)
	if n := count(t, s, `SELECT count(*) FROM refresh_token WHERE hash = ?`, hash(first.Token)); n != 0 {
		t.Error("the token that came before the kept generations is still there")
	}
}

func TestR43_NoTokenIsStoredInClear(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth.db")
	s := openStore(t, path, rules)
	first := login(t, s)
	second := rotate(t, s, first.Token, start)
	rotate(t, s, first.Token, start)
	for _, name := range []string{path, path + "-wal"} {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range []string{first.Token, second.Token} {
			if bytes.Contains(content, []byte(token)) {
				t.Errorf("%s holds a refresh token", filepath.Base(name))
			}
		}
	}
}

func TestSealOpensWithItsOwnTokenAlone(t *testing.T) {
	token, successor := newToken(), newToken()
	sealed, err := seal(token, successor)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := unseal(token, sealed); err != nil || got != successor {
		t.Errorf("unseal = %q, %v, want the successor", got, err)
	}
	if _, err := unseal(successor, sealed); err == nil {
		t.Error("another token opened the seal")
	}
	if _, err := unseal(token, sealed[:10]); err == nil {
		t.Error("a torn seal opened")
	}
}
