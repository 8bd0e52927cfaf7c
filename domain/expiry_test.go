package domain_test

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"cloakroom/domain"
)

var (
	now    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	policy = domain.Lifetimes{
		Access: 15 * time.Minute, Refresh: 24 * time.Hour,
		Idle: 7 * 24 * time.Hour, Absolute: 30 * 24 * time.Hour,
		Margin: 5 * time.Second, Ahead: 30 * time.Second,
	}
)

func jwt(claims string) domain.Secret {
	return domain.NewSecret("e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln")
}

func TestLifeOfAnAccessToken(t *testing.T) {
	unix := now.Unix()
	for name, c := range map[string]struct {
		stated time.Duration
		token  domain.Secret
		want   time.Duration
	}{
		"the answer says":                           {10 * time.Second, jwt(fmt.Sprintf(`{"exp":%d}`, unix+99)), 10 * time.Second},
		"only the token says":                       {0, jwt(fmt.Sprintf(`{"exp":%d}`, unix+99)), 99 * time.Second},
		"the auth server's clock is an hour behind": {0, jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, unix-3600, unix-3600+60)), time.Minute},
		"the token is over already":                 {0, jwt(fmt.Sprintf(`{"exp":%d}`, unix-5)), 0},
		"the token ends when it begins":             {0, jwt(fmt.Sprintf(`{"iat":%d,"exp":%d}`, unix, unix)), 0},
		"a fraction of a second":                    {0, jwt(fmt.Sprintf(`{"exp":%d.5}`, unix+1)), 1500 * time.Millisecond},
		"an absurd date":                            {0, jwt(`{"exp":1e300}`), 10 * 365 * 24 * time.Hour},
		"an absurd life":                            {1 << 62, domain.NewSecret("opaque"), 10 * 365 * 24 * time.Hour},
		"a JWT without exp":                         {0, jwt(`{"sub":"a"}`), 15 * time.Minute},
		"a JWT with an exp that is no number":       {0, jwt(`{"exp":"soon"}`), 15 * time.Minute},
		"an opaque token":                           {0, domain.NewSecret("opaque"), 15 * time.Minute},
		"two dots by chance":                        {0, domain.NewSecret("a.b.c"), 15 * time.Minute},
	} {
		got := policy.Tokens(domain.Grant{Access: c.token, AccessLife: c.stated}, now)
		if life := got.AccessExpiry.Sub(now); life != c.want {
			t.Errorf("%s: lives %v, want %v", name, life, c.want)
		}
	}
}

func TestAccessTokenOverItsLife(t *testing.T) {
	long := policy.Tokens(domain.Grant{Access: domain.NewSecret("a"), AccessLife: 10 * time.Minute}, now)
	short := policy.Tokens(domain.Grant{Access: domain.NewSecret("a"), AccessLife: 10 * time.Second}, now)
	for _, c := range []struct {
		name                string
		tokens              domain.Tokens
		at                  time.Duration
		usable, alive, soon bool
	}{
		{"long, fresh", long, 0, true, true, false},
		{"long, before the lead", long, 10*time.Minute - 31*time.Second, true, true, false},
		{"long, in the lead", long, 10*time.Minute - 30*time.Second, true, true, true},
		{"long, in the margin", long, 10*time.Minute - 5*time.Second, false, true, true},
		{"long, over", long, 10 * time.Minute, false, false, true},
		// Lead and margin shrink with the token's life: 2.5 s and 1 s of 10.
		{"short, fresh", short, 0, true, true, false},
		{"short, before the lead", short, 7 * time.Second, true, true, false},
		{"short, in the lead", short, 7500 * time.Millisecond, true, true, true},
		{"short, in the margin", short, 9 * time.Second, false, true, true},
		{"short, over", short, 10 * time.Second, false, false, true},
	} {
		at := now.Add(c.at)
		if got := policy.AccessUsable(c.tokens, at); got != c.usable {
			t.Errorf("%s: AccessUsable = %v", c.name, got)
		}
		if got := policy.AccessAlive(c.tokens, at); got != c.alive {
			t.Errorf("%s: AccessAlive = %v", c.name, got)
		}
		if got := policy.AccessEndsSoon(c.tokens, at); got != c.soon {
			t.Errorf("%s: AccessEndsSoon = %v", c.name, got)
		}
	}
}

func TestRenewedKeepsWhatTheAnswerLeavesOut(t *testing.T) {
	old := policy.Tokens(domain.Grant{
		TokenType: "bearer", Scope: "read write", Access: domain.NewSecret("a1"), Refresh: domain.NewSecret("r1"), RefreshLife: time.Hour, ID: domain.NewSecret("i1"),
	}, now)
	old.DPoPKey = domain.NewSecret("k1")
	later := now.Add(10 * time.Minute)

	next := policy.Renewed(old, domain.Grant{Access: domain.NewSecret("a2"), AccessLife: time.Minute}, later)
	if next.Access.Reveal() != "a2" || next.Refresh.Reveal() != "r1" || next.ID.Reveal() != "i1" || next.TokenType != "bearer" || next.Scope != "read write" || next.DPoPKey.Reveal() != "k1" {
		t.Error("a refresh without new refresh and ID tokens, scope and key did not keep the old ones")
	}
	if !next.RefreshExpiry.Equal(old.RefreshExpiry) {
		t.Errorf("the old refresh token now ends at %v, want %v as before", next.RefreshExpiry, old.RefreshExpiry)
	}
	next = policy.Renewed(old, domain.Grant{Access: domain.NewSecret("a2"), Refresh: domain.NewSecret("r2"), RefreshLife: time.Hour, Scope: "read"}, later)
	if next.Refresh.Reveal() != "r2" || next.Scope != "read" || !next.RefreshExpiry.Equal(later.Add(time.Hour)) {
		t.Error("a refresh with a new refresh token and scope did not take them")
	}
}

// TestR11_RecordEndsWithItsTokens and R30: the record's end is the earliest of
// three, and says which.
func TestR11_R30_EndOfARecord(t *testing.T) {
	record := func(refreshLife time.Duration) domain.Record {
		return domain.Record{
			AuthTime: now, LastSeenAt: now,
			Tokens: policy.Tokens(domain.Grant{Access: domain.NewSecret("a"), Refresh: domain.NewSecret("r"), RefreshLife: refreshLife}, now),
		}
	}
	busy := record(365 * 24 * time.Hour)
	busy.LastSeenAt = now.Add(29 * 24 * time.Hour)
	noRefresh := record(0)
	noRefresh.Tokens = policy.Tokens(domain.Grant{Access: domain.NewSecret("a")}, now)
	for _, c := range []struct {
		name   string
		record domain.Record
		after  time.Duration
		why    domain.End
	}{
		{"the refresh token is the first", record(time.Hour), time.Hour, domain.EndedTokens},
		{"idle is the first", record(365 * 24 * time.Hour), policy.Idle, domain.EndedIdle},
		{"the absolute lifetime is the first", busy, policy.Absolute, domain.EndedAbsolute},
		{"without a refresh token, the access token's", noRefresh, policy.Access, domain.EndedTokens},
	} {
		if got := policy.EndsAt(c.record).Sub(now); got != c.after {
			t.Errorf("%s: ends after %v, want %v", c.name, got, c.after)
		}
		if got := policy.Ended(c.record, now.Add(c.after-time.Millisecond)); got != domain.NotEnded {
			t.Errorf("%s: ended too early: %s", c.name, got)
		}
		if got := policy.Ended(c.record, now.Add(c.after)); got != c.why {
			t.Errorf("%s: Ended = %q, want %q", c.name, got, c.why)
		}
	}
}
