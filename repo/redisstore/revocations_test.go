package redisstore

import (
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo/redisstore/redistest"
)

// A revocation that somebody has damaged must not take others along that are
// claimed with it, again and again.
func TestADamagedRevocationIsInNobodysWay(t *testing.T) {
	s, _ := open(t, redistest.Any(t))
	now := time.Now()
	var list []domain.Revocation
	for _, id := range []string{"a", "b", "c"} {
		list = append(list, domain.Revocation{ID: id, NotBefore: now, ExpiresAt: now.Add(time.Hour)})
	}
	must(t, s.QueueRevocations(t.Context(), list))
	must(t, s.client.HSet(t.Context(), s.revocationKey("b"), "tries", "many").Err())
	got, err := s.ClaimRevocations(t.Context(), now, now.Add(time.Minute), 10)
	if err == nil || len(got) != 2 || got[0].ID != "a" || got[1].ID != "c" {
		t.Errorf("ClaimRevocations = %d, %v; want two and an error", len(got), err)
	}
}

// What has expired at the server stays in the schedule until somebody comes upon
// it, and takes nobody's turn for longer.
func TestTheScheduleForgetsWhatHasExpired(t *testing.T) {
	s, _ := open(t, redistest.Any(t))
	now := time.Now()
	must(t, s.QueueRevocations(t.Context(), []domain.Revocation{{ID: "a", NotBefore: now, ExpiresAt: now.Add(time.Hour)}}))
	if ttl := s.client.PTTL(t.Context(), s.revocationKey("a")).Val(); ttl < time.Hour || ttl > time.Hour+grace+time.Minute {
		t.Errorf("it goes in %v", ttl)
	}
	must(t, s.client.Del(t.Context(), s.revocationKey("a")).Err()) // as when its time is over
	if got, err := s.ClaimRevocations(t.Context(), now, now.Add(time.Minute), 10); err != nil || len(got) != 0 {
		t.Errorf("ClaimRevocations = %d, %v", len(got), err)
	}
	if n := s.client.ZCard(t.Context(), s.scheduleKey()).Val(); n != 0 {
		t.Errorf("%d are scheduled", n)
	}
}
