package passwords

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
)

var cheap = Params{MemoryKiB: 64, Passes: 1, Lanes: 2}

func TestVerifyKnowsThePasswordItHashed(t *testing.T) {
	h := NewHasher(cheap, 1, 0)
	hash, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	for password, want := range map[string]bool{
		"correct horse": true, "Correct horse": false, "correct horse ": false, "": false,
	} {
		if got, err := h.Verify(t.Context(), hash, password); err != nil || got != want {
			t.Errorf("Verify(%q) = %v, %v, want %v", password, got, err, want)
		}
	}
}

func TestR44_LongPasswordsAreNotTruncated(t *testing.T) {
	h := NewHasher(cheap, 1, 0)
	long := strings.Repeat("ü", MaxLength-1)
	hash, err := h.Hash(t.Context(), long+"a")
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := h.Verify(t.Context(), hash, long+"b"); err != nil || ok {
		t.Errorf("a password that differs in its last character: Verify = %v, %v, want false", ok, err)
	}
}

func TestTwoHashesOfOnePasswordDiffer(t *testing.T) {
	h := NewHasher(cheap, 1, 0)
	first, _ := h.Hash(t.Context(), "correct horse")
	second, _ := h.Hash(t.Context(), "correct horse")
	if first == second {
		t.Error("two hashes of one password are equal: the salt is not random")
	}
	if want := "$argon2id$v=19$m=64,t=1,p=2$"; !strings.HasPrefix(first, want) {
		t.Errorf("hash begins %.30q, want %q", first, want)
	}
}

func TestR45_NobodyIsVerifiedWithTheWorkOfToday(t *testing.T) {
	h := NewHasher(cheap, 1, 0)
	var worked []Params
	derive := h.derive
	h.derive = func(password, salt []byte, p Params, length uint32) []byte {
		worked = append(worked, p)
		return derive(password, salt, p, length)
	}
	if ok, err := h.Verify(t.Context(), "", "correct horse"); err != nil || ok {
		t.Errorf("Verify for nobody = %v, %v, want false", ok, err)
	}
	if len(worked) != 1 || worked[0] != cheap {
		t.Errorf("hashes computed for nobody: %v, want one with %v", worked, cheap)
	}
}

func TestHashesOfOtherParametersAreVerifiedAndOutdated(t *testing.T) {
	old, err := NewHasher(Params{MemoryKiB: 32, Passes: 2, Lanes: 1}, 1, 0).Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	h := NewHasher(cheap, 1, 0)
	if ok, err := h.Verify(t.Context(), old, "correct horse"); err != nil || !ok {
		t.Errorf("Verify of an old hash = %v, %v, want true", ok, err)
	}
	if !h.Outdated(old) {
		t.Error("Outdated(old) = false")
	}
	if fresh, _ := h.Hash(t.Context(), "correct horse"); h.Outdated(fresh) {
		t.Error("Outdated(fresh) = true")
	}
}

func TestMalformedHashesAreErrors(t *testing.T) {
	h := NewHasher(cheap, 1, 0)
	for _, hash := range []string{
		"plain", "$argon2i$v=19$m=64,t=1,p=1$AAAA$AAAA", "$argon2id$v=16$m=64,t=1,p=1$AAAA$AAAA",
		"$argon2id$v=19$m=64,t=0,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=64,t=1,p=0$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$", "$argon2id$v=19$x$AAAA$AAAA",
	} {
		if ok, err := h.Verify(t.Context(), hash, "correct horse"); err == nil || ok {
			t.Errorf("Verify(%q) = %v, %v, want an error", hash, ok, err)
		}
	}
}

// stuck is a Hasher whose hashes end when release is closed.
func stuck(concurrency, queue int) (h *Hasher, release chan struct{}) {
	h, release = NewHasher(cheap, concurrency, queue), make(chan struct{})
	h.derive = func([]byte, []byte, Params, uint32) []byte {
		<-release
		return make([]byte, keyBytes)
	}
	return h, release
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, release := stuck(2, 3)
		for range 5 {
			go h.Hash(t.Context(), "correct horse")
		}
		synctest.Wait()
		if running := len(h.running); running != 2 {
			t.Errorf("%d hashes run at once, want 2", running)
		}
		if _, err := h.Hash(t.Context(), "correct horse"); !errors.Is(err, ErrBusy) {
			t.Errorf("beyond the queue Hash = %v, want ErrBusy", err)
		}
		close(release)
		synctest.Wait()
		if _, err := h.Hash(t.Context(), "correct horse"); err != nil {
			t.Errorf("after the rush Hash = %v, want nil", err)
		}
	})
}

func TestPermitIsHeldUntilTheHashEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, release := stuck(1, 1)
		ctx, goAway := context.WithCancel(t.Context())
		go h.Hash(ctx, "correct horse")
		synctest.Wait()
		goAway()
		synctest.Wait()
		if running := len(h.running); running != 1 {
			t.Errorf("after its caller left, %d permits are held, want 1: the memory is still in use", running)
		}
		close(release)
		synctest.Wait()
		if running := len(h.running); running != 0 {
			t.Errorf("after the hash %d permits are held, want 0", running)
		}
	})
}

func TestWaitingCallerLeavesWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, release := stuck(1, 1)
		defer close(release)
		go h.Hash(t.Context(), "correct horse")
		synctest.Wait()
		ctx, goAway := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := h.Hash(ctx, "correct horse")
			left <- err
		}()
		synctest.Wait()
		goAway()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("Hash = %v, want context.Canceled", err)
		}
		if admitted := len(h.admitted); admitted != 1 {
			t.Errorf("%d callers are admitted, want 1: the place in the queue was not given back", admitted)
		}
	})
}
