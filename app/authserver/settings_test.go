package authserver

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDefaultsAreValid(t *testing.T) {
	s := Defaults()
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	if s.AccessTokenLifetime != 15*time.Minute || s.RefreshTokenLifetime != 720*time.Hour || s.ReuseWindow != 30*time.Second || s.Listen != "127.0.0.1:9001" {
		t.Errorf("defaults = %+v", s)
	}
	if s.InsecureHashing || len(s.TrustedProxy) != 0 {
		t.Errorf("an unsafe setting is on by default: %+v", s)
	}
}

func TestValidateNamesTheSetting(t *testing.T) {
	for _, c := range []struct {
		setting string
		set     func(*Settings)
	}{
		{"listen", func(s *Settings) { s.Listen = "9001" }},
		{"trusted-proxy", func(s *Settings) { s.TrustedProxy = []string{"10.0.0.1", "somewhere"} }},
		{"database", func(s *Settings) { s.Database = ":memory:" }},
		{"database", func(s *Settings) { s.Database = "" }},
		{"issuer", func(s *Settings) { s.Issuer = "auth.example.com" }},
		{"issuer", func(s *Settings) { s.Issuer = "https://auth.example.com/?a" }},
		{"issuer", func(s *Settings) { s.Issuer = "https://auth.example.com/#a" }},
		{"audience", func(s *Settings) { s.Audience = "" }},
		{"access-token-lifetime", func(s *Settings) { s.AccessTokenLifetime = 0 }},
		{"access-token-lifetime", func(s *Settings) { s.AccessTokenLifetime = 1500 * time.Millisecond }},
		{"refresh-token-lifetime", func(s *Settings) { s.RefreshTokenLifetime = s.AccessTokenLifetime }},
		{"refresh-idle-timeout", func(s *Settings) { s.RefreshIdleTimeout = time.Minute }},
		{"refresh-idle-timeout", func(s *Settings) { s.RefreshIdleTimeout = -1 }},
		{"reuse-window", func(s *Settings) { s.ReuseWindow = time.Hour }},
		{"reuse-window", func(s *Settings) { s.ReuseWindow = -1 }},
		{"login-failures-per-account", func(s *Settings) { s.LoginFailuresPerAccount = 0 }},
		{"login-failures-per-address", func(s *Settings) { s.LoginFailuresPerAddress = 0 }},
		{"registrations-per-address", func(s *Settings) { s.RegistrationsPerAddress = 0 }},
		{"throttle-window", func(s *Settings) { s.ThrottleWindow = 0 }},
		{"hash-memory-kib", func(s *Settings) { s.HashMemoryKiB = 8 << 20 }},
		{"hash-memory-kib", func(s *Settings) { s.HashMemoryKiB = 19 << 10; s.HashPasses = 1 }},
		{"hash-lanes", func(s *Settings) { s.HashLanes = 0 }},
		{"hash-concurrency", func(s *Settings) { s.HashConcurrency = 0 }},
		{"hash-queue", func(s *Settings) { s.HashQueue = -1 }},
	} {
		s := Defaults()
		c.set(&s)
		err := s.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), c.setting) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Validate = %v, want one problem, with %s", err, c.setting)
		}
	}
}

func TestValidateReportsEveryProblemAtOnce(t *testing.T) {
	err := Settings{}.Validate()
	if err == nil {
		t.Fatal("empty settings are valid")
	}
	for _, setting := range []string{"listen", "database", "issuer", "audience", "access-token-lifetime", "throttle-window", "hash-passes", "hash-concurrency"} {
		if !strings.Contains("\n"+err.Error(), "\n"+setting) {
			t.Errorf("%s is not reported in:\n%v", setting, err)
		}
	}
}

func TestInsecureHashingAllowsCheapHashes(t *testing.T) {
	s := Defaults()
	s.HashMemoryKiB, s.HashPasses, s.HashLanes = 8, 1, 1
	if s.Validate() == nil {
		t.Error("cheap hashes are valid")
	}
	s.InsecureHashing = true
	if err := s.Validate(); err != nil {
		t.Errorf("with the unsafe setting: %v, want nil", err)
	}
}

func TestParseNetworks(t *testing.T) {
	got, err := parseNetworks([]string{"10.1.2.3", "10.1.2.3/8", "::1", "::ffff:10.0.0.1"})
	want := []netip.Prefix{
		netip.MustParsePrefix("10.1.2.3/32"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("10.0.0.1/32"),
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("parseNetworks = %v, %v, want %v", got, err, want)
	}
}
